"""Which recorded edits a state is scored on: those in force, those of one turn, or some of them."""

import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger import history
from ledger.history import Step, chunks
from ledger.orm import EditRow, TurnRow
from ledger.refs import Rev, resolve
from ledger.workspace import Ledger
from patches.errors import HistoryError, SettingError


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Edits in order of turn and position. scope: the turn that all of them are of, if that was
    asked for. drawn: whether they are a sample."""

    rows: Sequence[EditRow]
    scope: TurnRow | None
    drawn: bool


def choose(
    session: Session,
    ledger: Ledger,
    turns: Sequence[Step],
    *,
    at: Rev | None,
    turn: Rev | None,
    sample: int | None,
    seed: int,
) -> Chosen:
    """The edits to score the state after the last of `turns` on.

    at: how that was named. turn: only its edits; default: all in force. sample: at most so many of
    them, drawn by the seed. Raises HistoryError if there is none, SettingError for no sample.
    """
    if sample is not None and sample < 1:
        raise SettingError(f"--sample counts edits: at least 1, not {sample}")
    in_force = [step.id for step in history.edits_in_force(turns)]
    scope = None if turn is None else _scope(session, ledger, turn)
    _check(turns, in_force, scope, at)
    ids = in_force if scope is None else [scope.id]
    rows = history.edit_rows(session, ids) if sample is None else _drawn(session, ids, sample, seed)
    if not rows:
        raise HistoryError(
            "the texts of the edits are not here: nothing to score. The turns were imported, or "
            "published without them (ledger push --include-edits publishes them)"
        )
    return Chosen(rows=rows, scope=scope, drawn=sample is not None)


def _scope(session: Session, ledger: Ledger, turn: Rev) -> TurnRow:
    found = resolve(session, ledger.branch, turn)
    if found is None:
        raise HistoryError("turn 0 is the base: it has no edits to score")
    return session.get_one(TurnRow, found)


def _check(
    turns: Sequence[Step], in_force: Sequence[int], scope: TurnRow | None, at: Rev | None
) -> None:
    if scope is not None and not scope.edits:
        raise HistoryError(f"turn {scope.number} is a {scope.kind}: it has no edits to score")
    if scope is None and not in_force:
        raise HistoryError(
            f"no edit is in force at turn {len(turns)}: nothing to score"
            if turns or at is not None
            else "the ledger has no turns yet; add some with: ledger add-edits"
        )


def _drawn(session: Session, turn_ids: Sequence[int], sample: int, seed: int) -> list[EditRow]:
    """Some of the edits of these turns, however many there are, without reading the others."""
    counts: dict[int, int] = {}
    for some in chunks(sorted(turn_ids)):
        query = select(EditRow.turn_id, func.count()).where(EditRow.turn_id.in_(some))
        for turn_id, count in session.execute(query.group_by(EditRow.turn_id)):
            counts[turn_id] = count
    turns = sorted(counts)
    ends = list(accumulate(counts[turn_id] for turn_id in turns))
    total = ends[-1] if ends else 0
    places: dict[int, list[int]] = {}
    for index in sorted(random.Random(seed).sample(range(total), min(sample, total))):
        at = bisect_right(ends, index)
        places.setdefault(turns[at], []).append(index - (ends[at] - counts[turns[at]]))
    rows: list[EditRow] = []
    for turn_id, positions in places.items():
        for part in chunks(positions):
            chosen = select(EditRow).where(EditRow.turn_id == turn_id, EditRow.position.in_(part))
            rows += session.scalars(chosen.order_by(EditRow.position))
    return rows
