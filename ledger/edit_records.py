"""What evaluations have recorded of the edits of a turn, with the turn and since. No torch."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Select, and_, or_, select
from sqlalchemy.orm import Session

from ledger.history import Step, chunks
from ledger.metrics import SUCCESS
from ledger.orm import EvaluationRow, OutcomeRow
from ledger.suites import TEACHER_FORCED

# An edit is looked for in so many evaluations of later turns, in the newest first.
_EVALUATIONS = 200


@dataclass(frozen=True, kw_only=True)
class Record:
    """Scores of an edit, recorded in the state after `turn`, which has this hash. scope: of the
    evaluation. base: the scores in the base beside them."""

    turn: int
    hash: str
    scope: str
    base: dict[str, Any]
    state: dict[str, Any]

    @property
    def is_right(self) -> bool:
        return is_right(self.state)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def is_right(scores: dict[str, Any]) -> bool:
    """Whether the whole answer is: what evaluations call an exact match."""
    return scores.get(SUCCESS) == 1


def records(session: Session, line: Sequence[Step], step: Step, edit_id: int) -> list[Record]:
    """The scores of an edit of the turn that were recorded with the turn and since, oldest state
    first; of very many evaluations, those of the newest states."""
    places = [*_evaluations_since(session, line, step), *_evaluations_of(session, step)]
    found = [_record(place, outcome) for place, outcome in _outcomes(session, places, [edit_id])]
    return found[::-1]


@dataclass(frozen=True, kw_only=True)
class _Place:
    """An evaluation, and the turn that it is at."""

    id: int
    scope: str
    step: Step


def _evaluations_since(session: Session, line: Sequence[Step], step: Step) -> list[_Place]:
    """The newest evaluations of states after later turns that may have edits of the turn, the
    newest state first."""
    later = {one.id: one for one in line[step.number :]}
    if not later:
        return []
    # A turn has a higher row id than its parent. Of those between some are of other branches.
    between = (EvaluationRow.turn_id > step.id, EvaluationRow.turn_id <= line[-1].id)
    query = _evaluations_with(step).where(*between).execution_options(yield_per=_EVALUATIONS)
    with session.execute(query) as rows:
        found = (_place(row, later[row.turn_id]) for row in rows if row.turn_id in later)
        return list(islice(found, _EVALUATIONS))


def _evaluations_of(session: Session, step: Step) -> list[_Place]:
    """The evaluations of the state after the turn that may have its edits, the newest first."""
    query = _evaluations_with(step).where(EvaluationRow.turn_id == step.id).limit(_EVALUATIONS)
    return [_place(row, step) for row in session.execute(query)]


def _evaluations_with(step: Step) -> Select[int, str, int]:
    """Evaluations that may have edits of the turn."""
    of = EvaluationRow.protocol["of"].as_string()
    return (
        select(EvaluationRow.id, EvaluationRow.scope, EvaluationRow.turn_id)
        .where(
            or_(
                EvaluationRow.scope == "in_force",
                # A sample of one turn's edits says which.
                and_(
                    EvaluationRow.scope == "sample",
                    or_(of.is_(None), of.in_((step.hash, "in_force"))),
                ),
                and_(EvaluationRow.scope == "turn", EvaluationRow.scope_turn_id == step.id),
            ),
            EvaluationRow.protocol["name"].as_string() == TEACHER_FORCED,
        )
        .order_by(EvaluationRow.turn_id.desc(), EvaluationRow.id.desc())
    )


def _place(row: Any, step: Step) -> _Place:
    return _Place(id=row.id, scope=row.scope, step=step)


def newest(
    session: Session, line: Sequence[Step], step: Step, ids: Sequence[int]
) -> dict[int, Record]:
    """Row id of an edit of the turn → its newest record in the state after a later turn, as far as
    it is in the newest evaluations."""
    places = _evaluations_since(session, line, step)
    found: dict[int, Record] = {}
    missing = set(ids)
    for some in _growing(places):
        if not missing:
            break
        for place, outcome in _outcomes(session, some, sorted(missing)):
            if outcome.edit_id in missing:
                found[outcome.edit_id] = _record(place, outcome)
                missing.discard(outcome.edit_id)
    return found


def _outcomes(
    session: Session, places: Sequence[_Place], ids: Sequence[int]
) -> Iterator[tuple[_Place, Any]]:
    """The outcomes of these edits in the evaluations at `places`, in the order of the latter."""
    if not ids:
        return
    for part in chunks(places):
        by_id = {place.id: (number, place) for number, place in enumerate(part)}
        query = select(
            OutcomeRow.evaluation_id, OutcomeRow.edit_id, OutcomeRow.base, OutcomeRow.state
        ).where(OutcomeRow.evaluation_id.in_(by_id), _is_one_of(ids))
        rows = sorted(session.execute(query), key=lambda row: by_id[row.evaluation_id][0])
        yield from ((by_id[row.evaluation_id][1], row) for row in rows)


def _is_one_of(ids: Sequence[int]) -> Any:
    """A condition on outcomes that these edits meet. Those of a turn follow one another."""
    if next(iter(chunks(ids))) == ids:
        return OutcomeRow.edit_id.in_(ids)
    return OutcomeRow.edit_id.between(min(ids), max(ids))


def _record(place: _Place, outcome: Any) -> Record:
    return Record(
        turn=place.step.number,
        hash=place.step.hash,
        scope=place.scope,
        base=outcome.base,
        state=outcome.state,
    )


def _growing(places: Sequence[_Place]) -> Iterator[Sequence[_Place]]:
    """Parts of them, each larger than the one before: the first may have all edits."""
    start, size = 0, 1
    while start < len(places):
        yield places[start : start + size]
        start, size = start + size, size * 4
