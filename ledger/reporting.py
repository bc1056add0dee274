"""What `log`, `show` and `status` tell. Reads the database only; imports no torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger import database, history
from ledger.chain import timestamp
from ledger.edit_states import overriding, with_edits_in_force
from ledger.facts import Fact, facts_of
from ledger.finding import Wanted, matching
from ledger.history import Step
from ledger.orm import BlobRow, EvaluationRow, KeyframeRow, OutcomeRow, PublicationRow, SkippedRow
from ledger.refs import Rev, branches, names_of_turns, resolve
from ledger.suite_scores import suite_scores
from ledger.turn import (
    Turn,
    publication_json,
    publications,
    rejected_among,
    scores_json,
    told,
)
from ledger.workspace import Ledger
from patches.errors import HistoryError


@dataclass(frozen=True, kw_only=True)
class TurnDetails:
    """One turn in full. edits: the rows with their outcomes, as JSON values; suites: what others
    than the teacher-forced one have found in the state after it."""

    turn: Turn
    dataset: dict[str, Any] | None
    skipped: list[tuple[int, str]]
    edits: list[dict[str, Any]]
    undone_by: int | None
    suites: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger show --json``: the fields of the log, and these."""
        row = self.turn.row
        return {
            **self.turn.to_json(),
            "hyperparameters": row.hyperparameters,
            "figures": row.figures,
            "seed": row.seed,
            "author": row.author,
            "dataset": self.dataset,
            "rows": [row.first_row, row.last_row],
            "skipped_rows": [{"row": number, "reason": why} for number, why in self.skipped],
            "editor_state": row.editor_state_digest,
            "tensors": row.tensors,
            "environment": row.environment,
            "peak_memory": row.peak_memory,
            "notes": row.notes,
            "undone_by": self.undone_by,
            "suites": self.suites,
            "edit_list": self.edits,
        }


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where the ledger stands."""

    content: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger status --json``; fields are only ever added."""
        return self.content


def log(ledger: Ledger, *, last: int | None = None, wanted: Wanted | None = None) -> list[Turn]:
    """The turns of the branch that are `wanted` (default: all), or the last of these, so many;
    oldest first."""
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch)
        found = line if wanted is None else matching(session, line, wanted)
        turns = told(session, line, found[-last:] if last else found)
        session.expunge_all()
    return turns


def show(ledger: Ledger, rev: Rev) -> TurnDetails:
    """The turn that `rev` names, with its edits; HistoryError if there is none.

    Of a turn that the branch has gone through it tells how the branch's head sees it.
    """
    with database.reading(ledger.engine) as session:
        line, step = _placed(session, ledger, rev)
        [turn] = told(session, line, [step])
        number = step.number
        dataset = history.dataset_of(session, turn.row)
        skipped = session.scalars(
            select(SkippedRow).where(SkippedRow.turn_id == turn.row.id).order_by(SkippedRow.row)
        )
        outcomes: dict[int, OutcomeRow] = {}
        if turn.evaluation is not None:
            query = select(OutcomeRow).where(OutcomeRow.evaluation_id == turn.evaluation.id)
            outcomes = {outcome.edit_id: outcome for outcome in session.scalars(query)}
        over, under = _overriding(session, line, step)
        details = TurnDetails(
            turn=turn,
            dataset=turn.row.withheld.get("source")
            if dataset is None
            else {
                "uri": dataset.uri,
                "revision": dataset.revision,
                "sha256": dataset.sha256,
                "format": dataset.format,
                "layout": dataset.layout,
                "mapping": dataset.mapping,
                "licence": dataset.licence,
            },
            skipped=[(row.row, row.reason) for row in skipped],
            edits=[
                {
                    "row": edit.row,
                    "prompt": edit.prompt,
                    "target": edit.target,
                    "subject": edit.subject,
                    "old_target": edit.old_target,
                    "relation": edit.relation,
                    "digest": edit.digest,
                    "overrides": sorted({fact.number for fact in under.get(edit.id, ())}),
                    "overridden_by": over[edit.id].number if edit.id in over else None,
                    "base": outcomes[edit.id].base if edit.id in outcomes else None,
                    "state": outcomes[edit.id].state if edit.id in outcomes else None,
                }
                for edit in history.edit_rows(session, [turn.row.id])
            ],
            undone_by=next((t.number for t in line if t.in_force and number in t.undoes), None),
            suites=suite_scores(session, turn.row.id),
        )
        session.expunge_all()
    return details


def _overriding(
    session: Session, line: Sequence[Step], step: Step
) -> tuple[dict[int, Fact], dict[int, list[Fact]]]:
    """Of the edits of `step`, by row id: the one that overrides it, and those that it overrides, as
    the last turn of `line` sees them."""
    over: dict[int, Fact] = {}
    under: dict[int, list[Fact]] = {}
    in_force = with_edits_in_force(line)
    for fact, later in overriding(session, in_force, facts_of(session, [step])):
        over[fact.edit_id] = later
        under.setdefault(later.edit_id, []).append(fact)
    return over, under


def _placed(session: Session, ledger: Ledger, rev: Rev) -> tuple[list[Step], Step]:
    """The turn, and the line that it is on: the branch's, or else the one that leads to it."""
    found = resolve(session, ledger.branch, rev)
    if found is None:
        raise HistoryError("turn 0 is the base: ledger status tells of it")
    line = history.line(session, ledger.branch)
    step = next((step for step in line if step.id == found), None)
    if step is None:
        line = history.line_to(session, found)
        step = line[-1]
    return line, step


def status(ledger: Ledger) -> Status:
    """Base, branch, what is in force, and the newest scores over all edits in force."""
    base = ledger.base
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch)
        in_force = history.edits_in_force(turns)
        numbers = {turn.id: turn.number for turn in turns}
        latest = _newest_scores(session, numbers)
        scored = None
        if latest is not None:
            scored = {
                "turn": numbers[latest.turn_id],
                "created_at": timestamp(latest.created_at),
                **scores_json(latest),
            }
        stored = select(func.coalesce(func.sum(BlobRow.bytes), 0))
        size = session.scalar(stored.where(BlobRow.pruned_at.is_(None)))
        frames = session.scalar(select(func.coalesce(func.sum(KeyframeRow.bytes), 0)))
        schema = database.schema_revision(ledger.engine)
        known = branches(session)
        names = names_of_turns(session).get(turns[-1].id, []) if turns else []
        published = publications(session, list(numbers))
        gone = [turn.id for turn in turns if turn.kind == "edit" and not turn.in_force]
        rejected = rejected_among(session, gone)
    kinds = Counter(turn.kind for turn in turns)
    return Status(
        content={
            "ledger": str(ledger.folder),
            "database": database.masked(ledger.url),
            "schema": schema,
            "store": ledger.store.address,
            "store_bytes": int(size or 0),
            "keyframe_bytes": int(frames or 0),
            "model": ledger.config.model,
            "revision": base.revision,
            "architecture": base.architecture,
            "fingerprint": base.fingerprint,
            "branch": ledger.branch,
            "branches": known,
            "refs": [name for _, name in names],
            "tags": [name for kind, name in names if kind == "tag"],
            "turn": len(turns),
            "hash": history.state_hash(turns),
            "turns": {
                **{kind: kinds[kind] for kind in ("edit", "rollback", "merge", "import")},
                "in_force": len(in_force),
                "rolled_back": sum(kinds[kind] for kind in history.CHANGING) - len(in_force),
                "rejected": len(rejected),
            },
            "edits_in_force": sum(turn.edits for turn in in_force),
            "edits_recorded": sum(turn.edits for turn in turns),
            "skipped": sum(turn.skipped for turn in turns),
            "in_force": [turn.number for turn in in_force],
            "scores": scored,
            "publications": _published(turns, published),
        }
    )


def _newest_scores(session: Session, numbers: Mapping[int, int]) -> EvaluationRow | None:
    """The newest scores of a turn in `numbers` on all edits in force."""
    query = select(EvaluationRow.id, EvaluationRow.turn_id).where(EvaluationRow.scope == "in_force")
    for found, turn_id in session.execute(query.order_by(EvaluationRow.id.desc())):
        if turn_id in numbers:
            return session.get_one(EvaluationRow, found)
    return None


def _published(
    turns: Sequence[Step], published: Mapping[int, Sequence[PublicationRow]]
) -> list[dict[str, Any]]:
    """The newest push to each repository in each form; ahead: the turns since."""
    newest = {
        (row.repo, row.revision, row.form): {
            "turn": turn.number,
            "ahead": len(turns) - turn.number,
            **publication_json(row),
        }
        for turn in turns
        for row in published.get(turn.id, ())
    }
    return list(newest.values())
