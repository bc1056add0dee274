"""One change of a weight matrix in place of many: exact where that is small, or within an error.

The sum of low-rank changes is their factors one below the other, as long as these take less than
the matrix; beyond that, and for other kinds, it is the matrix of the float64 sums in float32. With
a rank or an error allowed it is the smallest of that and the factors of `patches.compaction`.
Errors are relative, ‖Δ′ − Σ Δ‖ / ‖Σ Δ‖ in the Frobenius norm, with Σ Δ summed in float64.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from patches.application import total_change
from patches.compaction import compacted, concatenated, factored, relative_error
from patches.deltas import Delta, Dense, LowRank, Sparse
from patches.errors import PatchError, SettingError
from patches.patch import Change, PatchFile, tensors_changed

_FLOAT32 = 4


def squashed(
    patches: Sequence[PatchFile],
    name: str,
    *,
    rank: int | None = None,
    max_error: float | None = None,
) -> tuple[Change, float]:
    """The change of tensor `name` that all `patches` make together, and its relative error.

    patches: in the order of their turns; those that do not change the tensor are passed over.
    rank: factors of at most so many rows. max_error: the smallest that has no larger error;
    with a rank beside it, or below what float32 can hold, the error may be larger, so look at it.

    Needs the memory of a few matrices, however many the patches are; of low-rank changes whose
    factors take less than the matrix, of these only. Raises PatchError if one of `patches` has a
    side memory, or none changes the tensor, and SettingError for a rank or error without sense.
    """
    _check_settings(rank, max_error)
    _check_no_memory(patches)
    used = [patch for patch in patches if name in patch.changes]
    if not used:
        raise PatchError(f"none of the {len(patches)} patches changes tensor {name}")
    transposed = tensors_changed(used)[name]
    if len(used) == 1 and rank is None and max_error is None:
        return Change(delta=used[0].delta(name), transposed=transposed), 0.0
    delta: Delta
    factors = _factors(used, name)
    if factors is None:
        total = total_change(used, name)
        assert total is not None
        sparse = all(patch.changes[name].kind == Sparse.kind for patch in used)
        delta, error = _of_matrix(total, name, sparse=sparse, rank=rank, max_error=max_error)
    else:
        delta, error = _of_factors(factors, rank=rank, max_error=max_error)
    return Change(delta=delta, transposed=transposed), error


def _check_settings(rank: int | None, max_error: float | None) -> None:
    if rank is not None and rank < 1:
        raise SettingError(f"a squash has a rank of at least 1, not {rank}")
    if max_error is not None and not 0 < max_error < 1:
        raise SettingError(f"the error of a squash is between 0 and 1, not {max_error}")


def _check_no_memory(patches: Sequence[PatchFile]) -> None:
    for patch in patches:
        if patch.memories:
            raise PatchError(
                f"{patch.path}: has a side memory beside {', '.join(sorted(patch.memories))}, "
                "which is not added to a weight and cannot be squashed; merge side memories with "
                "ledger merge-shards, and squash the turns before and after them"
            )


def _factors(patches: Sequence[PatchFile], name: str) -> LowRank | None:
    """Σ Δ as one product, without error; None if one is of another kind, or the matrix smaller."""
    d_out, d_in = patches[0].changes[name].shape
    limit = d_out * d_in * _FLOAT32
    read: list[LowRank] = []
    size = 0
    for patch in patches:
        delta = patch.delta(name)
        if not isinstance(delta, LowRank):
            return None
        if delta.shape != (d_out, d_in):
            raise PatchError(
                f"{patch.path}: changes {name} as {delta.shape}, earlier patches as {(d_out, d_in)}"
            )
        read.append(delta)
        size += _bytes(delta)
        if size >= limit:
            return None
    # Factors of several dtypes come out in one that holds them all, and may be larger for it.
    whole = concatenated(read)
    return whole if _bytes(whole) < limit else None


def _of_factors(
    whole: LowRank, *, rank: int | None, max_error: float | None
) -> tuple[LowRank, float]:
    if rank is None and max_error is None:
        return whole, 0.0
    small, error = compacted(whole, rank=rank, max_error=max_error)
    allowed = rank is None or whole.A.shape[0] <= rank
    return (whole, 0.0) if allowed and _bytes(whole) <= _bytes(small) else (small, error)


def _of_matrix(
    total: Tensor, name: str, *, sparse: bool, rank: int | None, max_error: float | None
) -> tuple[Delta, float]:
    """total: (d_out, d_in), float64."""
    values = total.float()
    if not torch.isfinite(values).all():
        raise PatchError(
            f"tensor {name}: the sum of the changes has numbers that float32 cannot hold; squash "
            "fewer turns"
        )
    whole: Delta = Sparse.of(values, values != 0) if sparse else Dense(delta=values)
    rounding = relative_error(values.double() - total, total)
    if rank is None and max_error is None:
        return whole, rounding
    small, error = factored(total, rank=rank, max_error=max_error)
    return (whole, rounding) if rank is None and _bytes(whole) <= _bytes(small) else (small, error)


def _bytes(delta: Delta) -> int:
    return sum(tensor.numel() * tensor.itemsize for tensor in delta.tensors().values())
