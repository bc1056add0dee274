"""Retention: after a turn, some of the earlier edits in force are scored again.

So forgetting is seen when it happens. The sample is drawn from the edits that nothing overrides,
with the run's seed and the turn's number; drawing reads no more edits than it draws.
"""

import random
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any

from sqlalchemy import and_, func, or_, select
from sqlalchemy.orm import Session

from ledger import database, history
from ledger.conflicts import Standing, question
from ledger.evaluating import measure
from ledger.facts import Fact
from ledger.history import Step, chunks
from ledger.new_turn import NewEvaluation
from ledger.orm import EditRow, EvaluationRow, OutcomeRow
from ledger.progress import Progress
from ledger.turn import RETENTION, SAMPLE, THEN
from ledger.workspace import Ledger
from patches.live import LiveModel

_METRIC = "edit_success"
# Some of those drawn are overridden, or their texts were not published.
_SPARE = 4
# Conditions in one query: SQLite takes a thousand.
_TOGETHER = 200


@dataclass(frozen=True, kw_only=True)
class Retained:
    """How `n` earlier edits are kept. now: their mean edit success after the turn. then: what it
    was when they were made, over those that were scored then; None if none was."""

    n: int
    then: float | None
    now: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A sample with its scores after a turn, to be recorded with it. edits: row id and digest."""

    edits: Sequence[tuple[int, str]]
    scores: NewEvaluation

    @property
    def retained(self) -> Retained:
        then = self.scores.protocol[THEN]
        return Retained(n=len(self.edits), then=then, now=self.scores.state[_METRIC])


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Some edits that hold, and their mean success when they were made."""

    rows: Sequence[EditRow]
    then: float | None

    def score(self, live: LiveModel, tokenizer: Any, *, seed: int, progress: Progress) -> Kept:
        """How they fare in the live model's state."""
        edits = [history.edit_of(row) for row in self.rows]
        found = measure(live, tokenizer, edits, seed=seed, progress=progress)
        protocol = {**found.protocol, SAMPLE: RETENTION, THEN: self.then}
        return Kept(
            edits=[(row.id, row.digest) for row in self.rows],
            scores=replace(found, protocol=protocol),
        )


class EarlierEdits:
    """The edits of a line's turns in force, to draw from. It grows with the line."""

    def __init__(self, ledger: Ledger, in_force: Iterable[Step], standing: Standing) -> None:
        self._ledger = ledger
        self._standing = standing
        self._turns: list[int] = []
        # Of the turns' edits, one after the other: where each turn's end.
        self._ends: list[int] = []
        for step in in_force:
            self.grow(step.id, step.edits)

    def grow(self, turn_id: int, edits: int) -> None:
        """A turn with so many edits was recorded."""
        if edits:
            self._turns.append(turn_id)
            self._ends.append((self._ends[-1] if self._ends else 0) + edits)

    def draw(self, size: int, newer: Sequence[Fact], *, seed: int, number: int) -> Sample | None:
        """At most `size` of the edits that hold once the facts `newer` are added to the line.

        seed, number: of the run and of the turn; the same for both are the same edits.
        """
        total = self._ends[-1] if self._ends else 0
        if not size or not total:
            return None
        draw = random.Random(f"{seed} {number}")
        drawn = [self._place(n) for n in draw.sample(range(total), min(total, size * _SPARE))]
        kept: list[EditRow] = []
        with database.reading(self._ledger.engine) as session:
            while drawn and len(kept) < size:
                some, drawn = drawn[:size], drawn[size:]
                kept += self._holding(_rows(session, some), newer)
            kept = kept[:size]
            then = _when_made(session, kept)
            session.expunge_all()
        known = [then[row.id] for row in kept if row.id in then]
        mean = sum(known) / len(known) if known else None
        return Sample(rows=kept, then=mean) if kept else None

    def _place(self, index: int) -> tuple[int, int]:
        """Turn id and position of the edit with this index over all turns."""
        turn = bisect_right(self._ends, index)
        return self._turns[turn], index - (self._ends[turn - 1] if turn else 0)

    def _holding(self, rows: Sequence[EditRow], newer: Sequence[Fact]) -> list[EditRow]:
        """Those that nothing overrides."""
        ids = count(-len(newer) - 1, -1)
        asked = [question(history.edit_of(row), row=row.row, edit_id=next(ids)) for row in rows]
        answers = self._standing.answers(asked)
        for fact in newer:
            answers.add(fact)
        return [row for row in rows if row.id not in answers.over]


def _rows(session: Session, places: Sequence[tuple[int, int]]) -> list[EditRow]:
    """The edits at these places (turn id, position), in their order; some may not be here."""
    found: dict[tuple[int, int], EditRow] = {}
    for start in range(0, len(places), _TOGETHER):
        # SQLite does not use the index for a pair IN a list of pairs.
        either = or_(
            *(
                and_(EditRow.turn_id == turn_id, EditRow.position == position)
                for turn_id, position in places[start : start + _TOGETHER]
            )
        )
        rows = session.scalars(select(EditRow).where(either))
        found |= {(row.turn_id, row.position): row for row in rows}
    return [found[place] for place in places if place in found]


def _when_made(session: Session, rows: Sequence[EditRow]) -> dict[int, float]:
    """Row id of an edit → its success as it was recorded with its own turn, where it was."""
    turns = sorted({row.turn_id for row in rows})
    edits = sorted(row.id for row in rows)
    found: dict[int, float] = {}
    for some in chunks(turns):
        query = (
            select(func.min(EvaluationRow.id))
            .where(
                EvaluationRow.turn_id.in_(some),
                EvaluationRow.scope == "turn",
                EvaluationRow.scope_turn_id == EvaluationRow.turn_id,
            )
            .group_by(EvaluationRow.turn_id)
        )
        evaluations = list(session.scalars(query))
        for part in chunks(edits):
            outcomes = select(OutcomeRow.edit_id, OutcomeRow.state).where(
                OutcomeRow.evaluation_id.in_(evaluations), OutcomeRow.edit_id.in_(part)
            )
            for edit_id, state in session.execute(outcomes):
                if state.get(_METRIC) is not None:
                    found[edit_id] = state[_METRIC]
    return found
