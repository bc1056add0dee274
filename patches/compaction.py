"""Smaller factors for a low-rank delta, and factors for a dense one: pure algebra in float64.

The best approximation of rank r of a matrix Δ, in the Frobenius norm, keeps its r largest singular
values (Eckart and Young, 1936); what it misses is √(Σ of the squares of the others). Errors are
relative, ‖Δ − Δ_r‖ / ‖Δ‖, and those of the factors that are returned: their rounding is part of it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from patches.deltas import Delta, Dense, LowRank

_EPSILON = torch.finfo(torch.float64).eps
# ‖Δ‖ · 2^-23 is the most that rounding two balanced float32 factors adds. To narrow ones it adds at
# random: 0.6 units in the last place, whatever the matrix.
_ROUNDING = {torch.float32: 2.0**-23}
_RANDOM = {torch.bfloat16: 0.6 * 2.0**-8, torch.float16: 0.6 * 2.0**-11}


def concatenated(deltas: Sequence[LowRank]) -> LowRank:
    """Σ Δ of low-rank deltas of one shape, exactly: their factors one below the other."""
    return LowRank(A=torch.cat([one.A for one in deltas]), B=torch.cat([one.B for one in deltas]))


def compacted(
    delta: LowRank,
    *,
    rank: int | None = None,
    max_error: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[LowRank, float]:
    """`delta` with fewer rows in its factors, and the relative error of that.

    rank: at most so many rows. max_error: as few rows as keep the error within it, but never more
    than `rank`. Neither: exact, and only rows beyond min(d_out, d_in) are saved. dtype: of the
    factors that come out, A (r, d_in) and B (r, d_out).

    With Aᵀ = Q_a R_a and Bᵀ = Q_b R_b, Δ = Q_b (R_b R_aᵀ) Q_aᵀ: the singular values are those of
    the small core in the middle.
    """
    kept, _ = delta.A.shape
    if max_error is None and kept <= min(*delta.shape, kept if rank is None else rank):
        return _rounded(delta, dtype)
    if max_error is None and rank is None:
        return factored(_product(delta), dtype=dtype)
    left, core_left = torch.linalg.qr(delta.B.double().T)
    right, core_right = torch.linalg.qr(delta.A.double().T)
    u, values, v = torch.linalg.svd(core_left @ core_right.T, full_matrices=False)
    noise = values.numel() * _EPSILON
    size = _size(values, noise, rank=rank, max_error=max_error, dtype=dtype)
    roots = values[:size].sqrt().unsqueeze(1)
    small = LowRank(
        A=(roots * (v[:size] @ right.T)).to(dtype), B=(roots * (left @ u[:, :size]).T).to(dtype)
    )
    return small, _distance(delta, small)


def narrowed(delta: Delta, max_error: float, dtype: torch.dtype) -> tuple[Delta, float]:
    """The form of `delta` that takes the fewest bytes and differs from it by at most `max_error`,
    relative, and by how much it does.

    As it is; fewer rows in its factors, in `dtype`, that of the model, or where this would be too
    coarse in float32; or the whole matrix in `dtype`. Changes of other kinds stay as they are.
    """
    found: list[tuple[Delta, float]] = [(delta, 0.0)]
    narrow = dtype if max_error > _RANDOM.get(dtype, 0.0) else torch.float32
    if isinstance(delta, LowRank):
        found.append(compacted(delta, max_error=max_error, dtype=narrow))
    if isinstance(delta, Dense):
        found.append(factored(delta.delta, max_error=max_error, dtype=narrow))
    if isinstance(delta, LowRank | Dense):
        exact = _product(delta) if isinstance(delta, LowRank) else delta.delta.double()
        whole = exact.to(dtype)
        found.append((Dense(delta=whole), relative_error(exact - whole.double(), exact)))
    return min(
        ((one, error) for one, error in found if error <= max_error),
        key=lambda each: sum(part.nbytes for part in each[0].tensors().values()),
    )


def factored(
    matrix: Tensor,
    *,
    rank: int | None = None,
    max_error: float | None = None,
    dtype: torch.dtype = torch.float32,
) -> tuple[LowRank, float]:
    """Factors of a dense `matrix` (d_out, d_in), and the relative error of their product.

    rank, max_error, dtype: as in `compacted`. Neither: exact, A = Δ and B = I, or A = I and B = Δᵀ
    where that is smaller.

    The singular vectors are the eigenvectors of ΔᵀΔ (or ΔΔᵀ, whichever is smaller), several times
    faster than a singular value decomposition. Singular values below about 10^-6 of the largest
    are lost in it; where `max_error` asks for them, Δ is factored exactly.
    """
    exact = matrix.double()
    if rank is None and max_error is None:
        return _whole(exact, dtype)
    wide = exact.shape[0] < exact.shape[1]
    squares, vectors = torch.linalg.eigh(exact @ exact.T if wide else exact.T @ exact)
    values, vectors = squares.clamp(min=0).sqrt().flip(0), vectors.flip(1)
    noise = (values.numel() * _EPSILON) ** 0.5
    size = _size(values, noise, rank=rank, max_error=max_error, dtype=dtype)
    basis = vectors[:, :size]
    roots = values[:size].sqrt().unsqueeze(1)
    others = (exact.T @ basis if wide else exact @ basis).T / roots
    inner = roots * basis.T
    a, b = (others, inner) if wide else (inner, others)
    small = LowRank(A=a.to(dtype), B=b.to(dtype))
    error = relative_error(exact - _product(small), exact)
    if rank is None and max_error is not None and error > max_error:
        return _whole(exact, dtype)
    return small, error


def _size(
    values: Tensor,
    noise: float,
    *,
    rank: int | None,
    max_error: float | None,
    dtype: torch.dtype,
) -> int:
    """How many of the singular values, the largest first, to keep.

    noise: below this share of the largest they are zero but for rounding.
    """
    if not values.numel() or not values[0]:
        return 0
    size = int((values > values[0] * noise).sum())
    if max_error is not None:
        missed = values.square().flip(0).cumsum(0).flip(0).sqrt()
        random = min(_RANDOM.get(dtype, 0.0), max_error)
        share = (max_error**2 - random**2) ** 0.5 - _ROUNDING.get(dtype, 0.0)
        allowed = share * missed[0]
        size = min(size, int((missed > allowed).sum()))
    return size if rank is None else min(size, rank)


def _whole(exact: Tensor, dtype: torch.dtype) -> tuple[LowRank, float]:
    d_out, d_in = exact.shape
    unit = torch.eye(min(d_out, d_in), dtype=dtype)
    a, b = (exact.to(dtype), unit) if d_out <= d_in else (unit, exact.T.to(dtype))
    rounded = a if d_out <= d_in else b.T
    return LowRank(A=a, B=b), relative_error(exact - rounded.double(), exact)


def _rounded(delta: LowRank, dtype: torch.dtype) -> tuple[LowRank, float]:
    rounded = LowRank(A=delta.A.to(dtype), B=delta.B.to(dtype))
    same = torch.equal(rounded.A.double(), delta.A.double()) and torch.equal(
        rounded.B.double(), delta.B.double()
    )
    return rounded, 0.0 if same else _distance(delta, rounded)


def _distance(delta: LowRank, other: LowRank) -> float:
    """‖Δ − Δ′‖ / ‖Δ‖, from the factors alone: with both below each other, ‖R_b R_aᵀ‖."""
    both = LowRank(
        A=torch.cat([delta.A.double(), other.A.double()]),
        B=torch.cat([delta.B.double(), -other.B.double()]),
    )
    return relative_error(_core(both), _core(delta))


def _core(delta: LowRank) -> Tensor:
    """A small matrix with the singular values of Δ."""
    left, right = (torch.linalg.qr(f.double().T, mode="r").R for f in (delta.B, delta.A))
    core: Tensor = left @ right.T
    return core


def _product(delta: LowRank) -> Tensor:
    """Δ (d_out, d_in), float64."""
    return delta.B.double().T @ delta.A.double()


def relative_error(difference: Tensor, whole: Tensor) -> float:
    """‖difference‖ / ‖whole‖ of two matrices; 0 if `whole` is zero."""
    norm = float(torch.linalg.matrix_norm(whole))
    return float(torch.linalg.matrix_norm(difference)) / norm if norm else 0.0
