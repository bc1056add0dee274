"""Score a state on recorded edits, beside the un-edited base, and keep the outcomes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session

from ledger import database, environment, history
from ledger.history import Step
from ledger.models import load_tokenizer
from ledger.orm import EditRow, TurnRow
from ledger.progress import Progress, silent
from ledger.recording import NewEvaluation, record_evaluation
from ledger.refs import Rev, resolve
from ledger.states import live_state
from ledger.workspace import Ledger
from patches import evaluation
from patches.edit import Edit
from patches.errors import HistoryError
from patches.evaluation import Questions
from patches.live import LiveModel
from patches.tokens import context_length


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Scores of the state at `turn`. scope: whose edits: one turn's number, or None: in force."""

    turn: int
    scope: int | None
    n: int
    protocol: dict[str, Any]
    seed: int
    base: dict[str, Any]
    state: dict[str, Any]
    seconds: float
    edits: list[dict[str, Any]]

    def to_json(self, *, per_edit: bool = False) -> dict[str, Any]:
        """The contract of ``ledger evaluate --json``; fields are only ever added."""
        content: dict[str, Any] = {
            "turn": self.turn,
            "scope": "in_force" if self.scope is None else self.scope,
            "n": self.n,
            "protocol": self.protocol,
            "seed": self.seed,
            "base": self.base,
            "state": self.state,
            "seconds": self.seconds,
        }
        if per_edit:
            content["edits"] = self.edits
        return content


def measure(
    live: LiveModel,
    tokenizer: Any,
    edits: Sequence[Edit],
    *,
    seed: int,
    progress: Progress = silent,
) -> NewEvaluation:
    """Scores of the live model's state and of its base on `edits`; the state stays as it is."""
    started = time.perf_counter()
    questions = Questions.of(edits, tokenizer, context_length(live.model.config))
    freely = bool(live.memories)
    state = _answers(live, questions, edits, freely, "evaluate", progress)
    with live.at_base():
        base = _answers(live, questions, edits, freely, "evaluate base", progress)
    outcomes = evaluation.score(edits, questions, base, state)
    return NewEvaluation(
        protocol=dict(evaluation.PROTOCOL),
        seed=seed,
        base=evaluation.summary(outcome.base for outcome in outcomes),
        state=evaluation.summary(outcome.state for outcome in outcomes),
        outcomes=[(outcome.base, outcome.state) for outcome in outcomes],
        environment=environment.describe(live.device, next(live.model.parameters()).dtype),
        seconds=time.perf_counter() - started,
    )


def _answers(
    live: LiveModel,
    questions: Questions,
    edits: Sequence[Edit],
    freely: bool,
    phase: str,
    progress: Progress,
) -> list[evaluation.Answered]:
    """What the model says as it is now; freely: it is also asked to generate."""
    total = len(questions.encoded)
    answers = evaluation.answer(
        live.model,
        questions,
        device=live.device,
        progress=lambda done: progress(phase, done, total),
    )
    if not freely:
        return answers
    return evaluation.answer_freely(
        live.model,
        questions,
        edits,
        answers,
        device=live.device,
        progress=lambda done: progress(f"{phase}, freely", done, len(edits)),
    )


def evaluate(
    ledger: Ledger,
    *,
    at: Rev | None = None,
    turn: Rev | None = None,
    device: str = "auto",
    dtype: str | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Evaluated:
    """Score the state after turn `at` (default: the head), and record the scores.

    turn: score on the edits of this turn; default: on all edits in force at `at`. Raises
    HistoryError if there is nothing to score.
    """
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch, at)
        in_force = history.edits_in_force(turns)
        scope = None if turn is None else _scope(session, ledger, turn)
        rows = _rows(session, turns, scope, [t.id for t in in_force], at)
        edits = [history.edit_of(row) for row in rows]
        if not turns:
            raise HistoryError("turn 0 is the base, which is scored beside every other state")
        head = turns[-1]
    live = live_state(ledger, turns, device=device, dtype=dtype, progress=progress)
    tokenizer = load_tokenizer(ledger.checkpoint.folder)
    new = measure(live, tokenizer, edits, seed=seed, progress=progress)
    with database.writing(ledger.engine) as session:
        record_evaluation(
            session,
            session.get_one(TurnRow, head.id),
            new,
            scope_turn=scope,
            edits=[(row.id, row.digest) for row in rows],
            now=datetime.now(UTC),
        )
    return _evaluated(head.number, None if scope is None else scope.number, new, rows)


def _scope(session: Session, ledger: Ledger, turn: Rev) -> TurnRow:
    found = resolve(session, ledger.branch, turn)
    if found is None:
        raise HistoryError("turn 0 is the base: it has no edits to score")
    return session.get_one(TurnRow, found)


def _rows(
    session: Session,
    turns: Sequence[Step],
    scope: TurnRow | None,
    in_force: list[int],
    at: Rev | None,
) -> list[EditRow]:
    if scope is not None and not scope.edits:
        raise HistoryError(f"turn {scope.number} is a {scope.kind}: it has no edits to score")
    if scope is None and not in_force:
        raise HistoryError(
            f"no edit is in force at turn {len(turns)}: nothing to score"
            if turns or at is not None
            else "the ledger has no turns yet; add some with: ledger add-edits"
        )
    rows = history.edit_rows(session, in_force if scope is None else [scope.id])
    if not rows:
        raise HistoryError(
            "the texts of the edits are not here: nothing to score. The turns were imported, or "
            "published without them (ledger push --include-edits publishes them)"
        )
    return rows


def _evaluated(
    number: int, scope: int | None, new: NewEvaluation, rows: Sequence[EditRow]
) -> Evaluated:
    return Evaluated(
        turn=number,
        scope=scope,
        n=len(rows),
        protocol=new.protocol,
        seed=new.seed,
        base=new.base,
        state=new.state,
        seconds=new.seconds,
        edits=[
            {
                "row": row.row,
                "prompt": row.prompt,
                "target": row.target,
                "base": base,
                "state": state,
            }
            for row, (base, state) in zip(rows, new.outcomes, strict=True)
        ],
    )
