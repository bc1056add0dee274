"""Files that were given up: what is said where one is missing, and how it comes back into use."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session, aliased

from ledger import database, history, journal
from ledger.history import chunks
from ledger.orm import BlobRow, ReplacementRow, TurnRow
from ledger.workspace import Ledger
from patches.errors import StoreError

_GIVEN_UP = BlobRow.pruned_at.is_not(None)


def opened(ledger: Ledger, digest: str) -> Path:
    """The path of a file whose bytes have been checked; StoreError if it is missing or damaged, and
    why if it was given up."""
    try:
        return ledger.store.open(digest)
    except StoreError as error:
        with database.reading(ledger.engine) as session:
            blob = session.get(BlobRow, digest)
            if blob is None or blob.pruned_at is None:
                raise
            raise _error(session, ledger, blob) from error


def _error(session: Session, ledger: Ledger, blob: BlobRow) -> StoreError:
    assert blob.pruned_at is not None
    turn, by = _users(session, blob.digest)
    why = (
        "since no branch or tag led to it"
        if by is None
        else f"since turn {by.number} ({by.method}) has taken its place"
    )
    return StoreError(
        f"the {blob.kind.replace('-', ' ')} of turn {turn.number} was pruned on "
        f"{blob.pruned_at.date()}, {why}; a state that needs it cannot be built any more. "
        f"Restore {ledger.store.where(blob.digest)} from a backup or from where it was pushed, and "
        "run again"
    )


def all_given_up(session: Session) -> set[str]:
    """The digests of all files that were given up."""
    return set(session.scalars(select(BlobRow.digest).where(_GIVEN_UP)))


def among(session: Session, digests: Sequence[str]) -> set[str]:
    """Those of these files that were given up."""
    return {
        digest
        for some in chunks(digests)
        for digest in session.scalars(
            select(BlobRow.digest).where(BlobRow.digest.in_(some), _GIVEN_UP)
        )
    }


def is_recorded(session: Session, ledger: Ledger, digest: str) -> bool:
    """Whether a file that a new turn uses is known; if it had been given up, it is in use again.

    StoreError if it is not known and not in the store: a stray of long ago may have been removed
    in the moment between its being put again and this transaction.
    """
    use_again(session, ledger, [digest])
    if session.get(BlobRow, digest) is not None:
        return True
    if ledger.store.stored(digest) is None:
        raise StoreError(
            f"{ledger.store.where(digest)}: has been removed meanwhile. Nothing was recorded; run "
            "the command again"
        )
    return False


def use_again(session: Session, ledger: Ledger, digests: Sequence[str]) -> None:
    """Have those of these files that were given up in use again, as of this transaction.

    StoreError for the first that is not there any more.
    """
    if not _any(session):
        return
    for some in chunks(digests):
        found = {blob.digest: blob for blob in given_up(session, some)}
        for digest in some:
            if digest in found and ledger.store.problem(digest) is not None:
                raise _error(session, ledger, found[digest])
        restore(session, [*found])


def restore(session: Session, digests: Sequence[str]) -> None:
    """Take back that these of the files were given up."""
    for some in chunks(digests):
        blobs = list(given_up(session, some))
        for blob in blobs:
            blob.pruned_at = None
        if blobs:
            journal.record(session, journal.RESTORE, blobs, at=datetime.now(UTC))


def use_state_again(session: Session, ledger: Ledger, turn_id: int | None) -> None:
    """The same with the patches that the state after this turn (row id) is made from."""
    if _any(session):
        used = history.patches_in_force(history.line_to(session, turn_id))
        use_again(session, ledger, [step.patch_digest for step in used if step.patch_digest])


def _any(session: Session) -> bool:
    """Whether any file was given up; the index tells, however many files there are."""
    return session.scalar(select(func.max(BlobRow.pruned_at))) is not None


def given_up(session: Session, digests: Sequence[str]) -> Iterator[BlobRow]:
    """Those of these files that were given up; nobody else changes that in this transaction."""
    for some in chunks(digests):
        query = select(BlobRow).where(BlobRow.digest.in_(some), _GIVEN_UP)
        yield from session.scalars(query.with_for_update())


def _users(session: Session, digest: str) -> tuple[TurnRow, TurnRow | None]:
    """The first turn that the file is part of, and the newest one that took its place."""
    turns = select(TurnRow).where(
        (TurnRow.patch_digest == digest) | (TurnRow.editor_state_digest == digest)
    )
    later = aliased(TurnRow)
    replaced = (
        select(TurnRow, later)
        .join(ReplacementRow, ReplacementRow.replaced_id == TurnRow.id)
        .join(later, later.id == ReplacementRow.turn_id)
        .where(TurnRow.patch_digest == digest)
        .order_by(later.id.desc())
    )
    found = session.execute(replaced.limit(1)).first()
    if found is not None:
        return found[0], found[1]
    return session.scalars(turns.order_by(TurnRow.id).limit(1)).one(), None
