"""The triangle of `ledger evaluate --suite retention`: each turn's edits at later states."""

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cli.rendering import print_table, short, tell
from ledger.metrics import METRICS
from ledger.wording import NOTHING, counted, score

if TYPE_CHECKING:
    from ledger.suites.triangle import Cell, KeptTurn, State, Triangle

_TURN, _ALL, _KEPT = "turn", "all", "kept"
_SHOWN = 20
# Of a share like .68, and of the space before it.
_SHARE, _GAP = 3, 2


def print_triangle(triangle: "Triangle", *, most: int = _SHOWN) -> None:
    """Edit success of each turn's sample (rows) in the states after later turns (columns), then the
    last state's scores, and at most so many of the edits that were forgotten.

    On a terminal only so many states are shown as fit beside each other.
    """
    last = triangle.states[-1]
    tell(
        f"edit success of each turn's edits (up to {triangle.sample:,}) in the states after later "
        "turns:"
    )
    shown = _fitting(triangle.states, triangle.turns)
    rows = [*_rows(triangle, shown), (_ALL, *(_share(_success(one)) for one in shown), "")]
    headings = (_TURN, *(str(one.turn) for one in shown), _KEPT)
    print_table(headings, rows, right="|".join(headings))
    if len(shown) < len(triangle.states):
        tell(f"{len(shown)} of {len(triangle.states)} states fit here; --json has them all")
    tell(f"after turn {last.turn}, {counted(last.n, 'edits')} of the samples still hold:")
    _print_last(last, triangle.seed)
    _print_forgotten(triangle, most)
    for note in triangle.notes:
        tell(f"note: {note}")


def _rows(triangle: "Triangle", shown: Sequence["State"]) -> list[tuple[str, ...]]:
    cells = {(cell.turn, cell.at): cell for cell in triangle.cells}
    return [
        (
            str(row.turn),
            *(_cell(row.turn, one.turn, cells.get((row.turn, one.turn))) for one in shown),
            _share(row.kept),
        )
        for row in triangle.turns
    ]


def _cell(turn: int, at: int, cell: "Cell | None") -> str:
    """Nothing before the turn was made; a dash where none of its edits is to be asked."""
    if at < turn:
        return ""
    return NOTHING if cell is None else _share(_success(cell))


def _success(tally: "Cell | State") -> float | None:
    return tally.scores["edit_success"]


def _share(value: float | None) -> str:
    """In three columns: .68, 1.0"""
    if value is None:
        return NOTHING
    text = f"{value:.2f}"
    return text.removeprefix("0") if text.startswith("0.") else f"{value:.1f}"


def _fitting(states: Sequence["State"], turns: Sequence["KeptTurn"]) -> list["State"]:
    """The states that the terminal has room for, at even distances with the first and the last;
    all of them where the output is piped or kept in a file."""
    widest = max(_SHARE, *(len(str(one.turn)) for one in states))
    label = max(len(_TURN), *(len(str(row.turn)) for row in turns))
    room = shutil.get_terminal_size().columns - label - _GAP - len(_KEPT)
    fits = max(2, room // (widest + _GAP))
    if not sys.stdout.isatty() or len(states) <= fits:
        return list(states)
    return [states[place * (len(states) - 1) // (fits - 1)] for place in range(fits)]


def _print_last(last: "State", seed: int) -> None:
    intervals = last.intervals(seed)
    rows = []
    for metric, value in last.scores.items():
        if value is not None:
            interval = intervals[metric]
            within = f"{score(interval.low)} to {score(interval.high)}" if interval else NOTHING
            rows.append((METRICS[metric], score(value), within))
    if rows:
        print_table(("metric", "mean", "95 % interval"), rows, right="mean|95 % interval")


def _print_forgotten(triangle: "Triangle", most: int) -> None:
    forgotten = triangle.forgotten
    if not forgotten:
        tell("no edit that was right is wrong now")
        return
    verb = "was right and is" if len(forgotten) == 1 else "were right and are"
    tell(f"{counted(len(forgotten), 'edits')} {verb} wrong now:")
    print_table(
        ("turn", "row", "prompt", "target", "now", "lost at"),
        [
            (
                str(one.turn),
                NOTHING if one.row is None else str(one.row),
                short(one.prompt, 60),
                short(one.target, 30),
                score(one.now),
                str(one.lost_at),
            )
            for one in forgotten[:most]
        ],
        right="turn|row|now|lost at",
    )
    if len(forgotten) > most:
        tell(f"… and {counted(len(forgotten) - most, 'more edits')} (--json lists them)")
