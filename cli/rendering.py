"""Tables and figures for people.

What is printed may come from a dataset or a history of unknown origin: whatever a terminal could
take for a command, and what turns the direction of writing or cannot be seen, is shown as an escape
sequence in letters. Everything the commands write goes through `tell`, `echo` or `json_text`.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click
from rich.cells import cell_len

from cli.fitting import GAP, INDENT, NARROWEST, arranged, fitted, wrapped
from ledger.metrics import METRICS, metric_name
from ledger.wording import NOTHING, counted, is_number, is_visible, score, visible

if TYPE_CHECKING:
    from ledger.intervals import Interval

DUMB = ("dumb", "unknown")
"""Names of terminals that take texts alone."""
# Where a tenth of a per cent is a lot.
_FINE = ("kl_divergence",)
_INTERVAL = "95 % interval"
# Long lists among hyperparameters; how many there are is enough for people.
_LISTS = {"contexts": "contexts", "pool": "sentences"}


def print_table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: str = "",
    whole: str = "",
    styles: Mapping[str, Callable[[str], str]] | None = None,
) -> None:
    """A table without lines. Headings, separated by ``|``: `right` of the columns to align to the
    right, `whole` of texts that are of no use when they are cut. styles: heading → what gives the
    finished cells of that column their styles.

    On a terminal the widest texts are cut to fit; if that is not enough, every row goes on below.
    What is piped or kept in a file is neither cut nor broken.
    """
    cells = [[visible(cell) for cell in row] for row in (headings, *rows)]
    natural = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    flush = [heading in right.split("|") for heading in headings]
    fixed = {*right.split("|"), *whole.split("|")}
    least = [
        width if heading in fixed else min(width, max(NARROWEST, cell_len(heading)))
        for heading, width in zip(headings, natural, strict=True)
    ]
    lines = arranged(natural, least, terminal_width())
    styling = [(styles or {}).get(heading, str) for heading in headings]
    for number, row in enumerate(cells):
        for place, widths in enumerate(lines):
            shown = [(at, fitted(row[at], width, right=flush[at])) for at, width in widths.items()]
            line = GAP.join(styling[at](cell) if number else cell for at, cell in shown).rstrip()
            if line or not place:
                line = f"{INDENT}{line}" if place else line
                echo(line if number else click.style(line, bold=True))


def print_facts(facts: Sequence[tuple[str, str]]) -> None:
    """Names and values, one a line; on a terminal, long values go on below their beginning."""
    shown = [(visible(name), visible(value)) for name, value in facts]
    margin = max(cell_len(name) for name, _ in shown) + len(GAP)
    columns = terminal_width()
    is_narrow = columns is not None and columns - margin < NARROWEST
    for name, value in shown:
        label = click.style(fitted(name, margin, right=False), bold=True)
        room = (columns or 0) - (len(INDENT) if is_narrow else margin)
        lines = [value] if columns is None else wrapped(value, max(room, NARROWEST))
        if is_narrow:
            echo(click.style(name, bold=True))
        for number, line in enumerate(lines):
            below = INDENT if is_narrow else " " * margin
            echo(f"{below if number or is_narrow else label}{line}")


def terminal_width() -> int | None:
    """The columns of the terminal that is written to; None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def tell(*lines: str, err: bool = False) -> None:
    """Print lines, of whatever origin, as they are safe to show. err: on standard error."""
    click.echo("\n".join(map(visible, lines)), err=err)


def echo(line: str) -> None:
    """Print a line with styles, all else in it made `visible`; the styles only where they are
    wanted."""
    click.echo(line, color=is_styled(sys.stdout))


def is_styled(stream: TextIO) -> bool:
    """Whether what is written there may have colours and other styles.

    On a terminal, unless NO_COLOR is set or it is a dumb one; elsewhere, if FORCE_COLOR is set.
    """
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") not in DUMB


def write(text: str, *, end: bool = True) -> None:
    """Print a text of our own, or of `json_text`, as it is. end: with the end of a line."""
    click.echo(text, nl=end)


def json_text(content: object, *, indent: int | None = None) -> str:
    """`content` as JSON that can be shown: what does not print is escaped as JSON escapes it."""
    lines = json.dumps(content, indent=indent, ensure_ascii=False).split("\n")
    return "\n".join(line if is_visible(line) else _escaped_json(line) for line in lines)


def _escaped_json(line: str) -> str:
    return "".join(c if is_visible(c) else json.dumps(c)[1:-1] for c in line)


def print_scores(
    base: dict[str, Any],
    state: dict[str, Any],
    n: int,
    *,
    of: str = "edits",
    intervals: "Sequence[Mapping[str, Interval]] | None" = None,
) -> None:
    """Scores of the base beside those of the state, on n of something.

    intervals: of the base's and of the state's, to be shown beside them.
    """
    names = [*METRICS, *(key for key in state if key not in METRICS)]
    known = [key for key in names if state.get(key) is not None]
    columns = [(counted(n, of), list(map(metric_name, known)))]
    for place, (heading, scores) in enumerate((("base", base), ("edited", state))):
        columns.append((heading, [_score(key, scores.get(key)) for key in known]))
        if intervals is not None:
            columns.append((_INTERVAL, [_within(key, intervals[place]) for key in known]))
    headings = [heading for heading, _ in columns]
    rows = list(zip(*(cells for _, cells in columns), strict=True))
    print_table(headings, rows, right=f"base|edited|{_INTERVAL}")


def _score(metric: str, value: Any) -> str:
    return f"{value:.3g}" if metric in _FINE and is_number(value) else score(value)


def _within(metric: str, intervals: "Mapping[str, Interval]") -> str:
    found = intervals.get(metric)
    if found is None:
        return NOTHING
    return f"{_score(metric, found.low)} to {_score(metric, found.high)}"


def settings(hyperparameters: dict[str, Any]) -> str:
    """Hyperparameters on one line, without the modules."""
    shown = []
    for name, value in hyperparameters.items():
        if name in _LISTS and isinstance(value, list):
            shown.append(counted(len(value), _LISTS[name]))
        elif value is not None and name != "modules":
            shown.append(f"{name} {value}")
    return ", ".join(shown)


def short(text: str, length: int) -> str:
    """`text` on one line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: length - 1] + "…"
