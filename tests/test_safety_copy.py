"""An upgrade that fails, however it fails, leaves a ledger that works with the old schema."""

import resource
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select, text

import migrations
from ledger import database
from ledger.database import SCHEMA, reading
from ledger.orm import TurnRow
from ledger.verifying import verify
from ledger.waiting import Waiting
from ledger.workspace import open_ledger
from migrations import safety_copy
from patches.errors import DatabaseError
from tests import revisions
from tests.released_ledgers import as_written, restore
from tests.revisions import NEXT, add_revision

OLD = "0004"
LARGE = """
def upgrade():
    op.create_table("large", sa.Column("content", sa.LargeBinary()))
    op.execute("INSERT INTO large (content) VALUES (zeroblob(20000000))")
"""


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A copy of the environment, to add revisions to."""
    folder = tmp_path / "environment"
    shutil.copytree(migrations.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def folder(tmp_path: Path, tiny_llama: Path) -> Path:
    """A ledger that was written by a version with schema `OLD`."""
    return restore(tmp_path / "ledger", tiny_llama, OLD)


@pytest.fixture
def old(folder: Path) -> Iterator[Engine]:
    engine = database.connect(database.parse_url(f"sqlite:///{folder / 'ledger.db'}"))
    yield engine
    engine.dispose()


def dump(file: Path) -> list[str]:
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return list(connection.iterdump())


def check_old_schema_works(folder: Path) -> None:
    """The database is what the old program wrote, and what that wrote can still be upgraded."""
    with as_written(OLD) as written:
        assert dump(folder / "ledger.db") == list(written.iterdump())
    with open_ledger(folder) as ledger:
        engine = database.connect(ledger.url)
        migrations.upgrade(engine)
        engine.dispose()
        assert verify(ledger).problems == []


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As on a full disk: the system refuses to write beyond."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_revision_that_fails_leaves_the_old_schema_and_the_copy(
    folder: Path, old: Engine, environment: Path
) -> None:
    add_revision(environment, revisions.FAILS)
    with pytest.raises(DatabaseError, match=r"no_such_table.*Nothing was changed"):
        migrations.upgrade(old, folder=environment)
    assert migrations.current(old) == OLD
    assert dump(folder / f"ledger.db.schema-{OLD}") == dump(folder / "ledger.db")
    old.dispose()
    check_old_schema_works(folder)


def test_a_process_that_is_killed_in_a_revision_leaves_the_old_schema(
    folder: Path, old: Engine, environment: Path
) -> None:
    add_revision(environment, revisions.DIES)
    process = revisions.upgrade_elsewhere(old, environment)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -9, errors
    check_old_schema_works(folder)


def test_a_disk_that_is_too_full_for_the_copy_leaves_everything_as_it_was(
    folder: Path, old: Engine
) -> None:
    before = sorted(path.name for path in folder.iterdir())
    # The upgrade itself would have room: SQLite writes to its log only what changes.
    room = (folder / "ledger.db").stat().st_size // 2
    with (
        no_file_larger_than(room),
        pytest.raises(DatabaseError, match=r"schema-0004: .*cannot be copied.*Nothing was changed"),
    ):
        migrations.upgrade(old)
    old.dispose()
    assert sorted(path.name for path in folder.iterdir()) == before
    check_old_schema_works(folder)


def test_a_disk_that_fills_up_in_a_revision_leaves_the_old_schema(
    folder: Path, old: Engine, environment: Path
) -> None:
    add_revision(environment, LARGE)
    with (
        no_file_larger_than(5_000_000),
        pytest.raises(DatabaseError, match=r"ledger\.db: .*Nothing was changed"),
    ):
        migrations.upgrade(old, folder=environment)
    old.dispose()
    check_old_schema_works(folder)


def test_a_reader_sees_the_old_schema_to_the_end_and_the_new_one_the_next_time(
    folder: Path, old: Engine
) -> None:
    reader = database.connect(old.url)
    columns = text("SELECT count(*) FROM pragma_table_info('turns')")
    with reading(reader) as session:
        before = session.scalars(columns).one(), session.scalars(text("SELECT * FROM refs")).all()
        add_column(old, folder.parent / "new")
        after = session.scalars(columns).one(), session.scalars(text("SELECT * FROM refs")).all()
        assert after == before
    with reading(reader) as session:
        assert session.scalars(columns).one() == before[0] + 1
    reader.dispose()


def add_column(engine: Engine, folder: Path) -> None:
    """Upgrade, with one more revision that makes the table of turns anew."""
    shutil.copytree(migrations.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    add_revision(folder, revisions.REBUILD)
    assert migrations.upgrade(engine, folder=folder)[-1] == NEXT


def test_an_upgrade_of_postgresql_beside_a_reader_waits_and_then_fails_cleanly(
    postgres_url: str, tmp_path: Path, tiny_llama: Path
) -> None:
    folder = restore(tmp_path / "ledger", tiny_llama, OLD, postgres_url)
    url = database.parse_url(postgres_url)
    hasty = database.connect(url, waiting=Waiting(seconds=0.2))
    engine, reader = database.connect(url), database.connect(url)
    with reading(reader) as session:
        turns = session.scalars(text("SELECT hash FROM turns ORDER BY id")).all()
        assert session.scalars(text("SELECT count(*) FROM evaluations")).one()
        with pytest.raises(DatabaseError, match="Another process has it for a long time"):
            migrations.upgrade(hasty)
        assert session.scalars(text("SELECT hash FROM turns ORDER BY id")).all() == turns
    assert migrations.current(engine) == OLD
    assert migrations.upgrade(engine)[-1] == SCHEMA
    with reading(reader) as session:
        assert session.scalars(select(TurnRow.hash).order_by(TurnRow.id)).all() == turns
    with open_ledger(folder) as ledger:
        assert verify(ledger).problems == []
    for used in (hasty, engine, reader):
        used.dispose()


def test_the_copy_has_what_is_only_in_the_write_ahead_log_and_who_may_read_it(
    folder: Path, old: Engine
) -> None:
    (folder / "ledger.db").chmod(0o600)
    with old.begin() as connection:
        connection.execute(text("INSERT INTO refs (name, kind) VALUES ('late', 'branch')"))
    migrations.upgrade(old)
    copy = folder / f"ledger.db.schema-{OLD}"
    assert any("'late'" in line for line in dump(copy))
    assert copy.stat().st_mode & 0o777 == 0o600


def test_the_copy_in_the_place_of_the_database_is_the_old_ledger_again(
    folder: Path, old: Engine
) -> None:
    migrations.upgrade(old)
    old.dispose()
    copy = folder / f"ledger.db.schema-{OLD}"
    for _ in range(2):  # and the second upgrade replaces the copy of the first
        shutil.copy(copy, folder / "ledger.db")
        check_old_schema_works(folder)
        assert copy.is_file()


def test_an_upgrade_with_nothing_to_do_or_from_nothing_makes_no_copy(tmp_path: Path) -> None:
    engine = database.connect(database.parse_url(f"sqlite:///{tmp_path / 'ledger.db'}"))
    assert migrations.upgrade(engine)[-1] == SCHEMA
    assert migrations.upgrade(engine) == []
    with reading(engine) as session:
        assert session.scalar(select(func.count()).select_from(TurnRow)) == 0
    engine.dispose()
    assert [path.name for path in tmp_path.iterdir()] == ["ledger.db"]


def test_a_database_that_is_no_file_has_no_copy(postgres_url: str) -> None:
    for address in (postgres_url, "sqlite://", "sqlite:///:memory:"):
        engine = database.connect(database.parse_url(address))
        assert safety_copy.path_of(engine, OLD) is None
        assert safety_copy.keep(engine, OLD) is None
        engine.dispose()
