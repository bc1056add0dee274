"""One transaction for a whole upgrade, with the database to oneself.

SQLite cannot alter most of a table: Alembic makes a new one, copies the rows, drops the old one and
renames the new one ("batch mode"). With foreign keys enforced, the drop would first delete every
row, and fail on those that others refer to. The way out is the one in SQLite's manual ("Making
Other Kinds Of Table Schema Changes"): enforcement off before the transaction, since the switch does
nothing inside one; a check of all references at its end; enforcement on again after it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, text

from patches.errors import DatabaseError


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A connection in a transaction that excludes every other one that writes.

    Committed at the end of the block, or undone if the block raises or the process dies. On SQLite
    nobody else writes meanwhile, foreign keys are not enforced, and DatabaseError is raised at the
    end if a row refers to one that does not exist.
    """
    if engine.dialect.name == "sqlite":
        with (
            engine.execution_options(writing=True).connect() as connection,
            _without_foreign_keys(connection),
            connection.begin(),
        ):
            yield connection
            _check_references(connection)
    else:
        # A stricter level would keep the view from before the lock was granted, and with it the
        # revision from before the other upgrade.
        isolated = engine.execution_options(writing=True, isolation_level="READ COMMITTED")
        with isolated.begin() as connection:
            yield connection


@contextmanager
def _without_foreign_keys(connection: Connection) -> Iterator[None]:
    """Foreign keys are not enforced in the block; it must begin before the transaction."""
    _pragma(connection, "foreign_keys = OFF")
    try:
        yield
    finally:
        _pragma(connection, "foreign_keys = ON")


def _pragma(connection: Connection, setting: str) -> None:
    # Past SQLAlchemy, which would begin a transaction first.
    cursor = connection.connection.cursor()
    cursor.execute(f"PRAGMA {setting}")
    cursor.close()


def _check_references(connection: Connection) -> None:
    lost = connection.execute(text("PRAGMA foreign_key_check")).first()
    if lost is not None:
        table, row, referred, _ = lost
        raise DatabaseError(
            f"row {row} of table {table} would refer to a row of {referred} that does not exist. "
            "Nothing was changed; restore the database from a backup, or report this"
        )
