"""How far turns move tensors: norms of every kind of delta, and what cannot be read."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ledger.cleaning import collect_garbage
from ledger.overview.weights import WeightChanges, in_order, weight_changes
from ledger.rolling_back import rollback_turn
from ledger.squashing import squash
from ledger.workspace import Ledger
from patches.application import base_tensor
from patches.deltas import Delta, Dense, LowRank, Sparse
from patches.norms import delta_norm, weight_norm
from tests import plain_ledgers
from tests.plain_ledgers import FIRST, SECOND, TURNED, change, deltas, line


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """A turn of each kind of delta, the second rolled back."""
    with plain_ledgers.new_ledger(
        tmp_path / "ledger", plain_ledgers.build(tmp_path / "model")
    ) as made:
        plain_ledgers.add(made, {FIRST: change(FIRST, "low-rank", 1)})
        plain_ledgers.add(made, {SECOND: change(SECOND, "dense", 2)})
        plain_ledgers.add(
            made, {TURNED: change(TURNED, "sparse", 3), FIRST: change(FIRST, "low-rank", 4)}
        )
        rollback_turn(made, 2)
        yield made


def read(ledger: Ledger, most: int = 200) -> WeightChanges:
    return weight_changes(ledger, line(ledger), most=most)


def test_norms_are_those_of_the_deltas_and_shares_of_the_base(ledger: Ledger) -> None:
    found = read(ledger)
    assert (found.turns, found.tensors, found.notes) == ((1, 2, 3), (FIRST, SECOND, TURNED), ())
    assert [(one.turn, one.tensor) for one in found.changes] == [
        *((1, FIRST), (2, SECOND), (3, FIRST), (3, TURNED))
    ]
    assert [one.kind for one in found.changes] == ["low-rank", "dense", "low-rank", "sparse"]
    assert [one.rank for one in found.changes] == [2, None, 2, None]
    for one in found.changes:
        digest = line(ledger)[one.turn - 1].patch_digest
        assert digest is not None
        norm = float(np.linalg.norm(deltas(ledger.store.path(digest))[one.tensor]))
        base = float(torch.linalg.norm(base_tensor(ledger.checkpoint, one.tensor).double()))
        assert one.norm == pytest.approx(norm, rel=1e-12)
        assert one.share == pytest.approx(norm / base, rel=1e-12)


def test_patches_that_are_missing_or_damaged_become_a_note(ledger: Ledger) -> None:
    first, second = (line(ledger)[place].patch_digest or "" for place in (0, 1))
    ledger.store.path(first).unlink()
    ledger.store.path(second).write_bytes(b"damaged")
    found = read(ledger)
    assert (found.turns, found.tensors) == ((3,), (FIRST, TURNED))
    assert found.notes == ("without turns 1-2, whose patch cannot be read (see: ledger verify)",)


def test_patches_that_were_pruned_become_a_note(ledger: Ledger) -> None:
    squash(ledger, 1, 3)
    collect_garbage(ledger, prune=True, grace=-60.0)
    found = read(ledger)
    assert found.turns == (2, 5)
    assert found.notes == ("without turns 1, 3, whose patch was pruned",)


def test_without_the_base_there_are_no_shares(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "model" / "model.safetensors").unlink()
    found = read(ledger)
    assert [one.share for one in found.changes] == [None] * 4
    [note] = found.notes
    assert note.startswith("without the shares of the base's weights: ")


def test_of_many_turns_some_at_even_distances_are_read(ledger: Ledger) -> None:
    plain_ledgers.add_several(ledger, 2, start=10)
    found = read(ledger, most=3)
    assert (found.turns, found.notes) == ((1, 3, 6), ("3 of 5 turns",))


def test_tensors_are_in_the_order_of_their_layers() -> None:
    names = ["3.x", "12.x", "head", "layers.9.a", "layers.9.b", "layers.10.b"]
    assert sorted({*names}, key=in_order) == names


def test_an_empty_history_changes_nothing_and_it_is_told_to_programs(tmp_path: Path) -> None:
    with plain_ledgers.new_ledger(
        tmp_path / "ledger", plain_ledgers.build(tmp_path / "model")
    ) as made:
        found = json.loads(json.dumps(read(made).to_json(), allow_nan=False))
    assert found == {"turns": [], "tensors": [], "changes": [], "notes": []}


def test_progress_is_told(ledger: Ledger) -> None:
    seen: list[tuple[str, int, int]] = []
    weight_changes(ledger, line(ledger), progress=lambda *step: seen.append(step))
    assert ("read patches", 3, 3) in seen
    assert seen[-1] == ("measure base", 3, 3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_product_has_the_norm_of_what_it_stands_for(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(3)
    a, b = (torch.randn(5, size, generator=random).to(dtype) for size in (40, 30))
    whole = b.double().T @ a.double()
    kinds: list[Delta] = [
        LowRank(A=a, B=b),
        Dense(delta=whole),
        Sparse.of(whole, torch.ones(30, 40, dtype=torch.bool)),
    ]
    for delta in kinds:
        assert delta_norm(delta) == pytest.approx(float(whole.norm()), rel=1e-12)


def test_a_product_that_cancels_and_an_empty_tensor_have_no_length() -> None:
    row = torch.randn(1, 8, generator=torch.Generator().manual_seed(1))
    nothing = LowRank(A=torch.cat([row, row]), B=torch.cat([row, -row]))
    assert delta_norm(nothing) == pytest.approx(0.0, abs=1e-6)
    assert weight_norm(torch.zeros(0, 3)) == 0.0


def test_a_large_tensor_is_read_in_pieces() -> None:
    ones = torch.ones(3, 50_000, dtype=torch.bfloat16)
    assert weight_norm(ones) == pytest.approx(np.sqrt(150_000))
