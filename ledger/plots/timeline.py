"""What each turn did: edits in force, edits recorded, and below them the turns as a chain, in which
arcs lead from rollbacks and merges back to what they undo and replace."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ledger import database, history
from ledger.plots import chain
from ledger.plots.canvas import SMALL
from ledger.plots.labels import NO_TURNS, drawable, fitting, legend, say, several, turn_axis, whole
from ledger.plots.palette import Theme, method_colours
from ledger.progress import Progress
from ledger.wording import counted, turn_numbers, visible
from ledger.workspace import Ledger

if TYPE_CHECKING:
    from ledger.overview.timeline import Point, Timeline

MOST = 2000
"""Turns that are read at most, unless a number is given."""
_HATCH = "////"
_MOST_BARS, _MOST_METHODS, _MOST_TOLD = 200, 8, 20


def read(ledger: Ledger, last: int | None, progress: Progress) -> "Timeline":  # noqa: ARG001 (as `Chart` has it)
    from ledger.overview.timeline import timeline

    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch)
        return timeline(session, ledger.branch, line, most=last or MOST)


def height(content: "Timeline", width: float) -> float:
    if not content.points:
        return 1.2
    return (4.6 if width >= 6 else 5.2) if _has_edits(content) else 2.0


def draw(figure: Figure, content: "Timeline", theme: Theme) -> None:
    points = content.points
    if not points:
        say(figure, NO_TURNS, theme)
        return
    colours = method_colours(
        (point.method for point in points if point.method and point.kind in history.CHANGING), theme
    )
    width = figure.get_figwidth()
    if _has_edits(content):
        heights = {"height_ratios": (1.1, 1.5, 1.0)}
        held, recorded, below = figure.subplots(3, sharex=True, gridspec_kw=heights)
        _draw_in_force(held, points, theme)
        _draw_edits(recorded, points, colours, theme, width)
    else:
        below = figure.subplots()
    turn_axis(below, [point.turn for point in points], width)
    chain.draw(below, points, colours, theme)
    legend(figure, _meanings(points, colours, theme))


def _has_edits(content: "Timeline") -> bool:
    return any(point.edits or point.edits_in_force for point in content.points)


def _draw_in_force(axes: Axes, points: "Sequence[Point]", theme: Theme) -> None:
    # Steps end half a turn after the last.
    x = [point.turn - 0.5 for point in points] + [points[-1].turn + 0.5]
    y = [point.edits_in_force for point in points] + [points[-1].edits_in_force]
    axes.fill_between(x, y, step="post", color=theme.muted, alpha=0.18, linewidth=0)
    axes.step(x, y, where="post", color=theme.muted, linewidth=1.4)
    axes.set_title(f"edits in force, now {y[-1]:,}")
    _counts(axes, max(y))
    axes.tick_params(axis="x", length=0)


def _draw_edits(
    axes: Axes, points: "Sequence[Point]", colours: dict[str, str], theme: Theme, width: float
) -> None:
    """Bars: those of turns that were taken back pale, with lines across. Of many turns, several
    make up one bar."""
    together = -(-len(points) // _MOST_BARS)
    bars = _bars(points, together)
    for (method, holds), some in bars.items():
        colour = colours.get(method, theme.muted)
        shown = PolyCollection([bar.corners() for bar in some], facecolor=colour, linewidth=0)
        if not holds:
            shown.set(facecolor=theme.pale(colour), edgecolor=colour, hatch=_HATCH, linewidth=0.8)
        # Bars that touch show no seams.
        shown.set_antialiased(together == 1)
        axes.add_collection(shown)
    most = max(bar.top for some in bars.values() for bar in some) if bars else 0
    if len(points) <= fitting(f"{most:,}", width - 1):
        _write_counts(axes, points, theme)
    each = "each turn" if together == 1 else f"every {together} turns"
    axes.set_title(f"edits recorded in {each}")
    _counts(axes, most)
    axes.tick_params(axis="x", length=0)


def _write_counts(axes: Axes, points: "Sequence[Point]", theme: Theme) -> None:
    style: dict[str, Any] = {"ha": "center", "fontsize": SMALL, "color": theme.muted}
    above: dict[str, Any] = {"xytext": (0, 2), "textcoords": "offset points"}
    for point in points:
        if point.edits:
            axes.annotate(f"{point.edits:,}", (point.turn, point.edits), **above, **style)


@dataclass(frozen=True, kw_only=True)
class _Bar:
    """From edge to edge, or a part of one that stands on another."""

    left: float
    right: float
    bottom: int
    top: int

    def corners(self) -> list[tuple[float, float]]:
        left, right, bottom, top = self.left, self.right, self.bottom, self.top
        return [(left, bottom), (left, top), (right, top), (right, bottom)]


def _bars(points: "Sequence[Point]", together: int) -> dict[tuple[str, bool], list[_Bar]]:
    """Method, and whether it is in force → the bars, each over so many turns."""
    found: dict[tuple[str, bool], list[_Bar]] = {}
    narrow = 0.14 if together == 1 else 0.0
    for start in range(0, len(points), together):
        some = points[start : start + together]
        left, right = some[0].turn - 0.5 + narrow, some[-1].turn + 0.5 - narrow
        bottom = 0
        for look, edits in sorted(_totals(some).items(), key=lambda one: not one[0][1]):
            bar = _Bar(left=left, right=right, bottom=bottom, top=bottom + edits)
            found.setdefault(look, []).append(bar)
            bottom = bar.top
    return found


def _totals(points: "Sequence[Point]") -> Counter[tuple[str, bool]]:
    found: Counter[tuple[str, bool]] = Counter()
    for point in points:
        if point.edits:
            found[point.method or "", point.in_force] += point.edits
    return found


def _counts(axes: Axes, most: int) -> None:
    axes.set_ylim(0, max(1, most) * 1.18)
    whole(axes.yaxis, most=4)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.grid(axis="y")


def _meanings(
    points: "Sequence[Point]", colours: dict[str, str], theme: Theme
) -> list[Patch | Line2D]:
    handles: list[Patch | Line2D] = [
        Patch(color=colour, linewidth=0, label=drawable(method, longest=20))
        for method, colour in islice(colours.items(), _MOST_METHODS)
    ]
    if any(point.kind in history.CHANGING and not point.in_force for point in points):
        colour = theme.muted
        handles.append(
            Patch(facecolor=theme.pale(colour), edgecolor=colour, hatch=_HATCH, label="rolled back")
        )
    return [*handles, *chain.legend(points, theme)]


def described(content: "Timeline") -> str:
    """How many turns of which kinds, how many edits, and what was taken back."""
    points = content.points
    branch = visible(content.branch)
    if not points:
        return f"Branch {branch}: {NO_TURNS}."
    turns = counted(content.turns, "turns")
    if len(points) < content.turns:
        turns = f"The last {len(points):,} of {turns}"
    methods = dict.fromkeys(p.method for p in points if p.method and p.kind in history.CHANGING)
    made_by = f" ({several(methods)})" if methods else ""
    recorded = counted(sum(point.edits for point in points), "edits")
    return (
        f"{turns} on branch {branch}: {_kinds(points)}{made_by}. {recorded} recorded, "
        f"{points[-1].edits_in_force:,} in force now{_taken_back(points)}."
    )


def _kinds(points: "Sequence[Point]") -> str:
    words = {"edit": "edit turns", "rollback": "rollbacks", "merge": "merges"}
    kinds = Counter(point.kind for point in points)
    return ", ".join(
        counted(n, words.get(kind, f"{visible(kind)}s")) for kind, n in kinds.most_common()
    )


def _taken_back(points: "Sequence[Point]") -> str:
    gone = [p.turn for p in points if p.kind in history.CHANGING and not p.in_force]
    if len(gone) > _MOST_TOLD:
        return f"; rolled back: {counted(len(gone), 'turns')}"
    return f"; rolled back: {turn_numbers(gone)}" if gone else ""
