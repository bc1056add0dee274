"""Delta kinds: the laws that hold for each, and what does not fit together."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from patches.deltas import KINDS, Delta, Dense, LowRank, Sparse
from patches.errors import PatchError

SIZES = st.integers(min_value=1, max_value=6)


def whole(shape: tuple[int, int], seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Small integers, whose sums and products are exact in float64 in any order."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-9, 10, shape, generator=draw).to(dtype)


def low_rank(n: int, d_in: int, d_out: int, seed: int = 0) -> LowRank:
    return LowRank(A=whole((n, d_in), seed, torch.bfloat16), B=whole((n, d_out), seed + 1))


def dense(_n: int, d_in: int, d_out: int, seed: int = 0) -> Dense:
    return Dense(delta=whole((d_out, d_in), seed))


def sparse(n: int, d_in: int, d_out: int, seed: int = 0) -> Sparse:
    mask = whole((d_out, d_in), seed + n) > 0
    return Sparse.of(whole((d_out, d_in), seed, torch.bfloat16), mask)


MAKERS: dict[str, Callable[[int, int, int, int], Delta]] = {
    "low-rank": low_rank,
    "dense": dense,
    "sparse": sparse,
}


def test_every_kind_is_listed_and_tested_here() -> None:
    assert set(KINDS) == set(MAKERS)
    for kind, made in KINDS.items():
        assert made.kind == kind


@given(n=SIZES, d_in=SIZES, d_out=SIZES, seed=st.integers(0, 99))
def test_low_rank_adds_what_the_dense_product_of_its_factors_adds(
    n: int, d_in: int, d_out: int, seed: int
) -> None:
    delta = low_rank(n, d_in, d_out, seed)
    product = Dense(delta=delta.B.double().T @ delta.A.double())
    start = whole((d_out, d_in), seed + 2, torch.float64)
    one, other = start.clone(), start.clone()
    delta.add_to(one)
    product.add_to(other)
    assert delta.shape == product.shape == (d_out, d_in)
    assert torch.equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@given(n=SIZES, d_in=SIZES, d_out=SIZES, seed=st.integers(0, 99))
def test_a_delta_is_added_to_the_total_and_does_not_replace_it(
    kind: str, n: int, d_in: int, d_out: int, seed: int
) -> None:
    delta = MAKERS[kind](n, d_in, d_out, seed)
    start = whole((d_out, d_in), seed + 2, torch.float64)
    alone, onto = torch.zeros_like(start), start.clone()
    delta.add_to(alone)
    delta.add_to(onto)
    assert torch.equal(onto, start + alone)


@pytest.mark.parametrize("kind", KINDS)
@given(n=SIZES, d_in=SIZES, d_out=SIZES, seed=st.integers(0, 99))
def test_from_tensors_is_the_inverse_of_tensors(
    kind: str, n: int, d_in: int, d_out: int, seed: int
) -> None:
    delta = MAKERS[kind](n, d_in, d_out, seed)
    again = KINDS[kind].from_tensors(delta.tensors())
    assert (again.kind, again.shape, again.rank) == (kind, delta.shape, delta.rank)
    assert again.tensors().keys() == delta.tensors().keys()
    for part, tensor in delta.tensors().items():
        assert again.tensors()[part].dtype == tensor.dtype
        assert torch.equal(again.tensors()[part], tensor)


def test_factors_are_multiplied_in_float64_whatever_they_are_stored_in() -> None:
    # The sum takes 39 bits: bfloat16 has 8, float32 has 24.
    delta = LowRank(
        A=torch.tensor([[256.0], [1.0]], dtype=torch.bfloat16),
        B=torch.tensor([[2.0**30], [1.0]], dtype=torch.float32),
    )
    total = torch.zeros(1, 1, dtype=torch.float64)
    delta.add_to(total)
    assert total.item() == 2.0**38 + 1


def test_rank_is_the_number_of_rows_and_unknown_for_a_dense_delta() -> None:
    assert low_rank(3, 5, 4).rank == 3
    assert dense(3, 5, 4).rank is None


@pytest.mark.parametrize(
    ("a", "b"), [((2, 3), (1, 4)), ((3,), (3, 4)), ((2, 3), (2,)), ((2, 3, 1), (2, 4))]
)
def test_factors_that_do_not_fit_are_refused(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    with pytest.raises(PatchError, match=r"factors must be \(n, d_in\) and \(n, d_out\)"):
        LowRank(A=torch.zeros(a), B=torch.zeros(b))


def test_a_dense_delta_that_is_no_matrix_is_refused() -> None:
    with pytest.raises(PatchError, match="a dense delta is a matrix"):
        Dense(delta=torch.zeros(3))


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("low-rank", ["A"]),
        ("low-rank", ["A", "B", "C"]),
        ("dense", []),
        ("dense", ["A", "B"]),
        ("sparse", ["mask", "values"]),
        ("sparse", ["mask", "shape", "values", "more"]),
    ],
)
def test_missing_and_surplus_parts_are_refused_by_name(kind: str, parts: list[str]) -> None:
    with pytest.raises(PatchError, match=f"{kind} delta has the .*part"):
        KINDS[kind].from_tensors({part: torch.zeros(2, 2) for part in parts})


@given(d_in=st.integers(1, 20), d_out=SIZES, seed=st.integers(0, 99))
def test_sparse_is_the_matrix_where_the_mask_marks_it_and_zero_elsewhere(
    d_in: int, d_out: int, seed: int
) -> None:
    matrix = whole((d_out, d_in), seed, torch.bfloat16)
    mask = whole((d_out, d_in), seed + 1) > 2
    delta = Sparse.of(matrix, mask)
    assert torch.equal(delta.dense(dtype=torch.bfloat16), matrix * mask)
    assert delta.values.dtype == torch.bfloat16
    assert delta.mask.numel() == (d_in * d_out + 7) // 8
    total = torch.zeros(d_out, d_in, dtype=torch.float64)
    delta.add_to(total)
    assert torch.equal(total, (matrix * mask).double())


def bits(*marked: int, size: int) -> torch.Tensor:
    mask = torch.zeros(size, dtype=torch.uint8)
    for place in marked:
        mask[place // 8] |= 1 << place % 8
    return mask


@pytest.mark.parametrize(
    ("mask", "values", "reason"),
    [
        (bits(0, size=1), torch.zeros(1), "has 2 bytes"),
        (bits(0, size=3), torch.zeros(1), "has 2 bytes"),
        (bits(0, size=2).int(), torch.zeros(1), "has 2 bytes"),
        (bits(0, 11, size=2), torch.zeros(3), "marks 2 entries"),
        (bits(0, 11, size=2), torch.zeros(2, dtype=torch.int64), "marks 2 entries"),
        (bits(12, size=2), torch.zeros(1), "beyond its end"),
    ],
)
def test_a_mask_that_does_not_fit_its_values_is_refused(
    mask: torch.Tensor, values: torch.Tensor, reason: str
) -> None:
    with pytest.raises(PatchError, match=reason):
        Sparse(shape=(3, 4), mask=mask, values=values)


@pytest.mark.parametrize("shape", [[3], [3, 4, 5], [0, 4], [-1, 4]])
def test_a_sparse_delta_whose_shape_is_no_matrix_is_refused(shape: list[int]) -> None:
    parts = {"shape": torch.tensor(shape), "mask": bits(0, size=2), "values": torch.zeros(1)}
    with pytest.raises(PatchError, match="a sparse delta is a matrix"):
        Sparse.from_tensors(parts)
