"""Connect to the ledger's database: SQLite by default, PostgreSQL for teams."""

import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy import (
    Connection,
    Engine,
    bindparam,
    create_engine,
    event,
    insert,
    inspect,
    literal_column,
    text,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.orm import Session

from ledger import full_text
from ledger.orm import Table
from ledger.waiting import Waiting, wait_for
from patches.errors import DatabaseError

SCHEMA = "0006"
"""The newest Alembic revision that this program works with; revisions are numbered upwards."""
VERSION_TABLE = "ledger_schema"
_IS_OURS = f"SELECT count(*) = 0 OR total(name = '{VERSION_TABLE}') FROM sqlite_master"
_SECRET = frozenset({"password", "sslpassword"})
"""Parameters of a URL that nobody gets to see."""
_CONNECT_SECONDS = 10
"""How long a server may take to answer at all."""
# Any number will do, as long as nobody else in the same PostgreSQL database locks on it.
_WRITERS = int.from_bytes(b"edledger")


def parse_url(address: str) -> URL:
    """A database URL; DatabaseError if it is none, or names an unsupported database.

    A password among its parameters comes to its usual place.
    """
    try:
        url = make_url(address)
        if "@" in (url.host or ""):
            raise ValueError("a password with @ must be percent-encoded: %40")
    except (ArgumentError, ValueError) as error:
        # What cannot be parsed may hold a password all the same, wherever.
        shown = re.sub(r":.*", ":***", address, flags=re.DOTALL)
        raise DatabaseError(
            f"not a database URL: {shown!r}; write sqlite:///FILE or "
            "postgresql+psycopg://USER@HOST/NAME, with @, : and / in names as %40, %3A and %2F"
        ) from error
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() not in ("sqlite", "postgresql"):
        raise DatabaseError(
            f"the ledger runs on SQLite and PostgreSQL, not on {url.get_backend_name()}"
        )
    if isinstance(password := url.query.get("password"), str):
        url = url.set(password=password).difference_update_query(["password"])
    return url


def masked(url: URL) -> str:
    """The URL for people: a password shows as ``***``."""
    hidden = dict.fromkeys(_SECRET & url.query.keys(), "***")
    return url.update_query_dict(hidden).render_as_string(hide_password=True)


def without_password(url: URL) -> str:
    """The URL for the configuration file, which never holds a password."""
    url = url.difference_update_query(_SECRET)
    return url._replace(password=None).render_as_string(hide_password=False)


def _scrubbed(reason: str, url: URL) -> str:
    """What a database says, without a password that it may repeat."""
    for secret in (url.password, *(url.query.get(name) for name in _SECRET)):
        if secret:
            reason = reason.replace(str(secret), "***")
    return reason


def connect(url: URL, *, waiting: Waiting | None = None) -> Engine:
    """An engine for `url`; nothing is opened yet. waiting: how a writer waits for another."""
    waiting = waiting or Waiting()
    try:
        if url.get_backend_name() == "sqlite":
            opening = _opening_read_only(url.database or "")
            more = {"creator": opening} if opening else {}
            engine = create_engine(url, connect_args={"timeout": waiting.seconds}, **more)
            _prepare_sqlite(engine, waiting)
        else:
            patience = (
                {} if "connect_timeout" in url.query else {"connect_timeout": _CONNECT_SECONDS}
            )
            engine = create_engine(url, pool_pre_ping=True, connect_args=patience)
            _prepare_postgresql(engine, waiting)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise DatabaseError(
            f"{masked(url)}: its driver is not installed ({error}); "
            "pip install 'edit-ledger[postgresql]'"
        ) from error
    return engine


def _opening_read_only(path: str) -> Callable[[], Any] | None:
    """How to open a database on a read-only disk, such as a backup's, where SQLite cannot make the
    file through which processes share it; None if it is on another."""
    try:
        read_only = bool(os.statvfs(path).f_flag & os.ST_RDONLY)
    except OSError:
        return None
    if not read_only or Path(f"{path}-wal").exists():
        return None
    address = f"{Path(path).absolute().as_uri()}?mode=ro&immutable=1"
    return lambda: sqlite3.connect(address, uri=True, check_same_thread=False)


def _prepare_sqlite(engine: Engine, waiting: Waiting) -> None:
    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        # The driver's own BEGIN is switched off, so that `begin` below decides on the lock.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys = ON")
        # Another program's database stays in the mode that it is in.
        if cursor.execute(_IS_OURS).fetchone()[0]:
            cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        # 64 MB. The keys of edits are spread over their whole indexes: with the default of 2 MB
        # a turn costs more the longer the history is.
        cursor.execute("PRAGMA cache_size = -65536")
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("writing", False):
            connection.exec_driver_sql("BEGIN")
            return

        def attempt() -> bool:
            # Past SQLAlchemy, for which a transaction has begun already.
            try:
                driver.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                return False
            return True

        driver: Any = connection.connection.driver_connection
        driver.execute("PRAGMA busy_timeout = 0")
        try:
            with _translated_driver(engine):
                wait_for(attempt, waiting, f"database {masked(engine.url)}")
        finally:
            driver.execute(f"PRAGMA busy_timeout = {round(waiting.seconds * 1000)}")


def _prepare_postgresql(engine: Engine, waiting: Waiting) -> None:
    """Writers come one after the other here too: none waits for another with a lock of its own, so
    none can wait for ever, and the log of moves has one order."""

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("writing", False):
            return

        def attempt() -> bool:
            # Changes of tables wait for readers.
            query = "SELECT set_config('lock_timeout', %s, true), pg_try_advisory_xact_lock(%s)"
            patience = f"{max(1, round(waiting.seconds * 1000))}ms"
            return bool(connection.exec_driver_sql(query, (patience, _WRITERS)).one()[1])

        wait_for(attempt, waiting, f"database {masked(engine.url)}")


@contextmanager
def _translated_driver(engine: Engine) -> Iterator[None]:
    """`translated` for what is asked of SQLite's driver directly."""
    try:
        yield
    except sqlite3.Error as error:
        reason = str(error)
        raise DatabaseError(
            f"database {masked(engine.url)}: {reason}. {_advice(reason)}"
        ) from error


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session for queries, on one consistent snapshot."""
    options: dict[str, Any] = {}
    if engine.dialect.name == "postgresql":
        options["isolation_level"] = "REPEATABLE READ"
    with translated(engine), Session(engine.execution_options(**options)) as session:
        yield session


@contextmanager
def writing(engine: Engine) -> Iterator[Session]:
    """A session whose whole work is one transaction: committed at the end, or not at all."""
    with (
        translated(engine),
        Session(engine.execution_options(writing=True), expire_on_commit=False) as session,
        session.begin(),
    ):
        yield session


@contextmanager
def translated(engine: Engine) -> Iterator[None]:
    """The one place where the database library's errors become ours."""
    try:
        yield
    except SQLAlchemyError as error:
        reason = str(error.orig) if isinstance(error, DBAPIError) else str(error)
        reason = _scrubbed(reason, engine.url)
        raise DatabaseError(
            f"database {masked(engine.url)}: {reason.strip().splitlines()[0]}. {_advice(reason)}"
        ) from error


def _advice(reason: str) -> str:
    if "locked" in reason or "lock timeout" in reason:
        return "Another process has it for a long time; try again"
    if "readonly" in reason or "read-only" in reason:
        return "Make it writable, or choose another with --database"
    if "connect" in reason or "unable to open" in reason:
        return "Check that it is reachable, and the password in PGPASSWORD or LEDGER_DATABASE"
    if "not a database" in reason or "malformed" in reason:
        return "Restore it from a backup"
    return "Nothing was changed"


def create_schema(connection: Connection) -> None:
    """Create the tables of an empty database, marked as being at revision `SCHEMA`.

    As Alembic's cookbook advises for new databases; a test proves that the result is what the
    migrations build. Part of the caller's transaction.
    """
    Table.metadata.create_all(connection)
    full_text.create(connection)
    connection.execute(
        text(
            f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL, "
            f"CONSTRAINT {VERSION_TABLE}_pkc PRIMARY KEY (version_num))"
        )
    )
    connection.execute(
        text(f"INSERT INTO {VERSION_TABLE} (version_num) VALUES (:v)"), {"v": SCHEMA}
    )


def drop_schema(connection: Connection) -> None:
    """The inverse of `create_schema`. Part of the caller's transaction."""
    full_text.drop(connection)
    Table.metadata.drop_all(connection)
    connection.execute(text(f"DROP TABLE {VERSION_TABLE}"))


def schema_revision(engine: Engine) -> str | None:
    """The revision that the database is at, or None if it holds no ledger."""
    with translated(engine), engine.connect() as connection:
        if not inspect(connection).has_table(VERSION_TABLE):
            return None
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
        return None if found is None else str(found)


def check_schema(engine: Engine) -> None:
    """DatabaseError, with the command to run, unless the database is at revision `SCHEMA`."""
    found = schema_revision(engine)
    if found == SCHEMA:
        return
    where = f"database {masked(engine.url)}"
    if found is None:
        raise DatabaseError(f"{where} holds no ledger; create one with: ledger init")
    if found < SCHEMA:
        raise DatabaseError(
            f"{where} is at schema {found}, this program needs {SCHEMA}; run: ledger db upgrade"
        )
    raise DatabaseError(
        f"{where} is at schema {found}, which is newer than this program's {SCHEMA}; "
        "update edit-ledger"
    )


def environment_url() -> str | None:
    """The address in LEDGER_DATABASE, which wins over the configured one."""
    return os.environ.get("LEDGER_DATABASE") or None


def bulk_insert(session: Session, table: type[Table], rows: Sequence[Mapping[str, Any]]) -> None:
    """Insert many plain rows, which all have the same columns."""
    if rows:
        names = tuple(rows[0])
        # Every table has several columns, so that the getter gives tuples.
        insert_rows(session, table, names, list(map(itemgetter(*names), rows)))


def insert_rows(
    session: Session,
    table: type[Table],
    names: Sequence[str],
    rows: Sequence[tuple[Any, ...]],
    *,
    same: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Insert many rows of the columns `names`. same: columns that have one number in all of them.

    The statement and the conversion of values are the database library's; the rows go to the
    driver directly, which is several times faster than through the unit of work.
    """
    columns = Table.metadata.tables[table.__tablename__].columns
    connection = session.connection()
    dialect = connection.dialect
    values: dict[str, Any] = {name: bindparam(name) for name in names}
    values |= {name: literal_column(str(number)) for name, number in same.items()}
    compiled = insert(table).values(values).compile(dialect=dialect)
    types = [columns[name].type.dialect_impl(dialect) for name in names]
    converters = [one.bind_processor(dialect) for one in types]
    if any(converters):
        rows = [
            tuple(c(v) if c else v for c, v in zip(converters, row, strict=True)) for row in rows
        ]
    order = compiled.positiontup
    if order is None:
        named = [dict(zip(names, row, strict=True)) for row in rows]
        connection.exec_driver_sql(str(compiled), named)
        return
    if list(names) != order:
        rows = list(map(itemgetter(*map(list(names).index, order)), rows))
    connection.exec_driver_sql(str(compiled), rows)
