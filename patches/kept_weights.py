"""Edited weights of the states that a model in memory was at, to go back there at once.

They are kept by the SHA-256 that they have in the checkpoint's dtype. What is put back are the very
bytes that were checked once when they were computed.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class KeptWeights:
    """The edited weights of the last `states` states of one model, where the model has them.

    Takes the memory of the edited tensors once for each state; what two states share, once.
    """

    def __init__(self, states: int = 2) -> None:
        self._most = states
        self._states: list[frozenset[str]] = []
        self._weights: dict[str, Tensor] = {}

    def keep(self, digests: Mapping[str, str], parameters: Mapping[str, nn.Parameter]) -> None:
        """Remember a state; both by the tensor's name."""
        state = frozenset(digests.values())
        self._states = [*(one for one in self._states if one != state), state][-self._most :]
        held = frozenset().union(*self._states)
        self._weights = {digest: w for digest, w in self._weights.items() if digest in held}
        for name, digest in digests.items():
            if digest in held and digest not in self._weights:
                self._weights[digest] = parameters[name].detach().clone()

    def put_back(self, digests: Mapping[str, str], parameters: Mapping[str, nn.Parameter]) -> bool:
        """Give the parameters the weights of a state; False, and nothing done, if one is not kept
        for a parameter like it."""
        found = {name: self._weights.get(digest) for name, digest in digests.items()}
        if not all(_alike(parameters[name], kept) for name, kept in found.items()):
            return False
        with torch.no_grad():
            for name, kept in found.items():
                assert kept is not None
                parameters[name].copy_(kept)
        self.keep(digests, parameters)
        return True


def _alike(parameter: nn.Parameter, kept: Tensor | None) -> bool:
    return kept is not None and (kept.shape, kept.dtype, kept.device) == (
        parameter.shape,
        parameter.dtype,
        parameter.device,
    )
