"""Model cards of small ledgers, taken apart as the Hub and a browser do."""

from collections.abc import Mapping
from typing import Any

from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from markdown_it.token import Token
from sqlalchemy import delete, update

from ledger import database
from ledger.cards import Published, card
from ledger.orm import EditRow, OutcomeRow, TurnRow
from ledger.reporting import log
from ledger.workspace import Ledger, open_ledger

USER = "mallory"
COMMIT = "c0ffee" + "0" * 34
HOSTILE = (
    "---\nlicense: mit\n---",
    "a | b || \\| c \\",
    "`code` ``more`` ```",
    "<script>alert(1)</script><!-- x --> &amp; <b>",
    "[click](javascript:x) ![i](x.png) [a]: b",
    "**bold** __bold__ ~~gone~~ $x$ # title",
    "\u202eevil\u2066 \x1b[31m \r\t\u2028 nul",
    "- [ ] task\n\n# title\n\n| a |\n| --- |",
)


def write(ledger: Ledger, at: int | None = None, **changes: Any) -> str:
    """The card of the state at a turn, by default of a model with a known base."""
    what = {
        "repo": "owner/name",
        "form": "model",
        "tag": "turn-4",
        "base_model": "owner/base",
        "base_revision": COMMIT,
        **changes,
    }
    with open_ledger(ledger.folder) as reader:
        return card(reader, log(reader), at, Published(**what))


def data(text: str) -> dict[str, Any]:
    """The metadata, which the Hub's client reads and writes back as it is."""
    read = ModelCard(text)
    assert str(read) == text
    found: dict[str, Any] = read.data.to_dict()  # type: ignore[no-untyped-call]
    return found


def tokens(text: str) -> list[Token]:
    """What a renderer makes of the text below the metadata, inline tokens included."""
    blocks = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(ModelCard(text).text)
    return [token for block in blocks for token in (block, *(block.children or ()))]


def tables(text: str) -> list[list[list[str]]]:
    """The tables as a reader sees them: rows of cells, headings first."""
    found: list[list[list[str]]] = []
    for token in tokens(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            found[-1][-1].append("")
        elif token.type in ("text", "code_inline") and token.level == 0 and found and found[-1]:
            found[-1][-1][-1] += token.content
        elif token.type == "table_close":
            found.append([])
    return [rows for rows in found if rows]


def cells(text: str, heading: str) -> list[list[str]]:
    """The rows of the one table with this first heading."""
    [rows] = [rows[1:] for rows in tables(text) if rows[0][0] == heading]
    return rows


def headings(text: str) -> list[str]:
    everything = tokens(text)
    return [
        everything[at + 1].content
        for at, token in enumerate(everything)
        if token.type == "heading_open"
    ]


def set_values(ledger: Ledger, table: type, **values: object) -> None:
    with database.writing(ledger.engine) as session:
        session.execute(update(table).values(**values))


def withhold(ledger: Ledger, number: int, source: Mapping[str, object] | None) -> None:
    """Turn `number` as a pull without the facts leaves it."""
    turn = log(ledger)[number - 1]
    ids = [turn.row.id]
    told = {"edits": True, "scores": turn.scores, **({"source": source} if source else {})}
    with database.writing(ledger.engine) as session:
        session.execute(delete(OutcomeRow))
        session.execute(delete(EditRow).where(EditRow.turn_id.in_(ids)))
        session.execute(
            update(TurnRow).where(TurnRow.id.in_(ids)).values(withheld=told, dataset_id=None)
        )
