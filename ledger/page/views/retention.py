"""How the edits of each turn fare in the states after later turns, and which are forgotten."""

from collections.abc import Sequence

from ledger import database, history
from ledger.history import Step
from ledger.overview.forgotten import forgetting
from ledger.overview.retained import Cell, Retained
from ledger.page.site import Asked, Content, Site
from ledger.page.views.charts import content_of

_FORGOTTEN, _MOST = 50, 1000


def add(site: Site) -> None:
    """Add the page."""

    @site.page("/retention", "retention.html", section="retention")
    def retention(asked: Asked) -> Content:
        shown = min(asked.number("forgotten", _FORGOTTEN), _MOST)

        def make() -> Content:
            return _content(asked, content_of(site, asked, "retention"))

        content = site.soon(asked, "retention", make)
        return {**content, "forgetting": _first(content["forgetting"], shown)}


def _content(asked: Asked, triangle: Retained) -> Content:
    """triangle: as its chart has it. most: so many forgotten edits can be shown."""
    with database.reading(asked.ledger.engine) as session:
        line = history.line(session, asked.ledger.branch)
        lost = forgetting(session, line, most=_MOST)
    return {
        "turns": len(line),
        "retained": _triangle(triangle, line),
        "forgetting": lost.to_json(),
        "most": _MOST,
    }


def _first(lost: Content, count: int) -> Content:
    """The same with so many edits."""
    edits = lost["edits"][:count]
    return {**lost, "edits": edits, "more": lost["more"] + len(lost["edits"]) - len(edits)}


def _triangle(found: Retained, line: Sequence[Step]) -> Content:
    """rows: each with a cell for every state, None where nothing is recorded."""
    cells = {(cell.turn, cell.at): cell for cell in found.cells}
    return {
        "states": [{"turn": at, "hash": line[at - 1].hash} for at in found.states],
        "rows": [
            {
                "turn": turn,
                "hash": line[turn - 1].hash,
                "state": line[turn - 1].state,
                "base": found.base.get(turn),
                "cells": [_cell(cells.get((turn, at))) for at in found.states],
            }
            for turn in found.turns
        ],
        "recorded": found.recorded,
        "notes": list(found.notes),
    }


def _cell(cell: Cell | None) -> Content | None:
    return None if cell is None else {"n": cell.n, "success": cell.success}
