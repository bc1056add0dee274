"""The colours of the charts: one table for light, one for dark.

Series colours can be told apart by people who see some colours alike (they follow Okabe and Ito,
"Color Universal Design"), and stand out from their background by 3 : 1 or more, texts by 4.5 : 1.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

METHODS: Mapping[str, str] = {
    "ultraedit": "blue",
    "wise": "orange",
    "lora": "green",
    "difference": "ochre",
}
METRICS: Mapping[str, str] = {
    "edit_success": "blue",
    "generalization": "orange",
    "stability": "green",
    "locality": "purple",
}
_OTHERS = ("purple", "teal", "slate")
UNDO, MERGE = "crimson", "slate"
"""What rollbacks and merges are marked with."""


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours as ``#rrggbb``. series: by name; the names are the same in every theme. empty: of
    cells about which nothing is known."""

    name: str
    background: str
    text: str
    muted: str
    grid: str
    empty: str
    series: Mapping[str, str]

    def pale(self, colour: str) -> str:
        """A third of it, over the background: of what was taken back."""
        pairs = zip(_channels(colour), _channels(self.background), strict=True)
        return "#" + "".join(f"{round(0.33 * a + 0.67 * b):02x}" for a, b in pairs)


def contrast(one: str, other: str) -> float:
    """Of two colours, 1 to 21 (WCAG 2.2, "contrast ratio")."""
    low, high = sorted((_luminance(one), _luminance(other)))
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.2)."""
    shares = (channel / 255 for channel in _channels(colour))
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
    red, green, blue = linear
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _channels(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


LIGHT = Theme(
    name="light",
    background="#ffffff",
    text="#1b1f24",
    muted="#57606a",
    grid="#dde2e7",
    empty="#eceff2",
    series={
        "blue": "#0072b2",
        "orange": "#d55e00",
        "green": "#008f68",
        "ochre": "#9a7400",
        "purple": "#8e5bb5",
        "teal": "#3a8a8c",
        "slate": "#66707c",
        "crimson": "#c2255c",
    },
)
DARK = Theme(
    name="dark",
    background="#14181d",
    text="#e6edf3",
    muted="#a3adb8",
    grid="#313840",
    empty="#262c33",
    series={
        "blue": "#56b4e9",
        "orange": "#ff9248",
        "green": "#2cc295",
        "ochre": "#e0b93c",
        "purple": "#c79bf0",
        "teal": "#6cc7c9",
        "slate": "#97a3b0",
        "crimson": "#ff6b9a",
    },
)
THEMES: Mapping[str, Theme] = {theme.name: theme for theme in (LIGHT, DARK)}


def method_colours(methods: Iterable[str], theme: Theme) -> dict[str, str]:
    """A colour for each method: its own, or for one that is not known here the next that is
    free."""
    names = list(dict.fromkeys(methods))
    others = sorted(name for name in names if name not in METHODS)
    free = {name: _OTHERS[place % len(_OTHERS)] for place, name in enumerate(others)}
    return {name: theme.series[METHODS.get(name) or free[name]] for name in names}
