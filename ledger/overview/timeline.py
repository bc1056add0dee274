"""The turns of a line one after the other: what each did, how it scored, what was in force then."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from heapq import heappop, heappush
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.chain import timestamp
from ledger.history import CHANGING, Step, chunks
from ledger.orm import EvaluationRow
from ledger.turn import Turn, told


@dataclass(frozen=True, kw_only=True)
class Point:
    """A turn. in_force, undone_by: as the last turn of the line sees it.

    edits_in_force: in the state after this turn. n, base, state: the scores that were recorded on
    its own edits; None and empty if none were. kept: how the earlier edits that were scored with it
    are kept: n, then, now.
    """

    turn: int
    hash: str
    kind: str
    method: str | None
    in_force: bool
    rejected: bool
    undoes: tuple[int, ...]
    replaces: tuple[int, ...]
    undone_by: int | None
    edits: int
    skipped: int
    edits_in_force: int
    message: str
    author: str
    created_at: str
    n: int | None
    base: Mapping[str, Any]
    state: Mapping[str, Any]
    kept: Mapping[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """The newest scores of the state after `turn` on all `n` edits in force there."""

    turn: int
    n: int
    base: Mapping[str, Any]
    state: Mapping[str, Any]
    created_at: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Timeline:
    """The turns of a branch, oldest first. turns: how many there are; `points` may be the newest of
    them, and `wholes` tells of the states after these. notes: what is left out, for people."""

    branch: str
    turns: int
    points: tuple[Point, ...]
    wholes: tuple[Whole, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def timeline(
    session: Session, branch: str, line: Sequence[Step], *, most: int | None = None
) -> Timeline:
    """The turns of `line`, that of `branch`; of more than `most` the newest."""
    chosen = line if most is None else line[max(len(line) - most, 0) :]
    in_force = edits_in_force(line)
    undone_by: dict[int, int] = {}
    for step in line:
        for number in step.undoes if step.in_force else ():
            undone_by.setdefault(number, step.number)
    notes = []
    if len(chosen) < len(line):
        notes.append(f"the newest {len(chosen):,} of {len(line):,} turns")
    return Timeline(
        branch=branch,
        turns=len(line),
        points=tuple(
            _point(turn, in_force[turn.number], undone_by.get(turn.number))
            for turn in told(session, line, chosen)
        ),
        wholes=tuple(_wholes(session, chosen)),
        notes=tuple(notes),
    )


def _point(turn: Turn, in_force: int, undone_by: int | None) -> Point:
    scores = turn.scores or {}
    return Point(
        turn=turn.number,
        hash=turn.hash,
        kind=turn.kind,
        method=turn.step.method,
        in_force=turn.in_force,
        rejected=turn.is_rejected,
        undoes=turn.undoes,
        replaces=turn.replaces,
        undone_by=undone_by,
        edits=turn.step.edits,
        skipped=turn.step.skipped,
        edits_in_force=in_force,
        message=turn.row.message,
        author=turn.row.author,
        created_at=timestamp(turn.row.created_at),
        n=scores.get("n"),
        base=scores.get("base") or {},
        state=scores.get("state") or {},
        kept=turn.retention,
    )


def _wholes(session: Session, steps: Sequence[Step]) -> Iterator[Whole]:
    """In order of the turns."""
    numbers = {step.id: step.number for step in steps}
    newest: dict[int, EvaluationRow] = {}
    for some in chunks(list(numbers)):
        query = select(EvaluationRow).where(
            EvaluationRow.turn_id.in_(some), EvaluationRow.scope == "in_force"
        )
        rows = session.scalars(query.order_by(EvaluationRow.id))
        newest |= {numbers[row.turn_id]: row for row in rows}
    for number, row in sorted(newest.items()):
        yield Whole(
            turn=number,
            n=row.n,
            base=row.base,
            state=row.state,
            created_at=timestamp(row.created_at),
        )


def edits_in_force(line: Sequence[Step]) -> dict[int, int]:
    """Turn number → edits in force in the state after that turn.

    A turn is in force unless one in force undoes it (`ledger.history`), so that a turn only
    changes what is in force of those that it undoes, of those that these undo, and so on.
    """
    steps = {step.number: step for step in line}
    undoing = dict.fromkeys(steps, 0)
    active: set[int] = set()
    total, totals = 0, {}
    for newest in steps:
        waiting = [-newest]
        # Newest first, so that what undoes a turn is settled before the turn is.
        while waiting:
            number = -heappop(waiting)
            if (undoing[number] == 0) == (number in active):
                continue
            step, by = steps[number], -1 if number in active else 1
            active ^= {number}
            total += by * step.edits if step.kind in CHANGING else 0
            for earlier in step.undoes:
                undoing[earlier] += by
                heappush(waiting, -earlier)
        totals[newest] = total
    return totals
