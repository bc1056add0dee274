"""What somebody who is responsible for an edited model should look at first."""

from collections.abc import Iterator, Mapping
from typing import Any

from ledger.metrics import SUCCESS
from ledger.overview.forgotten import Kept
from ledger.overview.timeline import Timeline
from ledger.wording import counted, is_number

RIGHT, UNCHANGED = 0.8, 0.8
"""Shares of edits answered right, and of other answers unchanged, below which they are told."""
_MOST = 5


def concerns(told: Timeline, kept: Kept, *, overridden: int) -> list[str]:
    """A sentence for each, the gravest first; none is good news.

    overridden: edits in force that have another answer than a later one.
    """
    return [
        *_weak_turns(told),
        *_whole(told),
        *_forgotten(kept),
        *_overridden(overridden),
    ]


def right(scores: Mapping[str, Any]) -> float | None:
    """The share of edits whose whole answer is right; of their answers' tokens where that was not
    recorded."""
    exact = scores.get("exact_match")
    return _number(scores, SUCCESS) if exact is None else _number(scores, "exact_match")


def _number(scores: Mapping[str, Any], metric: str) -> float | None:
    """A score; None for what is none, since scores may come from elsewhere."""
    value = scores.get(metric)
    return value if is_number(value) else None


def _weak_turns(told: Timeline) -> Iterator[str]:
    shares = ((right(point.state), point) for point in told.points if point.in_force)
    weak = [(share, point) for share, point in shares if share is not None and share < RIGHT]
    weak.sort(key=lambda pair: (pair[0], pair[1].turn))
    for share, point in weak[:_MOST]:
        yield (
            f"turn {point.turn} ({counted(point.edits, 'edits')}) did not take: {_percent(share)} "
            "of its own edits were answered right after it"
        )
    if len(weak) > _MOST:
        yield f"nor did {counted(len(weak) - _MOST, 'more turns')}"


def _whole(told: Timeline) -> Iterator[str]:
    if not told.points or not told.points[-1].edits_in_force:
        return
    newest = max(told.wholes, key=lambda one: one.turn, default=None)
    if newest is None or newest.turn != told.points[-1].turn:
        since = f" since turn {newest.turn}" if newest else ""
        yield f"the edits in force have not been scored together{since}: ledger evaluate"
        return
    share, stable = right(newest.state), _number(newest.state, "stability")
    if share is not None and share < RIGHT:
        yield f"{_percent(share)} of the edits in force are answered right"
    if stable is not None and stable < UNCHANGED:
        yield (
            f"{_percent(1 - stable)} of the tokens of answers that should not change have changed "
            "(stability on locality prompts)"
        )


def _percent(share: float) -> str:
    return f"{share * 100:.0f} %"


def _forgotten(kept: Kept) -> Iterator[str]:
    if kept.lost:
        verb = "was right when it was made and is" if kept.lost == 1 else "were right and are"
        yield f"{counted(kept.lost, 'edits')} {verb} wrong now"


def _overridden(count: int) -> Iterator[str]:
    if count:
        verb = "has" if count == 1 else "have"
        yield f"{counted(count, 'edits')} in force {verb} another answer than a later edit"
