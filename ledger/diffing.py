"""What two states differ in: facts, weights, scores. Without the weights it imports no torch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm import Session

from ledger import database, history
from ledger.diffing_facts import FactChanges, Side, fact_changes
from ledger.diffing_scores import ScoreChanges, recorded_scores, score_changes
from ledger.progress import Progress, silent
from ledger.refs import Rev
from ledger.workspace import Ledger

if TYPE_CHECKING:
    from ledger.diffing_weights import WeightChanges


@dataclass(frozen=True, kw_only=True)
class Diff:
    """How state B differs from state A. weights: None if not asked for. scores: None if there are
    none of both."""

    a: Side
    b: Side
    facts: FactChanges
    weights: "WeightChanges | None"
    scores: ScoreChanges | None
    notes: tuple[str, ...]

    def to_json(self, *, stat: bool = False) -> dict[str, Any]:
        """The contract of ``ledger diff --json``; fields are only ever added.

        stat: numbers, without the single facts and edits.
        """
        return {
            "a": {"turn": self.a.turn, "hash": self.a.hash},
            "b": {"turn": self.b.turn, "hash": self.b.hash},
            "facts": self.facts.to_json(stat=stat),
            "weights": None if self.weights is None else self.weights.to_json(),
            "scores": None if self.scores is None else self.scores.to_json(stat=stat),
            "notes": list(self.notes),
        }


def diff(
    ledger: Ledger,
    a: Rev,
    b: Rev | None = None,
    *,
    weights: bool = True,
    evaluate: bool = False,
    device: str = "auto",
    dtype: str | None = None,
    keeps: bool = True,
    progress: Progress = silent,
) -> Diff:
    """What the state after turn `b` (default: the head) has that the one after `a` has not.

    Both may be on any branch; 0 is the base. weights: compare these too, tensor by tensor.
    evaluate: score both states now, instead of looking for recorded scores; nothing is recorded.
    device: for the weights and the scores. keeps: keyframes that are due are written. Raises
    HistoryError if there is no such turn.
    """
    with database.reading(ledger.engine) as session:
        sides = side_at(session, ledger, a), side_at(session, ledger, b)
        facts, notes = fact_changes(session, *sides)
    changed = None
    if weights:
        from ledger.diffing_weights import weight_changes

        changed = weight_changes(ledger, *sides, device=device, keeps=keeps, progress=progress)
    if evaluate:
        from ledger.diffing_weights import scores_now

        outcomes = scores_now(ledger, *sides, device=device, dtype=dtype, progress=progress)
    with database.reading(ledger.engine) as session:
        if not evaluate:
            outcomes, more = recorded_scores(session, *sides)
            notes += more
        scores = (
            score_changes(session, outcomes, *sides, recorded=not evaluate) if outcomes else None
        )
    return Diff(
        a=sides[0],
        b=sides[1],
        facts=facts,
        weights=changed,
        scores=scores,
        notes=notes if scores else (*notes, _no_scores(*sides)),
    )


def side_at(session: Session, ledger: Ledger, rev: Rev | None) -> Side:
    """The state after turn `rev`; HistoryError if there is no such turn."""
    steps = history.line(session, ledger.branch, rev)
    return Side(
        steps=steps,
        edits=history.edits_in_force(steps),
        used=history.patches_in_force(steps),
    )


def _no_scores(a: Side, b: Side) -> str:
    commands = " and ".join(
        f"ledger evaluate --at {side.hash[:10]}" for side in (a, b) if side.hash is not None
    )
    return (
        "no scores of both states on the same edits are recorded; "
        + (f"record some with {commands}, or " if commands else "")
        + "score both now with ledger diff … --evaluate"
    )
