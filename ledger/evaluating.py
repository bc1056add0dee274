"""Score a state from one side or another, beside the un-edited base, and keep the outcomes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from ledger import database, environment, history, suites
from ledger.chosen_edits import Chosen, choose
from ledger.history import Step
from ledger.intervals import Interval
from ledger.jobs import Crew, LocalCrew
from ledger.orm import EditRow, TurnRow
from ledger.progress import Progress, silent
from ledger.recording import NewEvaluation, record_evaluation
from ledger.refs import Rev
from ledger.suite_scores import SUITE
from ledger.suites import EDITS, TEACHER_FORCED, TEXT, Suite
from ledger.suites.asking import OnEdits, OnText, Scored, parts
from ledger.suites.running_text import cut, read_text
from ledger.suites.teacher_forced import beside_base
from ledger.turn import SAMPLE
from ledger.workspace import Ledger
from patches import evaluation
from patches.edit import Edit
from patches.errors import HistoryError, SettingError
from patches.live import LiveModel

OF, RANDOM, IN_FORCE = "of", "random", "in_force"
"""In the protocol of what is not teacher-forced on all edits: whose edits these are (a turn's hash,
or those in force), and the mark of a sample that was drawn."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Scores of the state at `turn` by a suite, with 95 % intervals of base and state.

    scope: whose edits: one turn's number, or None: in force. sample: how many of them were asked
    for at the most, None: all. n: edits that were scored, or tokens of text.
    """

    suite: str
    turn: int
    scope: int | None
    sample: int | None
    n: int
    protocol: dict[str, Any]
    seed: int
    base: dict[str, Any]
    state: dict[str, Any]
    intervals: tuple[dict[str, Interval], dict[str, Interval]]
    seconds: float
    edits: list[dict[str, Any]]

    @property
    def on_text(self) -> bool:
        return suites.find(self.suite).on == TEXT

    def to_json(self, *, per_edit: bool = False) -> dict[str, Any]:
        """The contract of ``ledger evaluate --json``; fields are only ever added."""
        base, state = (
            {metric: interval.to_json() for metric, interval in side.items()}
            for side in self.intervals
        )
        content: dict[str, Any] = {
            "suite": self.suite,
            "turn": self.turn,
            "scope": TEXT if self.on_text else IN_FORCE if self.scope is None else self.scope,
            "sample": self.sample,
            "n": self.n,
            "protocol": self.protocol,
            "seed": self.seed,
            "base": self.base,
            "state": self.state,
            "intervals": {"base": base, "state": state},
            "seconds": self.seconds,
        }
        if per_edit:
            content["edits"] = self.edits
        return content


def measure(
    live: LiveModel,
    tokenizer: Any,
    edits: Sequence[Edit],
    *,
    seed: int,
    progress: Progress = silent,
) -> NewEvaluation:
    """Teacher-forced scores of the live model's state and of its base on `edits`, as the suite has
    them; the state stays as it is."""
    started = time.perf_counter()
    freely = bool(live.memories)
    watch = _Watch(progress, len(edits))
    found = [
        outcome
        for some, told in watch.parts("evaluate", edits)
        for outcome in beside_base(live, tokenizer, some, freely=freely, progress=told)
    ]
    return NewEvaluation(
        protocol=dict(evaluation.PROTOCOL),
        seed=seed,
        base=evaluation.summary(before for before, _ in found),
        state=evaluation.summary(after for _, after in found),
        outcomes=found,
        environment=environment.describe(live.device, next(live.model.parameters()).dtype),
        seconds=time.perf_counter() - started,
    )


class _Watch:
    """Progress in edits while they are asked part by part."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total

    def parts(
        self, phase: str, edits: Sequence[Edit]
    ) -> list[tuple[tuple[Edit, ...], Callable[[int, int], None]]]:
        """Each part, with what is to be told how much of it is done, and of how much."""
        cut_up, before = [], 0
        for some in parts(edits):
            cut_up.append((some, self._told(phase, before, len(some))))
            before += len(some)
        return cut_up

    def _told(self, phase: str, before: int, size: int) -> Callable[[int, int], None]:
        return lambda done, of: self._progress(phase, before + size * done // of, self._total)


def evaluate(
    ledger: Ledger,
    *,
    suite: str = TEACHER_FORCED,
    at: Rev | None = None,
    turn: Rev | None = None,
    sample: int | None = None,
    text: Path | None = None,
    device: str = "auto",
    dtype: str | None = None,
    seed: int = 0,
    crew: Crew | None = None,
    progress: Progress = silent,
) -> Evaluated:
    """Score the state after turn `at` (default: the head) by a suite of `ledger.suites`, and record
    the scores.

    turn: score on the edits of this turn; default: on all edits in force at `at`. sample: on at
    most so many of these, drawn by the seed. text: the file to read, for suites on running text.
    crew: who does it, on which device and in which dtype; default: this process. Raises
    HistoryError if there is nothing to score, SettingError for what does not go together,
    DatasetError if the text cannot be read.
    """
    chosen = suites.find(suite)
    _check(chosen, turn=turn, sample=sample, text=text)
    asked = _Asked(
        suite=chosen,
        ledger=ledger,
        at=at,
        seed=seed,
        crew=crew or LocalCrew(ledger, device=device, dtype=dtype),
        progress=progress,
    )
    return asked.on_text(text) if chosen.on == TEXT else asked.on_edits(turn, sample)


def _check(suite: Suite, *, turn: Rev | None, sample: int | None, text: Path | None) -> None:
    if suite.on not in (EDITS, TEXT):
        raise SettingError(f"the suite {suite.name} has a function of its own: {suite.module}")
    if suite.on == TEXT and (turn is not None or sample is not None):
        raise SettingError(f"the suite {suite.name} reads text: no turn's edits, and no sample")
    if suite.on == EDITS and text is not None:
        raise SettingError(f"the suite {suite.name} asks about edits: it reads no text")


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """One suite for one state. at: how that is named."""

    suite: Suite
    ledger: Ledger
    at: Rev | None
    seed: int
    crew: Crew
    progress: Progress

    def on_edits(self, turn: Rev | None, sample: int | None) -> Evaluated:
        with database.reading(self.ledger.engine) as session:
            turns = history.line(session, self.ledger.branch, self.at)
            chosen = choose(
                session, self.ledger, turns, at=self.at, turn=turn, sample=sample, seed=self.seed
            )
            head = _head(turns, self.at)
            edits = [history.edit_of(row) for row in chosen.rows]
        scored = self._scored(
            OnEdits(
                at=head.id,
                edits=edits,
                memories=any(step.has_memory for step in history.patches_in_force(turns)),
                seed=self.seed,
            )
        )
        scope = None if chosen.scope is None else chosen.scope.number
        protocol = self._record_edits(head, chosen, scored)
        return self._evaluated(head, scored, protocol, scope=scope, sample=sample, rows=chosen.rows)

    def on_text(self, path: Path | None) -> Evaluated:
        text = read_text(path)
        with database.reading(self.ledger.engine) as session:
            head = _head(history.line(session, self.ledger.branch, self.at), self.at)
        read = cut(self.ledger, text)
        scored = self._scored(
            OnText(at=head.id, windows=read.windows, protocol=read.protocol, seed=self.seed)
        )
        protocol = {**scored.protocol, SUITE: self.suite.name}
        with database.writing(self.ledger.engine) as session:
            record_evaluation(
                session,
                session.get_one(TurnRow, head.id),
                self._new(scored, protocol),
                scope_turn=None,
                edits=(),
                now=datetime.now(UTC),
                text=scored.n,
            )
        return self._evaluated(head, scored, protocol)

    def _scored(self, asked: OnEdits | OnText) -> Scored:
        found: Scored = import_module(self.suite.module).score(
            asked, self.crew, progress=self.progress
        )
        return found

    def _record_edits(self, head: Step, chosen: Chosen, scored: Scored) -> dict[str, Any]:
        """Record the outcomes, and give the protocol that they are recorded with.

        The plain case is what turns are scored by when they are made. All else is a sample of the
        edits in the eyes of the other readers, who know by its protocol that it is not theirs.
        """
        plain = self.suite.name == TEACHER_FORCED and not chosen.drawn
        protocol = dict(scored.protocol)
        if not plain:
            of = IN_FORCE if chosen.scope is None else chosen.scope.hash
            protocol |= {SUITE: self.suite.name, OF: of}
        if chosen.drawn:
            protocol[SAMPLE] = RANDOM
        with database.writing(self.ledger.engine) as session:
            record_evaluation(
                session,
                session.get_one(TurnRow, head.id),
                self._new(scored, protocol),
                scope_turn=chosen.scope if plain else None,
                edits=[
                    (row.id, row.digest)
                    for row, outcome in zip(chosen.rows, scored.outcomes, strict=True)
                    if outcome is not None
                ],
                now=datetime.now(UTC),
                sample=not plain,
            )
        return protocol

    def _new(self, scored: Scored, protocol: dict[str, Any]) -> NewEvaluation:
        return NewEvaluation(
            protocol=protocol,
            seed=self.seed,
            base=scored.base,
            state=scored.state,
            outcomes=[outcome for outcome in scored.outcomes if outcome is not None],
            environment=scored.environment,
            seconds=scored.seconds,
        )

    def _evaluated(
        self,
        head: Step,
        scored: Scored,
        protocol: dict[str, Any],
        *,
        scope: int | None = None,
        sample: int | None = None,
        rows: Sequence[EditRow] = (),
    ) -> Evaluated:
        return Evaluated(
            suite=self.suite.name,
            turn=head.number,
            scope=scope,
            sample=sample,
            n=scored.n,
            protocol=protocol,
            seed=self.seed,
            base=scored.base,
            state=scored.state,
            intervals=scored.intervals,
            seconds=scored.seconds,
            edits=[
                {
                    "row": row.row,
                    "prompt": row.prompt,
                    "target": row.target,
                    "base": outcome[0],
                    "state": outcome[1],
                }
                for row, outcome in zip(rows, scored.outcomes, strict=True)
                if outcome is not None
            ],
        )


def _head(turns: Sequence[Step], at: Rev | None) -> Step:
    if not turns:
        raise HistoryError(
            "the ledger has no turns yet; add some with: ledger add-edits"
            if at is None
            else "turn 0 is the base, which is scored beside every other state"
        )
    return turns[-1]
