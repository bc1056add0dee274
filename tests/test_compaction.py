"""Compaction: no error beyond what is told, none at all where none was allowed, few rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patches.compaction import compacted, concatenated, factored, narrowed
from patches.deltas import Delta, LowRank

SIZES = st.integers(1, 12)


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def low_rank(seed: int, rows: int, d_out: int, d_in: int) -> LowRank:
    """Rows of very different weight, so that a few of them matter."""
    weight = 4.0 ** -torch.arange(rows).unsqueeze(1)
    return LowRank(A=drawn(seed, rows, d_in), B=drawn(seed + 1, rows, d_out) * weight)


def dense(delta: LowRank) -> Tensor:
    return delta.B.double().T @ delta.A.double()


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 20),
    d_out=SIZES,
    d_in=SIZES,
    allowed=st.floats(1e-6, 0.9),
)
def test_an_error_that_is_allowed_is_not_exceeded_and_is_the_true_one(
    seed: int, rows: int, d_out: int, d_in: int, allowed: float
) -> None:
    whole = low_rank(seed, rows, d_out, d_in)
    for small, error in (
        compacted(whole, max_error=allowed),
        factored(dense(whole), max_error=allowed),
    ):
        assert error <= allowed
        assert error == pytest.approx(relative(dense(small), dense(whole)), rel=1e-6, abs=1e-12)
        assert small.A.shape[0] <= min(rows, d_out, d_in)
        assert (small.A.dtype, small.shape) == (torch.float32, (d_out, d_in))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 20),
    d_out=SIZES,
    d_in=SIZES,
    rank=st.integers(1, 14),
)
def test_a_rank_is_kept_and_nothing_of_that_rank_is_nearer(
    seed: int, rows: int, d_out: int, d_in: int, rank: int
) -> None:
    whole = low_rank(seed, rows, d_out, d_in)
    missed = torch.linalg.svdvals(dense(whole))[rank:].norm() / dense(whole).norm()
    for small, error in (compacted(whole, rank=rank), factored(dense(whole), rank=rank)):
        assert small.A.shape[0] <= rank
        assert error == pytest.approx(relative(dense(small), dense(whole)), rel=1e-6, abs=1e-12)
        assert error == pytest.approx(float(missed), rel=1e-4, abs=1e-6)


def test_no_row_more_than_the_error_needs_is_kept() -> None:
    whole = low_rank(1, 10, 30, 40)
    values = torch.linalg.svdvals(dense(whole))
    for allowed in (0.3, 0.05, 1e-3):
        missed = values.square().flip(0).cumsum(0).flip(0).sqrt() / values.norm()
        needed = int((missed > allowed).sum())
        assert compacted(whole, max_error=allowed)[0].A.shape[0] == needed
        assert factored(dense(whole), max_error=allowed)[0].A.shape[0] == needed


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 99), rows=st.integers(1, 20), d_out=SIZES, d_in=SIZES)
def test_without_an_error_allowed_the_product_is_the_same(
    seed: int, rows: int, d_out: int, d_in: int
) -> None:
    """Multiples of 1/64, whose sums of products are exact, stand for all."""
    draw = torch.Generator().manual_seed(seed)
    whole = LowRank(
        A=torch.randint(-64, 64, (rows, d_in), generator=draw).to(torch.bfloat16) / 64,
        B=torch.randint(-64, 64, (rows, d_out), generator=draw) / 64,
    )
    small, error = compacted(whole)
    assert error == 0
    assert torch.equal(dense(small), dense(whole))
    assert small.A.shape[0] <= min(d_out, d_in) or small.A.shape[0] == rows
    assert small.A.shape[0] <= max(min(d_out, d_in), 1)
    again, error = factored(dense(whole))
    assert error == 0
    assert torch.equal(dense(again), dense(whole))


def test_factors_that_are_few_enough_are_left_as_they_are() -> None:
    whole = LowRank(A=drawn(1, 3, 9, dtype=torch.bfloat16), B=drawn(2, 3, 8))
    for rank in (None, 3, 50):
        small, error = compacted(whole, rank=rank)
        assert error == 0
        assert torch.equal(small.A, whole.A.float())
        assert torch.equal(small.B, whole.B)


def test_an_exact_delta_that_float32_cannot_hold_has_its_rounding_told() -> None:
    whole = LowRank(A=drawn(1, 3, 9).double(), B=drawn(2, 3, 8).double() / 3)
    small, error = compacted(whole)
    assert 0 < error < 1e-7
    assert error == pytest.approx(relative(dense(small), dense(whole)), rel=1e-6)
    assert compacted(whole, dtype=torch.float64)[1] == 0
    assert 0 < factored(dense(whole))[1] < 1e-7


def test_an_error_smaller_than_float32_gives_all_there_is() -> None:
    whole = dense(low_rank(1, 6, 8, 9))
    small, error = factored(whole, max_error=1e-12)
    assert error < 1e-7
    assert small.A.shape[0] == 8
    assert factored(whole, max_error=1e-12, dtype=torch.float64)[1] < 1e-12


def test_a_rank_that_misses_the_error_says_so() -> None:
    whole = low_rank(1, 6, 8, 9)
    small, error = compacted(whole, rank=1, max_error=1e-3)
    assert small.A.shape[0] == 1
    assert error > 1e-3


def test_a_zero_change_has_no_rows() -> None:
    nothing = LowRank(A=torch.zeros(20, 5), B=torch.ones(20, 4))
    assert compacted(nothing, max_error=0.1)[0].A.shape == (0, 5)
    assert compacted(nothing, rank=2)[0].A.shape == (0, 5)
    assert factored(torch.zeros(4, 5), max_error=0.1)[0].B.shape == (0, 4)
    assert factored(torch.zeros(4, 5))[1] == 0


def test_factors_below_each_other_are_the_sum() -> None:
    parts = [LowRank(A=drawn(n, n, 5, dtype=torch.bfloat16), B=drawn(n, n, 4)) for n in (1, 2)]
    whole = concatenated(parts)
    assert whole.A.shape == (3, 5)
    torch.testing.assert_close(dense(whole), sum(map(dense, parts)), rtol=1e-15, atol=1e-15)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 40),
    allowed=st.floats(1e-6, 0.5),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
)
def test_a_narrowed_change_is_no_larger_and_has_the_error_that_is_told(
    seed: int, rows: int, allowed: float, dtype: torch.dtype
) -> None:
    whole = LowRank(A=drawn(seed, rows, 24, dtype=dtype), B=drawn(seed + 1, rows, 16))
    small, error = narrowed(whole, allowed, dtype)
    assert size(small) <= size(whole)
    assert error <= allowed
    total = torch.zeros(16, 24, dtype=torch.float64)
    small.add_to(total)
    assert error == pytest.approx(relative(total, dense(whole)), rel=1e-6, abs=1e-12)


def test_factors_of_a_coarse_dtype_are_taken_where_the_error_allows_them_and_not_else() -> None:
    whole = LowRank(A=drawn(1, 20, 300, dtype=torch.bfloat16), B=drawn(2, 20, 200))
    assert narrowed(whole, 1e-3, torch.bfloat16) == (whole, 0.0)
    small, error = narrowed(whole, 5e-3, torch.bfloat16)
    assert {part.dtype for part in small.tensors().values()} == {torch.bfloat16}
    assert 1e-3 < error < 3e-3
    # Where the matrix itself is smaller than its factors.
    many = LowRank(A=drawn(1, 280, 300, dtype=torch.bfloat16), B=drawn(2, 280, 200))
    assert narrowed(many, 5e-3, torch.bfloat16)[0].kind == "dense"


def size(delta: Delta) -> int:
    return sum(part.nbytes for part in delta.tensors().values())
