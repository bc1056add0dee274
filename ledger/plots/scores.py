"""How well each turn's edits were learnt: its scores, with the base as a dashed line."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ledger.metrics import SUCCESS, metric_name
from ledger.plots.labels import NO_TURNS, known, legend, say, share, spaced, turn_axis
from ledger.plots.palette import METRICS, Theme
from ledger.plots.timeline import read
from ledger.wording import counted

if TYPE_CHECKING:
    from ledger.overview.timeline import Timeline

__all__ = ["described", "draw", "height", "read"]

_EMPTY = "no turn was scored"
_SHAPES = {SUCCESS: "o", "generalization": "s", "stability": "^", "locality": "D"}
# More scores than these are dots, with the mean over some of them as a line.
_MANY, _WINDOWS, _DOTS = 120, 40, 400


@dataclass(frozen=True, kw_only=True)
class _Series:
    """Scores over turns. holds: of each, whether its turn is in force."""

    turns: Sequence[int]
    values: Sequence[float]
    holds: Sequence[bool]


def height(content: "Timeline", width: float) -> float:
    if not _metrics(content):
        return 1.2
    return 3.4 if width >= 6 else 3.8


def draw(figure: Figure, content: "Timeline", theme: Theme) -> None:
    metrics = _metrics(content)
    if not metrics:
        say(figure, _EMPTY if content.points else NO_TURNS, theme)
        return
    axes = figure.subplots()
    turn_axis(axes, [point.turn for point in content.points], figure.get_figwidth())
    axes.set_ylim(-0.03, 1.06)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_ylabel("score")
    axes.grid(axis="y")
    handles = [
        *(_draw_metric(axes, content, metric, theme) for metric in metrics),
        *_draw_kept(axes, content, theme),
        *_draw_base(axes, content, theme),
        *_meanings(content, theme),
    ]
    legend(figure, handles)


def _draw_metric(axes: Axes, content: "Timeline", metric: str, theme: Theme) -> Line2D:
    """The turns' own edits; large, the scores on all edits in force."""
    colour, shape = theme.series[METRICS[metric]], _SHAPES[metric]
    # What is told first lies on top.
    order = 10 - list(METRICS).index(metric)
    _draw_series(axes, _own(content, metric), colour, shape, order, theme)
    whole = _whole(content, metric)
    axes.plot(
        whole.turns,
        whole.values,
        marker=shape,
        markersize=11,
        linestyle="none",
        markerfacecolor="none",
        markeredgecolor=colour,
        markeredgewidth=1.8,
        zorder=order,
    )
    return Line2D([], [], color=colour, marker=shape, markersize=6, label=metric_name(metric))


def _draw_series(
    axes: Axes, series: _Series, colour: str, shape: str, order: float, theme: Theme
) -> None:
    """A line with a mark for each turn, hollow where it was taken back; of many turns dots, and a
    line through their running mean."""
    many = len(series.turns) > _MANY
    values = _smoothed(series.values) if many else series.values
    axes.plot(series.turns, values, color=colour, linewidth=1.6, zorder=order + 0.1 * many)
    for holds in (True, False):
        chosen = [place for place, one in enumerate(series.holds) if one is holds]
        places = spaced(chosen, _DOTS)
        axes.plot(
            [series.turns[place] for place in places],
            [series.values[place] for place in places],
            marker="." if many else shape,
            markersize=2 if many else 6,
            linestyle="none",
            alpha=0.5 if many else None,
            markerfacecolor=colour if holds else theme.background,
            markeredgecolor=colour,
            markeredgewidth=0 if many else 1.2,
            zorder=order,
        )


def _smoothed(values: Sequence[float]) -> Sequence[float]:
    """Of each value, the mean of those around it."""
    window = np.ones(max(3, len(values) // _WINDOWS))
    sums = np.convolve(values, window, mode="same")
    counts = np.convolve(np.ones(len(values)), window, mode="same")
    means: list[float] = (sums / counts).tolist()
    return means


def _draw_kept(axes: Axes, content: "Timeline", theme: Theme) -> list[Line2D]:
    """The earlier edits that were scored with a turn."""
    series = _kept(content)
    if not series.turns:
        return []
    colour = theme.series["ochre"]
    _draw_series(axes, series, colour, "v", 5, theme)
    return [Line2D([], [], color=colour, marker="v", markersize=6, label="earlier edits")]


def _draw_base(axes: Axes, content: "Timeline", theme: Theme) -> list[Line2D]:
    """What the base makes of the same edits."""
    series = _base(content)
    style: dict[str, Any] = {"color": theme.muted, "linestyle": (0, (4, 3)), "linewidth": 1.4}
    values = _smoothed(series.values) if len(series.turns) > _MANY else series.values
    axes.plot(series.turns, values, zorder=2, **style)
    if len(series.turns) == 1:
        axes.axhline(values[0], zorder=2, **style)
    return [Line2D([], [], label="edit success of the base", **style)] if series.turns else []


def _meanings(content: "Timeline", theme: Theme) -> list[Line2D]:
    """What large and hollow marks mean, where there are any."""
    style: dict[str, Any] = {"marker": "o", "linestyle": "none", "markeredgecolor": theme.muted}
    found = []
    if any(_whole(content, metric).turns for metric in METRICS):
        look = {**style, "markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.8}
        found.append(Line2D([], [], label="all edits in force", **look))
    scored = [point for point in content.points if point.state]
    if len(scored) <= _MANY and not all(point.in_force for point in scored):
        look = {**style, "markersize": 6, "markerfacecolor": theme.background}
        found.append(Line2D([], [], label="rolled back since", **look))
    return found


def _metrics(content: "Timeline") -> list[str]:
    return [
        metric for metric in METRICS if _own(content, metric).turns or _whole(content, metric).turns
    ]


def _own(content: "Timeline", metric: str) -> _Series:
    return _series((p.turn, p.state.get(metric), p.in_force) for p in content.points)


def _base(content: "Timeline") -> _Series:
    return _series((p.turn, p.base.get(SUCCESS), p.in_force) for p in content.points)


def _kept(content: "Timeline") -> _Series:
    return _series((p.turn, p.kept and p.kept.get("now"), True) for p in content.points)


def _whole(content: "Timeline", metric: str) -> _Series:
    return _series((one.turn, one.state.get(metric), True) for one in content.wholes)


def _series(rows: Iterable[tuple[int, object, bool]]) -> _Series:
    """Those with a score that can be drawn."""
    found = [
        (turn, value, holds) for turn, told, holds in rows if (value := known(told)) is not None
    ]
    return _Series(
        turns=[turn for turn, _, _ in found],
        values=[value for _, value, _ in found],
        holds=[holds for _, _, holds in found],
    )


def described(content: "Timeline") -> str:
    """From what to what the scores go, and what all edits in force come to."""
    metrics = _metrics(content)
    if not metrics:
        return f"Scores: {_EMPTY if content.points else NO_TURNS}."
    success = _own(content, SUCCESS)
    told = []
    if success.turns:
        what = f"Edit success of {counted(len(success.turns), 'turns')} on their own edits"
        told.append(f"{what}: {_range(success)}")
    base = _base(content)
    if base.turns:
        told.append(f"the base's {_range(base)}")
    for metric in metrics:
        series = _own(content, metric)
        if metric != SUCCESS and series.turns:
            told.append(f"{metric_name(metric)} {_range(series)}")
    whole, kept = _whole(content, SUCCESS), _kept(content)
    if kept.turns:
        told.append(f"earlier edits after turn {kept.turns[-1]} {share(kept.values[-1])}")
    if whole.turns:
        told.append(f"all edits in force after turn {whole.turns[-1]} {share(whole.values[-1])}")
    text = "; ".join(told)
    return f"{text[0].upper()}{text[1:]}."


def _range(series: _Series) -> str:
    low, high, last = min(series.values), max(series.values), series.values[-1]
    if share(low) == share(high):
        return share(low)
    return f"{share(low)} to {share(high)}, newest {share(last)}"
