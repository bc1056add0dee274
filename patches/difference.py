"""The difference of two checkpoints of one model as changes, one tensor at a time.

For a tensor that is A in one and B in the other, the change is the smallest of a sparse and a dense
delta, in the checkpoint's dtype, float32 or float64, with which ``round(A + Δ)`` has B's bytes; or,
if an error is allowed and that is smaller still, a product of low-rank factors.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from patches.application import base_tensor, matrix_shape, patched
from patches.checkpoint import Checkpoint
from patches.compaction import factored
from patches.deltas import Dense, LowRank, Sparse
from patches.dtypes import EDITABLE
from patches.errors import CheckpointError
from patches.finite import is_finite, not_finite
from patches.patch import Change
from patches.row_pieces import row_pieces

_FLOAT32 = 4
_BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, kw_only=True, eq=False)
class Difference:
    """How one tensor differs.

    change: None where no sum gives it: A and B differ in the signs of zeros only.
    error: ‖Δ − (B − A)‖ / ‖B − A‖ of low-rank factors, else 0.
    unlike: how many elements of ``round(A + Δ)`` have other bits than in B, which no Δ can give: a
    zero with a minus sign, or a number too small beside A's for float64. Of low-rank factors None.
    """

    tensor: str
    change: Change | None
    error: float = 0.0
    unlike: int | None = 0


def check_form(base: Checkpoint, edited: Checkpoint) -> None:
    """CheckpointError, naming the tensor, unless both have the same names, shapes and dtypes."""
    for name in sorted(set(base.tensors) ^ set(edited.tensors)):
        has, lacks = (base, edited) if name in base.tensors else (edited, base)
        raise CheckpointError(
            f"tensor {name} is in {has.folder} but not in {lacks.folder}: a difference is that of "
            "two checkpoints of one model; save the edited one as the base is saved"
        )
    for name, stored in sorted(base.tensors.items()):
        other = edited.tensors[name]
        if (stored.dtype, stored.shape) != (other.dtype, other.shape):
            raise CheckpointError(
                f"tensor {name} is {stored.dtype} {list(stored.shape)} in {base.folder} and "
                f"{other.dtype} {list(other.shape)} in {edited.folder}; save the edited model in "
                "the base's dtype and form"
            )


def changed_tensors(
    base: Checkpoint, *, base_digests: Mapping[str, str], edited_digests: Mapping[str, str]
) -> list[str]:
    """Names of the tensors whose bytes differ, sorted; both checkpoints have the same form.

    Raises CheckpointError, naming the tensor, if one is not of floating point.
    """
    changed = [n for n in sorted(base.tensors) if base_digests[n] != edited_digests[n]]
    for name in changed:
        dtype = base.tensors[name].dtype
        if dtype not in EDITABLE:
            raise CheckpointError(
                f"tensor {name} differs and is stored as {dtype}; only tensors of "
                f"{', '.join(EDITABLE)} can have a difference. Save it unchanged, or unquantised"
            )
    return changed


def difference(
    base: Checkpoint,
    edited: Checkpoint,
    name: str,
    *,
    transposed: bool = False,
    max_error: float | None = None,
) -> Difference:
    """How tensor `name` differs between two checkpoints, in which it has one shape and dtype.

    transposed: it is stored (d_in, d_out). max_error: what a low-rank change may have. Raises
    CheckpointError if a number is not finite.
    """
    one, other = _finite_matrix(base, name), _finite_matrix(edited, name)
    dtype, unlike = _narrowest(one, other)
    values = _values(one, other, dtype)
    count = int(values.count_nonzero())
    if not count:
        return Difference(tensor=name, change=None, unlike=unlike)
    sparse = (values.numel() + 7) // 8 + count * dtype.itemsize
    dense = values.numel() * dtype.itemsize
    if max_error is not None and len(base.tensor(name).shape) == 2:
        close = _low_rank(one, other, min(sparse, dense), max_error)
        if close is not None:
            low, error = close
            if transposed:
                low = LowRank(A=low.B, B=low.A)
            change = Change(delta=low, transposed=transposed)
            return Difference(tensor=name, change=change, error=error, unlike=None)
    del one, other  # not in memory beside the delta
    if transposed:
        values = values.T.contiguous()
    delta = Sparse.of(values, values != 0) if sparse < dense else Dense(delta=values)
    return Difference(tensor=name, change=Change(delta=delta, transposed=transposed), unlike=unlike)


def _finite_matrix(checkpoint: Checkpoint, name: str) -> Tensor:
    """A stored tensor as `matrix_shape` sees it; CheckpointError if a number is not finite."""
    tensor = base_tensor(checkpoint, name)
    if not is_finite(tensor):
        raise CheckpointError(
            f"{checkpoint.folder}: tensor {name} holds {not_finite(tensor)}; such a "
            "model cannot be recorded, repair it first"
        )
    return tensor.reshape(matrix_shape(tensor.shape))


def _pieces(before: Tensor, after: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Rows of both, a few at a time."""
    for piece in row_pieces(before.shape):
        yield piece, before[piece], after[piece]


def _narrowest(before: Tensor, after: Tensor) -> tuple[torch.dtype, int]:
    """The narrowest dtype in which Δ gives the most of B's bits back, and how many it does not."""
    dtypes = sorted({before.dtype, torch.float32, torch.float64}, key=lambda one: one.itemsize)
    unlike: dict[torch.dtype, int] = {}
    for dtype in dtypes:
        unlike[dtype] = 0
        for _, a, b in _pieces(before, after):
            total = (b.double() - a.double()).to(dtype).double()
            found = patched(a, total, transposed=False, dtype=a.dtype)
            unlike[dtype] += _differing(found, b)
        if not unlike[dtype]:
            break
    # Of equal ones the first, which is the narrowest.
    best = min(unlike, key=lambda one: unlike[one])
    return best, unlike[best]


def _differing(one: Tensor, other: Tensor) -> int:
    """How many elements have other bits."""
    bits = [tensor.view(_BITS[tensor.element_size()]) for tensor in (one, other)]
    # The quick answer first: it is nearly always the one.
    return 0 if torch.equal(*bits) else int((bits[0] != bits[1]).sum())


def _values(before: Tensor, after: Tensor, dtype: torch.dtype) -> Tensor:
    """B − A, rounded to `dtype`."""
    values = torch.empty(before.shape, dtype=dtype)
    for piece, a, b in _pieces(before, after):
        values[piece] = (b.double() - a.double()).to(dtype)
    return values


def _low_rank(
    before: Tensor, after: Tensor, size: int, max_error: float
) -> tuple[LowRank, float] | None:
    """Factors within the error that take less than `size` bytes, if there are such."""
    largest = min((size - 1) // (sum(before.shape) * _FLOAT32), min(before.shape))
    if largest < 1:
        return None
    exact = after.double() - before.double()
    low, error = factored(exact, rank=largest, max_error=max_error)
    return (low, error) if error <= max_error else None
