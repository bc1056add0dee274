"""The losses at labels and their gradient, without the logits of the whole vocabulary at once.

A head of 49,152 tokens makes 200 kB of float32 logits for each label, and as much again for their
gradients; and a matrix product in 16 bits may work on a copy of the whole weight. So it is taken in
pieces of the vocabulary (as in arXiv 2411.09009), twice: for the normaliser of the softmax, and,
when that is known, for the gradient.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from patches.errors import ModelError

_TOKENS, _LABELS = 4096, 64  # a piece of the vocabulary, and of the labels


def output_head(model: nn.Module) -> nn.Module:
    """The module that turns hidden states into logits."""
    getter = getattr(model, "get_output_embeddings", None)
    head = getter() if getter is not None else None
    if not isinstance(head, nn.Module):
        raise ModelError(
            f"{type(model).__name__} has no output embeddings: a causal language model is needed"
        )
    return head


def head_is_last(model: nn.Module) -> bool:
    """Whether the logits of `model` are what its head, a plain matrix, makes of the decoder's
    hidden states, and nothing is done to them afterwards: no cap, no scale.

    Found out by a run in which neither decoder nor head computes.
    """
    head = output_head(model)
    decoder: Any = getattr(model, "get_decoder", lambda: None)()
    if type(head) is not nn.Linear or not isinstance(decoder, nn.Module) or decoder is model:
        return False
    # Large and small, so that caps and scales show.
    hidden = torch.linspace(-99, 99, head.in_features).to(head.weight)[None, None]
    decoded = _Decoded(last_hidden_state=hidden)
    with (
        torch.no_grad(),
        forward_replaced(decoder, lambda *_args, **_given: decoded),
        forward_replaced(head, lambda given: given.clone()),
    ):
        one = torch.zeros((1, 1), dtype=torch.int64, device=hidden.device)
        logits: Tensor = model(input_ids=one, use_cache=False).logits
    return torch.equal(logits, hidden)


class _Decoded(dict[str, Any]):
    """What a decoder gives, by name and by number, and nothing of what only some of them give."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)

    def __getitem__(self, key: Any) -> Any:
        return [*self.values()][key] if isinstance(key, int) else super().__getitem__(key)


@dataclass(kw_only=True, eq=False)
class Reached:
    """hidden: what the head was given in place of computing, part of the graph."""

    hidden: Tensor | None = None


@contextmanager
def without_head(model: nn.Module) -> Iterator[Reached]:
    """Inside, the head of `model` does not compute; a run says what it would have been given."""
    reached = Reached()

    def keep(hidden: Tensor) -> Tensor:
        reached.hidden = hidden
        return hidden

    with forward_replaced(output_head(model), keep):
        yield reached


@contextmanager
def forward_replaced(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Inside, calling `module` calls `forward`; an instance's own `forward` comes back."""
    before = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


@torch.no_grad()
def label_losses(
    head: nn.Linear, hidden: Tensor, labels: Tensor, weights: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Cross-entropies (n,), float32, of the head's softmax at `labels` (n,), for `hidden` (n, d).

    weights: (n,), of each loss in the sum whose gradient (n, d) with respect to `hidden` is given
    too, in its dtype; without them none is.
    """
    losses = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
    gradient = None if weights is None else torch.empty_like(hidden)
    for some in _even(len(hidden), _LABELS):
        here = _Softmax(head, hidden[some], labels[some], keep=gradient is not None)
        losses[some] = here.losses
        if gradient is not None and weights is not None:
            gradient[some] = here.gradient(weights[some])
    return losses, gradient


class _Softmax:
    """Of a few hidden states (n, d) at labels (n,). losses: (n,), float32.

    keep: what the gradient needs, exp(logit − peak of its piece), in the model's dtype: no more of
    a probability would reach the product with the weights.
    """

    def __init__(self, head: nn.Linear, hidden: Tensor, labels: Tensor, *, keep: bool) -> None:
        self._head, self._labels = head, labels
        self._kept: list[Tensor] = []
        picked = torch.empty(len(labels), dtype=torch.float32, device=labels.device)
        peaks, sums = [], []
        for piece, logits in logits_in_pieces(head, hidden, _TOKENS):
            logits = logits.float()
            rows = ((labels >= piece.start) & (labels < piece.stop)).nonzero().squeeze(-1)
            picked[rows] = logits[rows, labels[rows] - piece.start]
            peak = logits.amax(-1, keepdim=True)
            powers = logits.sub_(peak).exp_()
            peaks.append(peak.squeeze(-1))
            sums.append(powers.sum(-1))
            if keep:
                self._kept.append(powers.to(hidden.dtype))
        self._peaks = torch.stack(peaks)
        self._normaliser = (self._peaks + torch.stack(sums).log()).logsumexp(0)
        self.losses = self._normaliser - picked

    def gradient(self, weights: Tensor) -> Tensor:
        """Of Σ w ℓ with respect to the hidden states (n, d), float32: w (Σ p W − W there)."""
        total = self._head.weight[self._labels].float().neg_()
        for powers, peak, piece in zip(
            self._kept, self._peaks, _pieces(self._head, _TOKENS), strict=True
        ):
            share = (peak - self._normaliser).exp()
            total.addcmul_((powers @ self._head.weight[piece]).float(), share[:, None])
        return total.mul_(weights[:, None])


def _even(count: int, most: int) -> Iterator[slice]:
    """So many in parts of the same size, of `most` at the most."""
    size = -(-count // max(1, -(-count // most)))
    return (slice(first, first + size) for first in range(0, count, size or 1))


def logits_in_pieces(
    head: nn.Linear, hidden: Tensor, tokens: int
) -> Iterator[tuple[slice, Tensor]]:
    """Of so many `tokens` of the vocabulary at a time: which, and the logits (n, tokens) of
    `hidden` (n, d), in its dtype."""
    for piece in _pieces(head, tokens):
        bias = None if head.bias is None else head.bias[piece]
        yield piece, functional.linear(hidden, head.weight[piece], bias)


def _pieces(head: nn.Linear, tokens: int) -> Iterator[slice]:
    edges = [*range(0, head.out_features, tokens), head.out_features]
    return (slice(*edge) for edge in pairwise(edges))
