"""Comparisons of two states of a matrix, against numpy and against changes that are known."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from patches.comparing import Compared, compared
from patches.deltas import LowRank
from patches.errors import PatchError

SIZES = st.integers(1, 12)


def drawn(seed: int, *shape: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def product(seed: int, rank: int, d_out: int, d_in: int) -> Tensor:
    return drawn(seed, rank, d_out).T @ drawn(seed + 1000, rank, d_in)


def share_changed(base: Tensor, first: Tensor, second: Tensor) -> float:
    """By numpy, which rounds float64 to float32 and float16 once."""
    stored = base.numpy()
    one, other = (
        (stored.astype(np.float64) + total.numpy()).astype(stored.dtype)
        for total in (first, second)
    )
    return int((one != other).sum()) / stored.size


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 99),
    d_out=SIZES,
    d_in=SIZES,
    transposed=st.booleans(),
    size=st.sampled_from([1e-4, 1e-3, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float16]),
)
def test_every_number_is_that_of_numpy(
    seed: int, d_out: int, d_in: int, transposed: bool, size: float, dtype: torch.dtype
) -> None:
    base = drawn(seed, d_out, d_in).to(dtype)
    first, second = drawn(seed + 1, d_out, d_in) * size, drawn(seed + 2, d_out, d_in) * size
    found = compared(
        base.T.contiguous() if transposed else base, first, second, transposed=transposed
    )
    a, b = first.numpy(), second.numpy()
    whole = np.linalg.norm(base.double().numpy())
    assert found.relative_norm == pytest.approx(np.linalg.norm(b - a) / whole)
    assert found.rank == np.linalg.matrix_rank(b - a) == min(d_out, d_in)
    assert found.changed == share_changed(base, first, second)
    cosine = (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    assert found.cosine == pytest.approx(cosine)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 99), rank=st.integers(1, 14), d_out=st.integers(1, 40), d_in=SIZES)
def test_the_rank_is_that_of_what_one_state_has_more(
    seed: int, rank: int, d_out: int, d_in: int
) -> None:
    common = drawn(seed, d_out, d_in)
    more = common + product(seed, rank, d_out, d_in)
    base = drawn(seed + 3, d_out, d_in)
    found = compared(base, common, more, transposed=False)
    assert found.rank == min(rank, d_out, d_in)
    assert found == compared(base.T, common, more, transposed=True)


def test_a_direction_that_squares_would_lose_is_counted() -> None:
    strong, weak = product(1, 2, 60, 50), product(2, 1, 60, 50) * 1e-10
    base = torch.ones(60, 50)
    assert compared(base, None, strong + weak, transposed=False).rank == 3
    assert compared(base, None, strong, transposed=False).rank == 2


def test_sums_in_another_order_do_not_count_as_a_difference_of_full_rank() -> None:
    parts = [product(seed, 3, 40, 30) * 10.0**seed for seed in range(-3, 4)]
    forwards, backwards = (
        sum(order, torch.zeros(40, 30).double()) for order in (parts, parts[::-1])
    )
    base = torch.ones(40, 30, dtype=torch.bfloat16)
    assert not torch.equal(forwards, backwards)
    assert compared(base, forwards, backwards, transposed=False).rank == 0
    assert compared(base, forwards, backwards + parts[0], transposed=False).rank == 3


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 99),
    d_out=SIZES,
    d_in=SIZES,
    factor=st.floats(-1e6, 1e6).filter(lambda one: abs(one) > 1e-6),
    noise=st.sampled_from([0.0, 1e-12, 1e-3, 10.0]),
)
def test_the_cosine_is_one_of_an_angle(
    seed: int, d_out: int, d_in: int, factor: float, noise: float
) -> None:
    first = drawn(seed, d_out, d_in)
    second = (first + noise * drawn(seed + 1, d_out, d_in)) * factor
    base = torch.ones(d_out, d_in)
    cosine = compared(base, first, second, transposed=False).cosine
    assert cosine is not None
    assert -1 <= cosine <= 1
    assert cosine == compared(base, second, first, transposed=False).cosine
    if noise < 1e-9:
        assert cosine == pytest.approx(np.sign(factor))


def test_changes_at_a_right_angle_have_a_cosine_of_zero() -> None:
    first, second = torch.zeros(2, 4, 5, dtype=torch.float64)
    first[1, 2], second[3, 4] = 7, -2
    assert compared(torch.ones(4, 5), first, second, transposed=False).cosine == 0


def test_no_change_is_the_base_itself() -> None:
    base, total = drawn(1, 6, 5).bfloat16(), product(2, 1, 6, 5)
    nothing = torch.zeros(6, 5, dtype=torch.float64)
    there = compared(base, None, total, transposed=False)
    assert there == compared(base, nothing, total, transposed=False)
    assert there == compared(base, total, None, transposed=False)
    assert (there.rank, there.changed, there.cosine) == (1, 1.0, None)
    same = Compared(relative_norm=0, rank=0, changed=0, cosine=None)
    assert compared(base, None, None, transposed=False) == same
    assert compared(base, nothing, None, transposed=False) == same


def test_a_state_beside_itself_does_not_differ() -> None:
    total = product(1, 2, 6, 5)
    found = compared(torch.ones(6, 5).bfloat16(), total, total.clone(), transposed=False)
    assert found == Compared(relative_norm=0, rank=0, changed=0, cosine=1)


def test_what_is_lost_in_rounding_is_no_changed_entry() -> None:
    base = torch.ones(4, 5, dtype=torch.bfloat16)
    total = torch.full((4, 5), 2.0**-20, dtype=torch.float64)
    assert compared(base, None, total, transposed=False).changed == 0
    total[2, 3] = 2.0**-7
    assert compared(base, None, total, transposed=False).changed == 1 / 20


def test_a_tensor_that_is_no_matrix_is_compared_too() -> None:
    total = torch.tensor([[0.0, 3.0, 0.0, 4.0]], dtype=torch.float64)
    found = compared(torch.tensor([0.0, 3.0, 4.0, 0.0]), None, total, transposed=False)
    assert found == Compared(relative_norm=1, rank=1, changed=0.5, cosine=None)
    deep = compared(torch.ones(2, 1, 2), None, total.reshape(2, 2), transposed=False)
    assert (deep.relative_norm, deep.changed) == (2.5, 0.5)


def test_a_base_of_zeros_has_no_norm_to_compare_with() -> None:
    zeros = torch.zeros(2, 3)
    assert compared(zeros, None, zeros.double() + 1, transposed=False).relative_norm is None


def test_a_tensor_without_entries_does_not_differ() -> None:
    empty = torch.zeros(0, 3)
    found = compared(empty, None, empty.double(), transposed=False)
    assert (found.rank, found.changed) == (0, 0)


@pytest.mark.parametrize("side", [0, 1])
def test_changes_that_do_not_fit_are_refused(side: int) -> None:
    totals = [torch.ones(3, 2).double(), torch.ones(2, 3).double()]
    with pytest.raises(PatchError, match=r"a change of shape \(2, 3\) on a \(3, 2\) tensor"):
        compared(torch.ones(3, 2), totals[side], totals[1 - side], transposed=False)


def test_a_comparison_is_told_as_json() -> None:
    found = compared(torch.ones(2, 2), None, torch.ones(2, 2).double(), transposed=False)
    told = {"relative_norm": 1.0, "rank": 1, "changed": 1.0, "cosine": None}
    assert json.loads(json.dumps(found.to_json())) == told


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 99), rank=st.integers(1, 5), d_out=st.integers(5, 40), d_in=SIZES)
def test_the_rank_by_factors_is_that_of_the_matrix(
    seed: int, rank: int, d_out: int, d_in: int
) -> None:
    factors = LowRank(A=drawn(seed, rank, d_in), B=drawn(seed + 1, rank, d_out))
    total, base = factors.B.T @ factors.A, drawn(seed + 2, d_out, d_in)
    whole = compared(base, None, total, transposed=False)
    assert compared(base, None, total, transposed=False, factors=factors) == whole


@pytest.mark.parametrize("shape", [(300, 70), (70, 300), (70, 70)])
def test_the_rank_of_large_matrices_is_found_in_pieces(shape: tuple[int, int]) -> None:
    base = torch.ones(shape)
    for rank in (3, 69):
        total = product(5, rank, *shape)
        assert compared(base, total * 0, total, transposed=False).rank == rank
        assert compared(base.T, None, total, transposed=True).rank == rank
    assert compared(base, None, drawn(1, *shape), transposed=False).rank == 70
