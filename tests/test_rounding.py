"""The one rounding of every application, against exact rational arithmetic."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from patches.rounding import round_to

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# dtype → bits of the significand, exponent of the smallest normal number.
FORMATS = {torch.bfloat16: (8, -126), torch.float16: (11, -14), torch.float32: (24, -126)}


def nearest(exact: float, dtype: torch.dtype) -> float:
    """`exact` rounded to nearest, ties to even, computed with fractions."""
    if exact == 0 or not math.isfinite(exact):
        return exact
    bits, smallest = FORMATS[dtype]
    exponent = max(math.frexp(exact)[1] - 1, smallest)
    unit = Fraction(2) ** (exponent - bits + 1)
    # Python rounds fractions half to even.
    rounded = round(Fraction(abs(exact)) / unit) * unit
    magnitude = math.inf if rounded > Fraction(torch.finfo(dtype).max) else float(rounded)
    return math.copysign(magnitude, exact)


def same(one: float, other: float) -> bool:
    """Equal as numbers, signs of zero included."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return one == other and math.copysign(1, one) == math.copysign(1, other)


def rounded(value: float, dtype: torch.dtype) -> float:
    result = round_to(torch.tensor([value], dtype=torch.float64), dtype)
    assert result.dtype == dtype
    return result.double().item()


@st.composite
def beside_ties(draw: st.DrawFn) -> tuple[float, torch.dtype]:
    """A number halfway between two 16-bit neighbours, or a few float64 units off it."""
    dtype = draw(st.sampled_from((torch.bfloat16, torch.float16)))
    infinity = 0x7F80 if dtype == torch.bfloat16 else 0x7C00
    bits = draw(st.integers(min_value=0, max_value=infinity - 1))
    pair = torch.tensor([bits, bits + 1], dtype=torch.int16).view(dtype).double().tolist()
    if math.isinf(pair[1]):
        pair[1] = 2 * pair[0] - torch.tensor([bits - 1], dtype=torch.int16).view(dtype).item()
    value = (pair[0] + pair[1]) / 2
    for _ in range(draw(st.integers(min_value=0, max_value=2))):
        value = math.nextafter(value, draw(st.sampled_from((-math.inf, math.inf))))
    return math.copysign(value, draw(st.sampled_from((-1.0, 1.0)))), dtype


@given(value=st.floats(width=64), dtype=st.sampled_from(DTYPES))
@example(value=65519.99999, dtype=torch.float16)
@example(value=65520.0, dtype=torch.float16)
@example(value=3.3961775292304601e38, dtype=torch.bfloat16)
@example(value=5e-324, dtype=torch.bfloat16)
@example(value=-5e-324, dtype=torch.float16)
def test_any_float64_is_rounded_once_and_to_nearest(value: float, dtype: torch.dtype) -> None:
    assert same(rounded(value, dtype), nearest(value, dtype))


@given(case=beside_ties())
def test_ties_go_to_even_and_their_neighbours_to_their_own_side(
    case: tuple[float, torch.dtype],
) -> None:
    value, dtype = case
    assert same(rounded(value, dtype), nearest(value, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, -0.0, math.inf, -math.inf, math.nan])
def test_special_numbers_stay_themselves(value: float, dtype: torch.dtype) -> None:
    assert same(rounded(value, dtype), value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_and_smallest_numbers_survive_and_beyond_is_infinite_or_zero(
    dtype: torch.dtype,
) -> None:
    largest = torch.finfo(dtype).max
    smallest = math.ldexp(1, FORMATS[dtype][1] - FORMATS[dtype][0] + 1)
    assert rounded(largest, dtype) == largest
    assert rounded(-2 * largest, dtype) == -math.inf
    assert rounded(smallest, dtype) == smallest
    assert rounded(smallest / 2, dtype) == 0
    assert rounded(math.nextafter(smallest / 2, 1), dtype) == smallest


def test_a_plain_conversion_rounds_twice_where_round_to_does_not() -> None:
    # Just above the middle of 1 and its bfloat16 neighbour: float32 drops the 2^-40.
    value = 1 + 2**-8 + 2**-40
    assert torch.tensor(value, dtype=torch.float64).to(torch.bfloat16).item() == 1.0
    assert rounded(value, torch.bfloat16) == 1 + 2**-7


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_shape_and_input_are_kept(dtype: torch.dtype) -> None:
    exact = torch.randn(3, 0, 2, dtype=torch.float64)
    assert round_to(exact, dtype).shape == (3, 0, 2)
    exact = torch.full((2, 3), 1 / 3, dtype=torch.float64)
    before = exact.clone()
    assert round_to(exact, dtype).shape == (2, 3)
    assert torch.equal(exact, before)


def test_what_is_already_rounded_is_refused() -> None:
    with pytest.raises(TypeError, match=r"float64, not torch\.float32"):
        round_to(torch.ones(2), torch.bfloat16)


def by_float32(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """Rounding to float32 to odd by comparisons, and then to `dtype`: the definition in floats."""
    nearest = exact.to(torch.float32)
    back = nearest.to(torch.float64)
    inexact = (back != exact) & torch.isfinite(nearest)
    bits = nearest.view(torch.int32)
    bits -= (inexact & (back.abs() > exact.abs())).to(torch.int32)
    bits |= inexact.to(torch.int32)
    return bits.view(torch.float32).to(dtype)


BITS = st.integers(0, 2**64 - 1)
# Numbers of any size that a weight may have, those beside the ties of 16 bits, and below normal.
NEAR = st.builds(
    lambda sign, exponent, high, low: sign << 63 | exponent << 52 | high << 28 | low,
    st.integers(0, 1),
    st.sampled_from([0, 1, 870, 873, 874, 896, 897, 990, 998, 1023, 1038, 1150, 1151, 2046, 2047]),
    st.integers(0, 2**24 - 1),
    st.sampled_from([0, 1, 2**27, 2**28 - 1]),
)


@given(bits=st.lists(BITS | NEAR, min_size=1, max_size=50), dtype=st.sampled_from(DTYPES[:2]))
def test_bits_are_those_of_rounding_to_odd_in_floats(bits: list[int], dtype: torch.dtype) -> None:
    signed = [one - 2**64 if one >= 2**63 else one for one in bits]
    exact = torch.tensor(signed, dtype=torch.int64).view(torch.float64)
    found, expected = round_to(exact, dtype), by_float32(exact, dtype)
    finite = ~expected.isnan()
    assert torch.equal(found.isnan(), expected.isnan())
    assert torch.equal(found[finite].view(torch.int16), expected[finite].view(torch.int16))


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_every_16_bit_number_and_every_middle_between_two_is_rounded_as_defined(
    dtype: torch.dtype,
) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype).double()
    every = every[every.isfinite()].sort().values
    middles = (every[1:] + every[:-1]) / 2
    beside = [torch.nextafter(middles, torch.tensor(s * math.inf).double()) for s in (-1, 1)]
    exact = torch.cat([every, middles, *beside])
    found, expected = round_to(exact, dtype), by_float32(exact, dtype)
    assert torch.equal(found.view(torch.int16), expected.view(torch.int16))
