"""Finite weights: NaN and infinities are refused in every tensor that edits change.

An infinity or NaN in a base's tensor stays one whatever is added to it, so an edit there could be
neither exact nor undone by looking; one that a sum brings about would break the model. Tensors that
no edit changes may hold them: nothing is computed with their numbers.
"""

import torch
from torch import Tensor

from patches.errors import CheckpointError, EditingError


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is NaN or infinite: one pass, and no copy, unlike `torch.isfinite`."""
    if not tensor.numel():
        return True
    # NaN is passed on by both.
    least, most = torch.aminmax(tensor)
    return bool(torch.isfinite(least)) and bool(torch.isfinite(most))


def not_finite(tensor: Tensor) -> str:
    """How many elements are NaN or infinite, for people."""
    count = tensor.numel() - int(torch.isfinite(tensor).sum())
    return f"{count:,} {'number that is' if count == 1 else 'numbers that are'} not finite"


def check_base(name: str, base: Tensor) -> None:
    """CheckpointError if tensor `name` of the base, which is to be edited, is not finite."""
    if not is_finite(base):
        raise CheckpointError(
            f"tensor {name} of the base holds {not_finite(base)}, so it cannot be "
            "edited; edit other tensors (--modules), or begin with a repaired base: ledger init"
        )


def check_weight(name: str, weight: Tensor, *, base: Tensor, turn: int | None) -> None:
    """Refuse a sum of base and changes that is not finite after rounding, as `weight`.

    base: the stored tensor. turn: the last one that changes it, where that is known. Raises
    CheckpointError if the base is to blame, else EditingError, which names tensor, turn and dtype.
    """
    if is_finite(weight):
        return
    check_base(name, base)
    dtype = str(weight.dtype).removeprefix("torch.")
    patch = "these patches" if turn is None else f"the patch of turn {turn}"
    raise EditingError(
        f"tensor {name} would hold {not_finite(weight)} with {patch} on top: "
        f"beyond the {torch.finfo(weight.dtype).max:.5g} of {dtype}; lower the rate of the turn, "
        "or leave it out"
    )
