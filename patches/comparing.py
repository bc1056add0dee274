"""Two states of one weight matrix, compared: how far they are apart, in numbers.

Everything is computed in float64 from the exact sums of the changes, but for `changed`, which is
about the numbers that a checkpoint stores.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from patches.application import matrix_shape, patched
from patches.deltas import LowRank
from patches.errors import PatchError
from patches.row_pieces import row_pieces

_EPSILON = torch.finfo(torch.float64).eps
# The side of a matrix from which on it is worth a product to spare its decomposition.
_LARGE = 64


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How state B of a matrix W differs from state A, with Δ_a and Δ_b their changes of the base.

    relative_norm: ‖Δ_b − Δ_a‖ / ‖W‖, in the Frobenius norm; None if the base's matrix is zero.
    rank: numerical rank of Δ_b − Δ_a.
    changed: share of the entries whose stored number differs.
    cosine: of the angle between Δ_a and Δ_b, in [-1, 1]; None if one of them is zero.
    """

    relative_norm: float | None
    rank: int
    changed: float
    cosine: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def compared(
    base: Tensor,
    total_a: Tensor | None,
    total_b: Tensor | None,
    *,
    transposed: bool,
    factors: LowRank | None = None,
) -> Compared:
    """Compare two states of the stored tensor `base`.

    total_a, total_b: Σ Δ of the states, (d_out, d_in), float64, on one device; None for no change.
    transposed: `base` is stored (d_in, d_out). factors: Δ_b − Δ_a as a product, where that is
    known; its rank takes no decomposition of a whole matrix. Beside the sums, needs the memory of
    four float64 matrices of the smaller side squared. Raises PatchError if the shapes do not fit.
    """
    matrix = base.reshape(matrix_shape(base.shape))
    totals = [total_a, total_b] if not transposed else [_turned(total_a), _turned(total_b)]
    for total in totals:
        if total is not None and total.shape != matrix.shape:
            shapes = f"shape {tuple(total.shape)} on a {tuple(base.shape)} tensor"
            raise PatchError(f"a change of {shapes}")
    whole = _length(matrix[rows].double() for rows in row_pieces(matrix.shape))
    apart = _length(_differences(totals, row_pieces(matrix.shape, _device(totals))))
    lengths = _norm(total_a), _norm(total_b)
    rounding = _EPSILON * sum(lengths)
    return Compared(
        relative_norm=apart / whole if whole else None,
        rank=_rank(totals, rounding) if factors is None else _product_rank(factors, rounding),
        changed=_changed(matrix, totals),
        cosine=_cosine(total_a, total_b, *lengths),
    )


def _turned(total: Tensor | None) -> Tensor | None:
    return None if total is None else total.T


def _device(totals: list[Tensor | None]) -> torch.device:
    return next((total.device for total in totals if total is not None), torch.device("cpu"))


def _changed(matrix: Tensor, totals: list[Tensor | None]) -> float:
    """The share of the numbers of a stored matrix that differ; totals: in its layout."""
    if not matrix.numel():
        return 0.0
    count = 0
    for rows in row_pieces(matrix.shape, _device(totals)):
        first, second = (
            matrix[rows]
            if total is None
            else patched(matrix[rows], total[rows], transposed=False, dtype=matrix.dtype).cpu()
            for total in totals
        )
        count += int((first != second).sum())
    return count / matrix.numel()


def _differences(totals: list[Tensor | None], pieces: Iterable[slice]) -> Iterator[Tensor]:
    """Δ_b − Δ_a in pieces of rows; of no changes none. The sign plays no part."""
    a, b = totals
    for rows in pieces:
        if a is not None and b is not None:
            yield b[rows] - a[rows]
        elif (one := b if a is None else a) is not None:
            yield one[rows]


def _length(pieces: Iterable[Tensor]) -> float:
    """The Frobenius norm of all together."""
    return math.hypot(*(float(torch.linalg.vector_norm(piece)) for piece in pieces))


def _rank(totals: list[Tensor | None], rounding: float) -> int:
    """The singular values of Δ_b − Δ_a above the rounding errors: those of a decomposition, and
    `rounding`, those of the two sums, which remain where equal parts of them cancel.

    By way of a QR decomposition, so that only a matrix of the smaller side is decomposed. That of
    ΔᵀΔ would lose the singular values below 10^-8 of the largest; where all are above it shows that
    the rank is full, in a tenth of the time.
    """
    shape = next((total.shape for total in totals if total is not None), None)
    if shape is None or not min(shape):
        return 0
    tall = totals if shape[0] >= shape[1] else [_turned(total) for total in totals]
    longer, side = max(shape), min(shape)
    if side >= _LARGE and _is_full(tall, longer, side, rounding):
        return side
    # In pieces: the factor R of the rows so far, above the next ones, has the R of all.
    step = longer if longer <= 2 * side else max(1, side // 2)
    triangle = None
    for piece in _differences(tall, (slice(f, f + step) for f in range(0, longer, step))):
        rows = piece if triangle is None else torch.cat([triangle, piece])
        triangle = torch.linalg.qr(rows, mode="r").R
    assert triangle is not None
    return _above(torch.linalg.svdvals(triangle), longer, rounding)


def _above(values: Tensor, longer: int, rounding: float) -> int:
    """How many singular values, the largest first, are no rounding errors."""
    if not values.numel():
        return 0
    return int((values > max(_EPSILON * longer * float(values[0]), rounding)).sum())


def _is_full(tall: list[Tensor | None], longer: int, side: int, rounding: float) -> bool:
    """Whether ΔᵀΔ, less all that could be an error, is positive definite: then no singular value
    is zero. False says nothing."""
    square = torch.zeros(side, side, dtype=torch.float64, device=_device(tall))
    for piece in _differences(tall, (slice(f, f + side) for f in range(0, longer, side))):
        square.addmm_(piece.T, piece)
    # The squared Frobenius norm bounds that of every error.
    norm = float(square.diagonal().sum())
    zero = max(_EPSILON * longer * math.sqrt(norm), rounding)
    square.diagonal().sub_(zero**2 + 4 * (longer + side) * _EPSILON * norm)
    return int(torch.linalg.cholesky_ex(square).info) == 0


def _product_rank(factors: LowRank, rounding: float) -> int:
    """The same of Bᵀ A: the product of the factors R of Aᵀ and Bᵀ has its singular values."""
    a, b = (torch.linalg.qr(one.double().T, mode="r").R for one in (factors.A, factors.B))
    return _above(torch.linalg.svdvals(b @ a.T), max(factors.shape), rounding)


def _norm(total: Tensor | None) -> float:
    return 0.0 if total is None else float(torch.linalg.vector_norm(total))


def _cosine(
    total_a: Tensor | None, total_b: Tensor | None, length_a: float, length_b: float
) -> float | None:
    if total_a is None or total_b is None or not (length_a and length_b):
        return None
    product = float(torch.dot(total_a.flatten(), total_b.flatten()))
    return max(-1.0, min(1.0, product / (length_a * length_b)))
