"""Templates to HTML: whatever comes from a history is text, as `ledger.wording` shows it."""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ledger.metrics import metric_name
from ledger.overview.concerns import right
from ledger.wording import counted, is_number, numbers, score, size, turn_numbers, visible

STATIC = Path(__file__).parent / "static"
_HASH = 12
_NONE = "–"
# Of a duration: up to so many of a unit, it is told in the unit.
_UNITS = ((120, 1, "s"), (7200, 60, "min"), (float("inf"), 3600, "h"))


@cache
def environment() -> Environment:
    """The templates of this package. Values are escaped, and what does not print is shown as an
    escape sequence in letters."""
    found = Environment(
        loader=PackageLoader("ledger.page"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "score": figure,
        "metric": metric_name,
        "share": share,
        "right": right,
        "counted": counted,
        "numbers": numbers,
        "turns": turn_numbers,
        "size": size,
        "day": day,
        "moment": moment,
        "seconds": seconds,
        "short_hash": short_hash,
        "words": words,
    }
    return found


def render(template: str, content: Mapping[str, Any]) -> str:
    """The template with these values."""
    return environment().get_template(template).render(content)


def static_text(name: str) -> Markup:
    """A file of our own from the folder of static ones, to be put into a page as it is."""
    return Markup((STATIC / name).read_text(encoding="utf-8"))


def _shown(value: object) -> object:
    """What stands for a value. Texts that are HTML already were made by a template."""
    if value is None:
        return _NONE
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    return value


def figure(value: object) -> str:
    """As `score`, with the dash of these pages."""
    return score(value) if is_number(value) else _NONE


def share(value: object) -> str | Markup:
    """A share as per cent, 0 and 100 only of what is exactly that; a dash for what is none."""
    if not is_number(value):
        return _NONE
    rounded = round(value * 100)
    return Markup(f"{min(max(rounded, 1), 99) if 0 < value < 1 else rounded}&nbsp;%")


def day(timestamp: str) -> str:
    """The date of an ISO time."""
    return timestamp[:10]


def moment(timestamp: str) -> str:
    """An ISO time to the minute, in UTC."""
    return datetime.fromisoformat(timestamp).strftime("%Y-%m-%d %H:%M UTC")


def seconds(value: float) -> str:
    """A duration in a unit that is easy to read."""
    for most, unit, name in _UNITS:
        if value < most:
            return f"{value / unit:.1f} {name}"
    raise AssertionError("unreachable")


def short_hash(value: str) -> str:
    """As much of a hash as links carry."""
    return value[:_HASH]


def words(name: str) -> str:
    """A name with underscores as words."""
    return name.replace("_", " ")
