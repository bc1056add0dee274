"""The tree of turns as `log --graph` draws it: newest first, every turn before its parent."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import database, refs
from ledger.branching import BRANCH
from ledger.chain import timestamp
from ledger.history import IN_FORCE, ROLLED_BACK, chunks
from ledger.orm import RefRow, TurnRow, UndoRow
from ledger.turn import rejected_among
from ledger.workspace import Ledger

_TOGETHER = 500
"""Turns that are read at once."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A turn in the tree. id, parent_id: row ids. parent: hash.

    refs: branches and tags at it, `tags` those of them that are tags. rolled_back_on: the branches
    that have gone through it and on which it is rolled back; is_rolled_back: on all of them.
    is_rejected: it is rolled back, for having failed its gate.
    """

    id: int
    parent_id: int | None
    turn: int
    hash: str
    parent: str | None
    branch: str
    kind: str
    method: str | None
    edits: int
    message: str
    created_at: datetime
    copied_from: str | None
    refs: tuple[str, ...]
    tags: tuple[str, ...]
    rolled_back_on: tuple[str, ...]
    is_rolled_back: bool
    is_rejected: bool

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger log --graph --json``; fields are only ever added."""
        return {
            "turn": self.turn,
            "hash": self.hash,
            "parent": self.parent,
            "branch": self.branch,
            "kind": self.kind,
            "method": self.method,
            "state": ROLLED_BACK if self.is_rolled_back else IN_FORCE,
            "rolled_back_on": list(self.rolled_back_on),
            "rejected": self.is_rejected,
            "edits": self.edits,
            "message": self.message,
            "created_at": timestamp(self.created_at),
            "copied_from": self.copied_from,
            "refs": list(self.refs),
            "tags": list(self.tags),
        }


class _Row(NamedTuple):
    id: int
    parent_id: int | None
    number: int
    hash: str
    branch: str
    kind: str
    method: str | None
    edits: int
    message: str
    created_at: datetime
    copied_from: str | None


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """A turn, the refs that lead to it, and those of them on which it is rolled back."""

    row: _Row
    by: frozenset[str]
    undone_on: frozenset[str]

    @property
    def is_rolled_back(self) -> bool:
        return bool(self.by) and self.undone_on == self.by


def graph(ledger: Ledger, *, branch: str | None = None, last: int | None = None) -> list[Node]:
    """The turns that branches and tags lead to, the newest first, or the `last` of them.

    branch: only those that lead to its head. HistoryError if there is no such branch.
    """
    with database.reading(ledger.engine) as session:
        names = refs.names_of_turns(session)
        tips = _tips(session, branch)
        seen = _walk(session, tips, names, last)
        parents = _hashes(session, [one.row.parent_id for one in seen if one.row.parent_id])
        rejected = rejected_among(session, [one.row.id for one in seen if one.is_rolled_back])
    return [_node(one, names.get(one.row.id, ()), parents, rejected) for one in seen]


def _tips(session: Session, branch: str | None) -> set[int]:
    if branch is not None:
        head = refs.head_id(session, branch)
        return set() if head is None else {head}
    ids = session.scalars(select(RefRow.turn_id).where(RefRow.turn_id.is_not(None)))
    return {number for number in ids if number is not None}


def _walk(
    session: Session,
    tips: set[int],
    names: Mapping[int, Sequence[tuple[str, str]]],
    last: int | None,
) -> list[_Seen]:
    """All that undoes a turn comes after it, and has been seen before it is reached."""
    undoes = _undoes(session)
    leads: dict[int, frozenset[str]] = {}
    undone: dict[int, frozenset[str]] = {}
    seen: list[_Seen] = []
    for row in _newest_first(session, max(tips, default=0)):
        if row.id not in tips:
            continue
        by = _leading(leads.pop(row.id, frozenset()), names.get(row.id, ()))
        undone_on = undone.pop(row.id, frozenset()) & by
        for earlier in undoes.get(row.id, ()):
            undone[earlier] = undone.get(earlier, frozenset()) | (by - undone_on)
        if row.parent_id is not None:
            tips.add(row.parent_id)
            leads[row.parent_id] = leads.get(row.parent_id, frozenset()) | by
        seen.append(_Seen(row=row, by=by, undone_on=undone_on))
        if len(seen) == last:
            break
    return seen


def _leading(later: frozenset[str], here: Sequence[tuple[str, str]]) -> frozenset[str]:
    """Names of the branches that lead to a turn; of its tags where no branch does."""
    by = later.union(name for kind, name in here if kind == BRANCH)
    return by or frozenset(name for _, name in here)


def _undoes(session: Session) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for turn, earlier in session.execute(select(UndoRow.turn_id, UndoRow.undone_id)):
        found.setdefault(turn, []).append(earlier)
    return found


def _newest_first(session: Session, newest: int) -> Iterator[_Row]:
    """The turns from row id `newest` down, read as they are asked for."""
    columns = [getattr(TurnRow, name) for name in _Row._fields]
    while newest > 0:
        query = select(*columns).where(TurnRow.id <= newest).order_by(TurnRow.id.desc())
        rows = [_Row._make(row) for row in session.execute(query.limit(_TOGETHER))]
        yield from rows
        newest = rows[-1].id - 1 if rows else 0


def _hashes(session: Session, ids: Sequence[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for some in chunks(sorted(set(ids))):
        query = select(TurnRow.id, TurnRow.hash).where(TurnRow.id.in_(some))
        found.update((number, digest) for number, digest in session.execute(query))
    return found


def _node(
    seen: _Seen,
    names: Sequence[tuple[str, str]],
    parents: Mapping[int, str],
    rejected: Collection[int],
) -> Node:
    row = seen.row
    return Node(
        id=row.id,
        parent_id=row.parent_id,
        turn=row.number,
        hash=row.hash,
        parent=None if row.parent_id is None else parents[row.parent_id],
        branch=row.branch,
        kind=row.kind,
        method=row.method,
        edits=row.edits,
        message=row.message,
        created_at=row.created_at,
        copied_from=row.copied_from,
        refs=tuple(name for _, name in names),
        tags=tuple(name for kind, name in names if kind != BRANCH),
        rolled_back_on=tuple(sorted(seen.undone_on)),
        is_rolled_back=seen.is_rolled_back,
        is_rejected=row.id in rejected,
    )
