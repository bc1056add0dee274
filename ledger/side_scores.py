"""After a merge: how the edits of both branches fare in the state that came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import database, history
from ledger.conflicts import Standing
from ledger.evaluating import measure
from ledger.history import Step, chunks
from ledger.models import load_tokenizer
from ledger.orm import EditRow, EvaluationRow, OutcomeRow, TurnRow
from ledger.progress import Progress, silent
from ledger.recording import NewEvaluation, record_evaluation
from ledger.retaining import EarlierEdits
from ledger.states import live_state
from ledger.turn import SAMPLE
from ledger.workspace import Ledger
from patches import evaluation
from patches.evaluation import Scores


@dataclass(frozen=True, kw_only=True)
class SideScores:
    """Scores of `n` edits of one side, drawn from `of`, in the state after the merge: now, and of
    the base. then: of those `n_then` of them that were scored when they were made."""

    side: str
    n: int
    of: int
    n_then: int
    then: Scores | None
    base: Scores
    now: Scores

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def score_sides(
    ledger: Ledger,
    sides: Mapping[str, Sequence[Step]],
    *,
    unscored: Sequence[int] = (),
    sample: int,
    seed: int,
    device: str,
    dtype: str | None,
    progress: Progress = silent,
) -> list[SideScores]:
    """Score the edits of each side that hold at the head of the branch, at most `sample` of each,
    on one live model, and record the scores with the head.

    sides: name → turns of the branch in force. unscored: row ids of turns that were not made before
    the merge.
    """
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch)
    standing = Standing(ledger, history.edits_in_force(line))
    drawn = {
        side: EarlierEdits(ledger, steps, standing).draw(sample, (), seed=seed, number=len(line))
        for side, steps in sides.items()
    }
    chosen = {side: found.rows for side, found in drawn.items() if found is not None}
    if not chosen:
        return []
    live = live_state(ledger, line, device=device, dtype=dtype, progress=progress)
    tokenizer = load_tokenizer(ledger.checkpoint.folder)
    scores = {}
    for side, rows in chosen.items():
        edits = [history.edit_of(row) for row in rows]
        new = measure(live, tokenizer, edits, seed=seed, progress=progress)
        scores[side] = replace(new, protocol={**new.protocol, SAMPLE: side})
    _record(ledger, line[-1].id, chosen, scores)
    with database.reading(ledger.engine) as session:
        then = {
            side: _when_made(session, [row for row in rows if row.turn_id not in unscored])
            for side, rows in chosen.items()
        }
    return [
        SideScores(
            side=side,
            n=len(chosen[side]),
            of=sum(step.edits for step in sides[side]),
            n_then=len(then[side]),
            then=evaluation.summary(then[side]) if then[side] else None,
            base=new.base,
            now=new.state,
        )
        for side, new in scores.items()
    ]


def _record(
    ledger: Ledger,
    turn_id: int,
    chosen: Mapping[str, Sequence[EditRow]],
    scores: Mapping[str, NewEvaluation],
) -> None:
    now = datetime.now(UTC)
    with database.writing(ledger.engine) as session:
        turn = session.get_one(TurnRow, turn_id)
        for side, new in scores.items():
            places = [(row.id, row.digest) for row in chosen[side]]
            record_evaluation(
                session, turn, new, scope_turn=None, edits=places, now=now, sample=True
            )


def _when_made(session: Session, rows: Sequence[EditRow]) -> list[Scores]:
    """The outcomes that were recorded with the turns that made these edits, where they were."""
    positions: dict[int, list[int]] = {}
    for row in rows:
        positions.setdefault(row.turn_id, []).append(row.position)
    found: list[Scores] = []
    for turn_id, places in positions.items():
        scored = _own_evaluation(session, session.get_one(TurnRow, turn_id))
        for some in chunks(places):
            query = (
                select(OutcomeRow.state)
                .join(EditRow, EditRow.id == OutcomeRow.edit_id)
                .where(OutcomeRow.evaluation_id == scored, EditRow.position.in_(some))
            )
            found += session.scalars(query)
    return found


def _own_evaluation(session: Session, turn: TurnRow) -> int | None:
    """The first evaluation of a turn on its own edits, of a copy that of its source."""
    query = select(EvaluationRow.id).where(
        EvaluationRow.turn_id == turn.id,
        EvaluationRow.scope == "turn",
        EvaluationRow.scope_turn_id == turn.id,
    )
    found = session.scalars(query.order_by(EvaluationRow.id).limit(1)).one_or_none()
    if found is not None or turn.copied_from is None:
        return found
    source = history.by_hash(session, turn.copied_from)
    if source is None or source.patch_digest != turn.patch_digest:
        return None
    return _own_evaluation(session, source)
