"""Ledgers that earlier versions of the program have written, one of each schema.

``released/REVISION.sql`` is the SQLite database of a ledger as that version left it, in words, and
``released/patches`` holds the files of all of them. The base is the tiny Llama of the tests. Each
was made by the last commit with that schema, with its own code and ``ledger`` commands:

    init, add-edits (two turns of UltraEdit with scores, one row skipped), rollback turn 1, evaluate
    0002   add-edits --method wise (two shards), merge-shards
    0003   push --as patch, to the Hub on loopback
    0004   branch, switch, add-edits, tag, squash with a keyframe, cherry-pick
    0005   tune --apply, settings --reset

For the next: ``git archive COMMIT`` into a folder, set PYTHONPATH to it, run the commands with the
model and the facts in /srv/ledgers, edit ``model.layers.1.mlp.down_proj`` only, and write down what
`sqlite3.Connection.iterdump` says, of ``edits_text`` the virtual table alone, to be rebuilt.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from alembic import command
from sqlalchemy import Engine, MetaData, text

import migrations
from ledger import database
from ledger.workspace import Config
from migrations.transaction import transaction

FOLDER = Path(__file__).with_name("released")
REVISIONS = sorted(path.stem for path in FOLDER.glob("*.sql"))


def restore(folder: Path, model: Path, revision: str, url: str | None = None) -> Path:
    """Lay out the ledger of that schema in `folder`, which is returned; its database is at `url` if
    that is one of PostgreSQL, else in `folder`."""
    folder.mkdir(parents=True)
    if url is None or url.startswith("sqlite"):
        url = "sqlite:///ledger.db"
        with closing(sqlite3.connect(folder / "ledger.db")) as connection:
            connection.executescript(_dump(revision))
    else:
        _fill(url, revision)
    shutil.copytree(FOLDER / "patches", folder / "patches")
    Config(database=url, store="patches", model=str(model), revision=None).write(folder)
    return folder


@contextmanager
def as_written(revision: str) -> Iterator[sqlite3.Connection]:
    """The database of that schema, in memory."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(_dump(revision))
        yield connection


def _dump(revision: str) -> str:
    return (FOLDER / f"{revision}.sql").read_text(encoding="utf-8")


def _fill(url: str, revision: str) -> None:
    """The same rows in PostgreSQL, in tables as they were at that revision."""
    engine = database.connect(database.parse_url(url))
    with transaction(engine) as connection:
        command.upgrade(migrations.configuration(connection), revision)
    with as_written(revision) as written:
        _insert(engine, written)
    engine.dispose()


def _insert(engine: Engine, written: sqlite3.Connection) -> None:
    found = MetaData()
    found.reflect(engine)
    with engine.begin() as connection:
        # SQLite's moments do not say that they are in UTC.
        connection.execute(text("SET LOCAL timezone = 'UTC'"))
        for table in found.sorted_tables:
            if table.name == database.VERSION_TABLE:
                continue
            names = ", ".join(f'"{column.name}"' for column in table.columns)
            rows = written.execute(f"SELECT {names} FROM {table.name} ORDER BY 1").fetchall()
            places = ", ".join(["%s"] * len(table.columns))
            if rows:
                insert = f"INSERT INTO {table.name} ({names}) VALUES ({places})"
                connection.exec_driver_sql(insert, rows)
            if rows and "id" in table.columns and table.name != "bases":
                sequence = f"pg_get_serial_sequence('{table.name}', 'id')"
                newest = f"SELECT setval({sequence}, max(id)) FROM {table.name}"
                connection.execute(text(newest))
