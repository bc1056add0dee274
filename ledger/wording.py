"""How figures, turns and names are written, in the terminal and on cards."""

import re
from collections.abc import Collection
from itertools import islice
from pathlib import PurePosixPath
from typing import TypeGuard

NOTHING = "-"
# Letters and marks that Unicode counts as printing, of which nothing is to be seen.
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0\U000e0100-\U000e01ef]")
_MOST_NAMES, _LONGEST_NAME = 30, 60


def counted(count: int, what: str) -> str:
    """A number of things, whose name is given in the plural."""
    if count == 1:
        if what.endswith("ies"):
            what = f"{what.removesuffix('ies')}y"
        else:
            what = what.removesuffix("es") if what.endswith("ches") else what.removesuffix("s")
    return f"{count:,} {what}"


def score(value: object) -> str:
    """A share with three decimals, fewer of a number that is large; a dash for what is none."""
    if not is_number(value):
        return NOTHING
    number = float(value)
    return (
        f"{number:.3f}" if number < 100 else f"{number:,.0f}" if number < 1e6 else f"{number:.1e}"
    )


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is one that can be written down; scores may come from elsewhere."""
    return isinstance(value, int | float) and abs(value) < 1e300


def size(count: int) -> str:
    """Bytes in a unit that is easy to read."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def numbers(values: Collection[int]) -> str:
    """Turn numbers as ranges: 1-4, 6."""
    spans: list[list[int]] = []
    for value in sorted(values):
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans) or "none"


def turn_numbers(values: Collection[int]) -> str:
    """The same with the word before them."""
    return f"{'turn' if len(values) == 1 else 'turns'} {numbers(values)}"


def visible(text: str) -> str:
    """`text` on one line; what does not print (line breaks, control signs, signs that turn the
    direction of writing, what has no width) as escape sequences in letters."""
    if is_visible(text):
        return text
    return "".join(c if is_visible(c) else c.encode("unicode_escape").decode() for c in text)


def is_visible(text: str) -> bool:
    """Whether `text` can be shown as it is."""
    return text.isprintable() and (text.isascii() or not _UNSEEN.search(text))


def field_names(names: Collection[object], *, quote: bool = False) -> str:
    """Names of fields, which a file may choose, in ASCII; of many or long ones the beginning."""
    shown = [ascii(name) for name in islice(names, _MOST_NAMES)]
    cut = [name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}…'" for name in shown]
    more = len(names) - len(cut)
    told = ", ".join(name if quote else name[1:-1] for name in cut)
    return f"{told} and {more:,} more" if more else told or "none"


def public_name(address: str) -> str:
    """The name of a model; of a folder on somebody's machine only the last part."""
    if address.startswith(("/", "~", ".")) or "\\" in address:
        return PurePosixPath(address.replace("\\", "/")).name
    return address
