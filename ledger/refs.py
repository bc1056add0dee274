"""Names of turns: numbers, branches, tags, ``HEAD``, ``HEAD~2`` and the beginnings of hashes."""

import re
from functools import cache
from typing import Any

from sqlalchemy import Integer, Select, bindparam, select
from sqlalchemy.orm import Session, aliased

from ledger.orm import RefRow, TurnRow
from patches.errors import HistoryError, SettingError

Rev = int | str
"""What names a turn: its number on the branch at hand (0: the base), or a text as `resolve` takes
it."""

HEAD = "HEAD"
HASH_DIGITS = 7
"""From so many digits on, a text without a letter begins a hash; as short ones it is a number."""
_STEPS_BACK = re.compile(r"(?P<start>.+)~(?P<count>\d{0,9})", re.DOTALL)
_HASH = re.compile(r"[0-9a-f]{4,64}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-/]{0,199}")


def resolve(session: Session, branch: str, rev: Rev | None = None) -> int | None:
    """The row id of the turn that `rev` names; None for the base.

    In this order: a number on `branch` (0: the base), ``HEAD`` (the newest turn of `branch`, as is
    None), a branch or tag, the beginning of a hash, from four digits on (seven, if none of them is
    a letter). ``X~N`` is N turns before
    X. HistoryError if there is none, or hashes of several turns begin so.
    """
    if rev is None or rev == HEAD:
        return head_id(session, branch)
    if isinstance(rev, int) or (rev.isdecimal() and len(rev) < HASH_DIGITS):
        return _numbered(session, head_id(session, branch), int(rev))
    if back := _STEPS_BACK.fullmatch(rev):
        start = resolve(session, branch, back["start"])
        count = int(back["count"] or 1)
        number = _number(session, start)
        if count > number:
            raise HistoryError(f"{rev}: {back['start']} is turn {number}, there are not so many")
        return _numbered(session, start, number - count)
    ref = _ref(session, rev)
    return _hashed(session, branch, rev) if ref is None else ref.turn_id


def head_id(session: Session, branch: str) -> int | None:
    """The row id of the branch's newest turn, None while it is empty."""
    ref = _ref(session, branch)
    if ref is None or ref.kind != "branch":
        names = ", ".join(sorted(branches(session)))
        raise HistoryError(f"there is no branch {branch}; the branches are {names}")
    return ref.turn_id


def _ref(session: Session, name: str) -> RefRow | None:
    # PostgreSQL refuses to be asked for such a text.
    return None if "\0" in name else session.get(RefRow, name)


def branches(session: Session) -> dict[str, int]:
    """Every branch → the number of its newest turn, 0 while it is empty."""
    query = (
        select(RefRow.name, TurnRow.number)
        .outerjoin(TurnRow, TurnRow.id == RefRow.turn_id)
        .where(RefRow.kind == "branch")
        .order_by(RefRow.name)
    )
    return {name: number or 0 for name, number in session.execute(query)}


def names_of_turns(session: Session) -> dict[int, list[tuple[str, str]]]:
    """Row id of a turn → (kind, name) of the refs that point to it, branches first."""
    found: dict[int, list[tuple[str, str]]] = {}
    for ref in session.scalars(select(RefRow).order_by(RefRow.kind, RefRow.name)):
        if ref.turn_id is not None:
            found.setdefault(ref.turn_id, []).append((ref.kind, ref.name))
    return found


def check_name(name: str) -> None:
    """SettingError if `name` cannot name a branch or tag, since it could mean something else."""
    bad = name == HEAD or name.isdecimal() or ".." in name or name.endswith((".", "/"))
    if bad or not _NAME.fullmatch(name):
        raise SettingError(
            f"{name!r} cannot name a branch or tag: use letters, digits, '-', '_', '.' and '/', "
            "but not digits only, and not HEAD"
        )


def _number(session: Session, turn_id: int | None) -> int:
    return 0 if turn_id is None else session.get_one(TurnRow, turn_id).number


def _numbered(session: Session, head: int | None, number: int) -> int | None:
    """Turn `number` of the line that leads to `head`."""
    from ledger.history import no_such_turn

    last = _number(session, head)
    if not 0 <= number <= last:
        raise HistoryError(no_such_turn(number, last))
    if number == 0:
        return None
    found: int = session.scalars(_path_to_number(), {"head": head, "wanted": number}).one()
    return found


# Put together once: that takes longer than to run it on a short line.
@cache
def _path_to_number() -> Select[Any]:
    first: Any = select(TurnRow.id, TurnRow.parent_id, TurnRow.number)
    path = first.where(TurnRow.id == bindparam("head")).cte(recursive=True)
    parent = aliased(TurnRow)
    wanted = bindparam("wanted", type_=Integer)
    path = path.union_all(
        select(parent.id, parent.parent_id, parent.number).where(
            parent.id == path.c.parent_id, path.c.number > wanted
        )
    )
    return select(path.c.id).where(path.c.number == wanted)


def _hashed(session: Session, branch: str, rev: str) -> int:
    found: list[tuple[int, str]] = []
    if _HASH.fullmatch(rev):
        # A range uses the index, which LIKE does not on every database.
        within = (TurnRow.hash >= rev, TurnRow.hash <= rev.ljust(64, "f"))
        query = select(TurnRow.id, TurnRow.hash).where(*within).order_by(TurnRow.hash).limit(2)
        found = [(turn_id, digest) for turn_id, digest in session.execute(query)]
    if len(found) > 1:
        raise HistoryError(
            f"the hashes of several turns begin with {rev} ({found[0][1]}, {found[1][1]} …); "
            "write more of it"
        )
    if not found:
        raise HistoryError(
            f"nothing is called {rev}: a turn is named by its number on {branch}, a branch or tag "
            "(ledger branch, ledger tag), HEAD, HEAD~2, or four or more digits of its hash"
        )
    return found[0][0]
