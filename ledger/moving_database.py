"""Move a ledger to another database: SQLite to PostgreSQL, back, or to another of the same kind.

Nobody records while rows are copied, so that no turn is left behind. The copy is one transaction:
killed at any instant, the target is empty or whole, and ``config.json`` names the old database or
the new one, which both hold the same. Run again, the same command finds a whole copy and goes on
with what is left.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Engine, func, inspect, select
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

from ledger import database, full_text
from ledger.initialising import stored_url
from ledger.orm import BaseRow, Table, TurnRow
from ledger.progress import Progress, silent
from ledger.storable import unstorable
from ledger.verifying import verify_records
from ledger.workspace import CONFIG, Config, Ledger
from patches.errors import DatabaseError, SettingError

_TOGETHER = 1000
"""Rows that are in memory at once."""
_CLASSES = {mapper.local_table: mapper.class_ for mapper in Table.registry.mappers}


@dataclass(frozen=True, kw_only=True)
class CopiedDatabase:
    """A ledger's database, and its copy. tables: rows of each. notes: what to see to now."""

    source: str
    target: str
    tables: dict[str, int]
    switched: bool
    notes: list[str]

    @property
    def rows(self) -> int:
        return sum(self.tables.values())

    @property
    def turns(self) -> int:
        return self.tables[TurnRow.__tablename__]

    def to_json(self) -> dict[str, Any]:
        return {
            "from": self.source,
            "to": self.target,
            "rows": self.rows,
            "turns": self.turns,
            "tables": self.tables,
            "switched": self.switched,
            "notes": self.notes,
        }


def copy_database(
    ledger: Ledger, address: str, *, switch: bool = True, progress: Progress = silent
) -> CopiedDatabase:
    """Copy every row to the database at `address`, which must be empty, or hold this very copy.

    What has arrived is read again, counted and compared, and the chain of hashes is verified
    before anything is committed. switch: the ledger's configuration names the new database
    afterwards. Raises SettingError if `address` is the ledger's own database, DatabaseError if it
    cannot be used, holds something else, or cannot hold a value, or if the history is damaged; in
    each case nothing has changed.
    """
    stored, url = stored_url(address), _absolute(database.parse_url(address))
    if url == _absolute(ledger.url):
        raise SettingError(f"{database.masked(url)} is the ledger's database already")
    target = database.connect(url, waiting=ledger.waiting)
    try:
        # The lock is kept until the configuration is written: who waits for it sees the move.
        with database.writing(ledger.engine) as source:
            with _removed_if_it_fails(target):
                tables = _bring(ledger, source, target, progress)
            if switch:
                replace(Config.read(ledger.folder), database=stored).write(ledger.folder)
    finally:
        target.dispose()
    return CopiedDatabase(
        source=database.masked(ledger.url),
        target=database.masked(url),
        tables=tables,
        switched=switch,
        notes=_notes(url, switch),
    )


def _absolute(url: URL) -> URL:
    file = _file(url)
    return url if file is None else url.set(database=str(file))


def _file(url: URL) -> Path | None:
    return Path(url.database or "").resolve() if url.get_backend_name() == "sqlite" else None


@contextmanager
def _removed_if_it_fails(target: Engine) -> Iterator[None]:
    """A database file that was not there before the block goes again if the block raises."""
    file = _file(target.url)
    new = file is not None and not file.exists()
    try:
        yield
    except BaseException:
        target.dispose()
        if file is not None and new:
            for suffix in ("", "-journal", "-wal", "-shm"):
                file.with_name(f"{file.name}{suffix}").unlink(missing_ok=True)
        raise


def _notes(url: URL, switch: bool) -> list[str]:
    notes = []
    if switch and database.environment_url() is not None:
        notes.append(f"LEDGER_DATABASE is set and counts more than {CONFIG}: change it too")
    elif switch and url.password:
        notes.append("its password is not kept: set PGPASSWORD, or LEDGER_DATABASE")
    return notes


def _bring(ledger: Ledger, source: Session, target: Engine, progress: Progress) -> dict[str, int]:
    """Make the target hold what the source holds; rows per table."""
    total = sum(_count(source, table) for table in _tables())
    if _is_empty(target):
        with database.writing(target) as session:
            database.create_schema(session.connection())
            copied = _copy(source, session, _Counter("copy rows", total, progress))
            _set_sequences(session)
            full_text.rebuild(session)
            _check(ledger, session, copied, _Counter("compare rows", total, progress))
    else:
        _refuse_stranger(ledger, target)
        read = _Counter("copy rows", total, progress)
        copied = {table.name: _summed(_rows(source, table), read) for table in _tables()}
        with database.reading(target) as session:
            _check(ledger, session, copied, _Counter("compare rows", total, progress))
    return {name: contents.rows for name, contents in copied.items()}


def _tables() -> list[sa.Table]:
    """Those that others refer to come first."""
    return Table.metadata.sorted_tables


def _count(session: Session, table: sa.Table) -> int:
    return session.scalars(select(func.count()).select_from(table)).one()


def _is_empty(target: Engine) -> bool:
    if database.schema_revision(target) is not None:
        return False
    with database.translated(target), target.connect() as connection:
        found = inspect(connection).get_table_names()
    if found:
        raise DatabaseError(
            f"database {database.masked(target.url)} holds tables of something else ({found[0]}); "
            "name an empty one with --to"
        )
    return True


def _refuse_stranger(ledger: Ledger, target: Engine) -> None:
    """DatabaseError unless the target holds this ledger, in whatever state."""
    database.check_schema(target)
    with database.reading(target) as session:
        found = session.scalar(select(BaseRow.ledger_id))
    if found != ledger.base.ledger_id:
        raise DatabaseError(
            f"database {database.masked(target.url)} holds another ledger; "
            "name an empty one with --to"
        )


@dataclass(kw_only=True)
class _Contents:
    """How many rows a table has, and a number that depends on every value in them, but not on
    their order: databases sort texts differently."""

    rows: int = 0
    sum: int = 0

    def add(self, row: Iterable[object]) -> None:
        digest = hashlib.sha256(repr(tuple(row)).encode("utf-8", "surrogatepass")).digest()
        self.sum = (self.sum + int.from_bytes(digest)) % (1 << 256)
        self.rows += 1


@dataclass
class _Counter:
    """Tells how many rows of all have been gone through."""

    phase: str
    total: int
    progress: Progress
    done: int = field(default=0, init=False)

    def add(self, rows: int) -> None:
        self.done += rows
        self.progress(self.phase, self.done, self.total)


def _rows(session: Session, table: sa.Table) -> Iterator[list[Any]]:
    """All rows, some at a time, in the order in which they were recorded."""
    query = select(table).order_by(*table.primary_key.columns)
    found = session.execute(query.execution_options(yield_per=_TOGETHER))
    for rows in found.partitions():
        yield list(rows)


def _copy(source: Session, target: Session, counter: _Counter) -> dict[str, _Contents]:
    found = {}
    for table in _tables():
        found[table.name] = _summed(_inserted(source, target, table), counter)
    return found


def _inserted(source: Session, target: Session, table: sa.Table) -> Iterator[list[Any]]:
    dialect = target.get_bind().dialect.name
    for rows in _rows(source, table):
        for row in rows:
            if reason := unstorable(table, row, dialect):
                raise DatabaseError(
                    f"table {table.name}, row {row[0]!r}: {reason}; the ledger can only be kept in "
                    f"a database like the one that it is in. Nothing was copied"
                )
        database.bulk_insert(target, _CLASSES[table], [row._asdict() for row in rows])
        yield rows


def _summed(pages: Iterable[list[Any]], counter: _Counter) -> _Contents:
    contents = _Contents()
    for rows in pages:
        for row in rows:
            contents.add(row)
        counter.add(len(rows))
    return contents


def _set_sequences(session: Session) -> None:
    """Rows to come are numbered after those that are there; SQLite does so by itself."""
    if session.get_bind().dialect.name != "postgresql":
        return
    for table in _tables():
        column = table.autoincrement_column
        newest = None if column is None else session.scalar(select(func.max(column)))
        if column is not None and newest is not None:
            sequence = func.pg_get_serial_sequence(table.name, column.name)
            session.execute(select(func.setval(sequence, newest)))


def _check(
    ledger: Ledger, target: Session, copied: dict[str, _Contents], counter: _Counter
) -> None:
    """DatabaseError unless the target holds what was copied, and its history verifies."""
    where = f"database {database.masked(target.get_bind().engine.url)}"
    for table in _tables():
        expected, found = copied[table.name], _summed(_rows(target, table), counter)
        if found.rows != expected.rows:
            raise DatabaseError(
                f"{where} has {found.rows:,} rows of table {table.name}, the ledger's database "
                f"has {expected.rows:,}. Nothing was changed; name an empty one with --to"
            )
        if found != expected:
            raise DatabaseError(
                f"{where} has other values in table {table.name} than the ledger's database. "
                "Nothing was changed; name an empty one with --to"
            )
    verified = verify_records(target, ledger, progress=counter.progress)
    if not verified.ok:
        problem = verified.problems[0]
        raise DatabaseError(
            f"the ledger's history is damaged: {problem.subject}: {problem.what}; it is not copied "
            "before that is mended. See all with: ledger verify"
        )
