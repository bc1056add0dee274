"""What tuning looks for: a weighted mean of three scores, with a floor under one of them.

Edit success, generalisation (on rephrasings) and stability (share of locality tokens predicted as
by the base) pull against each other. `frontier` shows what there is to choose from; an `Objective`
chooses.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from patches.errors import SettingError

Scores = Mapping[str, float | None]
METRICS = ("edit_success", "generalization", "stability")
STABILITY = "stability"

PREFERENCES: Mapping[str, tuple[int, int, int]] = {
    "balance": (1, 1, 1),
    "success": (2, 1, 1),
    "stability": (1, 1, 2),
}
"""Weights of the metrics in their order."""
SLACK = 0.02
"""So much less stability than that of the built-in settings is accepted."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """prefer: see `PREFERENCES`. floor: stability that a choice must have; None: none."""

    prefer: str
    floor: float | None = None

    def __post_init__(self) -> None:
        if self.prefer not in PREFERENCES:
            raise SettingError(f"--prefer is one of {', '.join(PREFERENCES)}, not {self.prefer!r}")

    def beside(self, references: Iterable[Scores]) -> "Objective":
        """The same with the floor just below the least stability of what is built in."""
        known = [found for one in references if (found := one.get(STABILITY)) is not None]
        return Objective(prefer=self.prefer, floor=min(known) - SLACK if known else None)

    def value(self, scores: Scores) -> float:
        """Weighted mean of the metrics that were measured, 0 to 1; 0 if none was."""
        weights = dict(zip(METRICS, PREFERENCES[self.prefer], strict=True))
        known = {name: found for name in METRICS if (found := scores.get(name)) is not None}
        if not known:
            return 0.0
        total = math.fsum(weights[name] * found for name, found in known.items())
        return total / sum(weights[name] for name in known)

    def meets(self, scores: Scores) -> bool:
        """Whether its stability is above the floor."""
        stability = scores.get(STABILITY)
        return self.floor is None or stability is None or stability >= self.floor

    def rank(self, scores: Scores) -> tuple[bool, float]:
        """To sort by; the best is the greatest."""
        return self.meets(scores), self.value(scores)


def frontier(scores: Sequence[Scores]) -> list[int]:
    """Places of those that no other is better than in one metric, and as good in the others; of
    equal ones the first."""
    points = [tuple(one.get(name) or 0.0 for name in METRICS) for one in scores]
    return [
        place
        for place, point in enumerate(points)
        if point not in points[:place] and not any(_beats(other, point) for other in points)
    ]


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))
