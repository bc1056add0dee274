"""Uploads that tell how far they are, with one bar instead of those of the client."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import _xet_progress_reporting as reporting
from huggingface_hub.utils.tqdm import are_progress_bars_disabled

from ledger.sharing.publishing import push
from ledger.sharing.staging import Push
from ledger.uploading import Addition, Read, counting
from ledger.workspace import Ledger
from patches.errors import HubError
from tests.command_line import on_terminal
from tests.loopback_hub import TOKEN, Hub
from tests.plain_ledgers import add_several, build, new_ledger

Seen = list[tuple[str, int, int]]


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", build(tmp_path / "model")) as ledger:
        add_several(ledger, 3)
        yield ledger


def watched(ledger: Ledger) -> Seen:
    seen: Seen = []
    what = Push(repo="me/edits", form="patch")
    push(ledger, what, progress=lambda phase, done, total: seen.append((phase, done, total)))
    return seen


def test_a_push_tells_how_much_is_there(hub: Hub, ledger: Ledger) -> None:
    seen = watched(ledger)
    sent = [(done, total) for phase, done, total in seen if phase == "upload"]
    large = [
        content
        for name, content in hub.repository("me/edits").files("main").items()
        if name.endswith(".safetensors")
    ]
    [total] = {total for _, total in sent}
    assert [done for done, _ in sent] == sorted(done for done, _ in sent)
    assert sent[0][0] == 0
    assert sent[-1][0] == sum(map(len, large)) <= total


@pytest.mark.usefixtures("hub")
def test_what_is_there_already_is_compared_and_not_sent_again(ledger: Ledger) -> None:
    watched(ledger)
    again = watched(ledger)
    assert {phase for phase, _, _ in again} >= {"digest"}
    assert "upload" not in {phase for phase, _, _ in again}
    assert all(done < total for phase, done, total in again if phase == "digest")


def test_a_try_that_is_repeated_does_not_count_beyond_the_whole(hub: Hub, ledger: Ledger) -> None:
    hub.fail("PUT", "/", status=500)
    seen = watched(ledger)
    assert max(done for phase, done, _ in seen if phase == "upload") <= max(
        total for phase, _, total in seen if phase == "upload"
    )


def test_the_bars_of_the_client_stay_away_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, before = reporting.XetUploadProgressReporter, are_progress_bars_disabled()
    told: list[int] = []

    def cut_off() -> None:
        with counting(told.append):
            reporter = reporting.XetUploadProgressReporter()
            reporter.update_progress(SimpleNamespace(total_bytes_completed=7), {})
            reporter.close()  # type: ignore[no-untyped-call]  # as they ship it
            raise HubError("cut off")

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(HubError):
        cut_off()
    assert told == [7]
    assert reporting.XetUploadProgressReporter is drawn
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with counting(told.append):
        assert are_progress_bars_disabled()
    assert are_progress_bars_disabled() == before


def test_a_client_that_tells_nothing_of_its_bars_can_be_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # So that to import it fails.
    monkeypatch.setitem(sys.modules, reporting.__name__, None)
    with counting(lambda _: None):
        assert are_progress_bars_disabled()


def test_only_what_is_read_to_be_sent_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    told: list[int] = []
    addition = Addition(path_in_repo="file", path_or_fileobj=path, read=Read(told.append))
    with addition.as_file() as file:
        assert file.read() == b"0123456789"
    assert told == []
    with addition.as_file(with_tqdm=True) as file:
        assert (file.read(4), file.read()) == (b"0123", b"456789")
    assert told == [4, 10]


def test_people_see_one_bar(hub: Hub, ledger: Ledger, tmp_path: Path) -> None:
    shown = on_terminal(
        *("push", "me/edits", "--as", "patch", "--ledger", str(ledger.folder)),
        columns=100,
        HF_ENDPOINT=hub.endpoint,
        HF_TOKEN=TOKEN,
        HF_HOME=str(tmp_path / "home"),
        HF_HUB_DISABLE_TELEMETRY="1",
        HF_HUB_DISABLE_XET="0",
    )
    assert "uploading" in shown
    assert "me/edits@main: the patch at turn 3" in shown
    for own in ("Processing Files", "New Data", "LFS files", ".safetensors:"):
        assert own not in shown
