"""What a model answers to one prompt, token by token: how probable each is, and what else was.

The answer is that of `patches.answers`: greedy, routed on the prompt alone. Probabilities are the
softmax, in float32, of the logits as the model gives them.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from patches import evaluation
from patches.answers import prompt_ids, room
from patches.asking import common_start
from patches.errors import ModelError
from patches.evaluation import Questions
from patches.generation import generate_with_logits
from patches.tokens import context_length

TOKENS = 10
_OTHERS = 5


@dataclass(frozen=True, kw_only=True)
class Likely:
    """A token that could come next. text: as it would read there; part of a character is �."""

    text: str
    probability: float


@dataclass(frozen=True, kw_only=True)
class AnswerToken:
    """A token of an answer. text: what the answer gains by it, nothing before its character is
    whole. others: the most probable ones in its place, the most probable first."""

    text: str
    probability: float
    others: tuple[Likely, ...]


@dataclass(frozen=True, kw_only=True)
class TokenAnswer:
    """text: the texts of the tokens together, without white space around them. end: how probable
    it was that the answer ends here, where the model ended it; None where it was cut off."""

    text: str
    tokens: tuple[AnswerToken, ...]
    end: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def answer_by_token(
    model: nn.Module,
    tokenizer: Any,
    prompt: str,
    device: torch.device | str,
    *,
    tokens: int = TOKENS,
    others: int = _OTHERS,
) -> TokenAnswer:
    """What `patches.answers.answer` gives, with probabilities and `others` alternatives each.

    Raises SettingError if the prompt has no tokens or is too long for the model, ModelError if the
    model gives numbers that are not finite.
    """
    asked = prompt_ids(model, tokenizer, prompt)
    ids, logits = generate_with_logits(model, asked, room(model, asked, tokens), device=device)
    probabilities = logits.softmax(-1)
    if not probabilities.isfinite().all():
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        raise ModelError(
            f"the model's logits after {prompt[:40]!r} are not finite in {dtype}; run it in "
            "another: --dtype float32"
        )
    pieces = _pieces(tokenizer, ids)
    return TokenAnswer(
        text="".join(pieces).strip(),
        tokens=tuple(
            AnswerToken(
                text=piece,
                probability=float(probabilities[at, token]),
                others=_others(tokenizer, ids[:at], token, probabilities[at], others),
            )
            for at, (piece, token) in enumerate(zip(pieces, ids, strict=True))
        ),
        end=_end(model, probabilities[len(ids) :]),
    )


def target_probabilities(
    model: nn.Module,
    tokenizer: Any,
    prompt: str,
    targets: Sequence[str],
    device: torch.device | str,
) -> list[float | None]:
    """P(target | prompt) of each: the product over its tokens, given the earlier ones.

    None for a target that has no tokens, or is too long for the model with its prompt.
    """
    pairs = [(prompt, target) for target in targets]
    questions = Questions.asking(pairs, tokenizer, context_length(model.config))
    answers = evaluation.answer(model, questions, device=device)
    found: list[float | None] = []
    for pair in pairs:
        given = questions.find(answers, *pair)
        tokens = 0 if given is None else len(questions.expected(*pair))
        found.append(None if given is None else math.exp(given.log_probability * tokens))
    return found


def _pieces(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """What each token adds to the text of all of them.

    A token alone may be part of a character, or read without the space before it; so its piece is
    what of the whole text is there with it and was not without it.
    """
    whole = _text(tokenizer, ids)
    ends = [0]
    for count in range(1, len(ids)):
        there = common_start(_text(tokenizer, ids[:count]), whole)
        ends.append(max(ends[-1], there))
    ends.append(len(whole))
    return [whole[start:end] for start, end in pairwise(ends)][: len(ids)]


def _text(tokenizer: Any, ids: Sequence[int], *, special: bool = False) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=not special)
    return text


def _others(
    tokenizer: Any, before: Sequence[int], token: int, row: Tensor, count: int
) -> tuple[Likely, ...]:
    """The most probable tokens but `token`, to come after those `before`. row: (vocabulary,)."""
    best = row.topk(min(count + 1, len(row)))
    found = [
        Likely(text=_next(tokenizer, before, other), probability=probability)
        for other, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        if other != token
    ]
    return tuple(found[:count])


def _next(tokenizer: Any, before: Sequence[int], token: int) -> str:
    """How `token` reads after those before it; one that means something to the model, by name."""
    start = _text(tokenizer, before, special=True)
    text = _text(tokenizer, [*before, token], special=True)
    return text[common_start(start, text) :]


def _end(model: Any, last: Tensor) -> float | None:
    """The probability of the tokens that end a text. last: (1 or 0, vocabulary)."""
    ends = model.generation_config.eos_token_id
    if not len(last) or ends is None:
        return None
    return float(last[0, sorted({ends} if isinstance(ends, int) else set(ends))].sum())
