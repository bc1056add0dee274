"""What a model makes of running text: how probable it finds it, and how far it is from the base.

The text is read in windows of so many tokens, which overlap: every token is predicted once, by the
first window that has it, with at least window − stride tokens before it (but at the beginning).
Each window begins with the tokens that the tokenizer puts before a text. With side memories a
window goes to one of them, or to the main weights, as a whole.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from patches.tokens import IGNORED, Encoded, pad
from patches.tracing import logits_only_at

# Positions whose probabilities are in memory at once, in float32: few enough for a cache.
_TOGETHER = 8


def windows(tokenizer: Any, text: str, *, window: int, stride: int) -> list[Encoded]:
    """The windows of `text`: what is read, with the tokens that are predicted as the answer.

    window: tokens that are read at once, at most. stride: tokens from one window to the next.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    prefix = _prefix(tokenizer(text)["input_ids"], ids)
    span = window - len(prefix) + 1
    assert 0 < stride < span
    return list(_windows(tuple(prefix), tuple(ids), span, stride))


def _prefix(whole: Sequence[int], ids: Sequence[int]) -> Sequence[int]:
    """What comes before `ids` in `whole`."""
    for start in range(len(whole) - len(ids) + 1):
        if list(whole[start : start + len(ids)]) == list(ids):
            return whole[:start]
    return ()


def _windows(
    prefix: tuple[int, ...], ids: tuple[int, ...], span: int, stride: int
) -> Iterator[Encoded]:
    # Nothing comes before the first token to predict it from, unless there is a prefix.
    begin, done = 0, 0 if prefix else 1
    while done < len(ids):
        end = min(begin + span, len(ids))
        yield Encoded(ids=(*prefix, *ids[begin : end - 1]), answer=ids[done:end])
        begin, done = begin + stride, end


@torch.inference_mode()
def logits(model: nn.Module, window: Encoded, *, device: torch.device | str) -> Tensor:
    """(tokens predicted, vocabulary), in the model's dtype."""
    batch = pad([window]).to(device)
    with logits_only_at(model, batch.labels != IGNORED):
        found: Tensor = model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
        ).logits[0]
    return found


@torch.inference_mode()
def losses(model: nn.Module, window: Encoded, *, device: torch.device | str) -> list[float]:
    """−log P of each token that is predicted, in nats."""
    given = logits(model, window, device=device)
    labels = torch.tensor(window.answer, device=device)
    found: list[float] = []
    for some, expected in zip(_portions(given), _portions(labels), strict=True):
        found += functional.cross_entropy(some.float(), expected, reduction="none").tolist()
    return found


@torch.inference_mode()
def drift(base: Tensor, state: Tensor) -> tuple[list[float], list[bool]]:
    """Of each position KL(base ‖ state) in nats, and whether both have the same token first.

    base, state: logits (positions, vocabulary) of the two on the same tokens.
    """
    divergences: list[float] = []
    for before, after in zip(_portions(base), _portions(state), strict=True):
        p, q = (some.float().log_softmax(-1) for some in (before, after))
        # Rounding may leave a little less than nothing.
        found = functional.kl_div(q, p, reduction="none", log_target=True).sum(-1).clamp(min=0)
        divergences += found.tolist()
    return divergences, (base.max(-1).indices == state.max(-1).indices).tolist()


def _portions(rows: Tensor) -> Iterator[Tensor]:
    return (rows[start : start + _TOGETHER] for start in range(0, len(rows), _TOGETHER))
