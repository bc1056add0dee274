"""Charts as pages have them: for light and dark, for wide screens and for phones."""

from collections.abc import Callable
from typing import Any, TypeVar

from ledger import plots

T = TypeVar("T")
WIDTHS = {"wide": 8.0, "narrow": 4.2}
"""In inches; texts keep their size."""
FORMS = {"theme": ("light", "dark"), "size": tuple(WIDTHS)}
"""What can be chosen of a picture, the default first."""


def each(picture: Callable[[str, str], T]) -> dict[str, dict[str, T]]:
    """Theme → size → what `picture` gives for them."""
    return {
        theme: {size: picture(theme, size) for size in FORMS["size"]} for theme in FORMS["theme"]
    }


def drawn(kind: str, content: Any) -> dict[str, dict[str, bytes]]:
    """The chart in each form, as SVG."""
    return each(lambda theme, size: plots.draw(kind, content, theme=theme, width=WIDTHS[size]))
