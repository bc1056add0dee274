"""One edit in full: its texts and probes, how it was answered over the turns, what it overrides."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session
from werkzeug.exceptions import NotFound

from ledger import database, history
from ledger.edit_records import records
from ledger.facts import Fact
from ledger.history import Step
from ledger.orm import EditRow
from ledger.page.lines import line_of
from ledger.page.site import Asked, Content, Site
from ledger.reporting import placed
from ledger.turn import Turn, told
from ledger.turn_edits import Traced, conflicts, count_edits, row_at, turn_edits
from ledger.wording import counted

_MOST = 50
"""Records, and edits of the same question, that are shown."""
_FARTHEST = 2**31 - 1
"""The largest position that a database knows of."""


def add(site: Site) -> None:
    """Add the page."""

    @site.page("/turns/<path:rev>/edits/<int:position>", "edit.html", section="turns")
    def edit(asked: Asked, rev: str, position: int) -> Content:
        own = line_of(site, asked)
        with database.reading(asked.ledger.engine) as session:
            line, step = placed(session, asked.ledger, rev, own)
            row = row_at(session, step, min(position, _FARTHEST))
            if row is None:
                raise NotFound(_missing(session, step, position))
            [turn] = told(session, line, [step])
            return {
                **_edit(session, line, turn, row),
                "on_branch": line is own,
                "edits": count_edits(session, step),
                "turn": _turn(session, line, turn),
            }


def _edit(session: Session, line: Sequence[Step], turn: Turn, row: EditRow) -> Content:
    [edit] = turn_edits(session, line, turn.step, turn.evaluation, [row])
    pairs = conflicts(session, line, turn.step, [row])
    scores = records(session, line, turn.step, row.id)
    since = [one for one in scores if one.turn != turn.number]
    found = Traced(edit=edit, now=since[-1] if since else None)
    probes: dict[str, Any] = json.loads(row.probes)
    return {
        **found.to_json(),
        "rephrasings": probes.pop("rephrasings", []),
        "probes": {
            kind: [{"prompt": prompt, "answer": answer} for prompt, answer in pairs]
            for kind, pairs in probes.items()
        },
        "records": [one.to_json() for one in scores[-_MOST:]],
        "records_more": max(0, len(scores) - _MOST),
        "overridden_edits": [_told(line, fact) for fact, by in pairs if by.edit_id == row.id][
            :_MOST
        ],
        "overriding_edit": next(
            (_told(line, by) for fact, by in pairs if fact.edit_id == row.id), None
        ),
    }


def _told(line: Sequence[Step], fact: Fact) -> dict[str, Any]:
    return {
        "turn": fact.number,
        "hash": line[fact.number - 1].hash,
        "position": fact.position,
        "prompt": fact.prompt,
        "target": fact.target,
    }


def _turn(session: Session, line: Sequence[Step], turn: Turn) -> dict[str, Any]:
    """What the edit's page says of its turn: the fields of ``ledger log --json``, and these."""
    dataset = history.dataset_of(session, turn.row)
    undone_by = next((one for one in line if one.in_force and turn.number in one.undoes), None)
    return {
        **turn.to_json(),
        "author": turn.row.author,
        "dataset": None if dataset is None else dataset.uri,
        "dataset_id": None if dataset is None else dataset.id,
        "undone_by": None
        if undone_by is None
        else {"turn": undone_by.number, "hash": undone_by.hash},
    }


def _missing(session: Session, step: Step, position: int) -> str:
    here = count_edits(session, step)
    if not here:
        why = "its publisher kept the texts back" if step.edits else f"it is a {step.kind}"
        return f"turn {step.number} has no edits here: {why}"
    return f"turn {step.number} has {counted(here, 'edits')}, none at position {position}"
