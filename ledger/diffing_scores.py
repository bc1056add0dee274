"""Two states compared in scores: which edits are answered better or worse, or flipped."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import fsum
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from ledger.diffing_facts import Side
from ledger.history import Step, chunks
from ledger.orm import EditRow, EvaluationRow, OutcomeRow
from ledger.suites import TEACHER_FORCED

MEANS = ("edit_success", "exact_match", "generalization", "locality", "preference")
Scores = Mapping[str, Any]
Outcomes = Mapping[int, tuple[Scores, Scores]]
"""Row id of an edit → its scores in A and in B."""


@dataclass(frozen=True, kw_only=True)
class ScoreChange:
    """An edit that is answered otherwise. a, b: token accuracy in the two states.

    flipped: whether the answer became right or wrong as a whole. hash: of the turn.
    """

    turn: int | None
    prompt: str
    target: str
    a: float
    b: float
    flipped: bool
    hash: str | None
    position: int


@dataclass(frozen=True, kw_only=True)
class ScoreChanges:
    """What became of `n` edits. gained, lost: whose whole answer became right, or wrong; these are
    among better and worse. a, b: the means of the two states. edits: those that changed, flipped
    ones first, then by how much. recorded: or scored just now."""

    recorded: bool
    n: int
    better: int
    worse: int
    gained: int
    lost: int
    a: dict[str, float | None]
    b: dict[str, float | None]
    edits: Sequence[ScoreChange]

    def to_json(self, *, stat: bool = False) -> dict[str, Any]:
        """stat: without the single edits."""
        content = {**asdict(self), "flipped": self.gained + self.lost}
        if stat:
            del content["edits"]
        return content


def recorded_scores(session: Session, a: Side, b: Side) -> tuple[Outcomes, tuple[str, ...]]:
    """The newest recorded scores of edits that both states were scored on, and notes on them.

    The base was scored beside every other state.
    """
    ids = [side.turn_id for side in (a, b) if side.turn_id is not None]
    if not ids:
        return {}, ()
    query = select(EvaluationRow.id, EvaluationRow.turn_id, EvaluationRow.protocol)
    rows = session.execute(
        query.add_columns(EvaluationRow.environment).where(EvaluationRow.turn_id.in_(ids))
    ).all()
    # What other suites have found says nothing of an edit's success.
    rows = [row for row in rows if row.protocol.get("name") == TEACHER_FORCED]
    shared = set.intersection(*({_protocol(r) for r in rows if r.turn_id == one} for one in ids))
    rows = [row for row in rows if _protocol(row) in shared]
    of_a, of_b = ([row.id for row in rows if row.turn_id == side.turn_id] for side in (a, b))
    kinds = {str(row.environment.get("dtype")) for row in rows}
    notes: tuple[str, ...] = ()
    if len(kinds) > 1:
        notes = (f"the scores were taken in several dtypes: {', '.join(sorted(kinds))}",)
    if a.turn_id is None or b.turn_id is None:
        found = _beside_the_base(session, of_a or of_b)
        return (found if a.turn_id is None else _swapped(found)), notes
    return _of_both(session, of_a, of_b), notes


def _protocol(row: Any) -> tuple[Any, Any]:
    return row.protocol.get("name"), row.protocol.get("version")


def _beside_the_base(session: Session, evaluations: Sequence[int]) -> Outcomes:
    query = select(OutcomeRow.edit_id, OutcomeRow.base, OutcomeRow.state).where(
        OutcomeRow.evaluation_id.in_(evaluations)
    )
    ordered = session.execute(query.order_by(OutcomeRow.evaluation_id))
    return {edit: (base, state) for edit, base, state in ordered}


def _swapped(outcomes: Outcomes) -> Outcomes:
    return {edit: (b, a) for edit, (a, b) in outcomes.items()}


def _of_both(session: Session, of_a: Sequence[int], of_b: Sequence[int]) -> Outcomes:
    first, second = aliased(OutcomeRow), aliased(OutcomeRow)
    query = (
        select(first.edit_id, first.state, second.state)
        .join(second, second.edit_id == first.edit_id)
        .where(first.evaluation_id.in_(of_a), second.evaluation_id.in_(of_b))
        .order_by(first.evaluation_id, second.evaluation_id)
    )
    return {edit: (a, b) for edit, a, b in session.execute(query)}


def score_changes(
    session: Session, outcomes: Outcomes, a: Side, b: Side, *, recorded: bool
) -> ScoreChanges:
    """What the scores of both states say, edit by edit."""
    known = {
        edit: (one, other)
        for edit, (one, other) in outcomes.items()
        if one.get("edit_success") is not None and other.get("edit_success") is not None
    }
    changed = {
        edit: (one["edit_success"], other["edit_success"])
        for edit, (one, other) in known.items()
        if one["edit_success"] != other["edit_success"]
    }
    steps = {step.id: step for side in (a, b) for step in side.steps}
    edits = _edits(session, changed, steps)
    return ScoreChanges(
        recorded=recorded,
        n=len(known),
        better=sum(edit.b > edit.a for edit in edits),
        worse=sum(edit.b < edit.a for edit in edits),
        gained=sum(edit.flipped and edit.b > edit.a for edit in edits),
        lost=sum(edit.flipped and edit.b < edit.a for edit in edits),
        a=_means(one for one, _ in known.values()),
        b=_means(other for _, other in known.values()),
        edits=sorted(edits, key=lambda edit: (not edit.flipped, -abs(edit.b - edit.a))),
    )


def _edits(
    session: Session, changed: Mapping[int, tuple[float, float]], steps: Mapping[int, Step]
) -> list[ScoreChange]:
    found = []
    for some in chunks(sorted(changed)):
        columns = select(
            EditRow.id, EditRow.turn_id, EditRow.position, EditRow.prompt, EditRow.target
        )
        rows = session.execute(columns.where(EditRow.id.in_(some)).order_by(EditRow.id))
        for row in rows:
            a, b = changed[row.id]
            step = steps.get(row.turn_id)
            found.append(
                ScoreChange(
                    turn=step and step.number,
                    prompt=row.prompt,
                    target=row.target,
                    a=a,
                    b=b,
                    # Right as a whole is what evaluations call an exact match.
                    flipped=(a == 1) != (b == 1),
                    hash=step and step.hash,
                    position=row.position,
                )
            )
    return found


def _means(scores: Iterable[Scores]) -> dict[str, float | None]:
    rows = list(scores)
    means: dict[str, float | None] = {}
    for metric in MEANS:
        values = [row[metric] for row in rows if row.get(metric) is not None]
        means[metric] = fsum(values) / len(values) if values else None
    return means
