"""What `log`, `show` and `status` tell. Reads the database only; imports no torch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from ledger import database, history
from ledger.chain import timestamp
from ledger.history import Turn
from ledger.orm import BlobRow, EvaluationRow, OutcomeRow, SkippedRow
from ledger.workspace import Ledger


@dataclass(frozen=True, kw_only=True)
class TurnDetails:
    """One turn in full. edits: the rows with their outcomes, as JSON values."""

    turn: Turn
    dataset: dict[str, Any] | None
    skipped: list[tuple[int, str]]
    edits: list[dict[str, Any]]
    undone_by: int | None

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
            "edit_list": self.edits,
        }


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where the ledger stands."""

    content: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger status --json``; fields are only ever added."""
        return self.content


def log(ledger: Ledger) -> list[Turn]:
    """The turns of the branch, oldest first."""
    with database.reading(ledger.engine) as session:
        turns = history.turns(session, ledger.branch)
        session.expunge_all()
    return turns


def show(ledger: Ledger, number: int) -> TurnDetails:
    """Turn `number` with its edits; HistoryError if there is none."""
    with database.reading(ledger.engine) as session:
        turns = history.turns(session, ledger.branch)
        turn = history.find_turn(turns, number)
        dataset = history.dataset_of(session, turn.row)
        skipped = session.scalars(
            select(SkippedRow).where(SkippedRow.turn_id == turn.row.id).order_by(SkippedRow.row)
        )
        outcomes: dict[int, OutcomeRow] = {}
        if turn.evaluation is not None:
            query = select(OutcomeRow).where(OutcomeRow.evaluation_id == turn.evaluation.id)
            outcomes = {outcome.edit_id: outcome for outcome in session.scalars(query)}
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
                    "digest": edit.digest,
                    "base": outcomes[edit.id].base if edit.id in outcomes else None,
                    "state": outcomes[edit.id].state if edit.id in outcomes else None,
                }
                for edit in history.edit_rows(session, [turn.row.id])
            ],
            undone_by=next((t.number for t in turns if t.in_force and number in t.undoes), None),
        )
        session.expunge_all()
    return details


def status(ledger: Ledger) -> Status:
    """Base, branch, what is in force, and the newest scores over all edits in force."""
    base = ledger.base
    with database.reading(ledger.engine) as session:
        turns = history.turns(session, ledger.branch)
        in_force = history.edits_in_force(turns)
        latest = session.scalars(
            select(EvaluationRow)
            .where(
                EvaluationRow.scope == "in_force",
                EvaluationRow.turn_id.in_([turn.row.id for turn in turns]),
            )
            .order_by(EvaluationRow.id.desc())
            .limit(1)
        ).one_or_none()
        scored = None
        if latest is not None:
            number = next((t.number for t in turns if t.row.id == latest.turn_id), None)
            scored = {
                "turn": number,
                "created_at": timestamp(latest.created_at),
                **history.scores_json(latest),
            }
        size = session.scalar(select(func.coalesce(func.sum(BlobRow.bytes), 0)))
        schema = database.schema_revision(ledger.engine)
        branches = history.branches(session)
    kinds = Counter(turn.row.kind for turn in turns)
    return Status(
        content={
            "ledger": str(ledger.folder),
            "database": database.masked(ledger.url),
            "schema": schema,
            "store": str(ledger.store.folder),
            "store_bytes": int(size or 0),
            "model": ledger.config.model,
            "revision": base.revision,
            "architecture": base.architecture,
            "fingerprint": base.fingerprint,
            "branch": ledger.branch,
            "branches": branches,
            "turn": len(turns),
            "hash": history.state_hash(turns),
            "turns": {
                **{kind: kinds[kind] for kind in ("edit", "rollback", "merge", "import")},
                "in_force": len(in_force),
                "rolled_back": sum(kinds[kind] for kind in history.CHANGING) - len(in_force),
            },
            "edits_in_force": sum(turn.row.edits for turn in in_force),
            "edits_recorded": sum(turn.row.edits for turn in turns),
            "skipped": sum(turn.row.skipped for turn in turns),
            "in_force": [turn.number for turn in in_force],
            "scores": scored,
            "publications": _published(turns),
        }
    )


def _published(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """The newest push to each repository in each form; ahead: the turns since."""
    newest = {
        (row.repo, row.revision, row.form): {
            "turn": turn.number,
            "ahead": len(turns) - turn.number,
            **history.publication_json(row),
        }
        for turn in turns
        for row in turn.publications
    }
    return list(newest.values())
