"""Cells of a heat map: squares with a colour each, and their numbers where there is room."""

from collections.abc import Iterable, Mapping

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Colormap, LogNorm, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from ledger.plots.canvas import SMALL
from ledger.plots.labels import rows_fitting
from ledger.plots.palette import contrast

Place = tuple[float, float]
"""Column and row of a cell."""
# From dark to yellow: the same to people who see some colours alike, and in grey.
QUALITY, AMOUNT = "cividis", "viridis"
_GAP = 0.05
# More rows or columns than these stand without gaps, and more cells are drawn as one image.
_LOOSE, _MOST = 60, 4000
_STEPS = 64
# Inches for what is left and right of the cells.
_BESIDE = 1.2


class Shades:
    """Which colour a value has. colours: QUALITY or AMOUNT. logarithmic: equal factors are equal
    steps of colour."""

    def __init__(self, colours: str, low: float, high: float, *, logarithmic: bool = False) -> None:
        self.map: Colormap = colormaps[colours]
        self.norm: Normalize = (LogNorm if logarithmic else Normalize)(low, high, clip=True)

    def ink(self, value: float) -> str:
        """Black or white: what is read better on the colour of `value`."""
        below = self.colour(value)
        return max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, below))

    def colour(self, value: float) -> str:
        return to_hex(self.map(float(self.norm(value))))


def fill(
    axes: Axes, cells: Mapping[Place, float], shades: Shades, *, texts: Mapping[Place, str]
) -> None:
    """Put coloured cells on the axes, and on them their texts."""
    squares = _squares(axes, cells)
    squares.set(array=list(cells.values()), cmap=shades.map, norm=shades.norm)
    for place, text in texts.items():
        axes.text(
            *place, text, ha="center", va="center", fontsize=SMALL, color=shades.ink(cells[place])
        )


def fill_plain(axes: Axes, places: Iterable[Place], colour: str) -> None:
    """Cells of one colour."""
    _squares(axes, places).set_facecolor(colour)


def _squares(axes: Axes, places: Iterable[Place]) -> PolyCollection:
    a, b = (_half(*limits) for limits in (axes.get_xlim(), axes.get_ylim()))
    corners = [[(x - a, y - b), (x + a, y - b), (x + a, y + b), (x - a, y + b)] for x, y in places]
    found = PolyCollection(corners, linewidths=0, antialiased=max(a, b) < 0.5)
    found.set_rasterized(len(corners) > _MOST)
    # On whole dots, some gaps would vanish.
    found.set_snap(False)
    axes.add_collection(found, autolim=False)
    return found


def _half(first: float, last: float) -> float:
    """Half of the side of a cell, where so many stand beside each other."""
    return 0.5 if abs(last - first) > _LOOSE else 0.5 - _GAP


def colour_bar(figure: Figure, axes: Axes, shades: Shades, *, label: str, percent: bool) -> None:
    """The scale of colours, right of the axes."""
    colours = ScalarMappable(shades.norm, shades.map.resampled(_STEPS))
    thin = 8 * figure.get_figheight()
    bar = figure.colorbar(colours, ax=axes, fraction=0.06, pad=0.02, aspect=thin)
    bar.outline.set_visible(False)
    # Else it would be an image, which a page may refuse to show.
    assert bar.solids is not None
    bar.solids.set(rasterized=False, edgecolor="face")
    bar.set_label(label)
    if isinstance(shades.norm, LogNorm):
        bar.locator = LogLocator(subs=(1, 2, 5), numticks=9)
    else:
        bar.locator = MaxNLocator(5)
    form = (
        (lambda value, _: f"{100 * value:.3g} %") if percent else (lambda value, _: f"{value:.3g}")
    )
    bar.formatter = FuncFormatter(form)
    bar.minorticks_off()
    bar.update_ticks()


def has_room(figure: Figure, axes: Axes, narrowest: float) -> bool:
    """Whether every cell can have a text that is `narrowest` inches wide."""
    columns, rows = (abs(last - first) for first, last in (axes.get_xlim(), axes.get_ylim()))
    wide = (figure.get_figwidth() - _BESIDE) / columns
    return wide >= narrowest and rows <= rows_fitting(figure)


def grid_axes(axes: Axes, columns: tuple[float, float], rows: int) -> None:
    """Axes for cells: columns from the first place to the last, rows from the top."""
    axes.set_xlim(columns[0] - 0.5, columns[1] + 0.5)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
