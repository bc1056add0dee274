"""What a model answers freely, and whether it is right: greedy generation, normalised match.

Teacher forcing shows the model the right beginning of an answer; here it has only the prompt.
Generation stops at the answer: after as many tokens as the expected answer has and a few more, for
an article or a quotation mark before it, or where the model ends it.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from patches import normalised
from patches.edit import Edit
from patches.evaluation import Questions, mean
from patches.generation import generate
from patches.tokens import context_length

METRICS = ("answer_match", "rephrasing_match")
ANSWER = "answer"
"""Beside the metrics in the scores of an edit: the text that was generated after its prompt."""
_FURTHER = 4
PROTOCOL = {
    "name": "generation",
    "version": 1,
    "normalisation": normalised.VERSION,
    "match": "begins with",
    "further_tokens": _FURTHER,
}

Texts = dict[tuple[str, str], str]
"""(prompt, expected answer) → what is generated after the prompt."""


def score(
    model: nn.Module, tokenizer: Any, edits: Sequence[Edit], *, device: torch.device | str
) -> list[dict[str, Any]]:
    """Of each edit: the METRICS (1 or 0, the mean over rephrasings; None where nothing was asked),
    and under ANSWER the text."""
    pairs = (pair for edit in edits for pair in _pairs(edit))
    texts = _answers(model, tokenizer, pairs, device=device)
    return [_scores(edit, texts) for edit in edits]


def _pairs(edit: Edit) -> Iterable[tuple[str, str]]:
    return ((prompt, edit.target) for prompt in (edit.prompt, *edit.rephrasings))


def _answers(
    model: nn.Module,
    tokenizer: Any,
    pairs: Iterable[tuple[str, str]],
    *,
    device: torch.device | str,
) -> Texts:
    """Each distinct pair once; without those that prompt and answer make too long for the model."""
    longest = context_length(model.config)
    asked = Questions.asking(pairs, tokenizer, longest)
    prompts = [one.ids[: one.first + 1] for one in asked.encoded]
    lengths = [
        # The last token is only given out, and not read again.
        min(wanted, longest - len(prompt) + 1) if longest is not None else wanted
        for prompt, one in zip(prompts, asked.encoded, strict=True)
        for wanted in [len(one.answer) + _FURTHER]
    ]
    given = generate(model, prompts, lengths, device=device)
    return {pair: _text(tokenizer, given[at]) for pair, at in asked.index.items()}


def _text(tokenizer: Any, tokens: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=True)
    # Which databases cannot store.
    return text.strip().replace("\0", "\ufffd")


def _scores(edit: Edit, texts: Texts) -> dict[str, Any]:
    def match(prompt: str) -> float | None:
        given = texts.get((prompt, edit.target))
        return None if given is None else float(normalised.begins_with(given, edit.target))

    return {
        "answer_match": match(edit.prompt),
        "rephrasing_match": mean(match(prompt) for prompt in edit.rephrasings),
        ANSWER: texts.get((edit.prompt, edit.target)),
    }
