"""Some of many, for charts that would be too small for all."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, at even distances, with the first and the last."""
    if len(items) <= most:
        return list(items)
    if most < 2:
        return list(items[-1:]) if most == 1 else []
    return [items[place * (len(items) - 1) // (most - 1)] for place in range(most)]
