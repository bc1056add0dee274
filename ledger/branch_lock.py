"""One command at a time works on a branch.

What changes a branch reads it, computes for seconds or hours, and records turns then; if the branch
has moved meanwhile, the work was for nothing (`ledger.recording` refuses to record it). So commands
wait for one another before they begin. The lock is only good manners: it lies beside an SQLite
database (a file that the system unlocks when its holder dies), or is PostgreSQL's own (gone with
the connection), and where it cannot be had at all, recording still refuses.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from ledger import database
from ledger.waiting import wait_for
from ledger.workspace import Ledger
from patches.errors import DatabaseError


@contextmanager
def working_on(ledger: Ledger, branch: str) -> Iterator[None]:
    """Inside, no other command works on `branch`; DatabaseError if another one does for longer
    than `ledger.waiting` says."""
    holding = _in_file if ledger.url.get_backend_name() == "sqlite" else _in_server
    with holding(ledger, branch):
        yield


@contextmanager
def _in_file(ledger: Ledger, branch: str) -> Iterator[None]:
    """A locked file beside the database, which is gone afterwards."""
    place = Path(ledger.url.database or "")
    path = place.with_name(f".{place.name}.{_key(branch) % 2**32:08x}.lock")
    held: list[int] = []

    def attempt() -> bool:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if _lock(handle) and _is(path, handle):
            held.append(handle)
            return True
        os.close(handle)
        return False

    try:
        wait_for(attempt, ledger.waiting, f"branch {branch}")
    except OSError as error:
        # SQLite could not make its own files there either: better now than after the work.
        raise DatabaseError(
            f"database {database.masked(ledger.url)}: its folder cannot be written to "
            f"({error.strerror}). Make it writable, or choose another with LEDGER_DATABASE"
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink()
        os.close(held[0])


def _lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return True


def _is(path: Path, handle: int) -> bool:
    """Whether the file is still there; its last holder may have removed it meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


@contextmanager
def _in_server(ledger: Ledger, branch: str) -> Iterator[None]:
    key = {"key": _key(branch)}
    with database.translated(ledger.engine):
        connection = ledger.engine.execution_options(isolation_level="AUTOCOMMIT").connect()
    try:

        def attempt() -> bool:
            return bool(connection.scalar(text("SELECT pg_try_advisory_lock(:key)"), key))

        with database.translated(ledger.engine):
            wait_for(attempt, ledger.waiting, f"branch {branch}")
        yield
    finally:
        # The lock goes with the connection, which must not come back to the pool with it.
        with suppress(SQLAlchemyError):
            connection.invalidate()
            connection.close()


def _key(branch: str) -> int:
    """A signed 64-bit number for `branch`."""
    digest = hashlib.blake2b(f"edit-ledger {branch}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)
