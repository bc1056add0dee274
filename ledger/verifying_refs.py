"""Verify: branches and tags are where the journal says."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger.branching import BRANCH, DELETED, FORCED, TAG, TAGGED
from ledger.orm import EntryRow, RefRow, TurnRow
from ledger.workspace import Ledger


class _Move(NamedTuple):
    action: str
    before: int | None
    after: int | None


def wrong_refs(session: Session, ledger: Ledger) -> Iterator[tuple[str, str]]:
    """(subject, what is wrong) for branches and tags, also for those that are gone."""
    refs = {ref.name: ref for ref in session.scalars(select(RefRow).order_by(RefRow.name))}
    moves = _moves(session)
    for name, ref in refs.items():
        subject = f"{ref.kind} {name}"
        for what in _wrong(ref, moves.get(name, [])):
            yield subject, what
        if ref.kind == BRANCH:
            for what in _behind(session, ledger, ref):
                yield subject, what
    for name, known in moves.items():
        if name not in refs and known[-1].action != DELETED:
            yield f"branch or tag {name}", "was removed without a record"


def _moves(session: Session) -> dict[str, list[_Move]]:
    """Name → its moves, oldest first."""
    found: dict[str, list[_Move]] = {}
    columns = (EntryRow.ref, EntryRow.action, EntryRow.from_turn_id, EntryRow.to_turn_id)
    query = select(*columns).where(EntryRow.ref.is_not(None)).order_by(EntryRow.id)
    for name, *move in session.execute(query):
        found.setdefault(name or "", []).append(_Move._make(move))
    return found


def _wrong(ref: RefRow, moves: list[_Move]) -> Iterator[str]:
    if not moves or moves[-1].action == DELETED:
        yield "was made without a record"
        return
    if moves[-1].after != ref.turn_id:
        yield "was moved without a record"
    if (moves[-1].action in (TAGGED, FORCED)) != (ref.kind == TAG):
        yield "was turned from a tag into a branch, or from a branch into a tag"
    if any(one.after != next_one.before for one, next_one in pairwise(moves)):
        yield "its recorded moves do not follow one another"


def _behind(session: Session, ledger: Ledger, ref: RefRow) -> Iterator[str]:
    """A branch points to a turn that no other turn of the branch, made here, follows."""
    own = (TurnRow.origin == ledger.base.ledger_id, TurnRow.branch == ref.name)
    newest = session.scalar(select(func.max(TurnRow.number)).where(*own))
    head = None if ref.turn_id is None else session.get(TurnRow, ref.turn_id)
    if newest is not None and (head is None or head.number < newest):
        at = "nothing" if head is None else f"turn {head.number}"
        yield f"points to {at}, its newest turn is {newest}"
