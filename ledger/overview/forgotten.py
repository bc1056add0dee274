"""Edits that were right when they were made, and are not any more, as far as it is recorded."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Select, Subquery, and_, case, func, select, true
from sqlalchemy.orm import Session, aliased

from ledger.edit_states import with_edits_in_force
from ledger.history import Step, chunks
from ledger.orm import EditRow, EvaluationRow, OutcomeRow
from ledger.overview.overrides import overridden_on
from ledger.overview.scorings import Scoring, among, scorings, success

_COUNTS = ("asked", "right_then", "right_now", "lost", "gained")


@dataclass(frozen=True, kw_only=True)
class Lost:
    """An edit whose whole answer was right in the state after its turn, and was not in the newest
    state that it was scored in, that after turn `at`.

    then, now: its success in both. lost_at: the first turn after which it was seen to be wrong.
    hash: of its turn.
    """

    turn: int
    hash: str
    position: int
    row: int | None
    prompt: str
    target: str
    subject: str | None
    then: float
    now: float
    lost_at: int
    at: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What became of the `asked` edits in force that were scored in the state after their turn, and
    in a later one. right_then, right_now: whose whole answer was right in the first, in the newest.
    lost, gained: right then and not now, or the other way round."""

    asked: int
    right_then: int
    right_now: int
    lost: int
    gained: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Forgetting:
    """edits: those that are lost, the largest loss first. more: how many are not listed. notes: how
    to learn more, for people."""

    kept: Kept
    edits: tuple[Lost, ...]
    more: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def forgetting(session: Session, line: Sequence[Step], *, most: int = 100) -> Forgetting:
    """What of the edits in force on `line` is lost; at most `most` of them are listed.

    Nothing is scored now: an edit counts as it was in the newest state that it was scored in. Those
    that something overrides are left out, and those that were not scored right after their turn.
    """
    found = scorings(session, line)
    later = [one for one in found if one.of != one.at]
    newest = _newest(
        own=list(_when_made(line, found).values()),
        later=[one.id for one in later],
        without=[fact.edit_id for fact, _ in overridden_on(session, line)],
    )
    rows = session.execute(_lost_first(newest).limit(max(most, 1))).all()
    kept = Kept(**{name: getattr(rows[0], name) if rows else 0 for name in _COUNTS})
    edits = _lost(session, line, [row for row in rows[:most] if row.is_lost], later)
    return Forgetting(
        kept=kept,
        edits=tuple(edits),
        more=kept.lost - len(edits),
        notes=tuple(_notes(line, kept)),
    )


def _when_made(line: Sequence[Step], found: Sequence[Scoring]) -> dict[int, int]:
    """Turn in force → row id of the first evaluation of its edits in the state after it: of them
    alone, or of all in force; of some of them, if there is none of these."""
    turns = with_edits_in_force(line)
    edits = {step.number: step.edits for step in line if step.id in turns}
    own = [one for one in found if one.at in edits and (one.is_whole or one.of == one.at)]
    first: dict[int, int] = {}
    for one in sorted(own, key=lambda one: (one.n < edits[one.at], one.is_whole, one.id)):
        first.setdefault(one.at, one.id)
    return first


def _newest(*, own: Sequence[int], later: Sequence[int], without: Sequence[int]) -> Subquery:
    """The edits that were scored by an evaluation in `own` and by a later one, with their success
    `then`, and `now`: in the newest state, that after the turn `at` (row id)."""
    place = func.row_number().over(
        partition_by=OutcomeRow.edit_id,
        # Along a line the ids of turns grow, whatever the order in which its states were scored.
        order_by=(EvaluationRow.turn_id.desc(), EvaluationRow.id.desc()),
    )
    now = success(OutcomeRow.state).label("now")
    scored = (
        select(OutcomeRow.edit_id, EditRow.turn_id, EvaluationRow.turn_id.label("at"))
        .add_columns(now, place.label("place"))
        .join(EvaluationRow, EvaluationRow.id == OutcomeRow.evaluation_id)
        .join(EditRow, EditRow.id == OutcomeRow.edit_id)
        .where(
            among(OutcomeRow.evaluation_id, later),
            EvaluationRow.turn_id > EditRow.turn_id,
            ~among(OutcomeRow.edit_id, without),
        )
        .subquery()
    )
    first, before = aliased(EvaluationRow), aliased(OutcomeRow)
    then = success(before.state).label("then")
    return (
        select(scored.c.edit_id, scored.c.at, then, scored.c.now)
        .join(first, first.turn_id == scored.c.turn_id)
        .join(before, and_(before.evaluation_id == first.id, before.edit_id == scored.c.edit_id))
        .where(
            scored.c.place == 1,
            # The sum keeps SQLite from looking up all of these for every edit.
            among(first.id + 0, own),
            then.is_not(None),
            scored.c.now.is_not(None),
        )
        .subquery()
    )


def _lost_first(newest: Subquery) -> Select[Any]:
    """What is lost, the largest loss first, and then the others; every row has the counts."""
    then, now = newest.c.then, newest.c.now
    # Right as a whole is what evaluations call an exact match.
    is_lost = and_(then == 1, now < 1)
    conditions = (true(), then == 1, now == 1, is_lost, and_(then < 1, now == 1))
    ones = [case((condition, 1), else_=0) for condition in conditions]
    counts = [func.sum(one).over().label(name) for name, one in zip(_COUNTS, ones, strict=True)]
    lost = case((is_lost, 1), else_=0).label("is_lost")
    return select(newest, lost, *counts).order_by(lost.desc(), now, newest.c.edit_id)


def _lost(
    session: Session, line: Sequence[Step], rows: Sequence[Any], later: Sequence[Scoring]
) -> list[Lost]:
    """The edits in these rows."""
    steps = {step.id: step for step in line}
    edits: dict[int, EditRow] = {}
    for some in chunks([row.edit_id for row in rows]):
        edits |= {e.id: e for e in session.scalars(select(EditRow).where(EditRow.id.in_(some)))}
    made = {edit.id: steps[edit.turn_id].number for edit in edits.values()}
    first = _first_wrong(session, later, made) if made else {}
    return [
        Lost(
            turn=made[edit.id],
            hash=steps[edit.turn_id].hash,
            position=edit.position,
            row=edit.row,
            prompt=edit.prompt,
            target=edit.target,
            subject=edit.subject,
            then=row.then,
            now=row.now,
            lost_at=first[edit.id],
            at=steps[row.at].number,
        )
        for row in rows
        for edit in (edits[row.edit_id],)
    ]


def _first_wrong(
    session: Session, later: Sequence[Scoring], made: Mapping[int, int]
) -> dict[int, int]:
    """Row id of an edit → the first turn after which it was not right. made: its own turn."""
    first: dict[int, int] = {}
    oldest = min(made.values())
    states = {one.id: one.at for one in later if one.at > oldest}
    for some in chunks(list(states)):
        query = select(OutcomeRow.evaluation_id, OutcomeRow.edit_id).where(
            OutcomeRow.evaluation_id.in_(some),
            among(OutcomeRow.edit_id, list(made)),
            success(OutcomeRow.state) < 1,
        )
        for evaluation, edit in session.execute(query):
            if states[evaluation] > made[edit]:
                first[edit] = min(first.get(edit, states[evaluation]), states[evaluation])
    return first


def _notes(line: Sequence[Step], kept: Kept) -> Iterator[str]:
    turns = with_edits_in_force(line)
    in_force = sum(step.edits for step in line if step.id in turns)
    if 2 * kept.asked < in_force:
        yield (
            f"{kept.asked:,} of {in_force:,} edits in force were scored again after their turn; "
            "for all of them: ledger evaluate"
        )
