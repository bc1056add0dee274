"""Several processes on one ledger: they wait for one another, say so, and give up in good order."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import database
from ledger.branch_lock import working_on
from ledger.branching import create_branch
from ledger.database import writing
from ledger.waiting import Waiting
from ledger.workspace import Ledger, open_ledger
from patches.errors import DatabaseError, SettingError
from tests.command_line import call, done
from tests.crowds import crowd
from tests.ledgers import add, contents, facts, new_ledger, write_facts
from tests.processes import Report, Running

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, shared_url: str
) -> Iterator[Ledger]:
    """A ledger of two turns, with another branch."""
    folder = tmp_path_factory.mktemp("locks")
    with new_ledger(folder / "ledger", tiny_llama, shared_url) as ledger:
        source = write_facts(folder / "facts.json", facts(4))
        add(ledger, source, turn_size=2, evaluate=False)
        create_branch(ledger, "other")
        yield ledger


@pytest.fixture
def ledger(made: Ledger, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("LEDGER_DIR", str(made.folder))
    return made


@contextlib.contextmanager
def held(ledger: Ledger, seconds: float) -> Iterator[None]:
    """Inside, another connection writes to the ledger, for so many seconds."""
    begun = threading.Event()

    def hold() -> None:
        with open_ledger(ledger.folder) as other, writing(other.engine) as session:
            session.connection()
            begun.set()
            time.sleep(seconds)

    thread = threading.Thread(target=hold)
    thread.start()
    assert begun.wait(30)
    yield
    thread.join()


def keep_branch(report: Report, folder: Path) -> None:
    """In a process of its own, which is killed: work on the branch until then."""
    with open_ledger(folder) as ledger, working_on(ledger, "main"):
        report("working")
        time.sleep(60)


def test_a_writer_that_has_to_wait_says_so_and_gets_its_turn(
    capsys: Capture, ledger: Ledger
) -> None:
    with held(ledger, 1.5):
        outcome = call(capsys, "tag", "waited", "1")
    assert outcome.status == 0, outcome.err
    assert outcome.err.endswith("another process is writing to it; waiting for it\n")
    assert len(outcome.err.splitlines()) == 1


def test_a_writer_waits_no_longer_than_it_was_told_and_changes_nothing(
    capsys: Capture, ledger: Ledger
) -> None:
    before = contents(ledger)
    with held(ledger, 1.0):
        started = time.monotonic()
        outcome = call(capsys, "tag", "late", "1", "--lock-timeout", "0.2")
        assert time.monotonic() - started < 0.8
    assert (outcome.status, outcome.out, len(outcome.err.splitlines())) == (1, "", 1)
    assert "was not done in 0.2 seconds" in outcome.err
    assert "--lock-timeout" in outcome.err
    assert contents(ledger) == before


def test_a_reader_does_not_wait_for_a_writer(capsys: Capture, ledger: Ledger) -> None:
    with held(ledger, 2.0):
        started = time.monotonic()
        done(capsys, "log", "--json")
        assert time.monotonic() - started < 1.5


def test_a_command_waits_for_another_that_works_on_its_branch_but_not_on_another_one(
    capsys: Capture, ledger: Ledger
) -> None:
    before = contents(ledger)
    with open_ledger(ledger.folder) as other, working_on(other, "main"):
        late = call(capsys, "rollback", "turn", "1", "--lock-timeout", "0")
        assert contents(ledger) == before
        done(capsys, "rollback", "turn", "1", "--lock-timeout", "0", "--branch", "other")
    assert late.status == 1
    assert "branch main: another process is writing to it" in late.err
    done(capsys, "rollback", "turn", "1", "--lock-timeout", "0")


def test_who_is_killed_while_working_on_a_branch_keeps_nobody_waiting(ledger: Ledger) -> None:
    running = Running(keep_branch, ledger.folder)
    assert running.message() == "working"
    ledger.waiting = Waiting(seconds=0)
    with pytest.raises(DatabaseError, match="branch main"), working_on(ledger, "main"):
        pass
    running.send(signal.SIGKILL)
    running.wait()
    ledger.waiting = Waiting(seconds=10)
    with working_on(ledger, "main"):
        pass


def test_a_branch_is_free_again_after_an_error(ledger: Ledger) -> None:
    ledger.waiting = Waiting(seconds=0)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), working_on(ledger, "main"):
            raise KeyboardInterrupt


def test_the_time_to_wait_comes_from_the_environment_too(
    capsys: Capture, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_LOCK_TIMEOUT", "0")
    with open_ledger(ledger.folder) as other, working_on(other, "main"):
        assert call(capsys, "rollback", "turn", "2").status == 1
    monkeypatch.setenv("LEDGER_LOCK_TIMEOUT", "soon")
    assert call(capsys, "rollback", "turn", "2").status == 2


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_a_time_that_makes_no_sense_is_refused(seconds: float) -> None:
    with pytest.raises(SettingError, match="--lock-timeout"):
        Waiting(seconds=seconds)


def test_a_transaction_after_a_lock_that_was_not_had_goes_through(ledger: Ledger) -> None:
    engine = database.connect(ledger.url, waiting=Waiting(seconds=0))
    refused = pytest.raises(DatabaseError, match="not done in 0 seconds")
    with held(ledger, 0.5), refused, writing(engine) as session:
        session.connection()
    with writing(engine) as session:
        session.connection()
    engine.dispose()


def test_sixteen_processes_at_once_lose_no_turn_and_see_no_half_one(
    tmp_path: Path, tiny_llama: Path, database_url: str
) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama, database_url) as ledger:
        done = crowd(ledger, tmp_path, seconds=0)
    assert sum(done.values()) == 16
    assert done["add-edits"] == 5
