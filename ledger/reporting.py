"""What `log`, `show` and `status` tell. Reads the database only; imports no torch."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger import database, history
from ledger.chain import timestamp
from ledger.finding import Wanted, matching
from ledger.history import Step
from ledger.orm import (
    BlobRow,
    DatasetRow,
    EvaluationRow,
    KeyframeRow,
    PublicationRow,
    SkippedRow,
)
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
from ledger.turn_edits import turn_edits
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
        line, step = placed(session, ledger, rev)
        [turn] = told(session, line, [step])
        rows = history.edit_rows(session, [step.id])
        edits = turn_edits(session, line, step, turn.evaluation, rows)
        skipped = session.execute(
            select(SkippedRow.row, SkippedRow.reason)
            .where(SkippedRow.turn_id == step.id)
            .order_by(SkippedRow.row)
        )
        found = details(
            session,
            line,
            turn,
            skipped=[(number, why) for number, why in skipped],
            edits=[edit.to_json() for edit in edits],
        )
        session.expunge_all()
    return found


def details(
    session: Session,
    line: Sequence[Step],
    turn: Turn,
    *,
    skipped: list[tuple[int, str]],
    edits: list[dict[str, Any]],
) -> TurnDetails:
    """A turn of `line` with those of its edits and skipped rows that are to be shown."""
    dataset = history.dataset_of(session, turn.row)
    return TurnDetails(
        turn=turn,
        dataset=turn.row.withheld.get("source") if dataset is None else _dataset(dataset),
        skipped=skipped,
        edits=edits,
        undone_by=next((t.number for t in line if t.in_force and turn.number in t.undoes), None),
        suites=suite_scores(session, turn.row.id),
    )


def placed(
    session: Session, ledger: Ledger, rev: Rev, line: list[Step] | None = None
) -> tuple[list[Step], Step]:
    """The turn that `rev` names, and the line that it is on: the branch's, or else the one that
    leads to it. line: the branch's, if it is known. HistoryError if there is no such turn."""
    found = resolve(session, ledger.branch, rev)
    if found is None:
        raise HistoryError("turn 0 is the base: ledger status tells of it")
    line = history.line(session, ledger.branch) if line is None else line
    step = next((step for step in line if step.id == found), None)
    if step is None:
        line = history.line_to(session, found)
        step = line[-1]
    return line, step


def _dataset(row: DatasetRow) -> dict[str, Any]:
    return {
        "uri": row.uri,
        "revision": row.revision,
        "sha256": row.sha256,
        "format": row.format,
        "layout": row.layout,
        "mapping": row.mapping,
        "licence": row.licence,
    }


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
                **{kind: kinds[kind] for kind in history.KINDS},
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
