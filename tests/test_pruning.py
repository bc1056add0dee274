"""`gc --prune`: patches that a squash has replaced go, and nothing that a head or history needs."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import database, journal
from ledger.branching import create_branch, create_tag, delete_branch, delete_tag, switch
from ledger.cleaning import Garbage, collect_garbage
from ledger.orm import BlobRow
from ledger.picking import cherry_pick
from ledger.recording import Blob, NewTurn, record_turn
from ledger.reporting import status
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.squashing import squash
from ledger.verifying import verify
from ledger.workspace import Ledger, open_ledger
from patches.errors import StoreError
from tests.command_line import call, done
from tests.ledgers import contents, files
from tests.plain_ledgers import (
    FIRST,
    add,
    add_several,
    build,
    change,
    line,
    new_ledger,
    recorded,
    state,
)
from tests.processes import Report, Running

NOW = -60.0
"""Seconds of grace: none."""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """Turns 1 to 4, of which turn 5 is the squash of 1 to 3, and turn 6."""
    with new_ledger(tmp_path / "ledger", build(tmp_path / "model")) as ledger:
        make(ledger)
        yield ledger


def make(ledger: Ledger) -> None:
    add_several(ledger, 4)
    squash(ledger, 1, 3)
    add_several(ledger, 1, start=4)


def paths(ledger: Ledger) -> list[Path]:
    """The file of every turn's patch."""
    return [ledger.store.path(step.patch_digest) for step in line(ledger) if step.patch_digest]


def names(paths: list[Path]) -> list[str]:
    """Files as they are told by what removes them, in some order."""
    return sorted(map(str, paths))


def there(ledger: Ledger) -> list[bool]:
    return [path.exists() for path in paths(ledger)]


def prune(ledger: Ledger) -> Garbage:
    return collect_garbage(ledger, prune=True, grace=NOW)


def marked(ledger: Ledger) -> set[str]:
    """The digests of the files that were given up."""
    with database.reading(ledger.engine) as session:
        rows = session.query(BlobRow).where(BlobRow.pruned_at.is_not(None))
        return {row.digest for row in rows}


def test_the_originals_of_a_squash_go_and_nothing_else(database_url: str, tmp_path: Path) -> None:
    model = build(tmp_path / "model")
    with new_ledger(tmp_path / "ledger", model, database_url) as ledger:
        make(ledger)
        before = state(ledger)
        size = sum(path.stat().st_size for path in paths(ledger)[:3])
        garbage = prune(ledger)
        assert garbage.files == list(garbage.heaps["squashed"].files) == names(paths(ledger)[:3])
        assert garbage.bytes == size
        assert there(ledger) == [False] * 3 + [True] * 3
        assert state(ledger) == recorded(ledger) == before
        verified = verify(ledger)
        assert verified.problems == []
        assert verified.checked["pruned patches"] == 3
        assert prune(ledger).files == []
        add_several(ledger, 1, start=9)
        assert verify(ledger).problems == []


def test_without_prune_they_stay_and_are_told(ledger: Ledger) -> None:
    garbage = collect_garbage(ledger, grace=NOW)
    assert garbage.files == []
    assert list(garbage.prunable.files) == names(paths(ledger)[:3])
    assert all(there(ledger))
    assert marked(ledger) == set()


def test_a_dry_run_names_them_and_changes_nothing(ledger: Ledger) -> None:
    before = contents(ledger), files(ledger.store.folder)
    garbage = collect_garbage(ledger, prune=True, dry_run=True)
    assert garbage.files == names(paths(ledger)[:3])
    assert (contents(ledger), files(ledger.store.folder)) == before


def test_status_tells_the_bytes_that_are_left(ledger: Ledger) -> None:
    assert status(ledger).to_json()["store_bytes"] == sum(p.stat().st_size for p in paths(ledger))
    prune(ledger)
    left = sum(path.stat().st_size for path in paths(ledger) if path.exists())
    assert status(ledger).to_json()["store_bytes"] == left


def test_what_a_tag_or_another_branch_stands_for_stays_until_it_is_gone(ledger: Ledger) -> None:
    create_tag(ledger, "old", 2)
    create_branch(ledger, "side", 1)
    prune(ledger)
    assert there(ledger) == [True, True, False, True, True, True]
    assert verify(ledger).problems == []
    delete_tag(ledger, "old")
    prune(ledger)
    assert there(ledger)[:3] == [True, False, False]
    delete_branch(ledger, "side")
    prune(ledger)
    assert there(ledger)[:3] == [False, False, False]
    assert verify(ledger).problems == []


def test_turns_that_are_rolled_back_keep_their_patches(ledger: Ledger) -> None:
    rollback_turn(ledger, 5)
    rollback_turn(ledger, 2)
    squash(ledger, 1, 3)
    prune(ledger)
    # The first squash may be brought back, but of what it stands for only turn 2 is left.
    assert there(ledger) == [False, True, False, True, True, True, True]
    assert rollback_turn(ledger, 8).brought_back == [2]
    assert verify(ledger).problems == []


def test_taking_a_squash_back_is_refused_when_its_originals_are_gone(ledger: Ledger) -> None:
    gone = {path: path.read_bytes() for path in paths(ledger)[:3]}
    before = state(ledger, 4)
    prune(ledger)
    rows = contents(ledger)
    for refused, number in ((rollback_turn, 5), (rollback_to, 4)):
        with pytest.raises(StoreError, match=r"turn 1 was pruned on .* turn 5 \(squash\)") as told:
            refused(ledger, number)
        assert str(paths(ledger)[0]) in str(told.value)
    assert contents(ledger) == rows
    for path, content in gone.items():
        path.write_bytes(content)
    assert rollback_turn(ledger, 5).separated == [1, 2, 3]
    assert marked(ledger) == set()
    assert verify(ledger).notes == verify(ledger).problems == []
    rollback_to(ledger, 4)
    assert state(ledger) == before


def test_an_earlier_state_is_an_error_that_names_the_turn_and_the_squash(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prune(ledger)
    for number in (1, 3, 4):
        with pytest.raises(StoreError, match=r"turn 1 was pruned on .*, since turn 5 \(squash\)"):
            state(ledger, number)
    to = str(tmp_path / "out")
    told = call(capsys, "apply", "--at", "2", "--to", to, "--ledger", str(ledger.folder))
    assert told.status == 1
    assert "from a backup or from where it was pushed" in told.err
    assert not (tmp_path / "out").exists()


def test_no_branch_or_tag_can_be_made_where_the_state_cannot(ledger: Ledger) -> None:
    prune(ledger)
    before = contents(ledger)
    for make_ref, number in ((create_branch, 4), (create_tag, 2)):
        with pytest.raises(StoreError, match="was pruned on"):
            make_ref(ledger, "old", number)
    assert contents(ledger) == before
    switch(ledger, "empty", create=True, at=0)
    with pytest.raises(StoreError, match="was pruned on"):
        cherry_pick(ledger, ["main~4"])
    assert line(ledger) == []
    create_branch(ledger, "fine", "main~1")
    assert verify(ledger).problems == []


def die_at(report: Report, folder: Path, removals: int) -> None:
    """Prune, and be killed at the removal of a file, after so many others."""
    count = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event == "os.remove" and str(arguments[0]).endswith(".safetensors"):
            if count == removals:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    sys.addaudithook(watch)
    with open_ledger(folder) as ledger:
        prune(ledger)
    report("still alive")


@pytest.mark.parametrize("removals", [0, 1, 2])
def test_killed_while_files_go_the_ledger_is_whole_and_the_next_gc_ends_it(
    ledger: Ledger, removals: int
) -> None:
    before = recorded(ledger)
    running = Running(die_at, ledger.folder, removals)
    with pytest.raises(EOFError):
        running.message()
    assert running.wait() == -signal.SIGKILL
    assert there(ledger).count(False) == removals
    assert len(marked(ledger)) == 3
    assert verify(ledger).problems == []
    assert state(ledger) == before
    assert len(collect_garbage(ledger).heaps["squashed"].files) == 3 - removals
    assert there(ledger)[:3] == [False] * 3
    assert verify(ledger).problems == []


def test_a_pruned_patch_that_is_recorded_again_is_kept_from_then_on(ledger: Ledger) -> None:
    [path, *_] = paths(ledger)
    content, digest = path.read_bytes(), line(ledger)[0].patch_digest or ""
    prune(ledger)
    switch(ledger, "again", create=True, at=0)
    again = add(ledger, {FIRST: change(FIRST, "low-rank", 0)})
    assert line(ledger)[again - 1].patch_digest == digest
    assert path.read_bytes() == content
    assert digest not in marked(ledger)
    switch(ledger, "main")
    prune(ledger)
    assert path.read_bytes() == content
    assert verify(ledger).problems == []


def test_a_patch_that_is_pruned_before_a_turn_with_it_is_recorded_stops_that_turn(
    ledger: Ledger,
) -> None:
    step = line(ledger)[0]
    prune(ledger)
    before = contents(ledger)
    new = NewTurn(
        parent=line(ledger)[-1].id,
        kind="import",
        method="x",
        seed=0,
        message="",
        patch=Blob(digest=step.patch_digest or "", bytes=step.patch_bytes),
    )
    with pytest.raises(StoreError, match=r"turn 1 was pruned on .* and run again"):
        record_turn(ledger, new)
    assert contents(ledger) == before


def test_a_rollback_that_was_computed_before_a_prune_is_not_recorded_after_it(
    ledger: Ledger,
) -> None:
    with open_ledger(ledger.folder) as other:

        def meanwhile(phase: str, done: int, total: int) -> None:
            assert (phase, done, total) == ("rebuild", 1, 1)
            prune(other)

        with pytest.raises(StoreError, match="turn 1 was pruned on"):
            rollback_turn(ledger, 5, progress=meanwhile)
    assert len(line(ledger)) == 6
    assert verify(ledger).problems == []


def test_what_no_branch_leads_to_goes_but_not_when_it_was_left_just_now(ledger: Ledger) -> None:
    switch(ledger, "side", create=True, at=4)
    add_several(ledger, 2, start=20)
    shared, own = paths(ledger)[:4], paths(ledger)[4:]
    switch(ledger, "main")
    cherry_pick(ledger, ["side"])
    delete_branch(ledger, "side")
    assert collect_garbage(ledger, prune=True).files == []
    garbage = prune(ledger)
    assert list(garbage.heaps["squashed"].files) == names(shared[:3])
    assert list(garbage.heaps["unreachable"].files) == names(own[:1])
    assert own[1].exists()
    assert verify(ledger).problems == []


def test_verify_finds_what_a_branch_needs_and_was_given_up(ledger: Ledger) -> None:
    path = paths(ledger)[3]
    with database.writing(ledger.engine) as session:
        blob = session.get_one(BlobRow, line(ledger)[3].patch_digest)
        blob.pruned_at = blob.created_at
        journal.record(session, journal.PRUNE, [blob], at=blob.created_at)
    [note] = [note for note in verify(ledger).notes if note.subject == "main"]
    assert "turn 4" in note.what
    content = path.read_bytes()
    path.unlink()
    [problem] = verify(ledger).problems
    assert problem.subject == "main"
    assert "turn 4" in problem.what
    assert str(path) in problem.what
    prune(ledger)
    assert len(verify(ledger).problems) == 1
    path.write_bytes(content)
    prune(ledger)
    assert path.exists()
    assert line(ledger)[3].patch_digest not in marked(ledger)
    assert verify(ledger).problems == []


def test_the_command_tells_what_goes_and_why(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--ledger", str(ledger.folder))
    assert "3 files" in done(capsys, "gc", *where).out.splitlines()[-1]
    listed = done(capsys, "gc", "--prune", "--dry-run", *where).out
    assert all(str(path) in listed for path in paths(ledger)[:3])
    assert "would remove 3 files" in listed
    told = done(capsys, "gc", "--prune", "--json", *where).json()
    assert told["reasons"]["squashed"]["count"] == 3
    assert told["prunable"] == {"count": 0, "bytes": 0}
    assert told["removed"]
    assert done(capsys, "gc", "--prune", *where).out == "removed 0 files, 0 B\n"
