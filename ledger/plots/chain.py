"""The turns as a chain of marks, and arcs from rollbacks and merges back to what they undo and
replace."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from ledger.plots.palette import MERGE, UNDO, Theme

if TYPE_CHECKING:
    from ledger.overview.timeline import Point

# A filled mark is in force, a hollow one is not.
_SHAPES = {"edit": "o", "import": "^", "merge": "D", "rollback": "s"}
_OTHER, _FAILED = "P", "x"
MANY = 200
"""Of more turns than these, only rollbacks, merges and imports are marked, with strokes."""
_MOST_ARCS, _MOST_STEPS = 40, 120


@dataclass(frozen=True, kw_only=True)
class _Arc:
    """From a turn back to a row of turns that it undoes or replaces."""

    turn: int
    first: int
    last: int
    colour: str


def draw(axes: Axes, points: "Sequence[Point]", colours: Mapping[str, str], theme: Theme) -> None:
    """Put them on axes that have their turns along x."""
    axes.set_ylim(-0.45, 1.25)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_title(_title(points))
    first, last = points[0].turn, points[-1].turn
    axes.add_collection(LineCollection([[(first, 0), (last, 0)]], colors=theme.grid, zorder=1))
    many = len(points) > MANY
    size = max(2.5, min(7.0, 300.0 / len(points)))
    shown = [point for point in points if point.kind != "edit"] if many else points
    for look, some in _by_look(shown, colours, theme).items():
        style = _style(look, size, theme) | ({"marker": "|", "markersize": 8} if many else {})
        axes.plot([point.turn for point in some], [0] * len(some), **style)
    span = max(last - first, 4)
    for arc in _arcs(points, theme, shortest=span / _MOST_STEPS):
        _draw_arc(axes, arc, span, size)


def legend(points: "Sequence[Point]", theme: Theme) -> list[Line2D]:
    """What the marks mean, of those that are there."""
    entries = {
        "rollback": ("rollback", theme.series[UNDO]),
        "merge": ("merge", theme.series[MERGE]),
        "import": ("import", theme.muted),
    }
    there = {point.kind for point in points}
    found = [
        Line2D([], [], label=label, **_style((_SHAPES[kind], colour, True), 7.0, theme))
        for kind, (label, colour) in entries.items()
        if kind in there
    ]
    if any(point.rejected for point in points):
        style = _style((_FAILED, theme.muted, False), 7.0, theme)
        found.append(Line2D([], [], label="failed its gate", **style))
    return found


def _title(points: "Sequence[Point]") -> str:
    kinds = {point.kind for point in points}
    told = [f"{kind}s" for kind in ("rollback", "merge") if kind in kinds]
    return " and ".join(told) or "turns"


_Look = tuple[str, str, bool]


def _by_look(
    points: "Sequence[Point]", colours: Mapping[str, str], theme: Theme
) -> "dict[_Look, list[Point]]":
    """Shape, colour and whether it is in force → the turns that look so."""
    found: dict[_Look, list[Point]] = {}
    for point in points:
        colour = colours.get(point.method or "", theme.muted)
        if point.kind in ("rollback", "merge"):
            colour = theme.series[UNDO if point.kind == "rollback" else MERGE]
        shape = _FAILED if point.rejected else _SHAPES.get(point.kind, _OTHER)
        found.setdefault((shape, colour, point.in_force), []).append(point)
    return found


def _style(look: _Look, size: float, theme: Theme) -> dict[str, Any]:
    shape, colour, holds = look
    return {
        "marker": shape,
        "linestyle": "none",
        "markersize": size,
        "markerfacecolor": colour if holds else theme.background,
        "markeredgecolor": colour,
        "markeredgewidth": min(1.4, size / 4),
        "zorder": 3,
    }


def _arcs(points: "Sequence[Point]", theme: Theme, *, shortest: float) -> list[_Arc]:
    """Of all that begin and end among these turns, and are long enough to be seen, the newest."""
    found = []
    for point in points:
        colour = theme.series[UNDO if point.undoes else MERGE]
        for first, last in _rows(point.undoes or point.replaces):
            if last >= points[0].turn and point.turn - last >= shortest:
                start = max(first, points[0].turn)
                found.append(_Arc(turn=point.turn, first=start, last=last, colour=colour))
    return found[-_MOST_ARCS:]


def _rows(turns: Sequence[int]) -> list[tuple[int, int]]:
    """Turns as rows without a gap: their first and last."""
    rows: list[tuple[int, int]] = []
    for turn in sorted(turns):
        if rows and turn == rows[-1][1] + 1:
            rows[-1] = (rows[-1][0], turn)
        else:
            rows.append((turn, turn))
    return rows


def _draw_arc(axes: Axes, arc: _Arc, span: int, size: float) -> None:
    """A curve to the nearest turn of the row, and a line over all of it. span: that all turns take;
    size: of a mark."""
    top = 0.35 + 1.05 * math.sqrt((arc.turn - arc.last) / span)
    curve = Path(
        [(arc.turn, 0.16), (arc.turn, top), (arc.last, top), (arc.last, 0.16)],
        [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
    )
    axes.add_patch(
        PathPatch(curve, facecolor="none", edgecolor=arc.colour, linewidth=1.2, zorder=2)
    )
    axes.plot(arc.last, 0.2, marker=7, markersize=min(5.0, size), color=arc.colour, zorder=2)
    if arc.first < arc.last:
        axes.plot(
            [arc.first - 0.3, arc.last + 0.3],
            [0.16, 0.16],
            color=arc.colour,
            linewidth=1.2,
            zorder=2,
        )
