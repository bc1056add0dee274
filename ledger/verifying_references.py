"""Verify: what rows refer to is there, and earlier turns are earlier ones of the same line.

The database guards the first as long as nobody tells it not to; SQLite's own shell does.
"""

from collections.abc import Iterator, Mapping, Set
from functools import cache
from typing import Any

from sqlalchemy import Column, Select, select
from sqlalchemy.orm import Session

from ledger.orm import Table
from ledger.verifying_journal import KnownTurn

_NAMED = 10
"""Rows that are told of at most, of each kind of reference."""


def lost_references(session: Session) -> Iterator[tuple[str, str]]:
    """(subject, what is wrong) for rows that refer to one that is gone."""
    for column, to, query in _queries():
        for key in session.execute(query):
            what = f"its {column.name} names a row of {to} that is gone"
            yield f"row {', '.join(map(str, key))} of {column.table.name}", what


@cache
def _queries() -> list[tuple[Column[Any], str, Select[Any]]]:
    """Of every reference its column, the table that it leads to, and a query for what is lost."""
    return [
        (reference.parent, reference.column.table.name, _lost(reference.parent, reference.column))
        for table in Table.metadata.sorted_tables
        for reference in sorted(table.foreign_keys, key=lambda key: key.parent.name)
    ]


def _lost(column: Column[Any], to: Column[Any]) -> Select[Any]:
    keys = list(column.table.primary_key)
    target = to.table.alias()
    there = target.c[to.name]
    return (
        select(*keys)
        .select_from(column.table.outerjoin(target, there == column))
        .where(column.is_not(None), there.is_(None))
        .order_by(*keys)
        .limit(_NAMED)
    )


def earlier_turns(session: Session, later: Any, earlier: Any) -> dict[int, set[int]]:
    """Row id of a turn → those of the earlier turns that it undoes, or replaces."""
    found: dict[int, set[int]] = {}
    for turn_id, earlier_id in session.execute(select(later, earlier)):
        found.setdefault(turn_id, set()).add(earlier_id)
    return found


def numbers(by_id: Mapping[int, KnownTurn], turns: Set[int] | None) -> list[int]:
    """Those of the turns that are there."""
    return [by_id[turn_id].number for turn_id in turns or () if turn_id in by_id]


def in_order(turns: Mapping[int, KnownTurn]) -> bool:
    """Whether every turn's number follows that of its parent: no line is a circle then."""
    return all(_follows(turns, turn) for turn in turns.values())


def off_the_line(turn: KnownTurn, earlier: Set[int], turns: Mapping[int, KnownTurn]) -> bool:
    """Whether one of the turns `earlier` is not among those that led to `turn`. By row ids."""
    left = set(earlier)
    while left and turn.parent is not None and _follows(turns, turn):
        left.discard(turn.parent)
        turn = turns[turn.parent]
    return bool(left)


def _follows(turns: Mapping[int, KnownTurn], turn: KnownTurn) -> bool:
    if turn.parent is None:
        return turn.number == 1
    parent = turns.get(turn.parent)
    return parent is not None and turn.number == parent.number + 1
