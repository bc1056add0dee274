"""Bring a ledger's database to the tables that this program uses.

    current(engine)   the revision that the database is at
    head()            the revision that this program needs
    pending(engine)   what lies between
    upgrade(engine)   run it: all of it, or nothing
    safety_copy.path_of(engine, revision)   an SQLite database as it was before
    downgrade(engine, revision)   back again, for those who write revisions

Opening a ledger never changes its tables; a person asks for it, with ``ledger db upgrade``. How to
write a revision is told in ``env.py``.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine

from ledger import database
from migrations import safety_copy
from migrations.transaction import transaction
from patches.errors import DatabaseError

__all__ = [
    "FOLDER",
    "configuration",
    "current",
    "downgrade",
    "head",
    "pending",
    "safety_copy",
    "upgrade",
]

FOLDER = Path(__file__).parent
"""The installed environment: ``env.py`` and ``versions/``."""

# Alembic keeps the environment that runs in module globals: one at a time in a process.
_ALEMBIC = threading.Lock()


def configuration(connection: Connection | None = None, *, folder: Path = FOLDER) -> Config:
    """What Alembic's own commands need, such as ``alembic.command.check`` and ``revision``.

    connection: the database, inside a transaction of the caller's (see `migrations.transaction`).
    folder: the environment that they run in, or write a revision to.
    """
    config = Config()
    # Alembic reads options as an ini file does, where a percent sign begins a reference.
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    if connection is not None:
        config.attributes["connection"] = connection
    return config


def head(*, folder: Path = FOLDER) -> str:
    """The newest revision. Raises DatabaseError if the environment has none."""
    return _revisions(folder)[-1]


def current(engine: Engine) -> str | None:
    """The revision that the database is at, or None if it has no tables of a ledger.

    Raises DatabaseError if it cannot be read.
    """
    return database.schema_revision(engine)


def pending(engine: Engine, *, folder: Path = FOLDER) -> list[str]:
    """The revisions that `upgrade` would run, oldest first.

    Raises DatabaseError if the database cannot be read, or is at a revision unknown here.
    """
    return _after(current(engine), _revisions(folder), engine)


def upgrade(engine: Engine, *, folder: Path = FOLDER) -> list[str]:
    """Run what is pending, in one transaction; return the revisions, oldest first.

    An empty database gets all tables; of an SQLite database with tables a copy is kept first, see
    `migrations.safety_copy`. Whoever comes second while another upgrade runs waits, and finds
    nothing left to do. Raises DatabaseError, and leaves the database as it was, if a revision
    fails, there is no room for the copy, or the database is newer than this program.
    """
    revisions = _revisions(folder)
    with _migrating(engine) as connection:
        found = _revision(connection)
        steps = _after(found, revisions, engine)
        if steps and found is not None:
            safety_copy.keep(engine, found)
        if steps:
            command.upgrade(configuration(connection, folder=folder), "head")
    return steps


def downgrade(engine: Engine, revision: str, *, folder: Path = FOLDER) -> list[str]:
    """Undo what came after `revision` (``base``: all, with the data); return it, newest first.

    Raises DatabaseError, and leaves the database as it was, if one fails or `revision` is unknown.
    """
    revisions = _revisions(folder)
    with _migrating(engine) as connection:
        before = _after(_revision(connection), revisions, engine)
        command.downgrade(configuration(connection, folder=folder), revision)
        after = _after(_revision(connection), revisions, engine)
    return [step for step in reversed(after) if step not in before]


def _revisions(folder: Path) -> list[str]:
    """All revisions of an environment, oldest first."""
    with _explained("the installed migrations"):
        script = ScriptDirectory.from_config(configuration(folder=folder))
        found = [step.revision for step in script.walk_revisions()]
    if not found:
        raise DatabaseError(f"{folder} holds no migrations; install edit-ledger again")
    return found[::-1]


def _revision(connection: Connection) -> str | None:
    context = MigrationContext.configure(connection, opts={"version_table": database.VERSION_TABLE})
    return context.get_current_revision()


def _after(found: str | None, revisions: list[str], engine: Engine) -> list[str]:
    """The part of `revisions` that a database at `found` lacks."""
    if found is None:
        return revisions
    if found in revisions:
        return revisions[revisions.index(found) + 1 :]
    where = f"database {database.masked(engine.url)} is at schema {found}"
    if found > revisions[-1]:
        raise DatabaseError(
            f"{where}, which is newer than this program's {revisions[-1]}; update edit-ledger"
        )
    raise DatabaseError(
        f"{where}, which this program does not know (it knows {', '.join(revisions)}); "
        "use the edit-ledger that made it"
    )


@contextmanager
def _migrating(engine: Engine) -> Iterator[Connection]:
    """The database to oneself, in a transaction that ends with the block."""
    with (
        _ALEMBIC,
        database.translated(engine),
        _explained(f"database {database.masked(engine.url)}"),
        transaction(engine) as connection,
    ):
        yield connection


@contextmanager
def _explained(where: str) -> Iterator[None]:
    """Where Alembic's own errors become ours; `database.translated` sees to the database's."""
    try:
        yield
    except CommandError as error:
        reason = str(error).strip().splitlines()[0]
        raise DatabaseError(f"{where}: {reason}. Nothing was changed") from error
