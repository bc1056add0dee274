"""How much each turn changes each tensor, as a heat map: a row for each tensor."""

from collections.abc import Sequence
from itertools import takewhile
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ledger import database, history
from ledger.plots.cells import (
    AMOUNT,
    Place,
    Shades,
    colour_bar,
    fill,
    fill_plain,
    grid_axes,
    has_room,
)
from ledger.plots.labels import drawable, known, rows_fitting, say, spaced, strided
from ledger.plots.palette import Theme
from ledger.progress import Progress
from ledger.wording import counted, visible
from ledger.workspace import Ledger

if TYPE_CHECKING:
    from ledger.overview.weights import Change, WeightChanges

_EMPTY = "no turn changes weights"
_MOST_ROWS = 36
_ROW, _FRAME = 0.25, 1.2
_NARROWEST = 0.34
# From this factor between the largest and the smallest on, equal factors are equal steps.
_WIDE = 30.0


def read(ledger: Ledger, last: int | None, progress: Progress) -> "WeightChanges":
    from ledger.overview.weights import weight_changes

    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch)
    chosen = line[-last:] if last else line
    return weight_changes(ledger, chosen, progress=progress)


def height(content: "WeightChanges", width: float) -> float:  # noqa: ARG001 (as `Chart` has it)
    if not content.changes:
        return 1.2
    return _FRAME + max(4, min(len(content.tensors), _MOST_ROWS)) * _ROW


def draw(figure: Figure, content: "WeightChanges", theme: Theme) -> None:
    values, is_share = _values(content.changes)
    if not values:
        say(figure, _EMPTY, theme)
        return
    axes = figure.subplots()
    columns = {turn: place for place, turn in enumerate(content.turns)}
    rows = {name: place for place, name in enumerate(content.tensors)}
    grid_axes(axes, (0, len(columns) - 1), len(rows))
    places: dict[Place, float] = {
        (columns[turn], rows[name]): value for (turn, name), value in values.items()
    }
    every: set[Place] = {(x, y) for x in columns.values() for y in rows.values()}
    told = places if has_room(figure, axes, _NARROWEST) else {}
    texts = {place: _figure(value, is_share) for place, value in told.items()}
    shades = _shades(list(places.values()))
    fill_plain(axes, sorted(every - places.keys()), theme.empty)
    fill(axes, places, shades, texts=texts)
    _label(figure, axes, content, theme)
    label = "relative change" if is_share else "norm of the change"
    colour_bar(figure, axes, shades, label=label, percent=is_share)


def _label(figure: Figure, axes: Axes, content: "WeightChanges", theme: Theme) -> None:
    width = figure.get_figwidth()
    turns = strided(content.turns, width - 2)
    axes.set_xticks(turns, [str(content.turns[place]) for place in turns])
    common, names = short_names(content.tensors)
    rows = spaced(range(len(names)), rows_fitting(figure))
    axes.set_yticks(rows, [drawable(names[place], longest=24) for place in rows])
    axes.set_xlabel("turn")
    axes.set_title(drawable(common, longest=round(9 * width)), color=theme.muted)


def described(content: "WeightChanges") -> str:
    """Between what the changes are, and which is the largest."""
    values, is_share = _values(content.changes)
    if not values:
        return f"Weights: {_EMPTY}."
    (turn, name), largest = max(values.items(), key=lambda one: one[1])
    low, high = (_told(value, is_share) for value in (min(values.values()), largest))
    what = "as a share of the base's norm" if is_share else "as a Frobenius norm"
    return (
        f"Change of {counted(len(content.tensors), 'tensors')} by "
        f"{counted(len(content.turns), 'turns')}, {what}: {low} to {high}. The largest is that of "
        f"{visible(name)} by turn {turn}."
    )


def short_names(tensors: Sequence[str]) -> tuple[str, list[str]]:
    """What the names have in common, with * for the rest, and the rest of each."""
    if len(tensors) < 2:
        return "", list(tensors)
    parts = [name.split(".") for name in tensors]
    most = min(map(len, parts)) - 1
    first = min(most, _shared(parts))
    last = min(most - first, _shared([part[::-1] for part in parts]))
    if not first + last:
        return "", list(tensors)
    ends = [len(part) - last for part in parts]
    names = [".".join(part[first:end]) for part, end in zip(parts, ends, strict=True)]
    return ".".join([*parts[0][:first], "*", *parts[0][ends[0] :]]), names


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """How many of their first parts are the same."""
    columns = zip(*parts, strict=False)
    return len(list(takewhile(lambda column: len(set(column)) == 1, columns)))


def _values(changes: "Sequence[Change]") -> tuple[dict[tuple[int, str], float], bool]:
    """(turn, tensor) → how large the change is, and whether that is a share of the base's norm: it
    is where every share is known."""
    is_share = all(known(change.share) is not None for change in changes)
    found = {
        (change.turn, change.tensor): known(change.share if is_share else change.norm)
        for change in changes
    }
    return {place: value for place, value in found.items() if value is not None}, is_share


def _shades(values: Sequence[float]) -> Shades:
    above = [value for value in values if value > 0]
    if not above:
        return Shades(AMOUNT, 0, 1)
    if max(above) > _WIDE * min(above):
        return Shades(AMOUNT, min(above), max(above), logarithmic=True)
    return Shades(AMOUNT, 0, max(above))


def _figure(value: float, is_share: bool) -> str:
    """In a cell."""
    if not is_share:
        return f"{value:.2g}"
    percent = 100 * value
    return f"{percent:.0f}" if percent >= 9.95 else f"{percent:.2g}"


def _told(value: float, is_share: bool) -> str:
    return f"{_figure(value, is_share)}{' %' if is_share else ''}"
