"""From a drawing to the bytes of a file, which are the same every time.

matplotlib keeps its settings in one place for the whole process: they are set while a chart is
drawn, and only one is drawn at a time. What a user's own settings file says does not count.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from threading import Lock
from typing import Any

from matplotlib import rc_context, rcdefaults, rcParams
from matplotlib.figure import Figure

from ledger.plots.palette import Theme
from ledger.plots.svg import tidied

SMALL, NORMAL = 9.0, 10.0
"""Sizes of text in points; nothing is smaller."""
_ONE_AT_A_TIME = Lock()
# Without these a file says when, and by which release, it was made.
_UNTOLD: dict[str, dict[str, Any]] = {
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def drawn(
    draw: Callable[[Figure, Theme], None],
    *,
    name: str,
    title: str,
    theme: Theme,
    form: str,
    size: tuple[float, float],
    dpi: int,
) -> bytes:
    """The file with what `draw` puts on a figure of this size, in inches.

    name: begins the ids in an SVG, so that charts of several kinds can be on one page. title: what
    an SVG says of itself to those who do not see it.
    """
    file = BytesIO()
    with in_style(theme):
        figure = Figure(figsize=size, layout="constrained")
        if form != "svg":
            figure.set_facecolor(theme.background)
        draw(figure, theme)
        figure.savefig(file, format=form, dpi=dpi, metadata=_UNTOLD[form])
    if form == "svg":
        return tidied(file.getvalue().decode(), name=name, title=title).encode()
    return file.getvalue()


@contextmanager
def in_style(theme: Theme) -> Iterator[None]:
    """Inside, matplotlib's settings are ours, for this thread alone."""
    with _ONE_AT_A_TIME, rc_context():
        rcdefaults()
        rcParams.update(_settings(theme))
        yield


def _settings(theme: Theme) -> Any:
    """A dictionary; matplotlib has a type for its keys in some releases."""
    return {
        "figure.facecolor": "none",
        "savefig.facecolor": "auto",
        "figure.constrained_layout.h_pad": 0.06,
        "axes.facecolor": "none",
        "axes.edgecolor": theme.muted,
        "axes.labelcolor": theme.muted,
        "axes.titlecolor": theme.text,
        "axes.labelsize": SMALL,
        "axes.titlesize": NORMAL,
        "axes.titlelocation": "left",
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "axes.unicode_minus": False,
        "grid.color": theme.grid,
        "grid.linewidth": 0.8,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.labelcolor": theme.muted,
        "ytick.labelcolor": theme.muted,
        "xtick.labelsize": SMALL,
        "ytick.labelsize": SMALL,
        "text.color": theme.text,
        "text.parse_math": False,
        "font.family": "DejaVu Sans",
        "font.size": NORMAL,
        "legend.fontsize": SMALL,
        "legend.frameon": False,
        "legend.handlelength": 1.6,
        "legend.columnspacing": 1.4,
        "hatch.linewidth": 0.8,
        "svg.fonttype": "path",
        "svg.hashsalt": "edit-ledger",
        "pdf.fonttype": 42,
    }
