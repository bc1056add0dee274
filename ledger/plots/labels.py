"""Texts on charts: what the font can draw, and what fits."""

from collections.abc import Collection, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.ticker import MaxNLocator

from ledger.plots.palette import Theme
from ledger.wording import NOTHING, is_number, visible

if TYPE_CHECKING:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

T = TypeVar("T")
NO_TURNS = "no turns yet"
_LONGEST = 48
# Inches that a sign takes, what is between numbers on an axis, and a mark in a legend.
_DIGIT, _BETWEEN, _MARK = 0.08, 0.1, 0.45
# Inches beside the axes.
_BESIDE = 0.6
# Inches that a line of text takes, and what is above and below the rows of a heat map.
_LINE, _FRAME = 0.17, 0.7


def drawable(text: str, *, longest: int = _LONGEST) -> str:
    """`text` as it can be drawn: signs that the font lacks as escape sequences in letters; what is
    too long is cut in the middle."""
    known = _signs()
    line = "".join(
        c if ord(c) in known else c.encode("unicode_escape").decode() for c in visible(text)
    )
    if len(line) <= longest:
        return line
    half = (longest - 1) // 2
    return f"{line[: longest - 1 - half]}…{line[-half:]}"


@cache
def _signs() -> frozenset[int]:
    font: Any = get_font(findfont(FontProperties(family="DejaVu Sans")))
    return frozenset(font.get_charmap())


def share(value: float) -> str:
    """In few signs: .68, 1.0. What is not all, or not nothing, is not told as if it were."""
    if 0 < value < 1:
        return f"{min(max(value, 0.01), 0.99):.2f}".removeprefix("0")
    return f"{value:.1f}"


def shares(values: Collection[float]) -> str:
    """One value, or between which they are."""
    if not values:
        return NOTHING
    low, high = share(min(values)), share(max(values))
    return low if low == high else f"{low} to {high}"


def known(value: object) -> float | None:
    """A score that can be drawn."""
    return float(value) if is_number(value) else None


def several(names: Collection[str], *, most: int = 3) -> str:
    """Names in a sentence; of many the first."""
    shown = [visible(name) for name in names][:most]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more:,} more" if more else "")


def turn_axis(axes: Axes, turns: Sequence[int], width: float) -> None:
    """Turn numbers along x, as many as fit `width` inches."""
    first, last = turns[0], turns[-1]
    axes.set_xlim(first - 0.6, last + 0.6)
    if last - first < fitting(str(last), width - _BESIDE):
        axes.set_xticks(range(first, last + 1))
    else:
        whole(axes.xaxis, most=max(1, fitting(str(last), width - _BESIDE) // 2))
    axes.set_xlabel("turn")


def strided(turns: Sequence[int], width: float) -> Sequence[int]:
    """Places of those whose numbers fit into `width` inches, at even distances."""
    return spaced(range(len(turns)), fitting(str(max(turns, default=1)), width))


def spaced(items: Sequence[T], most: int) -> Sequence[T]:
    """At most so many of them, at even distances, from the first on."""
    return items[:: -(-len(items) // max(1, most))] if items else items


def rows_fitting(figure: Figure) -> int:
    """Rows that have room for a text each."""
    return int((figure.get_figheight() - _FRAME) / _LINE)


def fitting(longest: str, width: float) -> int:
    """How many numbers fit beside each other into `width` inches."""
    return int(width / (_DIGIT * len(longest) + _BETWEEN))


def legend(figure: Figure, handles: "Sequence[Line2D | Patch]") -> None:
    """What colours and marks mean, above everything else, in as many columns as fit."""
    width = figure.get_figwidth() - _DIGIT
    columns = len(handles)
    while columns > 1 and _legend_width(handles, columns) > width:
        columns -= 1
    figure.legend(handles=list(handles), loc="outside upper left", ncols=columns)


def _legend_width(handles: "Sequence[Line2D | Patch]", columns: int) -> float:
    """In inches; columns are filled one after the other, the first of them with one more."""
    lengths = [len(str(handle.get_label())) for handle in handles]
    size, more = divmod(len(lengths), columns)
    ends = [size * place + min(place, more) for place in range(columns + 1)]
    longest = [max(lengths[start:end]) for start, end in pairwise(ends)]
    return sum(_DIGIT * length + _MARK for length in longest)


def whole(axis: Axis, *, most: int) -> None:
    """At most so many ticks, at whole numbers."""
    axis.set_major_locator(
        MaxNLocator(nbins=most, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    )


def say(figure: Figure, text: str, theme: Theme) -> None:
    """A sentence instead of a chart."""
    figure.text(0.5, 0.5, text, ha="center", va="center", color=theme.muted, wrap=True)
