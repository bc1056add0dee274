"""The one rounding at the end of every application: float64 to the dtype of the weight."""

import torch
from torch import Tensor

_NARROW = (torch.bfloat16, torch.float16)


def round_to(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """`exact` (float64, any shape) rounded once, to nearest even, to the floating `dtype`.

    A plain ``exact.to(torch.bfloat16)`` goes through float32 and so rounds twice: about one
    element in 100,000 comes out one unit off. Rounding to float32 *to odd* first makes the
    second rounding correct (Boldo and Melquiond, "When double rounding is odd", 2005).
    """
    if exact.dtype != torch.float64:
        raise TypeError(f"round_to takes float64, not {exact.dtype}")
    if dtype not in _NARROW:
        return exact.to(dtype)
    return _float32_to_odd(exact).to(dtype)


def _float32_to_odd(exact: Tensor) -> Tensor:
    nearest = exact.to(torch.float32)
    back = nearest.to(torch.float64)
    inexact = (back != exact) & torch.isfinite(nearest)
    away_from_zero = inexact & (back.abs() > exact.abs())
    # Floats of one sign are ordered as their bits: one less is the neighbour nearer to zero.
    bits = nearest.view(torch.int32)
    bits -= away_from_zero.to(torch.int32)
    bits |= inexact.to(torch.int32)
    return bits.view(torch.float32)
