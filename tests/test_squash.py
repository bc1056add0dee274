"""Squash: one patch in place of many, its error told, the edits in force, and a way back."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ledger.history import edits_in_force, patches_in_force
from ledger.reporting import show
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.squashing import squash
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.edit import Edit
from patches.errors import HistoryError
from patches.patch import PatchFile
from tests.command_line import call, done
from tests.ledgers import contents, facts, files, write_facts
from tests.ledgers import new_ledger as model_ledger
from tests.plain_ledgers import (
    FIRST,
    SECOND,
    TURNED,
    Matrix,
    add,
    add_several,
    build,
    change,
    deltas,
    line,
    new_ledger,
    recorded,
    state,
    summed,
)
from tests.side_memories import add_memories


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return build(tmp_path / "model")


@pytest.fixture
def ledger(tmp_path: Path, model: Path) -> Iterator[Ledger]:
    """Five turns: of low-rank changes of one tensor, beside dense and sparse ones of two others."""
    with new_ledger(tmp_path / "ledger", model) as ledger:
        for seed, kind in enumerate(("dense", "sparse", "sparse", "dense", "low-rank")):
            changes = {FIRST: change(FIRST, "low-rank", seed), SECOND: change(SECOND, kind, seed)}
            if seed in (1, 2):
                changes[TURNED] = change(TURNED, "sparse", seed)
            add(ledger, changes, edits=[Edit(prompt=f"Question {seed} is", target="so")])
        yield ledger


def parts(ledger: Ledger) -> list[dict[str, Matrix]]:
    """What the patch of every turn that has one adds."""
    paths = (ledger.store.path(step.patch_digest) for step in line(ledger) if step.patch_digest)
    return [deltas(path) for path in paths]


def test_a_squash_gives_the_sum_of_its_patches_and_the_edits_stay_in_force(
    ledger: Ledger, model: Path
) -> None:
    before = state(ledger)
    made = squash(ledger, 2, 4)
    assert (made.turn, made.replaces, made.edits) == (6, [2, 3, 4], 3)
    turns = line(ledger)
    assert [step.number for step in patches_in_force(turns)] == [1, 5, 6]
    assert [step.number for step in edits_in_force(turns)] == [1, 2, 3, 4, 5]
    assert (turns[5].kind, turns[5].method) == ("merge", "squash")
    found = parts(ledger)
    for name, delta in found[5].items():
        whole = sum((part[name] for part in found[1:4] if name in part), np.zeros(delta.shape))
        assert np.allclose(delta, whole, rtol=2**-22, atol=0)
    assert recorded(ledger) == state(ledger) == summed(model, [found[0], found[4], found[5]])
    assert state(ledger)[FIRST] == before[FIRST]
    assert verify(ledger).problems == []


def test_each_kind_of_patch_stays_small_factors_sparse_and_dense_ones(ledger: Ledger) -> None:
    made = squash(ledger, 2, 3)
    patch = PatchFile(ledger.store.path(line(ledger)[-1].patch_digest or ""))
    kinds = {name: info.kind for name, info in patch.changes.items()}
    assert kinds == {FIRST: "low-rank", SECOND: "sparse", TURNED: "sparse"}
    assert made.ranks == {FIRST: 4, SECOND: None, TURNED: None}
    assert patch.changes[TURNED].transposed
    assert (made.error, set(made.errors.values())) == (0.0, {0.0})
    assert made.other_bytes == []
    before = [ledger.store.path(step.patch_digest or "") for step in line(ledger)[1:3]]
    assert made.bytes_before == sum(path.stat().st_size for path in before)
    assert made.bytes_after == patch.path.stat().st_size < made.bytes_before


@pytest.mark.parametrize(
    ("rank", "max_error"), [(1, None), (3, None), (None, 0.3), (None, 0.01), (4, 0.3)]
)
def test_a_lossy_squash_records_the_error_that_it_really_has(
    ledger: Ledger, model: Path, rank: int | None, max_error: float | None
) -> None:
    made = squash(ledger, 1, 5, rank=rank, max_error=max_error)
    found = parts(ledger)
    missed, whole = {}, {}
    for name in (FIRST, SECOND, TURNED):
        exact = sum(part[name] for part in found[:5] if name in part)
        whole[name] = float(np.linalg.norm(exact))
        missed[name] = float(np.linalg.norm(found[5][name] - exact))
        assert made.errors[name] == pytest.approx(missed[name] / whole[name], rel=1e-3, abs=1e-7)
        if rank is not None:
            assert np.linalg.matrix_rank(found[5][name], tol=1e-4) <= rank
        elif max_error is not None:
            assert made.errors[name] <= max_error
    overall = math.hypot(*missed.values()) / math.hypot(*whole.values())
    assert made.error == pytest.approx(overall, rel=1e-3, abs=1e-7)
    figures = show(ledger, 6).to_json()["figures"]
    assert figures == {"error": made.error, "errors": list(made.errors.values())}
    assert list(made.errors) == sorted(made.errors)
    assert recorded(ledger) == state(ledger) == summed(model, [found[5]])
    assert verify(ledger).problems == []


def test_rolling_a_squash_back_separates_the_turns_again_bit_for_bit(ledger: Ledger) -> None:
    before = recorded(ledger)
    squash(ledger, 1, 5, rank=1)
    assert recorded(ledger) != before
    undone = rollback_turn(ledger, 6)
    assert undone.separated == [1, 2, 3, 4, 5]
    assert recorded(ledger) == state(ledger) == before
    rollback_turn(ledger, 7)
    assert recorded(ledger) == state(ledger) == state(ledger, 6)


def test_a_turn_cannot_be_taken_out_of_a_squash_and_the_message_says_how(ledger: Ledger) -> None:
    squash(ledger, 1, 4)
    before = contents(ledger)
    with pytest.raises(HistoryError, match=r"turn 3 is part of .*turn 6.*ledger rollback turn 6"):
        rollback_turn(ledger, 3)
    assert contents(ledger) == before
    assert rollback_turn(ledger, 5).in_force == [1, 2, 3, 4]
    rollback_to(ledger, 2)
    assert recorded(ledger) == state(ledger, 2)


def test_a_range_with_an_earlier_squash_takes_that_as_it_is(ledger: Ledger, model: Path) -> None:
    squash(ledger, 1, 3)
    add_several(ledger, 1, start=50)
    made = squash(ledger, 4, 7)
    assert made.replaces == [4, 5, 6, 7]
    assert recorded(ledger) == state(ledger) == summed(model, [parts(ledger)[-1]])
    assert len(edits_in_force(line(ledger))) == 6
    assert rollback_turn(ledger, 8).separated == [4, 5, 6, 7]
    assert rollback_turn(ledger, 6).separated == [1, 2, 3]
    assert verify(ledger).problems == []


def test_rolled_back_turns_of_the_range_are_left_out(ledger: Ledger, model: Path) -> None:
    rollback_turn(ledger, 2)
    made = squash(ledger, 1, "HEAD")
    assert made.replaces == [1, 3, 4, 5]
    assert recorded(ledger) == summed(model, [parts(ledger)[-1]])


@pytest.mark.parametrize(
    ("first", "last", "message"),
    [
        (2, 2, "turn 2 only"),
        (6, 6, "there is no turn 6"),
        (1, 99, "there is no turn 99"),
        (4, 2, "turn 4 comes after turn 2"),
        (1, "nowhere", "nothing is called nowhere"),
    ],
)
def test_a_range_of_less_than_two_patches_is_refused(
    ledger: Ledger, first: int, last: int | str, message: str
) -> None:
    before, stored = contents(ledger), files(ledger.store.folder)
    with pytest.raises(HistoryError, match=message):
        squash(ledger, first, last)
    assert (contents(ledger), files(ledger.store.folder)) == (before, stored)


def test_turns_that_are_squashed_already_are_refused_and_the_squash_is_named(
    ledger: Ledger,
) -> None:
    squash(ledger, 1, 3)
    with pytest.raises(HistoryError, match=r"none; .*turn 6 has taken the place of some"):
        squash(ledger, 1, 3)


def test_side_memories_are_left_to_merge_shards(tmp_path: Path, tiny_llama: Path) -> None:
    source = write_facts(tmp_path / "facts.json", facts(2))
    with model_ledger(tmp_path / "memories", tiny_llama) as ledger:
        add_memories(ledger, source, turn_size=1)
        before = contents(ledger)
        with pytest.raises(HistoryError, match=r"turn 1 has a side memory.*ledger merge-shards"):
            squash(ledger, 1, 2)
        assert contents(ledger) == before


def test_the_command_tells_sizes_errors_and_the_way_back(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--ledger", str(ledger.folder))
    shown = done(capsys, "squash", "HEAD~4..HEAD", "-m", "release", *where).out
    assert "turn 6 makes one patch of turns 1-5" in shown
    assert f"{SECOND}" in shown
    assert "exact" in shown
    assert "ledger rollback turn 6" in shown
    assert line(ledger)[-1].hash == show(ledger, 6).to_json()["hash"]
    assert show(ledger, 6).to_json()["message"] == "release"
    done(capsys, "rollback", "turn", "6", *where)
    told = done(capsys, "squash", "1..5", "--rank", "2", "--json", *where).json()
    assert set(told) == {
        *("turn", "replaces", "edits", "ranks", "errors", "error", "other_bytes"),
        *("bytes_before", "bytes_after", "seconds"),
    }
    assert 0 < told["error"] < 1
    for wrong in (("squash", "1-5"), ("squash", "0..5"), ("squash", "1..5", "--max-error", "1")):
        assert call(capsys, *wrong, *where).status == 2
    assert call(capsys, "squash", "1..2", *where).status == 1
