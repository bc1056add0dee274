"""A patch store, or a whole ledger, that has become read-only or has vanished."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.command_line import Outcome, call, done
from tests.ledgers import add, facts, files, new_ledger, write_facts

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def place(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a ledger of two turns, and more facts."""
    write_facts(tmp_path / "more.json", facts(2, 4))
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        source = write_facts(tmp_path / "facts.json", facts(4))
        add(ledger, source, turn_size=2, evaluate=False)
    monkeypatch.setenv("LEDGER_DIR", str(tmp_path / "ledger"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def freeze() -> Iterator[Callable[[Path], None]]:
    """Makes the disk that a folder is on read-only, as far as the folder goes."""
    frozen: list[Path] = []

    def mount(folder: Path) -> None:
        bind = ["mount", "--bind", str(folder), str(folder)]
        if subprocess.run(bind, check=False, capture_output=True).returncode:
            pytest.skip("only root may mount a folder")
        frozen.append(folder)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)

    yield mount
    for folder in frozen:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def refused(capsys: Capture, place: Path, *words: str) -> Outcome:
    """A command that must fail with one sentence and change nothing."""
    before = files(place)
    outcome = call(capsys, *words)
    assert (outcome.status, outcome.out) == (1, ""), outcome
    assert len(outcome.err.splitlines()) == 1, outcome.err
    assert files(place) == before
    return outcome


def test_a_store_that_has_vanished_is_named_and_all_is_well_when_it_is_back(
    capsys: Capture, place: Path
) -> None:
    store = place / "ledger" / "patches"
    away = store.rename(place / "away")
    verified = call(capsys, "verify")
    assert verified.status == 1
    assert verified.out.count("the file is missing") == 4
    for words in (
        ("apply", "--to", "out"),
        ("rollback", "turn", "2"),
        ("squash", "1..2"),
        ("add-edits", "more.json", "--no-evaluate", "--json"),
    ):
        assert "the file is missing" in refused(capsys, place, *words).err
    done(capsys, "log")
    shutil.rmtree(store, ignore_errors=True)
    away.rename(store)
    done(capsys, "verify")
    done(capsys, "rollback", "turn", "2")


def test_gc_gives_nothing_up_in_a_store_that_has_vanished(capsys: Capture, place: Path) -> None:
    done(capsys, "squash", "1..2")
    store = place / "ledger" / "patches"
    away = store.rename(place / "away")
    call(capsys, "gc", "--prune")
    shutil.rmtree(store, ignore_errors=True)
    away.rename(store)
    verified = done(capsys, "verify", "--json").json()
    assert verified["ok"]


def test_a_store_that_has_become_read_only_takes_no_turn_and_can_be_read(
    capsys: Capture, place: Path, freeze: Callable[[Path], None]
) -> None:
    freeze(place / "ledger" / "patches")
    outcome = refused(capsys, place, "add-edits", "more.json", "--no-evaluate", "--json")
    assert "Read-only file system" in outcome.err
    assert "nothing was recorded" in outcome.err
    done(capsys, "apply", "--to", "out")
    done(capsys, "verify", "--model", "out")


def test_a_whole_ledger_on_a_read_only_disk_can_be_read_and_applied_but_not_changed(
    capsys: Capture, place: Path, freeze: Callable[[Path], None]
) -> None:
    freeze(place / "ledger")
    for words in ("log", "show 1", "status", "search France", "verify", "apply --to out"):
        done(capsys, *words.split())
    for words in ("rollback turn 1", "tag first 1", "add-edits more.json --no-evaluate"):
        outcome = refused(capsys, place, *words.split())
        assert "ead-only" in outcome.err or "readonly" in outcome.err
