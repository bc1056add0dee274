"""Exact application: a state is always ``round_to_dtype(W_base + Σ Δ)``, never a subtraction.

The deltas are summed in float64, in turn order, from zero; the base is added last and the sum is
rounded once. Every path (disk, live model, a run of edits) goes through these functions, so that
all of them give the same bytes.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor

from patches.checkpoint import Checkpoint
from patches.deltas import Dense, LowRank, Sparse
from patches.dtypes import tensor_from_bytes, tensor_view
from patches.errors import PatchError
from patches.finite import check_weight
from patches.patch import PatchFile, tensors_changed
from patches.rounding import round_to
from patches.row_pieces import row_pieces

_FLOAT64 = 8


def base_tensor(checkpoint: Checkpoint, name: str) -> Tensor:
    """Tensor `name` of the base, as stored, on the CPU."""
    stored = checkpoint.tensors.get(name)
    if stored is None:
        raise PatchError(
            f"{checkpoint.folder} has no tensor {name}, which a patch changes; "
            "is it the model that the ledger was made for?"
        )
    return tensor_from_bytes(
        checkpoint.read(name), dtype=stored.dtype, shape=stored.shape, name=name
    )


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """A stored tensor of any shape as a matrix: a vector is one row, and of more dimensions all
    but the last are rows."""
    return prod(shape[:-1]), shape[-1] if shape else 1


def total_change(
    patches: Sequence[PatchFile],
    name: str,
    *,
    device: torch.device | str = "cpu",
    start: Tensor | None = None,
) -> Tensor | None:
    """Σ Δ of tensor `name` over `patches` in their order: (d_out, d_in), float64.

    None if no patch changes it. `start`: the sum over earlier patches, added to in place.
    """
    total = start
    for patch in patches:
        info = patch.changes.get(name)
        if info is None:
            continue
        # Read first: it is checked against what the header says, which could be anything.
        delta = patch.delta(name)
        if total is None:
            total = torch.zeros(info.shape, dtype=torch.float64, device=device)
        elif tuple(total.shape) != info.shape:
            raise PatchError(
                f"{patch.path}: changes {name} as {info.shape}, earlier patches as "
                f"{tuple(total.shape)}"
            )
        delta.add_to(total)
    return total


def patched(base: Tensor, total: Tensor, *, transposed: bool, dtype: torch.dtype) -> Tensor:
    """``round(base + total)`` in `dtype`, in the layout of `base`, on the device of `total`.

    base: the stored tensor, as `matrix_shape` sees it (d_out, d_in), or (d_in, d_out) if
    `transposed`; total: (d_out, d_in), float64. Needs `total` and the result in memory, and a
    bounded piece more.
    """
    total = total.T if transposed else total
    matrix = base.reshape(matrix_shape(base.shape))
    _check_shape(total.shape, matrix, base)
    result = torch.empty(matrix.shape, dtype=dtype, device=total.device)
    for piece in row_pieces(matrix.shape, total.device):
        result[piece] = _rounded(matrix[piece].to(device=total.device), total[piece], dtype)
    return result.reshape(base.shape)


def rebuilt(base: Tensor, patches: Sequence[PatchFile], name: str, *, transposed: bool) -> Tensor:
    """``round(base + Σ Δ)`` of tensor `name` in the dtype of `base`, on the CPU.

    base: the stored tensor. The bits are those of `patched` with `total_change`; where no patch is
    of low rank, Σ Δ is never in memory as a whole.
    """
    deltas = _by_rows(patches, name)
    if not deltas:
        total = total_change(patches, name)
        assert total is not None
        return patched(base, total, transposed=transposed, dtype=base.dtype)
    matrix = base.reshape(matrix_shape(base.shape))
    result = torch.empty(matrix.shape, dtype=base.dtype)
    rows_of, rows_to = (matrix.T, result.T) if transposed else (matrix, result)
    _check_shape(deltas[0].shape, rows_of, base)
    for rows, total in _row_sums(deltas):
        rows_to[rows] = _rounded(rows_of[rows], total, base.dtype)
    return result.reshape(base.shape)


def summed(patches: Sequence[PatchFile], name: str) -> Iterator[Tensor]:
    """`total_change` of tensor `name`, which one of `patches` changes, a few rows at a time."""
    if deltas := _by_rows(patches, name):
        yield from (total for _, total in _row_sums(deltas))
        return
    whole = total_change(patches, name)
    assert whole is not None
    yield from (whole[rows] for rows in row_pieces(whole.shape))


def _by_rows(patches: Sequence[PatchFile], name: str) -> list[Dense | Sparse]:
    """The deltas of tensor `name` if their sum can be computed row by row, and they take no more
    memory than it; else none."""
    used = [patch for patch in patches if name in patch.changes]
    infos = [patch.changes[name] for patch in used]
    if len({info.shape for info in infos}) > 1 or LowRank.kind in {info.kind for info in infos}:
        return []
    deltas: list[Dense | Sparse] = []
    left = prod(infos[0].shape) * _FLOAT64
    for patch in used:
        delta = patch.delta(name)
        assert isinstance(delta, Dense | Sparse)
        left -= sum(part.nbytes for part in delta.tensors().values())
        if left < 0:
            return []
        deltas.append(delta)
    return deltas


def _row_sums(deltas: Sequence[Dense | Sparse]) -> Iterator[tuple[slice, Tensor]]:
    """Σ Δ a few rows at a time: which, and what they are, float64; added in order, from zero."""
    for parts in zip(*(delta.by_rows() for delta in deltas), strict=True):
        total = torch.zeros(parts[0][1].shape, dtype=torch.float64)
        for _, part in parts:
            total += part
        yield parts[0][0], total


def _rounded(before: Tensor, change: Tensor, dtype: torch.dtype) -> Tensor:
    """``round(before + change)`` of a few rows; change: float64."""
    rounded = round_to(before.to(torch.float64, copy=True).add_(change), dtype)
    # Where nothing is added the base keeps its bits: −0 + 0 would be +0. NaN is looked at too.
    if not rounded.abs().min() > 0:
        unmoved = (rounded == 0) & (change == 0)
        rounded = torch.where(unmoved, before.to(dtype), rounded)
    return rounded


def _check_shape(changed: Sequence[int], matrix: Tensor, base: Tensor) -> None:
    if tuple(matrix.shape) != tuple(changed):
        raise PatchError(f"a change of shape {tuple(changed)} on a {tuple(base.shape)} tensor")


def last_turns(patches: Sequence[PatchFile]) -> dict[str, int]:
    """By tensor, the number of the last turn among `patches` that changes it."""
    return {name: patch.header.turn for patch in patches for name in patch.changes}


def patched_bytes(
    checkpoint: Checkpoint, patches: Sequence[PatchFile]
) -> dict[str, Callable[[], memoryview]]:
    """For every tensor that `patches` change, a function that builds its bytes when called.

    It raises CheckpointError where the base's tensor is not finite, and EditingError where the sum
    is not, in the base's dtype.
    """
    turns = last_turns(patches)

    def build(name: str, transposed: bool) -> memoryview:
        base = base_tensor(checkpoint, name)
        weight = rebuilt(base, patches, name, transposed=transposed)
        check_weight(name, weight, base=base, turn=turns[name])
        return tensor_view(weight)

    return {
        name: partial(build, name, transposed)
        for name, transposed in tensors_changed(patches).items()
    }
