"""The last feed-forward part of a model, run for those tokens only whose logits are asked for.

Nothing after it mixes tokens, so that what it gives for others goes nowhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from patches.editors.defaults import output_matrices
from patches.errors import ModelError


def last_feed_forward(model: nn.Module) -> str | None:
    """The name of the part, if it is known."""
    try:
        part, _, _ = output_matrices(model)[-1].rpartition(".")
    except ModelError:
        return None
    return part


@contextmanager
def only_at(part: nn.Module, positions: Tensor) -> Iterator[None]:
    """Inside, `part` computes at `positions` only, and gives zeros elsewhere.

    positions: boolean (b, t). part: takes hidden states (b, t, d), and each token by itself.
    """

    def select(_part: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        wanted = positions.to(inputs[0].device)
        return (inputs[0][wanted].unsqueeze(0), *inputs[1:])

    def put_back(_part: nn.Module, _inputs: Any, given: Tensor) -> Tensor:
        everywhere = given.new_zeros(*positions.shape, given.shape[-1])
        everywhere[positions.to(given.device)] = given[0]
        return everywhere

    handles = [part.register_forward_pre_hook(select), part.register_forward_hook(put_back)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
