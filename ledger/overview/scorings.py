"""The evaluations that tell how edits of a line fared in states of it: the teacher-forced ones."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import BindParameter, ColumnElement, bindparam, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from ledger.history import Step, chunks
from ledger.metrics import SUCCESS
from ledger.orm import EvaluationRow
from ledger.suites import TEACHER_FORCED

_OF, _IN_FORCE = "of", "in_force"
# In the protocol of a sample: the hash of the turn whose edits it was drawn from, or those in force


class Scoring(NamedTuple):
    """An evaluation of the state after turn `at`. id: of its row.

    of: the turn whose edits alone were scored; None: edits of several. is_whole: all that were in
    force. n: how many edits. base, state: their mean success.
    """

    at: int
    id: int
    of: int | None
    is_whole: bool
    n: int
    base: float | None
    state: float | None

    @property
    def looks_back(self) -> bool:
        """Whether an earlier turn's edits were scored by themselves."""
        return self.of is not None and self.of != self.at


def scorings(session: Session, line: Sequence[Step]) -> list[Scoring]:
    """All on `line`, in order of state and time, but those of edits of other lines, and of edits
    that were not made yet."""
    numbers = {step.id: step.number for step in line}
    by_hash = {step.hash: step.number for step in line}
    found = []
    for some in chunks(list(numbers)):
        for row in session.execute(_QUERY.where(EvaluationRow.turn_id.in_(some))):
            of = numbers.get(row.scope_turn_id) if row.scope_turn_id else by_hash.get(row.of)
            at = numbers[row.turn_id]
            elsewhere = of is None and (row.scope_turn_id or row.of not in (None, _IN_FORCE))
            if not elsewhere and (of is None or of <= at):
                whole = row.scope == _IN_FORCE
                found.append(Scoring(at, row.id, of, whole, row.n, row.base, row.state))
    return sorted(found)


def success(scores: InstrumentedAttribute[dict[str, Any]]) -> ColumnElement[float]:
    """The edit success in a column of scores; null where there is none."""
    value: ColumnElement[float] = scores[SUCCESS].as_float()
    return value


def among(
    column: ColumnElement[int] | InstrumentedAttribute[int], values: Sequence[int]
) -> ColumnElement[bool]:
    """Whether a column has one of these numbers, which are written into the statement: there may be
    more of them than a statement takes parameters."""
    given: BindParameter[Sequence[int]] = bindparam(
        None, list(values), expanding=True, literal_execute=True
    )
    return column.in_(given)


_QUERY = select(
    EvaluationRow.id,
    EvaluationRow.turn_id,
    EvaluationRow.scope,
    EvaluationRow.scope_turn_id,
    EvaluationRow.n,
    EvaluationRow.protocol[_OF].as_string().label("of"),
    success(EvaluationRow.base).label("base"),
    success(EvaluationRow.state).label("state"),
).where(
    EvaluationRow.scope != "text",
    EvaluationRow.n > 0,
    EvaluationRow.protocol["name"].as_string() == TEACHER_FORCED,
)
