"""Removing stray files from the patch store: never one that a turn needs, or may soon need."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.cleaning import collect_garbage
from ledger.editing import AddEdits, add_edits
from ledger.recording import record_turn
from ledger.rolling_back import rollback_turn
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import EditingError, StoreError
from tests import plain_ledgers
from tests.ledgers import add, blobs, contents, facts, files, new_ledger, write_facts

DAY = 24 * 3600


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_facts(tmp_path / "facts.json", facts(6))


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path, source: str) -> Iterator[Ledger]:
    """Two turns, of which one is rolled back, and two stray files: of 2 and of 3 bytes."""
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add(ledger, source, evaluate=False)
        rollback_turn(ledger, 1)
        stray = ledger.store.path(ledger.store.put(b"ab"))
        partial = ledger.store.folder / ".writing-17-00ff"
        partial.write_bytes(b"abc")
        for path in (stray, partial):
            make_old(path)
        yield ledger


def make_old(path: Path, days: float = 2) -> None:
    then = time.time() - days * DAY
    os.utime(path, (then, then))


def test_stray_and_partial_files_are_removed_and_every_turn_keeps_its_files(
    ledger: Ledger,
) -> None:
    garbage = collect_garbage(ledger)
    assert {Path(name).name for name in garbage.files} == {
        ledger.store.path(ledger.store.put(b"ab")).name,
        ".writing-17-00ff",
    }
    assert (garbage.bytes, garbage.removed) == (5, True)
    assert not list(ledger.store.folder.glob(".writing-*"))
    assert set(blobs(ledger, "patch") + blobs(ledger, "editor-state")) < set(ledger.store.listed())
    assert verify(ledger).problems == []


def test_files_of_turns_that_are_rolled_back_stay_since_they_may_be_brought_back(
    ledger: Ledger,
) -> None:
    for path in ledger.store.folder.rglob("*.safetensors"):
        make_old(path, days=400)
    collect_garbage(ledger, grace=0)
    assert rollback_turn(ledger, 3).brought_back == [1]
    assert verify(ledger).problems == []


def test_a_dry_run_names_the_same_files_and_removes_none(ledger: Ledger) -> None:
    before = files(ledger.store.folder)
    planned = collect_garbage(ledger, dry_run=True)
    assert files(ledger.store.folder) == before
    done = collect_garbage(ledger)
    assert (planned.files, planned.bytes) == (done.files, done.bytes)
    assert (planned.removed, done.removed) == (False, True)
    told = planned.to_json()
    assert told == json.loads(json.dumps(told))
    assert set(told) == {"files", "bytes", "removed", "reasons", "prunable"}
    assert told["reasons"] == {
        "strays": {"count": 2, "bytes": 5},
        **{
            reason: {"count": 0, "bytes": 0}
            for reason in ("copies", "keyframes", "squashed", "unreachable")
        },
    }
    assert collect_garbage(ledger).files == []


def test_young_files_stay_since_a_running_turn_may_be_about_to_record_them(
    ledger: Ledger, tmp_path: Path
) -> None:
    collect_garbage(ledger)
    young = ledger.store.path(ledger.store.put(b"young"))
    partial = ledger.store.folder / ".writing-18-00ff"
    partial.write_bytes(b"abc")
    make_old(young, days=0.9)
    assert collect_garbage(ledger).files == []
    assert collect_garbage(ledger, grace=3600).files == [str(young)]
    assert partial.exists()
    rows = write_facts(tmp_path / "more.json", facts(4, start=10))
    turns = add_edits(ledger, AddEdits(source=rows, turn_size=2)).turns
    next(turns)
    collect_garbage(ledger)
    next(turns)
    assert verify(ledger).problems == []


def test_what_a_pull_has_fetched_and_never_recorded_is_garbage_in_time(ledger: Ledger) -> None:
    collect_garbage(ledger)
    folder = ledger.folder / "incoming" / "me--edits" / ("0" * 40) / "patches"
    folder.mkdir(parents=True)
    fetched = folder / "12.safetensors"
    fetched.write_bytes(b"12")
    assert collect_garbage(ledger).files == []
    make_old(fetched)
    assert collect_garbage(ledger, dry_run=True).files == [str(fetched)]
    assert fetched.exists()
    assert collect_garbage(ledger).files == [str(fetched)]
    assert not (ledger.folder / "incoming").exists()


def test_what_a_failed_turn_left_is_garbage(ledger: Ledger, source: str) -> None:
    collect_garbage(ledger)
    before = set(ledger.store.listed())
    with pytest.raises(EditingError):
        add(ledger, source, learning_rate=1e38)
    left = set(ledger.store.listed()) - before
    removed = collect_garbage(ledger, grace=-1).files
    assert {Path(name).stem for name in removed} == left
    assert verify(ledger).problems == []


def test_a_patch_that_was_removed_just_before_its_turn_is_recorded_stops_that_turn(
    tmp_path: Path,
) -> None:
    with plain_ledgers.new_ledger(
        tmp_path / "plain", plain_ledgers.build(tmp_path / "model")
    ) as ledger:
        plain_ledgers.add_several(ledger, 1)
        new = plain_ledgers.new_turn(
            ledger, {plain_ledgers.FIRST: plain_ledgers.change(plain_ledgers.FIRST, "dense", 5)}
        )
        assert new.patch is not None
        make_old(ledger.store.path(new.patch.digest))
        assert len(collect_garbage(ledger).files) == 1
        before = contents(ledger)
        with pytest.raises(StoreError, match=r"has been removed meanwhile.*run the command again"):
            record_turn(ledger, new)
        assert contents(ledger) == before
