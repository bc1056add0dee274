"""Charts of a history, drawn with matplotlib from the values of `ledger.overview`.

Each kind is one short module, loaded when it is asked for, which has

    read(ledger, last, progress)    what is shown, from the ledger
    height(content, width)          in inches, at this width
    draw(figure, content, theme)    put it on an empty figure
    described(content)              what it shows, in words

`KINDS` lists them all.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from patches.errors import SettingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ledger.plots.palette import Theme
    from ledger.progress import Progress
    from ledger.workspace import Ledger

T = TypeVar("T")
FORMATS = ("svg", "png", "pdf")
_LOWEST = 0.65
_MOST_PIXELS = 100_000_000


class Chart(Protocol):
    """The functions of a kind's module."""

    def read(self, ledger: "Ledger", last: int | None, progress: "Progress") -> Any: ...
    def height(self, content: Any, width: float) -> float: ...
    def draw(self, figure: "Figure", content: Any, theme: "Theme") -> None: ...
    def described(self, content: Any) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of chart. sentence: what it shows, for people."""

    name: str
    sentence: str
    module: str

    def chart(self) -> Chart:
        found: Chart = importlib.import_module(self.module)
        return found


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            name="timeline",
            sentence="what each turn did: edits, what was rolled back, what is in force.",
            module="ledger.plots.timeline",
        ),
        Kind(
            name="scores",
            sentence="how well each turn's edits were learnt, with the base as a line.",
            module="ledger.plots.scores",
        ),
        Kind(
            name="retention",
            sentence="how each turn's edits fare in later states, as far as it was recorded.",
            module="ledger.plots.retention",
        ),
        Kind(
            name="weights",
            sentence="how much each turn changes each tensor.",
            module="ledger.plots.weights",
        ),
    )
}


def draw(
    kind: str,
    content: Any,
    *,
    theme: str = "light",
    format: str = "svg",  # noqa: A002 (matplotlib's word)
    width: float = 8.0,
    height: float | None = None,
    dpi: int = 150,
) -> bytes:
    """The chart as a file: equal content gives equal bytes.

    content: what the kind's function in `ledger.overview` gives. theme: ``light`` or ``dark``.
    format: one of FORMATS; an SVG has no background, no style sheet and nothing that would be
    loaded. width, height: in inches, by default as high as it needs. dpi: of a PNG.
    SettingError if there is no such kind, theme or format, or the picture would be too large.
    """
    from ledger.plots.canvas import drawn
    from ledger.plots.palette import THEMES

    chart = _one_of("chart", kind, KINDS).chart()
    _one_of("format", format, dict.fromkeys(FORMATS))
    needed = chart.height(content, width)
    # Lower than this, texts would lie on each other.
    size = (width, needed if height is None else max(height, _LOWEST * needed))
    if format == "png" and size[0] * size[1] * dpi**2 > _MOST_PIXELS:
        raise SettingError(
            f"a picture of {width:g} by {size[1]:.1f} inches with {dpi} dots per inch is too "
            "large; choose fewer, or write an SVG"
        )
    return drawn(
        lambda figure, theme: chart.draw(figure, content, theme),
        name=kind,
        title=chart.described(content),
        theme=_one_of("theme", theme, THEMES),
        form=format,
        size=size,
        dpi=dpi,
    )


def format_of(name: str) -> str:
    """What the ending of a file's name says; SettingError if no chart is written in that format."""
    found = PurePath(name).suffix.removeprefix(".").lower()
    if found not in FORMATS:
        endings = ", ".join(f".{known}" for known in FORMATS)
        raise SettingError(f"{name}: a chart's file ends in one of {endings}; choose one of these")
    return found


def described(kind: str, content: Any) -> str:
    """What the chart shows, in one or two sentences, for those who do not see it."""
    return _one_of("chart", kind, KINDS).chart().described(content)


def read(ledger: "Ledger", kind: str, *, last: int | None, progress: "Progress") -> Any:
    """What a chart of this ledger's branch shows. last: of so many turns at most."""
    return _one_of("chart", kind, KINDS).chart().read(ledger, last, progress)


def _one_of(what: str, name: str, known: Mapping[str, T]) -> T:
    if name not in known:
        raise SettingError(f"there is no {what} {name!r}, only: {', '.join(known)}")
    return known[name]
