"""The suite `teacher-forced`: how edits, rephrasings and locality prompts are answered.

The base is asked first, since what the state leaves as it was is among the scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ledger.intervals import summary_intervals
from ledger.jobs import Crew, Told, untold
from ledger.progress import Progress, silent
from ledger.suites.asking import Done, OnEdits, Outcome, Scored, done, parts, timed
from patches import evaluation
from patches.edit import Edit
from patches.evaluation import Answered, Questions
from patches.live import LiveModel
from patches.shared_layers import SharedLayers, shared_layers
from patches.tokens import context_length

Pairs = Mapping[tuple[str, str], Answered]
"""What the base says to a prompt with an answer."""


def score(asked: OnEdits, crew: Crew, *, progress: Progress = silent) -> Scored:
    """All metrics of `patches.evaluation`; those of free answers with side memories only."""
    found = done(
        crew,
        [AskBoth(at=asked.at, edits=edits, freely=asked.memories) for edits in parts(asked.edits)],
        phase="evaluate",
        progress=progress,
    )
    outcomes = [outcome for one in found for outcome in one.value]
    base, state = ([outcome[side] for outcome in outcomes] for side in (0, 1))
    return Scored(
        protocol=dict(evaluation.PROTOCOL),
        n=len(outcomes),
        base=evaluation.summary(base),
        state=evaluation.summary(state),
        outcomes=outcomes,
        intervals=(
            summary_intervals(base, seed=asked.seed),
            summary_intervals(state, seed=asked.seed),
        ),
        environment=found[0].environment,
        seconds=sum(one.seconds for one in found),
    )


@dataclass(frozen=True, kw_only=True)
class AskBoth:
    """A job: the outcomes of some edits in a state. freely: as in `base_answers`."""

    at: int
    edits: tuple[Edit, ...]
    freely: bool

    @property
    def size(self) -> int:
        return len(self.edits)

    def run(self, live: LiveModel, tokenizer: Any) -> Done[list[Outcome]]:
        return self.run_telling(live, tokenizer, untold)

    def run_telling(self, live: LiveModel, tokenizer: Any, told: Told) -> Done[list[Outcome]]:
        return timed(
            live,
            lambda: beside_base(live, tokenizer, self.edits, freely=self.freely, progress=told),
        )


@dataclass(frozen=True, kw_only=True)
class AskBase:
    """A job: what the base says to the questions of some edits. freely: as in `answers`."""

    edits: tuple[Edit, ...]
    freely: bool
    at: None = None

    @property
    def size(self) -> int:
        return len(self.edits)

    def run(self, live: LiveModel, tokenizer: Any) -> Done[Pairs]:
        return self.run_telling(live, tokenizer, untold)

    def run_telling(self, live: LiveModel, tokenizer: Any, told: Told) -> Done[Pairs]:
        return timed(
            live,
            lambda: base_answers(live, tokenizer, self.edits, freely=self.freely, progress=told),
        )


@dataclass(frozen=True, kw_only=True)
class AskState:
    """A job: the outcomes of some edits in a state. base: what the base says to their questions."""

    at: int
    edits: tuple[Edit, ...]
    freely: bool
    base: Pairs

    @property
    def size(self) -> int:
        return len(self.edits)

    def run(self, live: LiveModel, tokenizer: Any) -> Done[list[Outcome]]:
        return self.run_telling(live, tokenizer, untold)

    def run_telling(self, live: LiveModel, tokenizer: Any, told: Told) -> Done[list[Outcome]]:
        edits, freely = self.edits, self.freely
        return timed(
            live,
            lambda: outcomes(live, tokenizer, edits, self.base, freely=freely, progress=told),
        )


def beside_base(
    live: LiveModel,
    tokenizer: Any,
    edits: Sequence[Edit],
    *,
    freely: bool,
    progress: Told = untold,
) -> list[Outcome]:
    """Of each of `edits` in the state that `live` is at, with what the base says asked now: what
    both have in common runs once. The numbers are those of both asked apart."""
    shared = None if freely else shared_layers(live.model, live.changed)
    with live.at_base():
        base = base_answers(
            live,
            tokenizer,
            edits,
            freely=freely,
            progress=lambda done, of: progress(done, 2 * of),
            shared=shared,
        )
    return outcomes(
        live,
        tokenizer,
        edits,
        base,
        freely=freely,
        progress=lambda done, of: progress(of + done, 2 * of),
        shared=shared,
    )


def base_answers(
    live: LiveModel,
    tokenizer: Any,
    edits: Sequence[Edit],
    *,
    freely: bool,
    progress: Told = untold,
    shared: SharedLayers | None = None,
) -> Pairs:
    """What `live`, which is at the base, says to the questions of `edits`.

    freely: it is to stand beside a state with side memories. So it is also asked to generate, and
    nothing of it goes to a memory. progress: gets what is done, and of how much. shared: as in
    `evaluation.answer`.
    """
    questions, answers = _ask(live, tokenizer, edits, freely, progress, shared)
    if freely:
        answers = [replace(one, routed=False) for one in answers]
    return {pair: answers[place] for pair, place in questions.index.items()}


def outcomes(
    live: LiveModel,
    tokenizer: Any,
    edits: Sequence[Edit],
    base: Pairs,
    *,
    freely: bool,
    progress: Told = untold,
    shared: SharedLayers | None = None,
) -> list[Outcome]:
    """Of each of `edits` in the state that `live` is at, beside what the base says."""
    questions, answers = _ask(live, tokenizer, edits, freely, progress, shared)
    before = [base[pair] for pair in questions.index]
    found = evaluation.score(edits, questions, before, answers)
    return [(outcome.base, outcome.state) for outcome in found]


def _ask(
    live: LiveModel,
    tokenizer: Any,
    edits: Sequence[Edit],
    freely: bool,
    progress: Told,
    shared: SharedLayers | None,
) -> tuple[Questions, list[Answered]]:
    questions = Questions.of(edits, tokenizer, context_length(live.model.config))
    asked = len(questions.encoded)
    total = asked + freely * len(edits)
    answers = evaluation.answer(
        live.model,
        questions,
        device=live.device,
        progress=lambda done: progress(done, total),
        shared=shared,
    )
    if freely:
        answers = evaluation.answer_freely(
            live.model,
            questions,
            edits,
            answers,
            device=live.device,
            progress=lambda done: progress(asked + done, total),
        )
    return questions, answers
