"""A copy of an SQLite database from right before its upgrade, to go back to.

The copy is made first, and the upgrade then runs on the database itself, in one transaction, which
is the swap at the end: SQLite puts either none of its pages in place or all of them. To upgrade the
copy and rename it over the database would lose turns: a process that has the old file open goes on
writing into it, though no name leads there any more.
"""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from sqlalchemy import Engine

from patches.errors import DatabaseError


def path_of(engine: Engine, revision: str) -> Path | None:
    """Where the database as it was at `revision` is kept; None if it is no file."""
    if engine.dialect.name != "sqlite" or engine.url.database in (None, "", ":memory:"):
        return None
    path = Path(engine.url.database or "").resolve()
    return path.with_name(f"{path.name}.schema-{revision}")


def keep(engine: Engine, revision: str) -> Path | None:
    """Copy the database beside itself, durably and checked; the path, or None if it is no file.

    The caller keeps others from writing meanwhile, and has written nothing itself. A copy of the
    same revision is replaced: history only grows, so this one has all that is in it. Raises
    DatabaseError, with nothing left behind, if it cannot be written or has not come out whole.
    """
    path = path_of(engine, revision)
    if path is None:
        return None
    temporary = path.with_name(f".{path.name}.writing")
    try:
        _remove(temporary)
        source = Path(engine.url.database or "")
        _copy(source, temporary)
        shutil.copymode(source, temporary)
        _synchronise(temporary)
        temporary.replace(path)
        _synchronise(path.parent)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DatabaseError(
            f"{path}: the database cannot be copied before the upgrade ({reason}); make room or "
            "mend this, and run again. Nothing was changed"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            _remove(temporary)
    return path


def _copy(source: Path, target: Path) -> None:
    """By SQLite itself, which also takes what lies in the write-ahead log."""
    with (
        contextlib.closing(sqlite3.connect(source)) as reader,
        contextlib.closing(sqlite3.connect(target)) as writer,
    ):
        reader.backup(writer)
        [found] = writer.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise sqlite3.DatabaseError(f"the copy is damaged: {found}")


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
