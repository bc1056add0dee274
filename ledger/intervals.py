"""How sure a score is: intervals by the bootstrap, and the comparison of two states edit by edit.

Edits are the items that are drawn again, with replacement: what is told of a set of edits is to
hold for others of its kind. Two states are compared on the same edits, so what one edit is easier
than another by falls out. With a handful of items, or where all are equal, the bootstrap knows of
no others, and its intervals are too narrow.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
STABILITY, TOKENS = "stability", "locality_tokens"
"""As `patches.evaluation` has them, which takes torch along."""
_DRAWS = 2000
# Signs of so few differences are all tried.
_EXACT = 12
# Numbers drawn at once.
_TOGETHER = 2_000_000
# Of the largest sum that there could be: what is nearer than this is taken as equal, as it may come
# out otherwise by rounding.
_ROUNDING = 1e-9

_Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """From `low` to `high`."""

    low: float
    high: float

    def to_json(self) -> list[float]:
        return [self.low, self.high]


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two rows of values of the same n items, b against a; means are by the items' weights.

    difference: mean of b − a, with its interval. better, worse, same: items of which b is larger,
    smaller, equal. p_value: how often a difference that large, either way, comes about if the two
    are exchangeable item by item (sign-flip test). Exact where at most 12 items differ, or all by
    the same amount, as right and wrong do (McNemar's test); else by 2,000 draws, which count what
    was seen as one more: it is at least 1/2,001. Without an item, means are NaN and p is 1.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    interval: Interval | None
    better: int
    worse: int
    same: int
    p_value: float

    def to_json(self) -> dict[str, Any]:
        """Without an item, means are null."""
        told = {**asdict(self), "interval": self.interval and self.interval.to_json()}
        return told if self.n else {**told, "mean_a": None, "mean_b": None, "difference": None}


def mean_interval(
    values: Sequence[float | None],
    *,
    weights: Sequence[float] | None = None,
    seed: int,
    level: float = LEVEL,
) -> Interval | None:
    """Of the mean over the items that have a value, by `weights`; None for fewer than 2."""
    given = [1.0] * len(values) if weights is None else weights
    known = [(v, w) for v, w in zip(values, given, strict=True) if v is not None and w > 0]
    if len(known) < 2:
        return None
    numbers, weighing = np.array(known).T
    return _interval(numbers * weighing, weighing, seed=seed, level=level)


def summary_intervals(
    outcomes: Sequence[Mapping[str, float | None]], *, seed: int
) -> dict[str, Interval]:
    """By metric, for the scores of edits; stability counts by tokens, as its mean does."""
    found = {}
    tokens = [row.get(TOKENS) or 0.0 for row in outcomes]
    for metric in dict.fromkeys(name for row in outcomes for name in row if name != TOKENS):
        weights = tokens if metric == STABILITY else None
        values = [row.get(metric) for row in outcomes]
        interval = mean_interval(values, weights=weights, seed=seed)
        if interval is not None:
            found[metric] = interval
    return found


def paired(
    a: Sequence[float | None],
    b: Sequence[float | None],
    *,
    weights: Sequence[float] | None = None,
    seed: int,
    level: float = LEVEL,
) -> Paired:
    """Compare b with a over the items of which both have a value, and some weight."""
    given = [1.0] * len(a) if weights is None else weights
    both = [
        (x, y, w)
        for x, y, w in zip(a, b, given, strict=True)
        if x is not None and y is not None and w > 0
    ]
    if not both:
        nothing = math.nan
        return Paired(
            n=0, mean_a=nothing, mean_b=nothing, difference=nothing, interval=None,
            better=0, worse=0, same=0, p_value=1.0,
        )  # fmt: skip
    before, after, weighing = np.array(both, dtype=np.float64).T
    differences = after - before
    amounts = differences * weighing
    return Paired(
        n=len(both),
        mean_a=_mean(before * weighing, weighing),
        mean_b=_mean(after * weighing, weighing),
        difference=_mean(amounts, weighing),
        interval=_interval(amounts, weighing, seed=seed, level=level) if len(both) > 1 else None,
        better=int((differences > 0).sum()),
        worse=int((differences < 0).sum()),
        same=int((differences == 0).sum()),
        p_value=_p_value(amounts[differences != 0], seed),
    )


def _mean(amounts: _Numbers, weights: _Numbers) -> float:
    # As evaluations do it, so that their means are the very same.
    return math.fsum(amounts) / math.fsum(weights)


def _interval(amounts: _Numbers, weights: _Numbers, *, seed: int, level: float) -> Interval:
    """Percentiles of Σ amounts / Σ weights over items drawn with replacement."""
    n = len(amounts)
    draw = np.random.default_rng(seed)
    means = [
        amounts[places].sum(-1) / weights[places].sum(-1)
        for count in _portions(n)
        for places in [draw.integers(0, n, (count, n))]
    ]
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    # The mean itself is always inside, though rounding, or a single draw, may say otherwise.
    mean = _mean(amounts, weights)
    return Interval(float(min(low, mean)), float(max(high, mean)))


def _p_value(amounts: _Numbers, seed: int) -> float:
    """Two-sided, of amounts that are not 0: how often sums with other signs are as large."""
    n = len(amounts)
    sizes = abs(amounts)
    if n and np.ptp(sizes) <= _ROUNDING * sizes.max():
        return _sign_test(int((amounts > 0).sum()), n)
    # Sums that are equal but for rounding count as equal.
    seen = abs(amounts.sum()) - _ROUNDING * sizes.sum()
    if n <= _EXACT:
        ways = (np.arange(2**n)[:, None] >> np.arange(n)) & 1
        return float((abs((1 - 2 * ways) @ amounts) >= seen).mean())
    draw = np.random.default_rng(seed)
    larger = 0
    for count in _portions(n):
        signs = draw.integers(0, 2, (count, n), dtype=np.int8)
        larger += int((abs(amounts.sum() - 2 * (signs @ amounts)) >= seen).sum())
    return (larger + 1) / (_DRAWS + 1)


def _sign_test(positive: int, n: int) -> float:
    """How often n signs are at least as unequal as these: 2 · P(X ≤ fewer), X ~ B(n, ½)."""
    fewer = min(positive, n - positive)
    logarithms = (
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
        for k in range(fewer + 1)
    )
    # Never quite 0, also where it is smaller than a float can be.
    return max(min(2 * math.fsum(map(math.exp, logarithms)), 1.0), sys.float_info.min)


def _portions(n: int) -> Iterator[int]:
    """The number of draws, cut so that the numbers of one portion fit into memory."""
    most = max(_TOGETHER // n, 1)
    for start in range(0, _DRAWS, most):
        yield min(most, _DRAWS - start)
