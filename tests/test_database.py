"""The database behind a ledger: addresses, transactions, locks, and errors without secrets."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, delete, event, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from ledger import database
from ledger.database import connect, masked, parse_url, reading, without_password, writing
from ledger.orm import EditRow, OutcomeRow, RefRow, SkippedRow
from ledger.workspace import open_ledger
from patches.errors import DatabaseError
from tests import sample_history
from tests.ledgers import contents, new_ledger

SECRET = "postgresql://me:s3cret%40%2F@db.example.org:5433/ledger?sslmode=require"


@pytest.fixture
def engine(database_engine: Engine) -> Engine:
    """A database with the tables and one branch."""
    with writing(database_engine) as session:
        database.create_schema(session.connection())
        session.add(RefRow(name="main", kind="branch", turn_id=None))
    return database_engine


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    engine = connect(parse_url(f"sqlite:///{tmp_path / 'one.db'}"))
    with writing(engine) as session:
        database.create_schema(session.connection())
    yield engine
    engine.dispose()


def kinds(engine: Engine) -> list[str]:
    with reading(engine) as session:
        return list(session.scalars(select(RefRow.kind)))


def tag(engine: Engine, name: str) -> None:
    with writing(engine) as session:
        session.add(RefRow(name=name, kind="branch", turn_id=None))


@pytest.mark.parametrize(
    ("address", "driver", "name"),
    [
        ("sqlite:///a/b.db", "sqlite", "a/b.db"),
        ("sqlite:////a/b.db", "sqlite", "/a/b.db"),
        ("postgresql://me@host/x", "postgresql+psycopg", "x"),
        ("postgresql+psycopg://me@host/x", "postgresql+psycopg", "x"),
    ],
)
def test_an_address_names_its_driver_and_its_database(address: str, driver: str, name: str) -> None:
    url = parse_url(address)
    assert (url.drivername, url.database) == (driver, name)


@pytest.mark.parametrize("address", ["", "ledger.db", "/a/ledger.db", "nonsense:"])
def test_what_is_no_address_is_an_error_that_says_how_to_write_one(address: str) -> None:
    with pytest.raises(DatabaseError, match=r"not a database URL.*sqlite:///FILE"):
        parse_url(address)


def test_another_kind_of_database_is_refused() -> None:
    with pytest.raises(DatabaseError, match="SQLite and PostgreSQL, not on mysql"):
        parse_url("mysql://me@host/x")


def test_a_driver_that_is_not_there_is_an_error_that_says_what_to_install() -> None:
    with pytest.raises(DatabaseError, match=r"driver is not installed.*pip install"):
        connect(parse_url("postgresql+pg8000://me:s3cret@host/x"))


def test_a_password_is_masked_for_people_and_left_out_of_files() -> None:
    url = parse_url(SECRET)
    assert url.password == "s3cret@/"
    assert masked(url) == ("postgresql+psycopg://me:***@db.example.org:5433/ledger?sslmode=require")
    assert without_password(url) == (
        "postgresql+psycopg://me@db.example.org:5433/ledger?sslmode=require"
    )
    assert parse_url(without_password(url)) == url._replace(password=None)


def test_an_address_without_a_password_comes_back_as_it_was() -> None:
    for address in ("sqlite:////a/b c.db", "postgresql+psycopg://me@host/x"):
        assert masked(parse_url(address)) == without_password(parse_url(address)) == address


def test_sqlite_runs_with_wal_foreign_keys_and_full_synchronisation(sqlite_engine: Engine) -> None:
    for use in (reading, writing):
        with use(sqlite_engine) as session:
            found = {
                name: session.execute(text(f"PRAGMA {name}")).scalar_one()
                for name in ("journal_mode", "foreign_keys", "synchronous", "busy_timeout")
            }
        assert found == {
            "journal_mode": "wal",
            "foreign_keys": 1,
            "synchronous": 2,
            "busy_timeout": 30_000,
        }


def test_a_writer_takes_the_lock_at_once_and_a_reader_does_not(sqlite_engine: Engine) -> None:
    sqlite_engine.dispose()
    statements: list[str] = []

    @event.listens_for(sqlite_engine, "connect")
    def note(connection: sqlite3.Connection, _: object) -> None:
        connection.set_trace_callback(
            lambda words: None if words.startswith("PRAGMA") else statements.append(words)
        )

    with writing(sqlite_engine) as session:
        session.execute(text("SELECT 1"))
    with reading(sqlite_engine) as session:
        session.execute(text("SELECT 1"))
    assert statements == ["BEGIN IMMEDIATE", "SELECT 1", "COMMIT", "BEGIN", "SELECT 1", "ROLLBACK"]


def test_a_transaction_that_fails_leaves_nothing(engine: Engine) -> None:
    def stop(session: Session) -> None:
        session.add(RefRow(name="second", kind="branch", turn_id=None))
        session.flush()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), writing(engine) as session:
        stop(session)
    assert kinds(engine) == ["branch"]


def test_a_refused_row_is_one_of_our_errors_and_names_the_database(engine: Engine) -> None:
    with pytest.raises(DatabaseError, match="Nothing was changed") as caught:
        tag(engine, "main")
    assert isinstance(caught.value.__cause__, IntegrityError)
    assert masked(engine.url) in str(caught.value)


def test_a_second_writer_waits_until_the_first_is_done(engine: Engine) -> None:
    inside = threading.Event()
    order: list[str] = []

    def second() -> None:
        inside.wait()
        with writing(engine) as session:
            query = select(RefRow).where(RefRow.name == "main").with_for_update()
            session.scalars(query).one()
            order.append("second")
            session.execute(update(RefRow).values(kind="branch"))

    thread = threading.Thread(target=second)
    thread.start()
    with writing(engine) as session:
        session.scalars(select(RefRow).where(RefRow.name == "main").with_for_update()).one()
        inside.set()
        time.sleep(0.3)
        order.append("first")
    thread.join(30)
    assert order == ["first", "second"]


def test_a_reader_goes_on_seeing_the_moment_of_its_first_query(engine: Engine) -> None:
    with reading(engine) as session:
        count = select(func.count()).select_from(RefRow)
        assert session.scalar(count) == 1
        tag(engine, "second")
        assert session.scalar(count) == 1
    assert len(kinds(engine)) == 2


def test_an_unreachable_server_is_an_error_without_the_password() -> None:
    engine = connect(parse_url("postgresql://me:s3cret@127.0.0.1:1/x"))
    with pytest.raises(DatabaseError, match=r"me:\*\*\*@127.*Check that it is reachable") as caught:
        kinds(engine)
    assert "s3cret" not in str(caught.value)


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database, but long enough to be one" * 100)
    engine = connect(parse_url(f"sqlite:///{tmp_path / 'x.db'}"))
    with pytest.raises(DatabaseError, match="file is not a database"):
        kinds(engine)
    engine.dispose()


def test_many_rows_come_back_as_they_were_inserted(engine: Engine) -> None:
    with writing(engine) as session:
        session.execute(delete(RefRow))
    sample_history.record(engine)
    edits: list[dict[str, object]] = [
        {
            "turn_id": 1,
            "position": position,
            "row": None if position % 2 else 2**40 + position,
            "prompt": f"{position} é☃😀 %s :x 'quoted' \\ \n",
            "target": "%(y)s ?",
            "subject": None,
            "old_target": "" if position % 3 else None,
            "probes": "{}",
            "prompt_key": -(2**63) + position,
            "digest": f"{position:064d}",
        }
        for position in range(1, 1501)
    ]
    outcomes = [
        {"evaluation_id": 1, "edit_id": 2, "base": {"a": None}, "state": {"a": 0.1, "é": [1]}}
    ]
    with writing(engine) as session:
        database.bulk_insert(session, EditRow, edits)
        database.bulk_insert(session, OutcomeRow, outcomes)
        database.bulk_insert(session, SkippedRow, [])
    columns = [getattr(EditRow, name) for name in edits[0]]
    with reading(engine) as session:
        query = select(*columns).where(EditRow.position > 0).order_by(EditRow.position)
        assert [dict(row) for row in session.execute(query).mappings()] == edits
        found = session.scalars(select(OutcomeRow).where(OutcomeRow.edit_id == 2)).one()
        assert (found.base, found.state) == ({"a": None}, {"a": 0.1, "é": [1]})


def test_rows_inserted_in_bulk_are_part_of_the_transaction_and_its_constraints(
    engine: Engine,
) -> None:
    with pytest.raises(DatabaseError, match=r"(?i)foreign key"), writing(engine) as session:
        database.bulk_insert(session, SkippedRow, [{"turn_id": 99, "row": 1, "reason": "x"}])
    with reading(engine) as session:
        assert session.scalars(select(SkippedRow)).all() == []


def test_a_database_without_a_ledger_says_which_command_makes_one(database_engine: Engine) -> None:
    assert database.schema_revision(database_engine) is None
    with pytest.raises(DatabaseError, match="holds no ledger; create one with: ledger init"):
        database.check_schema(database_engine)


@pytest.mark.parametrize(
    ("revision", "advice"), [("0000", "run: ledger db upgrade"), ("9999", "update edit-ledger")]
)
def test_an_older_and_a_newer_database_are_refused_with_what_to_do(
    tmp_path: Path, tiny_llama: Path, database_url: str, revision: str, advice: str
) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama, database_url) as ledger:
        with writing(ledger.engine) as session:
            session.execute(
                text(f"UPDATE {database.VERSION_TABLE} SET version_num = :v"), {"v": revision}
            )
        before = contents(ledger)
        with pytest.raises(DatabaseError, match=f"at schema {revision}.*{advice}"):
            database.check_schema(ledger.engine)
        assert contents(ledger) == before


def test_a_missing_database_file_is_an_error_and_none_is_made(
    tmp_path: Path, tiny_llama: Path
) -> None:
    new_ledger(tmp_path / "ledger", tiny_llama).close()
    path = tmp_path / "ledger" / "ledger.db"
    path.unlink()
    with (
        open_ledger(tmp_path / "ledger") as ledger,
        pytest.raises(DatabaseError, match=r"ledger.db: the ledger's database is missing"),
    ):
        contents(ledger)
    assert not path.exists()


def test_a_database_that_goes_missing_while_it_is_in_use_is_not_made_anew(
    tmp_path: Path, tiny_llama: Path
) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        contents(ledger)
        ledger.engine.dispose()
        path = tmp_path / "ledger" / "ledger.db"
        path.unlink()
        with pytest.raises(DatabaseError, match="the ledger's database is missing; restore it"):
            contents(ledger)
    assert not path.exists()


def test_the_environment_names_the_database_in_place_of_the_configuration(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_ledger(tmp_path / "ledger", tiny_llama).close()
    moved = (tmp_path / "ledger" / "ledger.db").rename(tmp_path / "moved.db")
    monkeypatch.setenv("LEDGER_DATABASE", f"sqlite:///{moved}")
    with open_ledger(tmp_path / "ledger") as ledger:
        assert contents(ledger)["refs"] == [("main", "branch", None)]
