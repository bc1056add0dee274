"""Tables and figures for people."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_PIPED_WIDTH = 160
_METRICS = {
    "edit_success": "edit success",
    "generalization": "generalisation",
    "locality": "locality",
    "stability": "stability",
    "exact_match": "exact match",
    "preference": "P(new) > P(old)",
}


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "", text: str = ""
) -> None:
    """A table without lines. Headings, separated by ``|``: `right` of the columns to align to the
    right, `text` of those that may be shortened to fit the terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in right.split("|") else "left",
            overflow="ellipsis",
            no_wrap=True,
            min_width=None if heading in text.split("|") else _width(heading, headings, rows),
        )
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    _console().print(table)


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values, one a line."""
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        _console().print(f"[bold]{name:<{width}}[/]  {escape(value)}", soft_wrap=True)


def print_scores(base: dict[str, Any], state: dict[str, Any], n: int) -> None:
    """Scores of the base beside those of the state."""
    rows = [
        (label, score(base.get(key)), score(state.get(key)))
        for key, label in _METRICS.items()
        if state.get(key) is not None
    ]
    print_table((f"{n} edits", "base", "edited"), rows, right="base|edited")


def score(value: float | None) -> str:
    """A share with three decimals."""
    return "-" if value is None else f"{value:.3f}"


def size(count: int) -> str:
    """Bytes in a unit that is easy to read."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")


def short(text: str, length: int) -> str:
    """`text` on one line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"


def numbers(values: Sequence[int]) -> str:
    """Turn numbers as ranges: 1-4, 6."""
    spans: list[list[int]] = []
    for value in sorted(values):
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans) or "none"


def _width(heading: str, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    at = list(headings).index(heading)
    return max(len(heading), *(len(row[at]) for row in rows), 0)


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        # What is piped or kept in a file is not cut to the width of a terminal that is not there.
        console.width = _PIPED_WIDTH
    return console
