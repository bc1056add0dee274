"""Scores of a state on a set of edits, beside those of the un-edited base.

Token accuracy is the share of an answer's tokens that the model predicts (arg max) when it is
given the prompt and the answer's earlier tokens. An edit's score is the mean over its probes, a
set's score the mean over the edits that have such probes. `stability` is the share of locality
*tokens* that are predicted as the base predicts them: edits weigh in by their locality tokens.
`perplexity` is that of the target, exp(−log P per token), per edit, and the mean of these over a
set, as the WISE paper scores its hallucination task.

A state with side memories is also asked freely: `generated_match` is the share of edits whose
target is what greedy generation gives, token by token, and the `routed_…` scores are the shares of
prompts that go to a side memory. Routing is decided on the prompts alone, also where the answer
follows in the same pass.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from patches.asking import Told, ask, batches, limits
from patches.edit import Edit
from patches.generation import generate
from patches.shared_layers import SharedLayers
from patches.tokens import Encoded, encode

PROTOCOL = {"name": "teacher-forced", "version": 2}
METRICS = (
    "edit_success",
    "generalization",
    "locality",
    "stability",
    "exact_match",
    "preference",
    "perplexity",
    "out_of_distribution",
    "generated_match",
    "routed_edits",
    "routed_rephrasings",
    "routed_locality",
)
OUT_OF_DISTRIBUTION = "out_of_distribution"
TOKENS = "locality_tokens"
"""Beside the metrics in the scores of an edit: the number of tokens behind its stability."""
_HOPELESS = 100.0


@dataclass(frozen=True, kw_only=True)
class Answered:
    """How a model answers one prompt: tokens predicted at the answer's positions, and the mean
    log-probability (nats per token) that it gives the answer. routed: whether the prompt went to a
    side memory; None if there is none. generated: the tokens of a free answer, if it was asked."""

    predicted: tuple[int, ...]
    log_probability: float
    routed: bool | None = None
    generated: tuple[int, ...] | None = None


Scores = dict[str, float | None]
"""Metric → value in [0, 1] (perplexity: from 1 on), or None where no item has such a probe."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Scores of one edit, of the base and of the state."""

    base: Scores
    state: Scores


@dataclass(frozen=True, kw_only=True, eq=False)
class Questions:
    """Every prompt with an answer that the edits ask, each distinct one once."""

    encoded: tuple[Encoded, ...]
    index: dict[tuple[str, str], int]

    @classmethod
    def of(cls, edits: Iterable[Edit], tokenizer: Any, longest: int | None) -> "Questions":
        """Those of the teacher-forced scores (an edit itself is checked when it is recorded)."""
        return cls.asking((pair for edit in edits for pair in _pairs(edit)), tokenizer, longest)

    @classmethod
    def asking(
        cls, asked: Iterable[tuple[str, str]], tokenizer: Any, longest: int | None
    ) -> "Questions":
        """Prompts with answers, tokenised; those without answer tokens, or beyond `longest` tokens,
        are left out."""
        pairs = list(dict.fromkeys(asked))
        encoded = encode(tokenizer, [p for p, _ in pairs], [a for _, a in pairs])
        kept: list[Encoded] = []
        index: dict[tuple[str, str], int] = {}
        for pair, item in zip(pairs, encoded, strict=True):
            usable = item.answer and item.first >= 0
            if usable and (longest is None or len(item.ids) <= longest):
                index[pair] = len(kept)
                kept.append(item)
        return cls(encoded=tuple(kept), index=index)

    def find(self, answers: Sequence[Answered], prompt: str, answer: str) -> Answered | None:
        at = self.index.get((prompt, answer))
        return None if at is None else answers[at]

    def expected(self, prompt: str, answer: str) -> tuple[int, ...]:
        return self.encoded[self.index[prompt, answer]].answer

    def accuracy(self, answers: Sequence[Answered], prompt: str, answer: str) -> float | None:
        """The share of the answer's tokens that are predicted; None if it was left out."""
        given = self.find(answers, prompt, answer)
        return None if given is None else _share(given.predicted, self.expected(prompt, answer))


def _pairs(edit: Edit) -> Iterable[tuple[str, str]]:
    yield edit.prompt, edit.target
    for prompt in edit.rephrasings:
        yield prompt, edit.target
    for probe in (*edit.locality, *edit.further.get(OUT_OF_DISTRIBUTION, ())):
        yield probe.prompt, probe.answer
    if edit.old_target is not None:
        yield edit.prompt, edit.old_target


def answer(
    model: nn.Module,
    questions: Questions,
    *,
    device: torch.device | str,
    progress: Callable[[int], None] = lambda _done: None,
    shared: SharedLayers | None = None,
) -> list[Answered]:
    """What `model` says to every question, in their order.

    shared: is filled, and where it knows what is below, that is not computed again; for two states
    of one model that are asked the same questions.
    """
    results: dict[int, Answered] = {}
    for number, indices in enumerate(batches(model, questions.encoded, limits(device))):
        with nullcontext() if shared is None else shared.running(number):
            told = ask(model, [questions.encoded[i] for i in indices], device=device)
        results.update(zip(indices, map(_answered, told), strict=True))
        progress(len(results))
    return [results[i] for i in range(len(questions.encoded))]


def _answered(told: Told) -> Answered:
    return Answered(
        predicted=told.predicted,
        log_probability=-sum(told.losses) / len(told.losses),
        routed=told.routed,
    )


@torch.inference_mode()
def answer_freely(
    model: nn.Module,
    questions: Questions,
    edits: Sequence[Edit],
    answers: Sequence[Answered],
    *,
    device: torch.device | str,
    progress: Callable[[int], None] = lambda _done: None,
) -> list[Answered]:
    """`answers`, those to the edits' own prompts with what `model` generates greedily."""
    asked = {questions.index.get((edit.prompt, edit.target)) for edit in edits}
    wanted = sorted(index for index in asked if index is not None)
    prompts = [questions.encoded[i].ids[: questions.encoded[i].first + 1] for i in wanted]
    lengths = [len(questions.encoded[i].answer) for i in wanted]
    generated = generate(model, prompts, lengths, device=device, progress=progress)
    found = list(answers)
    for index, tokens in zip(wanted, generated, strict=True):
        found[index] = replace(found[index], generated=tokens)
    return found


def score(
    edits: Sequence[Edit],
    questions: Questions,
    base: Sequence[Answered],
    state: Sequence[Answered],
) -> list[Outcome]:
    """The outcome of each edit, given what base and state answer."""
    return [
        Outcome(
            base=_scores(edit, questions, base, base),
            state=_scores(edit, questions, base, state),
        )
        for edit in edits
    ]


def _scores(
    edit: Edit, questions: Questions, base: Sequence[Answered], state: Sequence[Answered]
) -> Scores:
    def accuracy(prompt: str, text: str) -> float | None:
        return questions.accuracy(state, prompt, text)

    def routed(pairs: Iterable[tuple[str, str]]) -> float | None:
        found = [questions.find(state, prompt, text) for prompt, text in pairs]
        return mean(None if g is None or g.routed is None else float(g.routed) for g in found)

    tokens = sum(
        len(questions.expected(p.prompt, p.answer))
        for p in edit.locality
        if (p.prompt, p.answer) in questions.index
    )
    success = accuracy(edit.prompt, edit.target)
    return {
        "edit_success": success,
        "generalization": mean(accuracy(p, edit.target) for p in edit.rephrasings),
        "locality": mean(accuracy(p.prompt, p.answer) for p in edit.locality),
        "stability": _stability(edit, questions, base, state) / tokens if tokens else None,
        "exact_match": None if success is None else float(success == 1),
        "preference": _preference(edit, questions, state),
        "perplexity": _perplexity(edit, questions, state),
        "out_of_distribution": mean(
            accuracy(p.prompt, p.answer) for p in edit.further.get(OUT_OF_DISTRIBUTION, ())
        ),
        "generated_match": _generated_match(edit, questions, state),
        "routed_edits": routed([(edit.prompt, edit.target)]),
        "routed_rephrasings": routed((p, edit.target) for p in edit.rephrasings),
        "routed_locality": routed((p.prompt, p.answer) for p in edit.locality),
        TOKENS: float(tokens),
    }


def _stability(
    edit: Edit, questions: Questions, base: Sequence[Answered], state: Sequence[Answered]
) -> int:
    """Locality tokens that `state` predicts as `base` does."""
    same = 0
    for probe in edit.locality:
        before = questions.find(base, probe.prompt, probe.answer)
        after = questions.find(state, probe.prompt, probe.answer)
        if before is not None and after is not None:
            same += sum(map(int.__eq__, before.predicted, after.predicted))
    return same


def _preference(edit: Edit, questions: Questions, state: Sequence[Answered]) -> float | None:
    """1 if the new answer is more probable per token than the old one, else 0."""
    if edit.old_target is None or edit.old_target.strip() == edit.target:
        return None
    new = questions.find(state, edit.prompt, edit.target)
    old = questions.find(state, edit.prompt, edit.old_target)
    return None if new is None or old is None else float(new.log_probability > old.log_probability)


def _perplexity(edit: Edit, questions: Questions, state: Sequence[Answered]) -> float | None:
    given = questions.find(state, edit.prompt, edit.target)
    # Beyond this, exp would overflow; the model has no idea of the answer.
    return None if given is None else math.exp(min(-given.log_probability, _HOPELESS))


def _generated_match(edit: Edit, questions: Questions, state: Sequence[Answered]) -> float | None:
    given = questions.find(state, edit.prompt, edit.target)
    if given is None or given.generated is None:
        return None
    return float(given.generated == questions.expected(edit.prompt, edit.target))


def _share(given: Sequence[int], expected: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(given, expected, strict=True)) / len(expected)


def mean(values: Iterable[float | None]) -> float | None:
    """Of the values that are there; None if none is."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else None


def summary(outcomes: Iterable[Scores]) -> Scores:
    """Each metric over the edits that have it: `stability` per token, the others per edit."""
    rows = list(outcomes)
    means = {metric: mean(row[metric] for row in rows) for metric in METRICS}
    tokens = math.fsum(row[TOKENS] or 0 for row in rows)
    same = math.fsum((row["stability"] or 0) * (row[TOKENS] or 0) for row in rows)
    means["stability"] = same / tokens if tokens else None
    return means
