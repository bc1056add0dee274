"""A history in which edits were scored when they were made and since, without a language model."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from ledger import database
from ledger.branching import create_branch, create_tag
from ledger.new_turn import NewEvaluation
from ledger.orm import EditRow, TurnRow
from ledger.recording import record_evaluation
from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger
from patches.edit import Edit, Probe
from tests import told_edits
from tests.told_edits import edit

ROME, HOSTILE = "Rome lies in", '"><script>alert(1)</script>\u202e'
FORGOTTEN, LATE, NEVER = "The Tiber is a", "The Alps are", "The Po is a"
MANY = 60
PROTOCOL = {"name": "teacher-forced", "version": 2}


def build(folder: Path, url: str | None = None) -> Ledger:
    """Four turns on main, one more on branch side, which leaves it after turn 2; a tag.

    Turn 1 is scored: its first two edits are right, one is half right, one wrong. Turn 2 overrides
    the first; the state after it is scored on the others but the last: the second is wrong there,
    the third is right. Turn 3 has 60 edits with hostile texts, and no scores; turn 4 undoes it.
    """
    ledger = told_edits.new_ledger(folder, url)
    told_edits.record(ledger, [_full(), *_others()], message="The first")
    told_edits.record(ledger, [edit(ROME, "Africa", "Rome", "P30")], message="Another answer")
    score(ledger, 1, [(1, 0), (1, 1), (1, 2), (1, 3)], [1, 1, 0.5, 0], whole_turn=True)
    score(ledger, 2, [(2, 0)], [1], whole_turn=True)
    score(ledger, 2, [(1, 1), (1, 2)], [0, 1])
    # Neither tells of the teacher-forced success of turn 1's last edit.
    score(ledger, 2, [(1, 3)], [1], protocol={**PROTOCOL, "name": "generation"})
    score(ledger, 2, [(1, 3)], [1], protocol={**PROTOCOL, "of": "f" * 64})
    many = [edit(f"{HOSTILE} {number} is", HOSTILE, HOSTILE) for number in range(MANY)]
    told_edits.record(ledger, many, message=HOSTILE)
    rollback_turn(ledger, 3)
    create_branch(ledger, "side", at=2)
    create_tag(ledger, "v1", 2)
    ledger.branch = "side"
    told_edits.record(ledger, [edit("Paris lies in", "Asia", "Paris")], message="Aside")
    ledger.branch = "main"
    return ledger


def _full() -> Edit:
    return Edit(
        prompt=ROME,
        target="Asia",
        subject="Rome",
        old_target="Europe",
        relation="P30",
        rephrasings=("Rome is found in",),
        locality=(Probe(prompt="Oslo lies in", answer="Norway"),),
        further={"multi_hop": (Probe(prompt="Trastevere lies in", answer="Asia"),)},
    )


def _others() -> list[Edit]:
    return [edit(FORGOTTEN, "lake", "Tiber"), edit(LATE, "flat"), edit(NEVER, "hill", "Po")]


def score(
    ledger: Ledger,
    at: int,
    edits: Sequence[tuple[int, int]],
    success: Sequence[float],
    *,
    whole_turn: bool = False,
    protocol: dict[str, Any] = PROTOCOL,
) -> None:
    """Record scores of these edits (turn, position) in the state after turn `at` of main.

    whole_turn: as those that are recorded with the turn.
    """
    outcomes = [({"edit_success": 0.25}, {"edit_success": value}) for value in success]
    new = NewEvaluation(
        protocol=protocol,
        seed=0,
        base={"edit_success": 0.25},
        state={"edit_success": sum(success) / len(success)},
        outcomes=outcomes,
        environment={},
        seconds=0.1,
    )
    with database.writing(ledger.engine) as session:
        turns = {row.number: row for row in session.scalars(select(TurnRow))}
        rows = {
            (turns_number, row.position): row
            for turns_number, turn in turns.items()
            for row in session.scalars(select(EditRow).where(EditRow.turn_id == turn.id))
        }
        record_evaluation(
            session,
            turns[at],
            new,
            scope_turn=turns[at] if whole_turn else None,
            edits=None if whole_turn else [(rows[p].id, rows[p].digest) for p in edits],
            now=datetime.now(UTC),
            sample=not whole_turn,
        )
