"""Which edits two states are compared on: those that hold in both, or those of one turn."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import history
from ledger.diffing_facts import Side, in_both
from ledger.history import Step, chunks
from ledger.orm import EditRow, TurnRow
from ledger.refs import Rev, resolve
from ledger.workspace import Ledger
from patches.edit import Edit
from patches.errors import HistoryError, SettingError

T = TypeVar("T")
_NO_TEXTS = (
    "the texts of the edits are not here: nothing to score. The turns were imported, or published "
    "without them (ledger push --include-edits publishes them)"
)


@dataclass(frozen=True, kw_only=True)
class ComparedEdit:
    """An edit that both states are asked about. id, digest: of its row in the database. turn: the
    number of its turn. row: in its dataset."""

    id: int
    digest: str
    turn: int
    row: int | None
    edit: Edit


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The edits that are asked, in order, drawn from so many.

    of: number and hash of the turn whose edits they are; None: those that hold in both states. Of
    the edits in force in either, left out are `not_in_both`: those of turns in force in one state
    only, overridden ones, and repetitions; and `without_texts`: those of which the texts are not
    here.
    """

    edits: tuple[ComparedEdit, ...]
    drawn_from: int
    of: tuple[int, str] | None = None
    not_in_both: int = 0
    without_texts: int = 0


def choose(
    session: Session,
    ledger: Ledger,
    a: Side,
    b: Side,
    *,
    turn: Rev | None,
    sample: int | None,
    seed: int,
) -> Compared:
    """The edits to compare two states on.

    By default those that hold in both; if one of them is the base, in the other. turn: those of
    this turn, whether they hold or not. sample: at most so many of them, drawn by the seed.
    HistoryError if there are none, SettingError if the sample is too small.
    """
    if sample is not None and sample < 1:
        raise SettingError(f"--sample counts edits: at least 1, not {sample}")
    if not (a.steps or b.steps):
        raise HistoryError("both states are the base: there is nothing to compare")
    if turn is not None:
        return _of_turn(session, ledger, turn, sample, seed)
    return _of_both(session, a, b, sample, seed)


def _of_turn(
    session: Session, ledger: Ledger, turn: Rev, sample: int | None, seed: int
) -> Compared:
    found = resolve(session, ledger.branch, turn)
    if found is None:
        raise HistoryError("turn 0 is the base: it has no edits to score")
    row = session.get_one(TurnRow, found)
    if not row.edits:
        raise HistoryError(f"turn {row.number} is a {row.kind}: it has no edits to score")
    query = select(EditRow.id).where(EditRow.turn_id == row.id).order_by(EditRow.position)
    ids = list(session.scalars(query))
    if not ids:
        raise HistoryError(_NO_TEXTS)
    drawn = _drawn(ids, sample, seed)
    return Compared(
        edits=_read(session, dict.fromkeys(drawn, row.number)),
        drawn_from=len(ids),
        of=(row.number, row.hash),
    )


def _of_both(session: Session, a: Side, b: Side, sample: int | None, seed: int) -> Compared:
    facts = in_both(session, a, b)
    in_force = {step.id: step for side in (a, b) for step in side.edits if step.edits}
    without = _without_texts(session, list(in_force.values()))
    if not facts:
        _refuse(a, b, in_force=len(in_force), without=without)
    drawn = _drawn(facts, sample, seed)
    total = sum(step.edits for step in in_force.values())
    return Compared(
        edits=_read(session, {fact.edit_id: fact.number for fact in drawn}),
        drawn_from=len(facts),
        not_in_both=total - without - len(facts),
        without_texts=without,
    )


def _refuse(a: Side, b: Side, *, in_force: int, without: int) -> None:
    if without:
        raise HistoryError(_NO_TEXTS)
    if not in_force:
        names = " and ".join(str(number) for number in sorted({a.turn, b.turn} - {0}))
        raise HistoryError(f"no edit is in force at turn {names}: nothing to compare on")
    raise HistoryError(
        f"no edit holds both at turn {a.turn} and at turn {b.turn}: nothing to compare on; compare "
        "them on the edits of one turn, with --turn N"
    )


def _without_texts(session: Session, steps: Sequence[Step]) -> int:
    """The number of edits of these turns of which the texts are not here."""
    here: set[int] = set()
    for some in chunks([step.id for step in steps]):
        # A turn has all of its texts or none.
        query = select(EditRow.turn_id).where(EditRow.turn_id.in_(some), EditRow.position == 0)
        here.update(session.scalars(query))
    return sum(step.edits for step in steps if step.id not in here)


def _drawn(edits: Sequence[T], sample: int | None, seed: int) -> Sequence[T]:
    """At most so many of them, in their order."""
    if sample is None or sample >= len(edits):
        return edits
    places = random.Random(seed).sample(range(len(edits)), sample)
    return [edits[place] for place in sorted(places)]


def _read(session: Session, turns: Mapping[int, int]) -> tuple[ComparedEdit, ...]:
    """The edits with these row ids, in this order. turns: row id → number of the edit's turn."""
    rows: dict[int, EditRow] = {}
    for some in chunks(list(turns)):
        query = select(EditRow).where(EditRow.id.in_(some))
        rows |= {row.id: row for row in session.scalars(query)}
    return tuple(
        ComparedEdit(
            id=edit_id,
            digest=rows[edit_id].digest,
            turn=number,
            row=rows[edit_id].row,
            edit=history.edit_of(rows[edit_id]),
        )
        for edit_id, number in turns.items()
    )
