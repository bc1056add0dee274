"""Intervals and paired comparisons: their laws, and that they are as sure as they say."""

import math
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import intervals
from ledger.intervals import mean_interval, paired, summary_intervals
from patches import evaluation
from patches.evaluation import summary

VALUES = st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=30)


@given(values=VALUES, seed=st.integers(0, 9))
@settings(deadline=None)
def test_an_interval_holds_the_mean_and_stays_within_the_values(
    values: list[float | None], seed: int
) -> None:
    known = [value for value in values if value is not None]
    found = mean_interval(values, seed=seed)
    if len(known) < 2:
        assert found is None
        return
    assert found is not None
    mean = sum(known) / len(known)
    assert found.low <= mean + 1e-12
    assert mean - 1e-12 <= found.high
    assert min(known) - 1e-12 <= found.low
    assert found.high <= max(known) + 1e-12
    assert found == mean_interval(values, seed=seed)


def test_stability_is_drawn_by_edits_and_counted_by_tokens() -> None:
    assert intervals.TOKENS == evaluation.TOKENS
    assert intervals.STABILITY in evaluation.METRICS
    rows: list[evaluation.Scores] = [
        {**dict.fromkeys(evaluation.METRICS), "stability": float(i % 2), evaluation.TOKENS: tokens}
        for i, tokens in enumerate([1.0, 9.0] * 20)
    ]
    found = summary_intervals(rows, seed=0)
    assert [*found] == ["stability"]
    mean = summary(rows)["stability"]
    assert mean == pytest.approx(0.9)
    assert found["stability"].low < 0.9 < found["stability"].high
    assert found["stability"].low > 0.8


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    draw = np.random.default_rng(1)
    held = 0
    for seed in range(300):
        found = mean_interval(draw.binomial(1, 0.7, 80).astype(float).tolist(), seed=seed)
        assert found is not None
        held += found.low <= 0.7 <= found.high
    assert 0.90 <= held / 300 <= 0.98


@given(
    items=st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.integers(1, 9)), min_size=1, max_size=30
    ),
    seed=st.integers(0, 9),
)
@settings(deadline=None)
def test_the_other_way_round_everything_is_the_other_way_round(
    items: list[tuple[float, float, int]], seed: int
) -> None:
    a, b, weights = zip(*items, strict=True)
    one = paired(a, b, weights=weights, seed=seed)
    other = paired(b, a, weights=weights, seed=seed)
    assert one.difference == pytest.approx(-other.difference)
    assert (one.better, one.worse, one.same) == (other.worse, other.better, other.same)
    assert one.better + one.worse + one.same == one.n == len(items)
    assert one.p_value == pytest.approx(other.p_value)
    assert 0 < one.p_value <= 1


def test_what_is_equal_is_no_different() -> None:
    found = paired([0.1, 0.7, None], [0.1, 0.7, 0.3], seed=0)
    assert (found.n, found.difference, found.p_value) == (2, 0, 1)
    assert found.interval == intervals.Interval(0, 0)


def test_nothing_in_common_is_told_as_nothing() -> None:
    found = paired([None, 1.0], [1.0, None], seed=0)
    assert (found.n, found.p_value, found.interval) == (0, 1, None)
    assert math.isnan(found.difference)


def test_few_differences_are_tried_in_all_ways() -> None:
    """As in a sign test: all of five the same way, either way, is 2 of 32."""
    assert paired([0.0] * 8, [1.0] * 5 + [0.0] * 3, seed=0).p_value == pytest.approx(2 / 32)


def test_sums_that_differ_by_rounding_only_count_as_equal() -> None:
    """Tenths do not cancel exactly; nothing is as likely as such a sum of nothing."""
    for copies in (1, 5):
        a, b = [0.0] * 3 * copies, [0.1, 0.2, -0.3] * copies
        assert paired(a, b, seed=0).p_value == 1
    # Three signs are alike in two of eight ways.
    b = [1e-3 + 0.1, 1e-3 + 0.2, 1e-3 + 0.4]
    assert paired([1e-3] * 3, b, seed=0).p_value == pytest.approx(2 / 8)


def test_right_and_wrong_are_compared_exactly_however_many_flip() -> None:
    """McNemar's test: 5 of 30 that flip the other way, by the binomial distribution."""
    a, b = [0.0] * 25 + [1.0] * 5 + [1.0] * 40, [1.0] * 25 + [0.0] * 5 + [1.0] * 40
    exact = 2 * sum(math.comb(30, k) for k in range(6)) / 2**30
    assert paired(a, b, seed=0).p_value == pytest.approx(exact)
    # The draws, which are for amounts that are not alike, come near it where it is not small.
    a, b = [0.0] * 30, [1.0] * 19 + [-1.0] * 10 + [-1.0 - 1e-6]
    exact = 2 * sum(math.comb(30, k) for k in range(12)) / 2**30
    assert paired(a, b, seed=0).p_value == pytest.approx(exact, abs=0.03)


def test_by_weight_an_item_counts_as_often_as_it_weighs() -> None:
    a, b, weights = [0.2, 0.5, 1.0, 0.3], [0.8, 0.5, 0.0, None], [1.0, 2.0, 3.0, 4.0]
    found = paired(a, b, weights=weights, seed=0)
    assert found.mean_a == pytest.approx((0.2 + 2 * 0.5 + 3 * 1.0) / 6)
    assert found.mean_b == pytest.approx((0.8 + 2 * 0.5) / 6)
    assert found.difference == pytest.approx(found.mean_b - found.mean_a)
    assert (found.n, found.better, found.worse, found.same) == (3, 1, 1, 1)
    # There is no way to sign 0.6 and 3 that gives a smaller sum.
    assert found.p_value == 1.0
    assert found.interval is not None
    assert found.interval.low == pytest.approx(-1)
    assert paired([0.0, 0.0], [1.0, 1.0], weights=[1.0, 0.0], seed=0).n == 1


def test_chance_is_told_from_a_difference() -> None:
    draw = np.random.default_rng(2)
    alike = [
        paired(draw.random(60).tolist(), draw.random(60).tolist(), seed=s).p_value
        for s in range(200)
    ]
    assert 0.01 <= np.mean(np.array(alike) < 0.05) <= 0.10
    a = draw.random(60)
    assert paired(a.tolist(), (a + draw.normal(0.2, 0.2, 60)).tolist(), seed=0).p_value < 0.001


def test_five_hundred_edits_take_no_time_and_twenty_thousand_no_memory() -> None:
    values = np.random.default_rng(3).random(500).tolist()
    mean_interval(values, seed=0)
    started = time.perf_counter()
    mean_interval(values, seed=0)
    assert time.perf_counter() - started < 1
    many = np.random.default_rng(3).random(20_000).tolist()
    # All draws at once would be 320 MB.
    tracemalloc.start()
    try:
        found = mean_interval(many, seed=0)
        compared = paired(many, many[::-1], seed=0)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert found is not None
    assert found.high - found.low < 0.01
    assert compared.difference == pytest.approx(0)
    assert compared.p_value == 1
