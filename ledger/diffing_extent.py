"""How much a comparison of two states would read, before it is read. Imports no torch."""

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger.diffing_facts import Side, only_in
from ledger.orm import EvaluationRow
from ledger.suites import TEACHER_FORCED


@dataclass(frozen=True, kw_only=True)
class Extent:
    """What `ledger.diffing.diff` reads in full. edits: of turns in force in one state only.
    outcomes: at most so many recorded scores that both states have."""

    edits: int
    outcomes: int


def extent(session: Session, a: Side, b: Side) -> Extent:
    """What there is to read of these two states."""
    counts = [_outcomes(session, side) for side in (a, b) if side.turn_id is not None]
    turns = (*only_in(a, b), *only_in(b, a))
    return Extent(edits=sum(step.edits for step in turns), outcomes=min(counts, default=0))


def _outcomes(session: Session, side: Side) -> int:
    """How many outcomes the evaluations of a state have."""
    count = select(func.coalesce(func.sum(EvaluationRow.n), 0)).where(
        EvaluationRow.turn_id == side.turn_id,
        EvaluationRow.protocol["name"].as_string() == TEACHER_FORCED,
    )
    return int(session.scalars(count).one())
