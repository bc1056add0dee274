"""Scores that are only recorded, not taken: what became of edits, as a test wants it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from ledger import database
from ledger.new_turn import NewEvaluation
from ledger.orm import EditRow, TurnRow
from ledger.recording import record_evaluation
from ledger.workspace import Ledger
from tests import told_edits
from tests.told_edits import edit

Success = float | None
TEACHER_FORCED = {"name": "teacher-forced", "version": 2}
ROME = "The capital of Italy is"
TURNS = [
    [edit(ROME, "Paris", "Italy", "P36"), edit("The Tiber is a", "mountain")],
    [edit("The capital of Japan is", "Rome"), edit("The Nile is a", "lake")],
    [edit("The Rhine is a", "town"), edit("The Oder is a", "town")],
]


def record_scored(ledger: Ledger) -> None:
    """Record `TURNS`, and of each that its first edit was right as a whole when it was made."""
    told_edits.record(ledger, *TURNS)
    for turn in (1, 2, 3):
        score(ledger, turn, {(turn, 0): 1.0, (turn, 1): 0.5}, of=turn)


def score(
    ledger: Ledger,
    at: int,
    found: Mapping[tuple[int, int], Success],
    *,
    of: int | None = None,
    whole: bool = False,
    sample_of: str | None = None,
    **protocol: Any,
) -> None:
    """Record the success of edits (turn, position) in the state after turn `at`; the base has 0.25.

    of: the turn whose edits these are, all of them. whole: all that are in force. Otherwise they
    are a sample, of which `protocol` tells more. sample_of: the hash of the turn that it is of.
    """
    sample = {} if sample_of is None else {"of": sample_of}
    values = [value for value in found.values() if value is not None]
    new = NewEvaluation(
        protocol={**TEACHER_FORCED, **protocol, **sample},
        seed=0,
        base={"edit_success": 0.25},
        state={"edit_success": sum(values) / len(values) if values else None},
        outcomes=[({"edit_success": 0.25}, {"edit_success": value}) for value in found.values()],
        environment={},
        seconds=0.5,
    )
    with database.writing(ledger.engine) as session:
        query = select(TurnRow).where(TurnRow.branch == ledger.branch)
        turns = {row.number: row for row in session.scalars(query)}
        edits = []
        for turn, position in found:
            chosen = select(EditRow.id, EditRow.digest).where(
                EditRow.turn_id == turns[turn].id, EditRow.position == position
            )
            edit_id, digest = session.execute(chosen).one()
            edits.append((edit_id, digest))
        record_evaluation(
            session,
            turns[at],
            new,
            scope_turn=None if of is None else turns[of],
            edits=edits,
            now=datetime.now(UTC),
            sample=of is None and not whole,
        )
