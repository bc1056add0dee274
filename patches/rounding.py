"""The one rounding at the end of every application: float64 to the dtype of the weight."""

import torch
from torch import Tensor

_NARROW = (torch.bfloat16, torch.float16)
# The bits of a float64 that a float32 has no room for.
_DROPPED = (1 << 29) - 1
# The smallest normal bfloat16 as its bits, and a number whose neighbours in float64 are as far
# apart as bfloat16's up to there: 2^-133.
_SMALL = 0x0080
_ANCHOR = 1.5 * 2.0**-81


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
    rounded = _to_odd(exact).to(dtype)
    if dtype == torch.bfloat16:
        _round_small(exact, rounded)
    return rounded


def _to_odd(exact: Tensor) -> Tensor:
    """`exact` with the significand of a float32: cut off, and made odd where something is lost.

    On bits alone, since comparisons and float arithmetic take several times as long. NaN and
    infinity stay themselves.
    """
    bits = exact.view(torch.int64)
    # A carry into the last bit that is kept says that something is lost.
    odd = bits & _DROPPED
    odd += _DROPPED
    odd |= bits
    odd &= ~_DROPPED
    return odd.view(torch.float64)


def _round_small(exact: Tensor, rounded: Tensor) -> None:
    """Round again, in place, where bfloat16 has no normal numbers. There float32 has none either:
    its rounding would be another one. All of float16 is normal in float32."""
    if not rounded.numel():
        return
    magnitudes = rounded.view(torch.int16) & 0x7FFF
    if magnitudes.min() > _SMALL:
        return
    small = magnitudes <= _SMALL
    values = exact[small]
    rounded[small] = torch.copysign(values + _ANCHOR - _ANCHOR, values).to(rounded.dtype)
