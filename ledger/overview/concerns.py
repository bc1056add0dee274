"""What somebody who is responsible for an edited model should look at first."""

from collections.abc import Iterator

from ledger.overview.forgotten import Kept
from ledger.overview.timeline import Point, Timeline, Whole
from ledger.wording import counted

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


def _weak_turns(told: Timeline) -> Iterator[str]:
    weak = [point for point in told.points if point.in_force and _is_below(point, RIGHT)]
    worst = sorted(weak, key=lambda point: point.state["edit_success"])
    for point in worst[:_MOST]:
        success = point.state["edit_success"]
        yield (
            f"turn {point.turn} ({counted(point.edits, 'edits')}) did not take: {success:.0%} of "
            "its own edits were answered right after it"
        )
    if len(weak) > _MOST:
        yield f"and so did {counted(len(weak) - _MOST, 'more turns')}"


def _is_below(scored: Point | Whole, least: float, metric: str = "edit_success") -> bool:
    value = scored.state.get(metric)
    return isinstance(value, int | float) and value < least


def _whole(told: Timeline) -> Iterator[str]:
    newest = max(told.wholes, key=lambda one: one.turn, default=None)
    if newest is None:
        if any(point.edits for point in told.points):
            yield "the edits in force have not been scored together: ledger evaluate"
        return
    if _is_below(newest, RIGHT):
        yield f"{newest.state['edit_success']:.0%} of the edits in force are answered right"
    if _is_below(newest, UNCHANGED, "stability"):
        changed = 1 - newest.state["stability"]
        yield (
            f"{changed:.0%} of the tokens of answers that should not change have changed "
            "(stability on locality prompts)"
        )


def _forgotten(kept: Kept) -> Iterator[str]:
    if kept.lost:
        verb = "was right when it was made and is" if kept.lost == 1 else "were right and are"
        yield f"{counted(kept.lost, 'edits')} {verb} wrong now"


def _overridden(count: int) -> Iterator[str]:
    if count:
        verb = "has" if count == 1 else "have"
        yield f"{counted(count, 'edits')} in force {verb} another answer than a later edit"
