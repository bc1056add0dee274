"""The one rounding of every application, against exact rational arithmetic."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

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
