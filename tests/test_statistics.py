"""Running statistics: exact moments, exact merging, and the published code's own formula."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from patches.editors import statistics
from patches.editors.statistics import Moments

WIDTH = 3
EPSILON = torch.finfo(torch.float32).eps


def draw_rows(count: int, seed: int, scale: float = 1.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    offset = torch.randn(WIDTH, generator=draw, dtype=torch.float64)
    return offset * scale + torch.randn(count, WIDTH, generator=draw, dtype=torch.float64)


BATCH = st.builds(draw_rows, st.integers(1, 9), st.integers(0, 999), st.sampled_from((1.0, 50.0)))
STREAM = st.lists(BATCH, min_size=1, max_size=6)


def close(one: Moments, other: Moments) -> None:
    assert one.count == other.count
    for name in ("mean", "squares", "excess"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-9, atol=1e-9)


def fold(stream: list[Tensor]) -> Moments:
    moments = Moments.of(stream[0])
    for rows in stream[1:]:
        moments = moments.merge(Moments.of(rows))
    return moments


def published(stream: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation as the released code computes them, line by line, in float64.

    Its variance of a batch of one row is NaN; here, as in the code under test, it is 0.
    """
    n = 0
    mean = torch.zeros(WIDTH, dtype=torch.float64)
    var = torch.zeros(WIDTH, dtype=torch.float64)
    for rows in stream:
        b = len(rows)
        batch_var = rows.var(0, unbiased=True) if b > 1 else torch.zeros_like(var)
        n_old = n
        n = n + b
        delta = rows.mean(0) - mean
        mean = mean + b * delta / n
        var = var + b * batch_var + n_old * b * delta**2 / n
    return mean, (var / (n - 1 + EPSILON)).sqrt()


@given(rows=BATCH)
def test_moments_of_a_batch_are_those_of_torch(rows: Tensor) -> None:
    moments = Moments.of(rows)
    assert moments.count == len(rows)
    torch.testing.assert_close(moments.mean, rows.mean(0))
    torch.testing.assert_close(moments.squares / len(rows), rows.var(0, unbiased=False))
    if len(rows) > 1:
        torch.testing.assert_close(moments.deviation("welford"), rows.std(0, unbiased=True))
        torch.testing.assert_close(moments.excess, rows.var(0, unbiased=True))


@given(stream=STREAM)
def test_merged_batches_have_the_moments_of_all_rows(stream: list[Tensor]) -> None:
    moments, rows = fold(stream), torch.cat(stream)
    assert moments.count == len(rows)
    torch.testing.assert_close(moments.mean, rows.mean(0))
    if len(rows) > 1:
        torch.testing.assert_close(moments.deviation("welford"), rows.std(0, unbiased=True))


@given(stream=st.lists(BATCH, min_size=3, max_size=6), cut=st.integers(1, 2))
def test_turns_may_be_merged_in_any_grouping(stream: list[Tensor], cut: int) -> None:
    close(fold(stream[:cut]).merge(fold(stream[cut:])), fold(stream))


@given(stream=STREAM)
def test_the_published_deviation_is_the_released_formula(stream: list[Tensor]) -> None:
    if sum(map(len, stream)) < 2:
        stream = [*stream, draw_rows(2, 0)]
    mean, deviation = published(stream)
    moments = fold(stream)
    torch.testing.assert_close(moments.mean, mean)
    torch.testing.assert_close(moments.deviation("published"), deviation, rtol=1e-6, atol=1e-9)


def test_the_published_deviation_is_larger_by_the_factor_that_the_design_states() -> None:
    moments = Moments.of(draw_rows(10, 3))
    ratio = moments.deviation("published") / moments.deviation("welford")
    torch.testing.assert_close(ratio, torch.full_like(ratio, (10 / 9) ** 0.5))


@pytest.mark.parametrize("variance", ["welford", "published"])
def test_batches_of_one_row_never_make_a_nan(variance: statistics.Variance) -> None:
    stream = [draw_rows(1, seed) for seed in range(4)]
    first = Moments.of(stream[0])
    assert not first.deviation(variance).any()
    assert not first.normalise(stream[0], variance).any()
    moments = fold(stream)
    torch.testing.assert_close(moments.deviation(variance), torch.cat(stream).std(0))
    assert torch.isfinite(moments.normalise(torch.cat(stream), variance)).all()


@given(stream=STREAM)
def test_normalised_rows_have_mean_zero_and_deviation_one(stream: list[Tensor]) -> None:
    rows = torch.cat([*stream, draw_rows(9, 1)])
    normal = Moments.of(rows).normalise(rows, "welford")
    torch.testing.assert_close(normal.mean(0), torch.zeros(WIDTH).double(), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.std(0), torch.ones(WIDTH).double(), atol=1e-5, rtol=0)


def test_a_constant_feature_is_not_divided_by_zero() -> None:
    rows = torch.full((4, WIDTH), 7.0)
    assert not Moments.of(rows).normalise(rows, "welford").any()
    assert torch.isfinite(Moments.of(rows).normalise(rows + 1, "welford")).all()


def test_a_large_mean_does_not_swallow_the_variance() -> None:
    rows = draw_rows(50, 2) + 1e8
    both = fold([rows[:20], rows[20:]])
    torch.testing.assert_close(both.deviation("welford"), (rows - 1e8).std(0), rtol=1e-6, atol=0)


def test_low_precision_rows_are_averaged_in_float64() -> None:
    rows = torch.full((300, WIDTH), 1.0, dtype=torch.bfloat16)
    rows[0] = 301
    moments = Moments.of(rows)
    assert moments.mean.dtype == moments.squares.dtype == moments.excess.dtype == torch.float64
    assert moments.mean.tolist() == [(rows[0, 0].item() + 299) / 300] * WIDTH


@given(streams=st.dictionaries(st.sampled_from(("3x4", "4x3", "12x1")), STREAM, max_size=3))
def test_statistics_survive_being_stored(streams: dict[str, list[Tensor]]) -> None:
    made = {key: fold(stream) for key, stream in streams.items()}
    again = statistics.from_tensors(statistics.to_tensors(made))
    assert again.keys() == made.keys()
    for key, moments in made.items():
        assert again[key].count == moments.count
        for name in ("mean", "squares", "excess"):
            assert torch.equal(getattr(again[key], name), getattr(moments, name))


def test_merging_statistics_goes_shape_by_shape_and_changes_neither() -> None:
    one, two, other = (Moments.of(draw_rows(4, seed)) for seed in range(3))
    earlier, later = {"a": one}, {"a": two, "b": other}
    both = statistics.merged(earlier, later)
    close(both["a"], one.merge(two))
    assert both["b"] is other
    assert earlier == {"a": one}
    assert statistics.merged({}, earlier) == earlier


def test_moments_move_as_a_whole() -> None:
    moved = Moments.of(draw_rows(3, 0)).to("meta")
    assert {moved.mean.device, moved.squares.device, moved.excess.device} == {torch.device("meta")}
    assert moved.count == 3
