"""Squashes: the sum of many changes as one, exact where nothing else is asked for."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from patches.application import patched, total_change
from patches.deltas import Delta, Dense, LowRank, Sparse
from patches.errors import PatchError, SettingError
from patches.patch import Change, PatchFile, PatchHeader, encode_patch
from patches.side_memory import Activations, Routing
from patches.squashing import squashed

FLOATS = (torch.bfloat16, torch.float16, torch.float32)
SIZES = st.integers(1, 12)
each = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def fractions(seed: int, *shape: int) -> Tensor:
    """Multiples of 1/64, whose sums of products are exact in float64 and float32."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(-64, 64, shape, generator=draw) / 64


def low_rank(seed: int, rows: int, d_out: int, d_in: int) -> LowRank:
    """With factors in dtypes that differ from seed to seed."""
    a, b = fractions(seed, rows, d_in), fractions(seed + 1, rows, d_out)
    return LowRank(A=a.to(FLOATS[seed % 3]), B=b.to(FLOATS[seed // 3 % 3]))


def sparse(seed: int, d_out: int, d_in: int) -> Sparse:
    matrix = fractions(seed, d_out, d_in)
    return Sparse.of(matrix, drawn(seed + 1, d_out, d_in) > 0.5)


def of_kind(kind: str, seed: int) -> Delta:
    if kind == "l":
        return low_rank(seed, 2, 9, 8)
    return sparse(seed, 9, 8) if kind == "s" else Dense(delta=fractions(seed, 9, 8))


Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def whole(delta: Delta) -> Array:
    """Δ by numpy alone."""
    if isinstance(delta, LowRank):
        return np.asarray(delta.B.double().numpy().T @ delta.A.double().numpy())
    if isinstance(delta, Dense):
        return np.asarray(delta.delta.double().numpy())
    assert isinstance(delta, Sparse)
    bits = np.unpackbits(delta.mask.numpy(), bitorder="little")[: delta.shape[0] * delta.shape[1]]
    flat = np.zeros(bits.size)
    flat[bits == 1] = delta.values.double().numpy()
    return flat.reshape(delta.shape)


def summed(deltas: Sequence[Delta]) -> Array:
    first, *others = map(whole, deltas)
    return sum(others, first)


def written(folder: Path, turn: int, **changes: Change) -> PatchFile:
    path = folder / f"{turn}.safetensors"
    header = PatchHeader(base="b", method="m", hyperparameters={}, turn=turn, parent=None)
    path.write_bytes(encode_patch(header, changes))
    return PatchFile(path)


def files(folder: Path, deltas: Sequence[Delta], *, transposed: bool = False) -> list[PatchFile]:
    """One patch for each delta, of the tensor `w`."""
    return [
        written(folder, turn, w=Change(delta=delta, transposed=transposed))
        for turn, delta in enumerate(deltas)
    ]


def squash(
    folder: Path,
    deltas: Sequence[Delta],
    *,
    rank: int | None = None,
    max_error: float | None = None,
) -> tuple[Delta, float]:
    change, error = squashed(files(folder, deltas), "w", rank=rank, max_error=max_error)
    assert not change.transposed
    assert change.routing is None
    missed = np.linalg.norm(whole(change.delta) - summed(deltas))
    assert error == pytest.approx(missed / np.linalg.norm(summed(deltas)), rel=1e-6, abs=1e-14)
    return change.delta, error


@each
@given(
    seed=st.integers(0, 99),
    rows=st.lists(st.integers(1, 3), min_size=1, max_size=6),
    d_out=SIZES,
    d_in=SIZES,
)
def test_a_squash_of_factors_is_their_sum_without_error(
    tmp_path: Path, seed: int, rows: list[int], d_out: int, d_in: int
) -> None:
    deltas = [low_rank(seed + at, n, d_out, d_in) for at, n in enumerate(rows)]
    change, error = squashed(files(tmp_path, deltas), "w")
    assert error == 0
    assert (whole(change.delta) == summed(deltas)).all()
    size = sum(tensor.nbytes for tensor in change.delta.tensors().values())
    assert len(rows) == 1 or size <= d_out * d_in * 4


@each
@given(seed=st.integers(0, 99), kinds=st.lists(st.sampled_from("lds"), min_size=2, max_size=5))
def test_a_squash_of_any_kinds_gives_the_state_that_all_patches_give(
    tmp_path: Path, seed: int, kinds: list[str]
) -> None:
    deltas = [of_kind(kind, seed + at) for at, kind in enumerate(kinds)]
    parts = files(tmp_path, deltas, transposed=True)
    change, error = squashed(parts, "w")
    assert (error, change.transposed) == (0, True)
    one = written(tmp_path, 99, w=change)
    base = drawn(seed + 50, 8, 9).bfloat16()
    states = []
    for patches in (parts, [one]):
        total = total_change(patches, "w")
        assert total is not None
        states.append(patched(base, total, transposed=True, dtype=base.dtype))
    assert torch.equal(*states)
    assert not torch.equal(states[0], base)
    if set(kinds) == {"s"}:
        assert isinstance(change.delta, Sparse)


def test_factors_stay_in_the_dtypes_that_hold_them(tmp_path: Path) -> None:
    half = LowRank(A=drawn(1, 1, 9).half(), B=drawn(2, 1, 8))
    brain = LowRank(A=drawn(3, 2, 9).bfloat16(), B=drawn(4, 2, 8))
    alike, _ = squash(tmp_path, [brain, brain])
    assert isinstance(alike, LowRank)
    assert (alike.A.dtype, alike.B.dtype, alike.rank) == (torch.bfloat16, torch.float32, 4)
    both, error = squash(tmp_path, [half, brain])
    assert isinstance(both, LowRank)
    assert (both.A.dtype, error) == (torch.float32, 0)
    assert torch.equal(both.A, torch.cat([half.A.float(), brain.A.float()]))


def test_factors_that_take_more_than_the_matrix_become_one(tmp_path: Path) -> None:
    deltas = [LowRank(A=drawn(at, 3, 10), B=drawn(at + 50, 3, 10)) for at in range(5)]
    few, error = squash(tmp_path, deltas[:1])
    assert (few.kind, error) == ("low-rank", 0)
    many, error = squash(tmp_path, deltas)
    assert isinstance(many, Dense)
    assert many.delta.dtype == torch.float32
    assert 1e-9 < error < 1e-7


def test_factors_of_a_matrix_too_large_for_memory_are_not_multiplied_out(tmp_path: Path) -> None:
    size = 200_000
    deltas = [LowRank(A=drawn(at, 1, size), B=drawn(at + 50, 1, size)) for at in range(3)]
    parts = files(tmp_path, deltas)
    exact, error = squashed(parts, "w")
    assert (exact.delta.rank, error) == (3, 0)
    small, error = squashed(parts, "w", rank=2)
    assert small.delta.rank == 2
    assert 0.3 < error < 0.7
    small, error = squashed(parts, "w", max_error=0.9)
    assert small.delta.rank == 1


def test_a_squash_of_sparse_changes_marks_what_any_of_them_changes(tmp_path: Path) -> None:
    first, second = torch.zeros(2, 4, 5)
    first[0, 1], first[2, 3], second[2, 3], second[3, 0] = 1, 0.5, 0.25, -3
    first[1, 1], second[1, 1] = 2, -2
    delta, error = squash(tmp_path, [Sparse.of(one, one != 0) for one in (first, second)])
    assert isinstance(delta, Sparse)
    assert error == 0
    assert delta.values.tolist() == [1, 0.75, -3]
    assert torch.equal(delta.marked(), first + second != 0)


def test_sums_that_float32_cannot_hold_have_their_rounding_told(tmp_path: Path) -> None:
    big, small = torch.full((3, 3), 1.0), torch.full((3, 3), 2.0**-30)
    delta, error = squash(tmp_path, [Dense(delta=big), Dense(delta=small)])
    assert isinstance(delta, Dense)
    assert error == pytest.approx(2.0**-30)
    marked = [Sparse.of(one, torch.eye(3).bool()) for one in (big, small)]
    assert squash(tmp_path, marked)[1] == pytest.approx(2.0**-30)


@each
@given(
    seed=st.integers(0, 99),
    rank=st.integers(1, 9),
    kind=st.sampled_from(["few factors", "many factors", "dense", "sparse"]),
)
def test_a_rank_is_kept_and_nothing_of_that_rank_is_nearer(
    tmp_path: Path, seed: int, rank: int, kind: str
) -> None:
    rows = 2 if kind == "few factors" else 20
    deltas: list[Delta] = [
        LowRank(A=drawn(seed + at, rows, 12), B=drawn(seed + at + 50, rows, 13)) for at in (0, 1)
    ]
    if kind == "dense":
        deltas[0] = Dense(delta=drawn(seed, 13, 12))
    elif kind == "sparse":
        deltas = [sparse(seed + at, 13, 12) for at in (0, 1)]
    delta, error = squash(tmp_path, deltas, rank=rank)
    assert delta.rank is not None
    assert delta.rank <= rank
    values = np.linalg.svd(summed(deltas), compute_uv=False)
    least = np.linalg.norm(values[rank:]) / np.linalg.norm(values)
    assert error == pytest.approx(least, rel=1e-4, abs=1e-6)


@each
@given(
    seed=st.integers(0, 99),
    rows=st.integers(1, 20),
    allowed=st.floats(1e-6, 0.9),
    factors=st.booleans(),
)
def test_an_error_is_kept_by_the_smallest_that_keeps_it(
    tmp_path: Path, seed: int, rows: int, allowed: float, factors: bool
) -> None:
    weight = 3.0 ** -torch.arange(rows).unsqueeze(1)
    deltas: list[Delta] = [
        LowRank(A=drawn(seed + at, rows, 20), B=drawn(seed + at + 50, rows, 30) * weight)
        for at in (0, 1)
    ]
    if not factors:
        deltas[0] = Dense(delta=torch.from_numpy(whole(deltas[0])).float())
    delta, error = squash(tmp_path, deltas, max_error=allowed)
    assert error <= allowed
    size = sum(tensor.nbytes for tensor in delta.tensors().values())
    assert size <= 20 * 30 * 4
    values = np.linalg.svd(summed(deltas), compute_uv=False)
    missed = np.sqrt(np.cumsum(values[::-1] ** 2)[::-1]) / np.linalg.norm(values)
    assert size <= int((missed > allowed - 2e-7).sum()) * (20 + 30) * 4


def test_an_exact_change_is_taken_where_no_other_is_smaller(tmp_path: Path) -> None:
    noise = [Dense(delta=fractions(seed, 9, 8)) for seed in (1, 2)]
    delta, error = squash(tmp_path, noise, max_error=1e-3)
    assert (delta.kind, error) == ("dense", 0)
    assert squash(tmp_path, noise, rank=8)[0].kind == "low-rank"
    spots = [sparse(seed, 9, 8) for seed in (1, 2)]
    assert squash(tmp_path, spots, max_error=1e-3)[0].kind == "sparse"
    short = [LowRank(A=drawn(s, 1, 9).bfloat16(), B=drawn(s + 5, 1, 8).bfloat16()) for s in (1, 2)]
    for settings_ in ({"rank": 2}, {"rank": 5}, {"max_error": 1e-3}):
        delta, error = squash(tmp_path, short, **settings_)
        assert isinstance(delta, LowRank)
        assert (delta.A.dtype, delta.rank, error) == (torch.bfloat16, 2, 0)
    # Not smaller, as its factors are in float32, but what was asked for.
    assert squash(tmp_path, short, rank=1)[0].rank == 1


def test_a_change_that_is_alone_stays_as_it_is(tmp_path: Path) -> None:
    fine = Dense(delta=torch.full((2, 2), 1 + 2.0**-50, dtype=torch.float64))
    other = written(tmp_path, 7, other=Change(delta=fine))
    change, error = squashed([other, *files(tmp_path, [fine]), other], "w")
    assert error == 0
    assert torch.equal(change.delta.tensors()["delta"], fine.delta)


def test_side_memories_are_refused_wherever_they_stand(tmp_path: Path) -> None:
    none = Activations.of([])
    routing = Routing(
        form="paper", activation=None, threshold=1.0, main="0" * 64, edits=none, others=none
    )
    beside = Change(delta=sparse(1, 4, 5), routing=routing)
    changing = Change(delta=Dense(delta=torch.ones(4, 5)))
    patches = [*files(tmp_path, [Dense(delta=torch.ones(4, 5))])]
    patches.append(written(tmp_path, 5, w=changing, memory=beside))
    with pytest.raises(PatchError, match=r"5\.safetensors: has a side memory .*merge-shards"):
        squashed(patches, "w")


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    one, other = Dense(delta=torch.ones(4, 5)), LowRank(A=torch.ones(1, 4), B=torch.ones(1, 5))
    patches = files(tmp_path, [one, one])
    with pytest.raises(PatchError, match="none of the 2 patches changes tensor v"):
        squashed(patches, "v")
    with pytest.raises(SettingError, match="a rank of at least 1, not 0"):
        squashed(patches, "w", rank=0)
    for error in (0.0, 1.0, float("nan")):
        with pytest.raises(SettingError, match="the error of a squash is between 0 and 1"):
            squashed(patches, "w", max_error=error)
    turned = written(tmp_path, 5, w=Change(delta=one, transposed=True))
    with pytest.raises(PatchError, match="in another layout"):
        squashed([*patches, turned], "w")
    third = LowRank(A=torch.ones(1, 5), B=torch.ones(1, 4))
    pairs: tuple[tuple[Delta, Delta], ...] = ((one, other), (other, third))
    for deltas in pairs:
        with pytest.raises(PatchError, match="earlier patches as"):
            squashed(files(tmp_path, deltas), "w")


def test_sums_beyond_float32_are_refused(tmp_path: Path) -> None:
    huge = Dense(delta=torch.full((2, 2), 1e300, dtype=torch.float64))
    with pytest.raises(PatchError, match=r"tensor w: the sum .* float32 cannot hold"):
        squashed(files(tmp_path, [huge, huge]), "w")
