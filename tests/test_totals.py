"""Sums wait outside of memory, and come back to the bit."""

import tempfile
from pathlib import Path

import pytest
import torch

from patches.totals import Totals


def some(seed: int, shape: tuple[int, int] = (3, 5)) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_every_sum_comes_back_to_the_bit_and_a_later_one_takes_its_place() -> None:
    totals = Totals()
    first, second, third = some(1), some(2, (40, 7)), some(3)
    totals.put("a", first)
    totals.put("b", second)
    assert torch.equal(totals["a"], first)
    totals.put("a", third)
    assert torch.equal(totals["a"], third)
    assert torch.equal(totals["b"], second)
    assert [*totals] == ["a", "b"]
    assert totals.shapes == [(3, 5), (40, 7)]
    assert "c" not in totals


def test_what_is_looked_up_may_be_changed_before_it_is_put_back() -> None:
    totals = Totals()
    totals.put("a", some(1))
    totals["a"].add_(1)
    assert torch.equal(totals["a"], some(1))


def test_a_transposed_sum_comes_back_as_it_is() -> None:
    totals = Totals()
    totals.put("a", some(1).T)
    assert torch.equal(totals["a"], some(1).T)


def test_sums_stay_in_memory_where_there_is_no_room_for_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    totals = Totals()
    totals.put("a", some(1))
    totals.put("b", some(2))
    assert torch.equal(totals["a"], some(1))
    assert torch.equal(totals["b"], some(2))
