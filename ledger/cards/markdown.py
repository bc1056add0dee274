"""Markdown that holds whatever it is given: a text from anywhere stays a text."""

import re
from collections.abc import Sequence

from ledger.wording import visible

MOST = 1000
"""Rows of a table; a page with more is hardly shown, and never read."""

# What has a meaning anywhere in a line: emphasis, code, links, HTML, entities, cells of tables,
# formulas, and what some renderers make links, mentions or pictures of by itself.
_SIGNS = re.compile(r"[\\`*_{}\[\]<>|&~$:@^]|(?<=www)\.", re.IGNORECASE)
_HARMLESS = re.compile(r"[A-Za-z0-9._/:@?=&%+,#()-]+(?: [A-Za-z0-9._/:@?=&%+,#()-]+)*")
LONGEST = 300
"""Characters of a text that are shown."""


def escaped(text: str) -> str:
    """`text` on one line, for anywhere but the beginning of a line, in a cell of a table too.

    Signs of Markdown are character references, which stand for a sign and never act as one; what
    does not print (line breaks, control signs, signs that turn the direction of writing) is an
    escape sequence in letters; what is very long is cut.
    """
    cut = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return _SIGNS.sub(lambda sign: f"&#{ord(sign[0])};", visible(cut))


def code(text: str) -> str:
    """`text` as code where nothing in it can end the code or a cell, else `escaped`."""
    if len(text) <= LONGEST and _HARMLESS.fullmatch(text):
        return f"`{text}`"
    return escaped(text)


def block(language: str, *lines: str) -> str:
    """Lines of code; of our own, or made of checked names."""
    return "\n".join([f"```{language}", *lines, "```"])


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "") -> str:
    """A table. right: headings, separated by ``|``, of the columns to align to the right.

    Cells are Markdown on one line: texts from elsewhere must be `escaped`.
    """
    rules = ["---:" if heading in right.split("|") else "---" for heading in headings]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, rules, *rows))


def capped_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: str = "") -> str:
    """A table of at most `MOST` rows, which says how many it leaves out."""
    parts = (table(headings, rows[:MOST], right=right), left_out(len(rows) - MOST))
    return "\n\n".join(filter(None, parts))


def left_out(count: int) -> str:
    """The line below a table that does not show all."""
    return f"… and {count:,} more, which the ledger has." if count > 0 else ""


def section(title: str, *parts: str) -> str:
    """A heading with the parts that are not empty, each a block of its own."""
    return "\n\n".join(filter(None, (f"## {title}", *parts)))


def bullets(lines: Sequence[str]) -> str:
    """A list."""
    return "\n".join(f"* {line}" for line in lines)
