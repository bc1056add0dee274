"""The rows of a dataset that turns could not use, some at a time. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.history import Step, chunks
from ledger.orm import SkippedRow


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A row that the turn, which has this hash, could not use."""

    turn: int
    hash: str
    row: int
    reason: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def count_skipped(steps: Sequence[Step]) -> int:
    """How many rows these turns could not use."""
    return sum(step.skipped for step in steps)


def skipped_between(
    session: Session, steps: Sequence[Step], start: int, stop: int
) -> list[Skipped]:
    """Those of them from place `start` up to before `stop`, from 0, in order of turn and row.

    Fewer, if the publisher of a pulled turn has kept them back.
    """
    found: list[Skipped] = []
    for some in chunks(list(_in_reach(steps, start, stop))):
        by_id = {step.id: step for step, _, _ in some}
        query = select(SkippedRow).where(SkippedRow.turn_id.in_(by_id)).order_by(SkippedRow.row)
        rows: dict[int, list[SkippedRow]] = {}
        for row in session.scalars(query):
            rows.setdefault(row.turn_id, []).append(row)
        for step, first, last in some:
            found += [_told(step, row) for row in rows.get(step.id, [])[first:last]]
    return found


def _in_reach(steps: Sequence[Step], start: int, stop: int) -> Iterator[tuple[Step, int, int]]:
    """The turns that have some of them, and from where to where in each."""
    before = 0
    for step in steps:
        first, last = max(0, start - before), min(step.skipped, stop - before)
        if first < last:
            yield step, first, last
        before += step.skipped


def _told(step: Step, row: SkippedRow) -> Skipped:
    return Skipped(turn=step.number, hash=step.hash, row=row.row, reason=row.reason)
