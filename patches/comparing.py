"""Two states of one weight matrix, compared: how far they are apart, in numbers.

Everything is computed in float64 from the exact sums of the changes, but for `changed`, which is
about the numbers that a checkpoint stores.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from patches.application import matrix_shape, patched

_EPSILON = torch.finfo(torch.float64).eps


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
    base: Tensor, total_a: Tensor | None, total_b: Tensor | None, *, transposed: bool
) -> Compared:
    """Compare two states of the stored tensor `base`.

    total_a, total_b: Σ Δ of the states, (d_out, d_in), float64, on one device; None for no change.
    transposed: `base` is stored (d_in, d_out). Needs the memory of a few float64 matrices. Raises
    PatchError if the shapes do not fit.
    """
    changed = _changed(base, total_a, total_b, transposed=transposed)
    difference = _difference(total_a, total_b)
    whole = float(torch.linalg.vector_norm(base.double()))
    lengths = _norm(total_a), _norm(total_b)
    apart = _norm(difference)
    return Compared(
        relative_norm=apart / whole if whole else None,
        rank=0 if difference is None else _rank(difference, rounding=_EPSILON * sum(lengths)),
        changed=changed,
        cosine=_cosine(total_a, total_b, *lengths),
    )


def _changed(
    base: Tensor, total_a: Tensor | None, total_b: Tensor | None, *, transposed: bool
) -> float:
    if not base.numel():
        return 0.0
    first, second = (
        base.reshape(matrix_shape(base.shape))
        if total is None
        else patched(base, total, transposed=transposed, dtype=base.dtype)
        .reshape(matrix_shape(base.shape))
        .cpu()
        for total in (total_a, total_b)
    )
    return int((first != second).sum()) / base.numel()


def _difference(total_a: Tensor | None, total_b: Tensor | None) -> Tensor | None:
    """Δ_b − Δ_a; None if nothing is changed in either."""
    if total_a is None or total_b is None:
        return total_a if total_b is None else total_b
    return total_b - total_a


def _rank(difference: Tensor, *, rounding: float) -> int:
    """The singular values above the rounding errors: those of a decomposition, and `rounding`,
    those of the two sums, which remain where equal parts of them cancel.

    By way of a QR decomposition, so that only a matrix of the smaller side is decomposed. That of
    ΔᵀΔ would take half the time, and lose the singular values below 10^-8 of the largest.
    """
    if not difference.numel():
        return 0
    tall = difference if difference.shape[0] >= difference.shape[1] else difference.T
    values = torch.linalg.svdvals(torch.linalg.qr(tall, mode="r").R)
    zero = max(_EPSILON * max(difference.shape) * float(values[0]), rounding)
    return int((values > zero).sum())


def _norm(total: Tensor | None) -> float:
    return 0.0 if total is None else float(torch.linalg.vector_norm(total))


def _cosine(
    total_a: Tensor | None, total_b: Tensor | None, length_a: float, length_b: float
) -> float | None:
    if total_a is None or total_b is None or not (length_a and length_b):
        return None
    product = float(torch.dot(total_a.flatten(), total_b.flatten()))
    return max(-1.0, min(1.0, product / (length_a * length_b)))
