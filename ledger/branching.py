"""Branches and tags: made, moved and removed. Each of these is logged in the same transaction."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased

from ledger import database, journal
from ledger.chain import timestamp
from ledger.orm import EMPTY, EntryRow, RefRow, TurnRow
from ledger.pruned import use_state_again
from ledger.refs import Rev, check_name, resolve
from ledger.workspace import MAIN, Ledger, current_branch, switch_to
from patches.errors import HistoryError

BRANCH, TAG = "branch", "tag"
CREATED, TAGGED, FORCED, DELETED = "create", "tag", "force", "delete"
"""What the log calls a new branch, a new tag, a tag that was moved, and a ref that was removed."""


@dataclass(frozen=True, kw_only=True)
class Ref:
    """A branch or tag, and its turn: 0 and ``empty`` for a branch that has none."""

    kind: str
    name: str
    turn: int
    hash: str
    message: str
    is_current: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "turn": self.turn,
            "hash": self.hash,
            "message": self.message,
            "current": self.is_current,
        }


@dataclass(frozen=True, kw_only=True)
class Move:
    """A ref that came to point elsewhere. before, after: number and hash of its turn, if any."""

    ref: str
    action: str
    before: tuple[int, str] | None
    after: tuple[int, str] | None
    created_at: datetime

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger reflog --json``."""
        return {
            "ref": self.ref,
            "action": self.action,
            "from": _turn_json(self.before),
            "to": _turn_json(self.after),
            "created_at": timestamp(self.created_at),
        }


def list_branches(ledger: Ledger) -> list[Ref]:
    """All branches by name, the current one marked."""
    with database.reading(ledger.engine) as session:
        return _told(session, ledger, BRANCH)


def list_tags(ledger: Ledger) -> list[Ref]:
    """All tags by name."""
    with database.reading(ledger.engine) as session:
        return _told(session, ledger, TAG)


def create_branch(ledger: Ledger, name: str, at: Rev | None = None) -> Ref:
    """A new branch that begins at `at` (default: the newest turn of the branch at hand).

    SettingError if `name` cannot be one; HistoryError if it is taken, if there is no such turn, or
    if an earlier branch of that name has recorded turns here that the new one's would collide with;
    StoreError if patches of that state were pruned.
    """
    check_name(name)
    with database.writing(ledger.engine) as session:
        _check_free(session, name)
        turn_id = resolve(session, ledger.branch, at)
        check_room(session, ledger, name, _number(session, turn_id))
        use_state_again(session, ledger, turn_id)
        session.add(RefRow(name=name, kind=BRANCH, turn_id=turn_id))
        _log(session, name, None, turn_id, CREATED)
        return _found(session, ledger, name)


def check_room(session: Session, ledger: Ledger, name: str, number: int) -> None:
    """HistoryError if turns after `number` have been recorded here on a branch called `name`.

    Of one ledger, branch and number there is one turn, also after the branch is deleted.
    """
    mine = (TurnRow.origin == ledger.base.ledger_id, TurnRow.branch == name)
    query = select(TurnRow.number, TurnRow.hash).where(*mine)
    newest = session.execute(query.order_by(TurnRow.number.desc()).limit(1)).first()
    if newest is not None and newest.number > number:
        raise HistoryError(
            f"turns up to {newest.number} have been recorded here on a branch {name}, which was "
            f"deleted; a branch of that name cannot begin at turn {number}. Choose another name, "
            f"or go on from its newest turn: ledger branch {name} --at {newest.hash[:12]}"
        )


def delete_branch(ledger: Ledger, name: str) -> Ref:
    """Remove a branch; its turns stay. What it was.

    HistoryError if it is the current one, or main, or there is none.
    """
    if name == MAIN:
        raise HistoryError(f"{MAIN} cannot be deleted: every ledger has it")
    if name in (ledger.branch, current_branch(ledger.folder)):
        raise HistoryError(
            f"{name} is the current branch; go to another one first, e.g. ledger switch {MAIN}"
        )
    return _delete(ledger, BRANCH, name)


def switch(ledger: Ledger, name: str, *, create: bool = False, at: Rev | None = None) -> Ref:
    """Make a branch the one that commands work on; create: a new one that begins at `at`.

    HistoryError if there is no such branch, or as of `create_branch`.
    """
    if create:
        create_branch(ledger, name, at)
    with database.reading(ledger.engine) as session:
        found = session.get(RefRow, name)
        if found is None or found.kind != BRANCH:
            raise HistoryError(_no_branch(name, found))
        switch_to(ledger.folder, name)
        ledger.branch = name
        return _found(session, ledger, name)


def create_tag(ledger: Ledger, name: str, rev: Rev | None = None, *, force: bool = False) -> Ref:
    """A tag at the turn that `rev` names (default: the newest of the branch at hand).

    force: move it if there is one. SettingError if `name` cannot be one; HistoryError if it is
    taken, or there is no such turn; StoreError if patches of its state were pruned.
    """
    check_name(name)
    with database.writing(ledger.engine) as session:
        turn_id = resolve(session, ledger.branch, rev)
        if turn_id is None:
            raise HistoryError("a tag names a turn; turn 0 is the base, and is called 0")
        use_state_again(session, ledger, turn_id)
        ref = _locked(session, name)
        if ref is None:
            session.add(RefRow(name=name, kind=TAG, turn_id=turn_id))
            _log(session, name, None, turn_id, TAGGED)
        elif ref.kind == BRANCH or (ref.turn_id != turn_id and not force):
            _check_free(session, name)
        elif ref.turn_id != turn_id:
            _log(session, name, ref.turn_id, turn_id, FORCED)
            ref.turn_id = turn_id
        session.flush()
        return _found(session, ledger, name)


def delete_tag(ledger: Ledger, name: str) -> Ref:
    """Remove a tag; its turn stays. What it was; HistoryError if there is none."""
    return _delete(ledger, TAG, name)


def reflog(
    ledger: Ledger, ref: str | None = None, *, last: int | None = None, skip: int = 0
) -> list[Move]:
    """How branches and tags have moved, or `ref` alone, also one that was deleted; newest first.

    last: only so many. skip: not the newest so many. HistoryError if nothing is known of `ref`.
    """
    before, after = aliased(TurnRow), aliased(TurnRow)
    query = (
        select(EntryRow, before.number, before.hash, after.number, after.hash)
        .outerjoin(before, before.id == EntryRow.from_turn_id)
        .outerjoin(after, after.id == EntryRow.to_turn_id)
        .where(_is_move(ref))
        .order_by(EntryRow.id.desc())
        .limit(last)
        .offset(skip)
    )
    with database.reading(ledger.engine) as session:
        moves = [
            Move(
                ref=row.ref or "",
                action=row.action,
                before=None if from_number is None else (from_number, from_hash),
                after=None if to_number is None else (to_number, to_hash),
                created_at=row.created_at,
            )
            for row, from_number, from_hash, to_number, to_hash in session.execute(query)
        ]
    if not moves and not skip and ref is not None:
        raise HistoryError(f"there never was a branch or tag {ref}; see: ledger reflog")
    return moves


def count_moves(ledger: Ledger, ref: str | None = None) -> int:
    """How many `reflog` knows of."""
    query = select(func.count()).select_from(EntryRow).where(_is_move(ref))
    with database.reading(ledger.engine) as session:
        return session.scalars(query).one()


def _is_move(ref: str | None) -> ColumnElement[bool]:
    return EntryRow.ref.is_not(None) if ref is None else EntryRow.ref == ref


def _turn_json(turn: tuple[int, str] | None) -> dict[str, Any] | None:
    return None if turn is None else {"turn": turn[0], "hash": turn[1]}


def _told(session: Session, ledger: Ledger, kind: str, name: str | None = None) -> list[Ref]:
    query = (
        select(RefRow.name, TurnRow.number, TurnRow.hash, TurnRow.message)
        .outerjoin(TurnRow, TurnRow.id == RefRow.turn_id)
        .where(RefRow.kind == kind)
        .order_by(RefRow.name)
    )
    if name is not None:
        query = query.where(RefRow.name == name)
    return [
        Ref(
            kind=kind,
            name=found,
            turn=number or 0,
            hash=digest or EMPTY,
            message=message or "",
            is_current=kind == BRANCH and found == ledger.branch,
        )
        for found, number, digest, message in session.execute(query)
    ]


def _found(session: Session, ledger: Ledger, name: str) -> Ref:
    [found] = _told(session, ledger, session.get_one(RefRow, name).kind, name)
    return found


def _locked(session: Session, name: str) -> RefRow | None:
    """The ref, which stays as it is until the transaction ends."""
    query = select(RefRow).where(RefRow.name == name).with_for_update()
    return session.scalars(query).one_or_none()


def _check_free(session: Session, name: str) -> None:
    ref = session.get(RefRow, name)
    if ref is None:
        return
    number = _number(session, ref.turn_id)
    way_out = (
        f"choose another name, or go there: ledger switch {name}"
        if ref.kind == BRANCH
        else f"choose another name, or move it: ledger tag --force {name} TURN"
    )
    raise HistoryError(f"there is a {ref.kind} {name} already, at turn {number}; {way_out}")


def _number(session: Session, turn_id: int | None) -> int:
    return 0 if turn_id is None else session.get_one(TurnRow, turn_id).number


def _delete(ledger: Ledger, kind: str, name: str) -> Ref:
    with database.writing(ledger.engine) as session:
        ref = _locked(session, name)
        if ref is None or ref.kind != kind:
            raise HistoryError(_no_branch(name, ref) if kind == BRANCH else _no_tag(name, ref))
        was = _found(session, ledger, name)
        _log(session, name, ref.turn_id, None, DELETED)
        session.delete(ref)
    return was


def _no_branch(name: str, found: RefRow | None) -> str:
    if found is not None:
        return f"{name} is a tag; make a branch there: ledger switch --create NAME --at {name}"
    return f"there is no branch {name}; see: ledger branch"


def _no_tag(name: str, found: RefRow | None) -> str:
    if found is not None:
        return f"{name} is a branch; delete it with: ledger branch --delete {name}"
    return f"there is no tag {name}; see: ledger tag"


def _log(session: Session, ref: str, before: int | None, after: int | None, action: str) -> None:
    move = journal.Move(ref=ref, left=before, reached=after)
    journal.record(session, action, at=datetime.now(UTC), move=move)
