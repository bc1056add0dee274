"""The edits of one turn, some at a time: how each was answered before, then and now. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger.edit_records import Record, newest
from ledger.edit_states import overriding, state_of, with_edits_in_force
from ledger.facts import Fact, facts_of
from ledger.history import Step, chunks
from ledger.metrics import SUCCESS
from ledger.orm import EditRow, EvaluationRow, OutcomeRow

ALL, FORGOTTEN, NEVER_RIGHT, OVERRIDDEN = "all", "forgotten", "never_right", "overridden"
"""The kinds of edits that `Sorted` tells apart."""
MOST_SORTED = 20_000
"""Of a turn with more edits these are not told apart: it would take long."""


@dataclass(frozen=True, kw_only=True)
class TurnEdit:
    """An edit, and what was recorded of it with its turn.

    base, state: its scores in the base and in the state after the turn; None if it was not scored.
    overrides: the turns of the edits that it overrides. standing: what became of it, as
    `ledger.edit_states` has it.
    """

    row: EditRow
    base: dict[str, Any] | None
    state: dict[str, Any] | None
    overrides: tuple[int, ...]
    overridden_by: int | None
    standing: str

    def to_json(self) -> dict[str, Any]:
        """One of the `edit_list` that ``ledger show --json`` prints."""
        return {
            "row": self.row.row,
            "prompt": self.row.prompt,
            "target": self.row.target,
            "subject": self.row.subject,
            "old_target": self.row.old_target,
            "relation": self.row.relation,
            "digest": self.row.digest,
            "overrides": list(self.overrides),
            "overridden_by": self.overridden_by,
            "base": self.base,
            "state": self.state,
        }


@dataclass(frozen=True, kw_only=True)
class Traced:
    """An edit of a turn, and the newest record of it in the state after a later turn, if any."""

    edit: TurnEdit
    now: Record | None

    def to_json(self) -> dict[str, Any]:
        """The fields of ``ledger show --json``, and these."""
        return {
            **self.edit.to_json(),
            "position": self.edit.row.position,
            "standing": self.edit.standing,
            "now": None if self.now is None else self.now.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class Sorted:
    """Row ids of a turn's edits by what became of them, in order of position.

    forgotten: in force and not overridden, answered right after the turn, and not in the newest
    record since. never_right: neither then nor in the newest record since. scored_since: how many
    have such a record.
    """

    scored_since: int
    forgotten: tuple[int, ...]
    never_right: tuple[int, ...]
    overridden: tuple[int, ...]

    def of(self, kind: str) -> tuple[int, ...]:
        """Those of one kind."""
        return {
            FORGOTTEN: self.forgotten,
            NEVER_RIGHT: self.never_right,
            OVERRIDDEN: self.overridden,
        }[kind]


def count_edits(session: Session, step: Step) -> int:
    """How many edits of the turn are here: none, if their texts were not published."""
    query = select(func.count()).select_from(EditRow).where(EditRow.turn_id == step.id)
    return session.scalars(query).one()


def rows_between(session: Session, step: Step, start: int, stop: int) -> list[EditRow]:
    """The edits of the turn from place `start` up to before `stop`, from 0, in order."""
    query = select(EditRow).where(EditRow.turn_id == step.id).order_by(EditRow.position)
    return list(session.scalars(query.offset(start).limit(stop - start)))


def rows_with(session: Session, ids: Sequence[int]) -> list[EditRow]:
    """The edits with these row ids, in their order."""
    found = {
        row.id: row
        for some in chunks(ids)
        for row in session.scalars(select(EditRow).where(EditRow.id.in_(some)))
    }
    return [found[one] for one in ids]


def row_at(session: Session, step: Step, position: int) -> EditRow | None:
    """The edit of the turn at this position, if it is here."""
    query = select(EditRow).where(EditRow.turn_id == step.id, EditRow.position == position)
    return session.scalars(query).one_or_none()


def turn_edits(
    session: Session,
    line: Sequence[Step],
    step: Step,
    evaluation: EvaluationRow | None,
    rows: Sequence[EditRow],
) -> list[TurnEdit]:
    """Those edits of the turn that `rows` has, as the last turn of `line` sees them.

    evaluation: the one that was recorded with the turn.
    """
    own = {} if evaluation is None else _own_outcomes(session, evaluation, rows)
    over: dict[int, int] = {}
    under: dict[int, set[int]] = {}
    for fact, later in conflicts(session, line, step, rows):
        over[fact.edit_id] = later.number
        under.setdefault(later.edit_id, set()).add(fact.number)
    return [
        TurnEdit(
            row=row,
            base=own[row.id].base if row.id in own else None,
            state=own[row.id].state if row.id in own else None,
            overrides=tuple(sorted(under.get(row.id, ()))),
            overridden_by=over.get(row.id),
            standing=state_of(step, is_overridden=row.id in over),
        )
        for row in rows
    ]


def conflicts(
    session: Session, line: Sequence[Step], step: Step, rows: Sequence[EditRow]
) -> list[tuple[Fact, Fact]]:
    """Every edit about the questions of `rows`, edits of the turn, that is overridden, with the one
    that does it."""
    return overriding(session, with_edits_in_force(line), [_fact(step, row) for row in rows])


def traced(
    session: Session,
    line: Sequence[Step],
    step: Step,
    evaluation: EvaluationRow | None,
    rows: Sequence[EditRow],
) -> list[Traced]:
    """What `turn_edits` gives, each with its newest record since."""
    edits = turn_edits(session, line, step, evaluation, rows)
    since = newest(session, line, step, [row.id for row in rows])
    return [Traced(edit=edit, now=since.get(edit.row.id)) for edit in edits]


def sort_out(
    session: Session, line: Sequence[Step], step: Step, evaluation: EvaluationRow | None
) -> Sorted:
    """Tell all edits of the turn apart. It reads what is recorded of each of them."""
    ids = list(
        session.scalars(
            select(EditRow.id).where(EditRow.turn_id == step.id).order_by(EditRow.position)
        )
    )
    then = {} if evaluation is None else _own_success(session, evaluation)
    since = newest(session, line, step, ids)
    pairs = overriding(session, with_edits_in_force(line), facts_of(session, [step]))
    gone = {fact.edit_id for fact, _ in pairs if fact.turn_id == step.id}
    wrong_now = {one for one, record in since.items() if not record.is_right}
    return Sorted(
        scored_since=len(since),
        forgotten=tuple(
            one
            for one in ids
            if step.in_force and one not in gone and then.get(one) == 1 and one in wrong_now
        ),
        never_right=tuple(
            one for one in ids if then.get(one, 1) != 1 and (one not in since or one in wrong_now)
        ),
        overridden=tuple(one for one in ids if one in gone),
    )


def _own_outcomes(
    session: Session, evaluation: EvaluationRow, rows: Sequence[EditRow]
) -> dict[int, OutcomeRow]:
    query = select(OutcomeRow).where(OutcomeRow.evaluation_id == evaluation.id)
    return {
        outcome.edit_id: outcome
        for some in chunks([row.id for row in rows])
        for outcome in session.scalars(query.where(OutcomeRow.edit_id.in_(some)))
    }


def _own_success(session: Session, evaluation: EvaluationRow) -> dict[int, float]:
    """Row id of an edit → its success in the evaluation, where it has one."""
    query = select(OutcomeRow.edit_id, OutcomeRow.state[SUCCESS].as_float())
    rows = session.execute(query.where(OutcomeRow.evaluation_id == evaluation.id))
    return {edit: success for edit, success in rows if success is not None}


def _fact(step: Step, row: EditRow) -> Fact:
    names = (name for name in Fact._fields if name not in ("number", "edit_id"))
    return Fact(number=step.number, edit_id=row.id, **{name: getattr(row, name) for name in names})
