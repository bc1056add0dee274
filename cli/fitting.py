"""What fits a terminal: tables whose columns get narrower or go on below, and wrapped texts."""

from collections.abc import Sequence

from rich.cells import cell_len, chop_cells, set_cell_size

GAP = "  "
INDENT = "      "
"""Before what of a row goes on below: where the second column of most tables begins."""
NARROWEST = 16
"""Columns that a text keeps at least, if it has so many: short ones, such as hashes, stay whole."""


def arranged(
    natural: Sequence[int], least: Sequence[int], room: int | None
) -> list[dict[int, int]]:
    """How the cells of a row are laid out: per line, the columns on it, each with its width.

    natural, least: widths that the columns would have, and that they must have. What does not fit
    into `room` even so goes on below, indented. room: None for as much as it takes.
    """
    if room is None:
        return [dict(enumerate(natural))]
    lines: list[list[int]] = [[]]
    left = room
    for column, width in enumerate(least):
        if lines[-1] and width > left:
            lines.append([])
            left = room - len(INDENT)
        lines[-1].append(column)
        left -= width + len(GAP)
    return [
        _narrowed(line, natural, least, room - (len(INDENT) if number else 0))
        for number, line in enumerate(lines)
    ]


def _narrowed(
    line: Sequence[int], natural: Sequence[int], least: Sequence[int], room: int
) -> dict[int, int]:
    """The widths of these columns, the widest of them narrower until all fit."""
    room -= len(GAP) * (len(line) - 1)
    limit = max(natural[column] for column in line)
    while True:
        widths = {column: max(min(natural[column], limit), least[column]) for column in line}
        if sum(widths.values()) <= room or limit == 0:
            return widths
        limit -= 1


def fitted(cell: str, width: int, *, right: bool) -> str:
    """The cell, exactly `width` columns wide."""
    missing = width - cell_len(cell)
    if missing < 0:
        return cut(cell, width)
    return " " * missing + cell if right else cell + " " * missing


def cut(text: str, width: int) -> str:
    """The text, or its beginning with a sign that there is more, in `width` columns or just one."""
    return text if cell_len(text) <= width else set_cell_size(text, max(width - 1, 0)) + "…"


def wrapped(text: str, room: int) -> list[str]:
    """The text in lines of at most `room` columns, broken between words where it can be."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(longer) <= room:
            lines[-1] = longer
            continue
        pieces = chop_cells(word, room)
        lines[-1:] = [line for line in (lines[-1], *pieces) if line]
    return lines
