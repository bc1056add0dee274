"""Pushing and pulling on a full disk, killed, stopped, and at the same time as others."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.sharing.publishing import Pushed
from ledger.sharing.pulling import clone, pull
from ledger.verifying import verify
from ledger.workspace import Ledger, open_ledger
from patches.errors import EditLedgerError, HistoryError, HubError
from tests.faults import Command
from tests.hub_scenes import (
    FETCHED,
    REPO,
    check_pulled,
    check_pushed,
    kept,
    make_ledgers,
    published,
)
from tests.ledgers import copied
from tests.loopback_hub import Hub
from tests.processes import INTERRUPTED, Running
from tests.test_push import push

FULL = ("No space left on device", "bytes are needed", "disk is full")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    return make_ledgers(tmp_path_factory.mktemp("made"), tiny_llama)


@pytest.fixture
def ledger(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    """Two turns."""
    with copied(made / "full", tmp_path / "ledger") as ledger:
        yield ledger


@pytest.fixture
def other(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    """No turns."""
    with copied(made / "empty", tmp_path / "other") as ledger:
        yield ledger


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root may mount a small filesystem")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def until_it_fits(disk: Path, work: Callable[[], object], check: Callable[[], None]) -> int:
    """Do `work` with more and more space until there is enough; how often there was not.

    check: what must hold after every failure.
    """
    filler, failures = disk / "filler", 0
    while True:
        status = os.statvfs(disk)
        left = status.f_bavail * status.f_bsize
        filler.write_bytes(bytes(max(left - failures * 4096, 0)))
        try:
            work()
        except EditLedgerError as error:
            failures += 1
            refused = str(error)
        else:
            return failures
        finally:
            filler.unlink()
        assert any(reason in refused for reason in FULL), refused
        check()


@pytest.mark.parametrize("form", ["model", "patch"])
def test_a_disk_that_is_full_anywhere_in_a_push_leaves_nothing(
    hub: Hub, made: Path, disk: Path, form: str
) -> None:
    with copied(made / "full", disk / "ledger") as ledger:
        before = kept(ledger)
        done: list[Pushed] = []

        def check() -> None:
            assert kept(ledger) == before
            # The last thing to be written is the record of what is on the Hub by then.
            assert published(hub) == {} or len(hub.repository(REPO).commits()) == 2

        failures = until_it_fits(disk, lambda: done.append(push(ledger, REPO, form)), check)
        assert failures > 3
        check_pushed(hub, ledger, done[0])


@pytest.mark.filterwarnings("ignore:Not enough free disk space:UserWarning")
@pytest.mark.usefixtures("hub")
def test_a_disk_that_is_full_anywhere_in_a_pull_leaves_no_turn(
    ledger: Ledger, made: Path, disk: Path
) -> None:
    push(ledger, REPO, "patch")
    with copied(made / "empty", disk / "other") as other:
        before = kept(other, *FETCHED)

        def check() -> None:
            assert kept(other, *FETCHED) == before
            assert verify(other).problems == []

        assert until_it_fits(disk, lambda: pull(other, REPO), check) > 5
        check_pulled(ledger, other)


def interrupted(
    hub: Hub, folder: Path, words: tuple[str, ...], number: signal.Signals, *at: Any
) -> str:
    """Run a command in `folder` that gets this signal at that request; what it says.

    at: `Hub.before` or `Hub.after`, and its method and path.
    """
    watch, method, path = at
    started: Future[Running] = Future()
    watch(method, path, lambda: started.result(60).send(number))
    command = Command(words=words, folder=folder, endpoint=hub.endpoint)
    running = command.start()
    started.set_result(running)
    with contextlib.suppress(EOFError):
        while True:
            running.message()
    said = command.said.read_text()
    assert running.wait() == (INTERRUPTED if number == signal.SIGINT else -number), said
    return said


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_push_that_is_stopped_while_it_sends_has_pushed_nothing(
    hub: Hub, ledger: Ledger, number: signal.Signals
) -> None:
    before = kept(ledger, ".pushing")
    words = ("push", REPO, "--ledger", str(ledger.folder))
    said = interrupted(hub, ledger.folder, words, number, hub.before, "PUT", "/storage/")
    assert "Traceback" not in said
    assert published(hub) == {}
    assert kept(ledger, ".pushing") == before
    assert verify(ledger).problems == []
    assert len(list(ledger.folder.glob(".pushing*"))) == (number == signal.SIGKILL)
    check_pushed(hub, ledger, push(ledger, REPO))


def test_a_push_that_is_killed_after_its_commit_is_recorded_by_the_next_one(
    hub: Hub, ledger: Ledger
) -> None:
    words = ("push", REPO, "--ledger", str(ledger.folder), "--as", "patch")
    interrupted(hub, ledger.folder, words, signal.SIGKILL, hub.after, "POST", "/commit/")
    done = push(ledger, REPO, "patch")
    assert not done.new
    check_pushed(hub, ledger, done)


def test_a_pull_that_is_killed_has_recorded_nothing_and_goes_on(
    hub: Hub, ledger: Ledger, other: Ledger
) -> None:
    push(ledger, REPO, "patch")
    before = kept(other, *FETCHED)
    words = ("pull", REPO, "--ledger", str(other.folder))
    interrupted(hub, other.folder, words, signal.SIGKILL, hub.before, "GET", "/states/")
    assert kept(other, *FETCHED) == before
    assert verify(other).problems == []
    del hub.requests[:]
    assert pull(other, REPO).turns == [1, 2]
    check_pulled(ledger, other)
    asked = [request.path for request in hub.requests if request.method == "GET"]
    assert not [path for path in asked if "manifest.json" in path]  # it was there


def test_a_clone_that_is_killed_says_how_to_go_on(
    hub: Hub, ledger: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    push(ledger, REPO, "patch")
    goal = tmp_path / "clone"
    words = ("clone", REPO, "--ledger", str(goal), "--model", str(tiny_llama))
    interrupted(hub, ledger.folder, words, signal.SIGKILL, hub.before, "GET", "/states/")
    with pytest.raises(HistoryError, match=f"with ledger pull {REPO} --branch main, or"):
        clone(REPO, folder=goal, model=str(tiny_llama))
    with open_ledger(goal) as cloned:
        assert pull(cloned, REPO, branch="main").turns == [1, 2]
        check_pulled(ledger, cloned, "main")


def test_what_somebody_commits_meanwhile_is_kept_and_nothing_of_ours_is_added(
    hub: Hub, ledger: Ledger
) -> None:
    push(ledger, REPO)
    rollback_turn(ledger, 1)
    there, before = hub.repository(REPO), kept(ledger)
    hub.before("POST", "/commit/", lambda: there.commit({"logo.png": b"x"}))
    with pytest.raises(HubError, match=f"^{REPO}: .* 412 .*someone else has committed meanwhile"):
        push(ledger, REPO)
    assert there.commits()[0].title == "by hand"
    assert set(there.tags) == {"turn-2"}
    assert kept(ledger) == before
    done = push(ledger, REPO)
    assert there.tags["turn-3"] == done.commit == there.commits()[0].oid
    assert "logo.png" in there.files()


@pytest.mark.parametrize("form", ["model", "patch"])
@pytest.mark.parametrize("at", [("POST", "/repos/create"), ("POST", "/commit/")])
def test_two_pushes_of_one_state_at_once_are_one_commit(
    hub: Hub, ledger: Ledger, at: tuple[str, str], form: str
) -> None:
    hub.before(*at, lambda: _push_beside(ledger, form))
    if at[1] == "/commit/":
        done = push(ledger, REPO, form)
    else:
        with pytest.raises(HubError, match=r"has got files meanwhile .* run the command again"):
            push(ledger, REPO, form)
        done = push(ledger, REPO, form)
    check_pushed(hub, ledger, done)


def test_of_two_pushes_of_different_states_at_once_the_second_is_told(
    hub: Hub, ledger: Ledger
) -> None:
    hub.before("POST", "/commit/", lambda: _push_beside(ledger, "patch", at=1))
    with pytest.raises(HubError, match=r"412 .* someone else has committed meanwhile"):
        push(ledger, REPO, "patch")
    there = hub.repository(REPO)
    assert (len(there.commits()), set(there.tags)) == (2, {"turn-1"})
    push(ledger, REPO, "patch")
    assert (len(there.commits()), set(there.tags)) == (3, {"turn-1", "turn-2"})
    assert [len(turn.to_json()["published"]) for turn in log(ledger)] == [1, 1]
    assert verify(ledger).problems == []


def _push_beside(ledger: Ledger, form: str, at: int | None = None) -> None:
    """What another process would do."""
    with open_ledger(ledger.folder) as same:
        push(same, REPO, form, at=at)


@pytest.mark.parametrize("made_by_others", [{}, {"notes.txt": b"x"}])
def test_a_repository_that_somebody_makes_meanwhile_is_used_if_nothing_is_in_it(
    hub: Hub, ledger: Ledger, made_by_others: dict[str, bytes]
) -> None:
    both = {".gitattributes": b"*.safetensors filter=lfs", **made_by_others}
    hub.before("POST", "/repos/create", lambda: hub.create(REPO, files=both))
    if made_by_others:
        with pytest.raises(HubError, match=r"has got files meanwhile \(notes.txt\)"):
            push(ledger, REPO)
        assert hub.repository(REPO).files() == both
    else:
        check_pushed(hub, ledger, push(ledger, REPO))


@pytest.mark.parametrize("path", ["/patches/", "/states/"])
def test_two_pulls_into_one_ledger_at_once_record_the_turns_once(
    hub: Hub, ledger: Ledger, other: Ledger, path: str
) -> None:
    push(ledger, REPO, "patch")

    def beside() -> None:
        with open_ledger(other.folder) as same:
            pull(same, REPO)

    hub.before("HEAD", path, beside)
    with pytest.raises(EditLedgerError, match="another command may have removed it, run this"):
        pull(other, REPO)
    assert pull(other, REPO).turns == []
    check_pulled(ledger, other)
