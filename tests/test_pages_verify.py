"""The page that checks the ledger: in the background, one check at a time, and only when asked."""

import re
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from threading import enumerate as threads

import pytest

from ledger.attesting import attest
from ledger.page import checking
from ledger.page.checking import Checking
from ledger.progress import Progress, silent
from ledger.reporting import log
from ledger.verifying import Verified, verify
from ledger.workspace import Ledger, open_ledger
from patches.errors import DatabaseError
from tests import told_edits
from tests.reading_pages import Reader
from tests.told_edits import edit

_LONG = 30


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with told_edits.new_ledger(tmp_path) as made:
        told_edits.record(made, [edit("Rome lies in", "Asia")])
        yield made


class Held:
    """A check in place of the real one, that goes on when it is told to."""

    def __init__(self) -> None:
        self.started, self.go_on = Event(), Event()
        self.count = 0

    def __call__(self, ledger: Ledger, *, progress: Progress = silent) -> Verified:
        self.count += 1
        progress("patches", 3, 7)
        self.started.set()
        assert self.go_on.wait(_LONG)
        return verify(ledger)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    found = Held()
    monkeypatch.setattr(checking, "verify", found)
    yield found
    found.go_on.set()


def finish() -> None:
    """Wait for the checks that are running."""
    for thread in threads():
        if thread.name == "ledger verify":
            thread.join(_LONG)


def test_nothing_is_checked_until_somebody_asks(ledger: Ledger, held: Held) -> None:
    reader = Reader(ledger)
    assert "Nothing has been checked since" in reader.page("/verify")
    assert reader.json("/verify")["check"] is None
    assert held.count == 0


def test_to_start_leads_to_the_page_so_that_a_reload_starts_nothing(
    ledger: Ledger, held: Held
) -> None:
    reader = Reader(ledger)
    answer = reader.get("/verify/start?branch=main")
    assert (answer.status_code, answer.location) == (303, "/verify?branch=main")
    assert held.started.wait(_LONG)
    held.go_on.set()
    finish()
    for _ in range(3):
        assert reader.get("/verify").status_code == 200
    assert held.count == 1


def test_it_shows_how_far_it_is_and_looks_again_by_itself(ledger: Ledger, held: Held) -> None:
    reader = Reader(ledger)
    reader.get("/verify/start")
    assert held.started.wait(_LONG)
    answer = reader.get("/verify")
    assert answer.headers["Refresh"] == "2"
    assert '<progress max="7" value="3"' in answer.text
    assert "the files of patches: 3 of 7" in answer.text
    assert "Check now" not in answer.text
    found = reader.json("/verify")["check"]
    assert (found["is_running"], found["done"], found["total"], found["ok"]) == (True, 3, 7, None)
    held.go_on.set()
    finish()
    answer = reader.get("/verify")
    assert "Refresh" not in answer.headers
    assert "All is as recorded" in answer.text
    assert "Check again" in answer.text


def test_who_starts_one_while_another_runs_joins_it(ledger: Ledger, held: Held) -> None:
    reader = Reader(ledger)
    for _ in range(3):
        assert reader.get("/verify/start").status_code == 303
        assert held.started.wait(_LONG)
    held.go_on.set()
    finish()
    assert held.count == 1
    reader.get("/verify/start")
    finish()
    assert held.count == 2


def test_it_finds_what_the_command_finds(ledger: Ledger) -> None:
    reader = Reader(ledger)
    digest = log(ledger)[0].patch_digest
    assert digest is not None
    ledger.store.path(digest).unlink()
    reader.get("/verify/start")
    finish()
    found, told = reader.json("/verify")["check"], verify(ledger).to_json()
    assert (found["ok"], found["checked"], found["problems"]) == (
        False,
        told["checked"],
        told["problems"],
    )
    page = reader.page("/verify")
    assert "<h2>1 problem</h2>" in page
    assert f"patch {digest[:12]}… of turn 1" in page


def test_of_many_problems_the_first_are_shown(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(_ledger: Ledger, *, progress: Progress) -> Verified:
        result = Verified()
        for number in range(250):
            result.found(f"turn {number}", "<b>altered</b>")
        progress("turns", 1, 1)
        return result

    monkeypatch.setattr(checking, "verify", found)
    reader = Reader(ledger)
    reader.get("/verify/start")
    finish()
    check = reader.json("/verify")["check"]
    assert (len(check["problems"]), check["more_problems"]) == (200, 50)
    page = reader.page("/verify")
    assert "<h2>250 problems</h2>" in page
    assert "50 more problems" in page
    assert "<b>" not in page


def test_a_check_that_breaks_off_says_why(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_ledger: Ledger, *, progress: Progress) -> Verified:
        progress("turns", 0, 1)
        raise DatabaseError("the disk is gone")

    monkeypatch.setattr(checking, "verify", fail)
    reader = Reader(ledger)
    reader.get("/verify/start")
    finish()
    page = reader.page("/verify")
    assert "The check broke off" in page
    assert "the disk is gone" in page
    assert "Check again" in page


def test_even_one_that_breaks_unexpectedly_ends(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_ledger: Ledger, *, progress: Progress) -> Verified:
        raise RuntimeError(progress)

    monkeypatch.setattr(checking, "verify", fail)
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    checks = Checking(ledger)
    checks.start()
    checks.wait(_LONG)
    last = checks.last()
    assert last is not None
    assert not last.is_running
    assert "the terminal of ledger serve" in (last.error or "")


def test_what_was_recorded_since_is_said(ledger: Ledger) -> None:
    reader = Reader(ledger)
    reader.get("/verify/start")
    finish()
    assert reader.json("/verify")["check"]["is_current"]
    assert "Something was recorded since" not in reader.page("/verify")
    # Another process writes.
    with open_ledger(ledger.folder) as other:
        told_edits.record(other, [edit("Oslo lies in", "Asia")])
    assert not reader.json("/verify")["check"]["is_current"]
    assert "Something was recorded since" in reader.page("/verify")


def test_it_shows_what_to_remember(ledger: Ledger) -> None:
    found, told = Reader(ledger).json("/verify"), attest(ledger)
    assert (found["entry"], found["entry_hash"]) == (told.entry, told.hash)
    assert found["hash"] == log(ledger)[0].hash
    page = Reader(ledger).page("/verify")
    assert re.search(rf"Journal entry {told.entry}</dt><dd class=\"hash\">{told.hash}", page)
    assert "ledger attest --out" in page


def test_an_empty_ledger_can_be_checked(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        reader = Reader(ledger)
        reader.get("/verify/start")
        finish()
        assert "All is as recorded" in reader.page("/verify")
