"""What a benchmark measures: a figure, and the same figure of something to compare it with."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """value, other: in `unit`. ratio: value / other as far as there is another.

    limit: what the ratio must not be under; ceiling: what it must not be over; None: no promise.
    """

    what: str
    value: float
    unit: str
    beside: str = ""
    other: float | None = None
    limit: float | None = None
    ceiling: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.other is None else self.value / self.other

    @property
    def kept(self) -> bool:
        """Whether the promise is kept."""
        if self.ratio is None:
            return self.limit is None and self.ceiling is None
        return (self.limit is None or self.ratio >= self.limit) and (
            self.ceiling is None or self.ratio <= self.ceiling
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "beside": self.beside or None,
            "other": self.other,
            "ratio": self.ratio,
            "limit": self.limit,
            "ceiling": self.ceiling,
        }


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def median_seconds(action: Callable[[], object], *, runs: int = 3) -> float:
    """Median wall-clock time of `runs` calls."""
    return statistics.median(seconds(action) for _ in range(runs))
