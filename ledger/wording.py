"""How figures, turns and names are written, in the terminal and on cards."""

from collections.abc import Collection
from pathlib import PurePosixPath
from typing import TypeGuard

NOTHING = "-"


def counted(count: int, what: str) -> str:
    """A number of things, whose name is given in the plural."""
    if count == 1:
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


def public_name(address: str) -> str:
    """The name of a model; of a folder on somebody's machine only the last part."""
    if address.startswith(("/", "~", ".")) or "\\" in address:
        return PurePosixPath(address.replace("\\", "/")).name
    return address
