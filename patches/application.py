"""Exact application: a state is always ``round_to_dtype(W_base + Σ Δ)``, never a subtraction.

The deltas are summed in float64, in turn order, from zero; the base is added last and the sum is
rounded once. Every path (disk, live model, a run of edits) goes through these functions, so that
all of them give the same bytes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor

from patches.checkpoint import Checkpoint
from patches.dtypes import tensor_bytes, tensor_from_bytes
from patches.errors import PatchError
from patches.finite import check_weight
from patches.patch import PatchFile, tensors_changed
from patches.rounding import round_to

# Elements of the temporary float64 copies: bounds memory, and has no influence on the bits.
_PIECE = 1 << 22


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
    if matrix.shape != total.shape:
        raise PatchError(f"a change of shape {tuple(total.shape)} on a {tuple(base.shape)} tensor")
    result = torch.empty(matrix.shape, dtype=dtype, device=total.device)
    rows = max(1, _PIECE // max(1, matrix.shape[1]))
    for first in range(0, matrix.shape[0], rows):
        piece = slice(first, first + rows)
        before = matrix[piece].to(device=total.device)
        rounded = round_to(before.to(torch.float64) + total[piece], dtype)
        # Where nothing is added the base keeps its bits: −0 + 0 would be +0.
        if (zero := rounded == 0).any():
            rounded = torch.where(zero & (total[piece] == 0), before.to(dtype), rounded)
        result[piece] = rounded
    return result.reshape(base.shape)


def last_turns(patches: Sequence[PatchFile]) -> dict[str, int]:
    """By tensor, the number of the last turn among `patches` that changes it."""
    return {name: patch.header.turn for patch in patches for name in patch.changes}


def patched_bytes(
    checkpoint: Checkpoint, patches: Sequence[PatchFile]
) -> dict[str, Callable[[], bytes]]:
    """For every tensor that `patches` change, a function that builds its bytes when called.

    It raises CheckpointError where the base's tensor is not finite, and EditingError where the sum
    is not, in the base's dtype.
    """
    turns = last_turns(patches)

    def build(name: str, transposed: bool) -> bytes:
        base = base_tensor(checkpoint, name)
        total = total_change(patches, name)
        assert total is not None
        weight = patched(base, total, transposed=transposed, dtype=base.dtype)
        check_weight(name, weight, base=base, turn=turns[name])
        return tensor_bytes(weight)

    return {
        name: partial(build, name, transposed)
        for name, transposed in tensors_changed(patches).items()
    }
