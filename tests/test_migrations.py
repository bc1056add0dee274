"""Upgrading a ledger's database, on SQLite and on PostgreSQL."""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Engine, inspect, select, text
from sqlalchemy.exc import DBAPIError

import migrations
from ledger import database, full_text
from ledger.database import SCHEMA
from ledger.orm import Table
from ledger.waiting import Waiting
from migrations.transaction import transaction
from patches.errors import DatabaseError
from tests import revisions, sample_history
from tests.revisions import NEXT, REAL, add_revision, remove_all

Schema = dict[str, dict[str, object]]


@pytest.fixture
def engine(database_engine: Engine) -> Engine:
    return database_engine


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A copy of the environment, to add revisions to."""
    folder = tmp_path / "environment"
    shutil.copytree(migrations.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database at the newest revision with a row in every table. Read only."""
    path = tmp_path_factory.mktemp("sample") / "ledger.db"
    engine = database.connect(database.parse_url(f"sqlite:///{path}"))
    migrations.upgrade(engine)
    sample_history.record(engine)
    engine.dispose()
    return path


@pytest.fixture
def recorded(engine: Engine, sample: Path) -> Engine:
    """A database at the newest revision with a row in every table."""
    if engine.dialect.name == "sqlite":
        shutil.copy(sample, engine.url.database or "")
        return engine
    migrations.upgrade(engine)
    sample_history.record(engine)
    return engine


def create(engine: Engine) -> None:
    with database.writing(engine) as session:
        database.create_schema(session.connection())


def clear(engine: Engine) -> None:
    """Drop every table."""
    with engine.begin() as connection:
        database.drop_schema(connection)


def schema(engine: Engine) -> Schema:
    """Everything that the database says of its tables, in comparable form."""
    inspector = inspect(engine)
    indexes = {
        table: [index for index in all_of_it if not full_text.belongs(index["name"])]
        for table, all_of_it in inspector.get_multi_indexes().items()
    }
    found: dict[str, Mapping[Any, Any]] = {
        "columns": {
            table: [{**column, "type": repr(column["type"])} for column in columns]
            for table, columns in inspector.get_multi_columns().items()
        },
        "primary key": inspector.get_multi_pk_constraint(),
        "foreign keys": _sorted(inspector.get_multi_foreign_keys()),
        "unique": _sorted(inspector.get_multi_unique_constraints()),
        "checks": _sorted(inspector.get_multi_check_constraints()),
        "indexes": _sorted(indexes),
    }
    return {
        table: {what: of[None, table] for what, of in found.items()}
        for _, table in found["columns"]
        if not full_text.belongs(table)
    }


def search_schema(engine: Engine) -> list[tuple[str, str]]:
    """What there is for full-text search: name and definition."""
    query = {
        "sqlite": "SELECT name, sql FROM sqlite_master WHERE name LIKE 'edits_text%'",
        "postgresql": "SELECT indexname, indexdef FROM pg_indexes WHERE indexname LIKE '%_text'",
    }
    with engine.connect() as connection:
        found = connection.execute(text(query[engine.dialect.name])).all()
    return sorted((name, definition) for name, definition in found)


def _sorted(found: Mapping[Any, Iterable[object]]) -> dict[Any, list[str]]:
    return {table: sorted(map(repr, constraints)) for table, constraints in found.items()}


def rows(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    """All rows of the tables of the ORM."""
    with engine.connect() as connection:
        return {
            table.name: sorted(map(tuple, connection.execute(select(table))), key=repr)
            for table in Table.metadata.sorted_tables
        }


def moves(journal: list[tuple[object, ...]]) -> list[tuple[object, ...]]:
    """Action, ref, its turns and the moment of the entries that tell of a ref."""
    return [(*row[1:5], row[6]) for row in journal if row[2] is not None]


def stamp(engine: Engine, revision: str) -> None:
    with engine.begin() as connection:
        connection.execute(
            text(f"UPDATE {database.VERSION_TABLE} SET version_num = :v"), {"v": revision}
        )


def test_the_newest_revision_is_the_one_that_the_program_asks_for() -> None:
    assert migrations.head() == database.SCHEMA


def test_the_migrations_build_what_the_orm_describes(engine: Engine) -> None:
    migrations.upgrade(engine)
    with transaction(engine) as connection:
        command.check(migrations.configuration(connection))


def test_alembic_check_notices_a_difference(engine: Engine) -> None:
    migrations.upgrade(engine)
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX ix_edits_prompt_key"))
    with (
        pytest.raises(Exception, match="ix_edits_prompt_key"),
        transaction(engine) as connection,
    ):
        command.check(migrations.configuration(connection))


def test_a_created_database_equals_a_migrated_one(engine: Engine) -> None:
    create(engine)
    created = schema(engine)
    search = search_schema(engine)
    assert {*Table.metadata.tables, database.VERSION_TABLE} == set(created)
    assert search
    assert migrations.current(engine) == migrations.head()
    clear(engine)
    assert search_schema(engine) == []
    migrations.upgrade(engine)
    assert schema(engine) == created
    assert search_schema(engine) == search


def test_an_empty_database_gets_all_tables(engine: Engine) -> None:
    assert migrations.current(engine) is None
    assert migrations.pending(engine) == REAL
    assert migrations.upgrade(engine) == REAL
    assert migrations.current(engine) == SCHEMA
    assert migrations.pending(engine) == []
    database.check_schema(engine)


def test_upgrading_again_does_nothing(recorded: Engine) -> None:
    before = schema(recorded), rows(recorded)
    assert migrations.upgrade(recorded) == []
    assert (schema(recorded), rows(recorded)) == before


def test_the_version_is_kept_in_a_table_of_our_own_name(engine: Engine) -> None:
    migrations.upgrade(engine)
    tables = inspect(engine).get_table_names()
    assert "ledger_schema" in tables
    assert "alembic_version" not in tables


def test_upgrading_prints_nothing(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    migrations.upgrade(engine)
    assert capfd.readouterr() == ("", "")


def test_up_down_up_removes_everything_and_starts_afresh(recorded: Engine) -> None:
    full, tables = rows(recorded), schema(recorded)
    assert all(full.values()), "the sample history leaves a table empty"
    assert migrations.downgrade(recorded, "base") == REAL[::-1]
    assert inspect(recorded).get_table_names() == [database.VERSION_TABLE]
    assert migrations.current(recorded) is None
    assert migrations.upgrade(recorded) == REAL
    assert schema(recorded) == tables
    assert not any(rows(recorded).values())
    sample_history.record(recorded)
    assert rows(recorded) == full


def test_rows_survive_the_rebuilding_of_a_table_that_others_refer_to(
    recorded: Engine, environment: Path
) -> None:
    add_revision(environment, revisions.REBUILD)
    full, tables = rows(recorded), schema(recorded)
    assert migrations.pending(recorded, folder=environment) == [NEXT]
    assert migrations.upgrade(recorded, folder=environment) == [NEXT]
    assert rows(recorded) == full
    assert "reviewer" in [c["name"] for c in inspect(recorded).get_columns("turns")]
    assert schema(recorded)["turns"]["checks"] == tables["turns"]["checks"]
    assert migrations.downgrade(recorded, SCHEMA, folder=environment) == [NEXT]
    assert rows(recorded) == full
    assert schema(recorded) == tables


def test_turns_of_the_first_schema_get_no_figures_and_keep_everything_else(
    recorded: Engine,
) -> None:
    full = rows(recorded)
    migrations.downgrade(recorded, "0001")
    assert "figures" not in [c["name"] for c in inspect(recorded).get_columns("turns")]
    assert not inspect(recorded).has_table("replacements")
    assert migrations.upgrade(recorded) == REAL[1:]
    with recorded.connect() as connection:
        found = connection.execute(select(Table.metadata.tables["turns"].c.figures)).scalars()
        assert set(map(str, found)) == {"{}"}
    after = rows(recorded)
    assert after.pop("replacements") == []
    assert after.pop("publications") == []
    assert after.pop("keyframes") == []
    assert after.pop("trials") == []
    assert len(after.pop("settings")) == 1
    assert moves(after.pop("journal")) == moves(full["journal"])
    assert [row[:-4] for row in after.pop("turns")] == [row[:-4] for row in full["turns"]]
    assert after == {name: kept for name, kept in full.items() if name in after}


def test_turns_of_the_second_schema_come_from_this_very_ledger(recorded: Engine) -> None:
    migrations.downgrade(recorded, "0002")
    assert not inspect(recorded).has_table("publications")
    assert migrations.upgrade(recorded) == REAL[2:]
    turns = Table.metadata.tables["turns"].c
    with recorded.connect() as connection:
        found = connection.execute(select(turns.origin, turns.withheld)).all()
    assert {(origin, str(withheld)) for origin, withheld in found} == {
        (sample_history.ORIGIN, "{}")
    }


def test_foreign_keys_are_enforced_again_after_an_upgrade(
    recorded: Engine, environment: Path
) -> None:
    add_revision(environment, revisions.REBUILD)
    migrations.upgrade(recorded, folder=environment)
    for _ in range(2):  # the pooled connection that the upgrade used, and a new one
        with (
            pytest.raises(DBAPIError, match=r"(?i)foreign key"),
            recorded.begin() as connection,
        ):
            connection.execute(text("DELETE FROM turns WHERE id = 1"))
        recorded.dispose()


def test_an_upgrade_that_would_orphan_a_row_is_refused(recorded: Engine, environment: Path) -> None:
    add_revision(environment, revisions.ORPHANS)
    full = rows(recorded)
    with pytest.raises(DatabaseError, match=r"does not exist|foreign key"):
        migrations.upgrade(recorded, folder=environment)
    assert rows(recorded) == full
    assert migrations.current(recorded) == SCHEMA


def test_an_upgrade_that_fails_half_way_leaves_the_database_as_it_was(
    recorded: Engine, environment: Path
) -> None:
    add_revision(environment, revisions.FAILS)
    before = schema(recorded), rows(recorded)
    with pytest.raises(DatabaseError, match=r"no_such_table.*Nothing was changed"):
        migrations.upgrade(recorded, folder=environment)
    assert (schema(recorded), rows(recorded)) == before
    assert migrations.current(recorded) == SCHEMA
    assert migrations.upgrade(recorded) == []


def test_an_upgrade_from_nothing_that_fails_later_leaves_nothing(
    engine: Engine, environment: Path
) -> None:
    add_revision(environment, revisions.FAILS)
    with pytest.raises(DatabaseError, match="no_such_table"):
        migrations.upgrade(engine, folder=environment)
    assert inspect(engine).get_table_names() == []
    assert migrations.upgrade(engine) == REAL


def test_an_upgrade_that_is_killed_leaves_the_database_as_it_was(
    recorded: Engine, environment: Path
) -> None:
    add_revision(environment, revisions.DIES)
    before = schema(recorded), rows(recorded)
    process = revisions.upgrade_elsewhere(recorded, environment)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -9, errors
    assert (schema(recorded), rows(recorded)) == before
    assert migrations.upgrade(recorded) == []


def test_of_two_upgrades_at_once_one_runs_and_the_other_finds_nothing_to_do(
    recorded: Engine, environment: Path
) -> None:
    add_revision(environment, revisions.MEETS)
    processes = [revisions.upgrade_elsewhere(recorded, environment) for _ in range(2)]
    outcomes = [process.communicate(timeout=90) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outcomes
    assert sorted(out.strip() for out, _ in outcomes) == ["", NEXT]
    assert inspect(recorded).has_table("made_once")


def test_nobody_writes_to_sqlite_while_it_is_upgraded(tmp_path: Path) -> None:
    url = database.parse_url(f"sqlite:///{tmp_path / 'ledger.db'}")
    engine = database.connect(url, waiting=Waiting(seconds=0))
    migrations.upgrade(engine)
    with (
        transaction(engine),
        engine.connect().execution_options(writing=True) as other,
        pytest.raises(DatabaseError, match="another process is writing"),
    ):
        other.execute(text("SELECT 1"))
    engine.dispose()


def test_an_older_database_is_refused_with_the_command_to_run(recorded: Engine) -> None:
    stamp(recorded, "0000")
    with pytest.raises(
        DatabaseError, match=rf"at schema 0000.*needs {SCHEMA}; run: ledger db upgrade"
    ):
        database.check_schema(recorded)


def test_a_database_without_tables_is_refused_with_the_command_to_run(engine: Engine) -> None:
    with pytest.raises(DatabaseError, match="ledger init"):
        database.check_schema(engine)


@pytest.mark.parametrize("revision", [NEXT, "9999"])
def test_a_newer_database_is_neither_opened_nor_upgraded(recorded: Engine, revision: str) -> None:
    stamp(recorded, revision)
    before = schema(recorded), rows(recorded)
    for refuses in (database.check_schema, migrations.upgrade, migrations.pending):
        with pytest.raises(DatabaseError, match=f"{revision}, which is newer.*update edit-ledger"):
            refuses(recorded)
    assert migrations.current(recorded) == revision
    assert (schema(recorded), rows(recorded)) == before


def test_a_revision_that_nobody_knows_is_refused(recorded: Engine) -> None:
    stamp(recorded, "0000")
    with pytest.raises(DatabaseError, match="0000, which this program does not know"):
        migrations.upgrade(recorded)


def test_a_downgrade_to_an_unknown_revision_is_refused(recorded: Engine) -> None:
    full = rows(recorded)
    with pytest.raises(DatabaseError, match="0007"):
        migrations.downgrade(recorded, "0007")
    assert rows(recorded) == full


def test_tables_of_another_program_are_not_touched(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE turns (whose INTEGER)"))
    with pytest.raises(DatabaseError, match="turns"):
        migrations.upgrade(engine)
    assert inspect(engine).get_table_names() == ["turns"]


def test_an_unreachable_database_is_named_in_the_error(tmp_path: Path) -> None:
    engine = database.connect(database.parse_url(f"sqlite:///{tmp_path}/no/such/ledger.db"))
    for fails in (migrations.current, migrations.pending, migrations.upgrade):
        with pytest.raises(DatabaseError, match=r"no/such/ledger\.db"):
            fails(engine)


def test_a_folder_without_revisions_is_named_in_the_error(environment: Path) -> None:
    remove_all(environment)
    with pytest.raises(DatabaseError, match="environment holds no migrations"):
        migrations.head(folder=environment)


def test_a_folder_with_a_percent_sign_in_its_name_works(engine: Engine, tmp_path: Path) -> None:
    folder = tmp_path / "100%(here)s"
    shutil.copytree(migrations.FOLDER, folder)
    assert migrations.upgrade(engine, folder=folder) == REAL


def test_a_generated_first_revision_builds_the_same_tables(
    engine: Engine, environment: Path
) -> None:
    create(engine)
    created = schema(engine)
    clear(engine)
    remove_all(environment)
    with transaction(engine) as connection:
        configuration = migrations.configuration(connection, folder=environment)
        command.revision(configuration, "all of it", autogenerate=True)
    written = (environment / "versions" / "0001_all_of_it.py").read_text()
    assert "ledger" not in written.replace("ledger_id", "")
    assert migrations.upgrade(engine, folder=environment) == ["0001"]
    assert schema(engine) == created


def test_a_new_revision_gets_the_next_number(recorded: Engine, environment: Path) -> None:
    with transaction(recorded) as connection:
        configuration = migrations.configuration(connection, folder=environment)
        command.revision(configuration, "nothing yet", autogenerate=True)
    assert (environment / "versions" / f"{NEXT}_nothing_yet.py").is_file()
    assert migrations.upgrade(recorded, folder=environment) == [NEXT]
    assert migrations.downgrade(recorded, SCHEMA, folder=environment) == [NEXT]
