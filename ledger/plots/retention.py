"""Retention as a heat map: a row for each turn's edits, a column for each later state."""

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ledger import database, history
from ledger.plots.cells import (
    QUALITY,
    Place,
    Shades,
    colour_bar,
    fill,
    fill_plain,
    grid_axes,
    has_room,
)
from ledger.plots.labels import legend, rows_fitting, say, share, shares, spaced, strided
from ledger.plots.palette import Theme
from ledger.progress import Progress
from ledger.wording import counted
from ledger.workspace import Ledger

if TYPE_CHECKING:
    from ledger.overview.retained import Cell, Retained

_EMPTY = "no scores of earlier edits are recorded"
_MOST_ROWS = 40
_ROW, _FRAME = 0.29, 1.1
# Inches: of a number in a cell; from the base to the first turn; left and right of the cells.
_NARROWEST, _NAME, _BESIDE = 0.23, 0.3, 1.5


def read(ledger: Ledger, last: int | None, progress: Progress) -> "Retained":  # noqa: ARG001 (as `Chart` has it)
    from ledger.overview.retained import retained

    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch)
        return retained(session, line[-last:] if last else line)


def height(content: "Retained", width: float) -> float:  # noqa: ARG001 (as `Chart` has it)
    return _FRAME + max(3, min(len(content.turns), _MOST_ROWS)) * _ROW if content.cells else 1.2


def draw(figure: Figure, content: "Retained", theme: Theme) -> None:
    if not content.cells:
        say(figure, _EMPTY, theme)
        return
    axes = figure.subplots()
    base = _place_of_base(figure, content)
    grid_axes(axes, (base if content.base else 0, len(content.states) - 1), len(content.turns))
    values, unknown = _places(content, base)
    told = values if has_room(figure, axes, _NARROWEST) else {}
    shades = Shades(QUALITY, 0, 1)
    fill_plain(axes, unknown, theme.empty)
    fill(axes, values, shades, texts={place: share(value) for place, value in told.items()})
    _label(figure, axes, content, base)
    colour_bar(figure, axes, shades, label="edit success", percent=False)
    if unknown:
        legend(figure, [Patch(color=theme.empty, label="not recorded")])


def _place_of_base(figure: Figure, content: "Retained") -> float:
    """The base stands apart from the states of turns, and has room for its name."""
    cell = (figure.get_figwidth() - _BESIDE) / len(content.states)
    return -max(1.3, _NAME / cell)


def _places(content: "Retained", base: float) -> tuple[dict[Place, float], list[Place]]:
    """What is known, by its place, and the places of later states of which nothing is."""
    rows = {turn: place for place, turn in enumerate(content.turns)}
    columns = {state: place for place, state in enumerate(content.states)}
    values: dict[Place, float] = {
        (columns[cell.at], rows[cell.turn]): cell.success for cell in content.cells
    }
    values |= {(base, rows[turn]): value for turn, value in content.base.items() if turn in rows}
    later: set[Place] = {
        (columns[state], rows[turn])
        for turn in content.turns
        for state in content.states
        if state >= turn
    }
    return values, sorted(later - values.keys())


def _label(figure: Figure, axes: Axes, content: "Retained", base: float) -> None:
    width = figure.get_figwidth() - _BESIDE
    states = strided(content.states, width)
    labels: dict[float, str] = {place: str(content.states[place]) for place in states}
    if content.base:
        labels[base] = "base"
    axes.set_xticks(list(labels), list(labels.values()))
    rows = spaced(range(len(content.turns)), rows_fitting(figure))
    axes.set_yticks(rows, [str(content.turns[place]) for place in rows])
    axes.set_xlabel("state after turn")
    axes.set_ylabel("edits of turn")


def described(content: "Retained") -> str:
    """How the edits fared in their own turn's state, and how in the newest that is recorded."""
    if not content.cells:
        return f"Retention: {_EMPTY}."
    cells = sorted(content.cells, key=lambda cell: (cell.turn, cell.at))
    own = [cell.success for cell in cells if cell.at == cell.turn]
    newest: dict[int, Cell] = {cell.turn: cell for cell in cells}
    worst = min(newest.values(), key=lambda cell: cell.success)
    text = (
        f"Edit success of the edits of {counted(len(content.turns), 'turns')} in the states after "
        f"{counted(len(content.states), 'turns')}: right after they were made {shares(own)}, in "
        f"the newest state recorded {shares([cell.success for cell in newest.values()])}"
    )
    if content.base:
        text += f", in the base {shares(list(content.base.values()))}"
    return (
        f"{text}. Lowest now: the edits of turn {worst.turn} with {share(worst.success)} after "
        f"turn {worst.at}."
    )
