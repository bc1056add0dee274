"""The triangle of retention as a result: rows are turns of edits, columns the states after turns.

Cell (i, j) tells how a sample of the edits of turn i fares in the state after turn j, without those
that something overrides there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ledger.intervals import Interval, mean_interval
from ledger.suites.retention_plan import Asked, Followed, Plan, Sampled
from ledger.turn import RETENTION
from patches import evaluation
from patches.evaluation import TOKENS, Scores

METRICS = ("edit_success", "generalization", "exact_match", "stability")
"""What is told of a cell; all teacher-forced scores are recorded."""
_SUCCESS = METRICS[0]


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How some edits fare in one state. outcomes: of each edit."""

    outcomes: Sequence[Scores]

    @property
    def n(self) -> int:
        return len(self.outcomes)

    @property
    def scores(self) -> Scores:
        """The means of METRICS."""
        means = evaluation.summary(self.outcomes)
        return {metric: means[metric] for metric in METRICS}

    def intervals(self, seed: int) -> dict[str, Interval | None]:
        """95 % intervals of the means, over the edits; None where there are fewer than two."""
        tokens = [outcome[TOKENS] or 0.0 for outcome in self.outcomes]
        return {
            metric: mean_interval(
                [outcome[metric] for outcome in self.outcomes],
                weights=tokens if metric == "stability" else None,
                seed=seed,
            )
            for metric in METRICS
        }

    def to_json(self, seed: int) -> dict[str, Any]:
        intervals = self.intervals(seed).items()
        return {
            "n": self.n,
            "scores": self.scores,
            "intervals": {name: one and one.to_json() for name, one in intervals},
        }


@dataclass(frozen=True, kw_only=True)
class Cell(Tally):
    """Some edits of turn `turn` in the state after turn `at`."""

    turn: int
    at: int


@dataclass(frozen=True, kw_only=True)
class State(Tally):
    """A column: the state after a turn, with all sampled edits that hold there."""

    turn: int
    kind: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class KeptTurn:
    """A row: `n` of the `sampled` edits of a turn still hold in the last state. then, now: their
    mean success in `first`, the first state at which they were asked, and in the last; base: in the
    un-edited base. lost, gained: those whose whole answer was right then and is wrong now, or the
    other way round. None: nothing is left to ask."""

    turn: int
    hash: str
    edits: int
    sampled: int
    n: int
    first: int | None
    base: float | None
    then: float | None
    now: float | None
    lost: int
    gained: int

    @property
    def kept(self) -> float | None:
        """The share of the success that is left; above 1 where it has grown."""
        return None if self.now is None or not self.then else self.now / self.then

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "kept": self.kept}


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """An edit whose whole answer was right when it was first asked, and is wrong in the last state.
    lost_at: the first turn after which it was seen to be wrong. then, now: its success."""

    turn: int
    row: int | None
    prompt: str
    target: str
    then: float
    now: float
    lost_at: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Triangle:
    """Each earlier turn's edits at each later state. scored: cells that were scored just now, the
    others were recorded before. turns, states, cells: in order of turns."""

    protocol: dict[str, Any]
    seed: int
    sample: int
    turns: Sequence[KeptTurn]
    states: Sequence[State]
    cells: Sequence[Cell]
    forgotten: Sequence[Forgotten]
    scored: int
    seconds: float
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger evaluate --suite retention --json``; fields are only added."""
        return {
            "suite": RETENTION,
            "turn": self.states[-1].turn,
            "protocol": self.protocol,
            "seed": self.seed,
            "sample": self.sample,
            "turns": [one.to_json() for one in self.turns],
            "states": [
                {"turn": one.turn, "kind": one.kind, "hash": one.hash, **one.to_json(self.seed)}
                for one in self.states
            ],
            "cells": [
                {"turn": one.turn, "at": one.at, **one.to_json(self.seed)} for one in self.cells
            ],
            "forgotten": [one.to_json() for one in self.forgotten],
            "scored": self.scored,
            "seconds": self.seconds,
            "notes": list(self.notes),
        }


Outcomes = Mapping[tuple[int, int], Sequence[tuple[Scores, Scores]]]
"""Key of a cell → (base, state) of each of its edits."""


def triangle(
    made: Plan,
    outcomes: Outcomes,
    *,
    protocol: dict[str, Any],
    seed: int,
    sample: int,
    scored: int,
    seconds: float,
) -> Triangle:
    """What came of all the cells of a plan."""
    by_state: dict[int, list[Scores]] = {step.id: [] for step in made.states}
    trails: dict[int, list[Asked]] = {one.step.id: [] for one in made.followed}
    cells = []
    for asked in made.cells:
        found = [state for _, state in outcomes[asked.key]]
        by_state[asked.at.id] += found
        trails[asked.of.id].append(asked)
        cells.append(Cell(turn=asked.of.number, at=asked.at.number, outcomes=found))
    last = made.states[-1].id
    rows = [_row(one, trails[one.step.id], outcomes, last) for one in made.followed]
    return Triangle(
        protocol=protocol,
        seed=seed,
        sample=sample,
        turns=[row for row, _ in rows],
        states=[
            State(turn=step.number, kind=step.kind, hash=step.hash, outcomes=by_state[step.id])
            for step in made.states
        ],
        cells=sorted(cells, key=lambda cell: (cell.turn, cell.at)),
        forgotten=[edit for _, edits in rows for edit in edits],
        scored=scored,
        seconds=seconds,
        notes=made.notes,
    )


@dataclass(frozen=True, kw_only=True)
class _Trail:
    """An edit that is asked in the last state: (turn number, success) wherever it was asked."""

    sampled: Sampled
    base: float
    asked: Sequence[tuple[int, float]]

    @property
    def then(self) -> float:
        return self.asked[0][1]

    @property
    def now(self) -> float:
        return self.asked[-1][1]

    @property
    def lost(self) -> bool:
        return self.then == 1 > self.now

    @property
    def gained(self) -> bool:
        return self.now == 1 > self.then


def _row(
    one: Followed, cells: Sequence[Asked], outcomes: Outcomes, last: int
) -> tuple[KeptTurn, list[Forgotten]]:
    trails = _trails(cells, outcomes) if cells and cells[-1].at.id == last else []
    row = KeptTurn(
        turn=one.step.number,
        hash=one.step.hash,
        edits=one.step.edits,
        sampled=len(one.edits),
        n=len(trails),
        first=min((trail.asked[0][0] for trail in trails), default=None),
        base=_mean([trail.base for trail in trails]),
        then=_mean([trail.then for trail in trails]),
        now=_mean([trail.now for trail in trails]),
        lost=sum(trail.lost for trail in trails),
        gained=sum(trail.gained for trail in trails),
    )
    return row, [_forgotten(one.step.number, trail) for trail in trails if trail.lost]


def _trails(cells: Sequence[Asked], outcomes: Outcomes) -> list[_Trail]:
    """Of the edits in the last of these cells of one turn, which are in order of their states."""
    asked: dict[int, list[tuple[int, float]]] = {}
    base: dict[int, float] = {}
    for cell in cells:
        found = outcomes[cell.key]
        for sampled, (before, state) in zip(cell.edits, found, strict=True):
            success, untouched = state[_SUCCESS], before[_SUCCESS]
            # An edit that is too long for the model has none.
            if success is not None and untouched is not None:
                asked.setdefault(sampled.id, []).append((cell.at.number, success))
                base[sampled.id] = untouched
    return [
        _Trail(sampled=sampled, base=base[sampled.id], asked=asked[sampled.id])
        for sampled in cells[-1].edits
        if sampled.id in asked
    ]


def _forgotten(turn: int, trail: _Trail) -> Forgotten:
    return Forgotten(
        turn=turn,
        row=trail.sampled.row,
        prompt=trail.sampled.edit.prompt,
        target=trail.sampled.edit.target,
        then=trail.then,
        now=trail.now,
        lost_at=next(at for at, success in trail.asked if success < 1),
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
