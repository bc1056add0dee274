"""The one commit point: a single transaction makes a turn exist.

Blobs are in the store before; killed at any instant, the ledger is as before or as after.
"""

import getpass
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ledger import chain, database
from ledger.datasets import Dataset
from ledger.orm import (
    BlobRow,
    DatasetRow,
    EditRow,
    EvaluationRow,
    OutcomeRow,
    RefMoveRow,
    RefRow,
    ReplacementRow,
    SkippedRow,
    TurnRow,
    UndoRow,
)
from ledger.workspace import Ledger
from patches.edit import Edit
from patches.errors import HistoryError


@dataclass(frozen=True, kw_only=True)
class RecordedEdit:
    """An edit with the number of its row in the dataset."""

    edit: Edit
    row: int | None


@dataclass(frozen=True, kw_only=True)
class Blob:
    """A file already in the store. changes: for a patch, what its header says."""

    digest: str
    bytes: int
    changes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NewEvaluation:
    """Scores to record: means, and per edit (base, state) in the order of the edits."""

    protocol: dict[str, Any]
    seed: int
    base: dict[str, Any]
    state: dict[str, Any]
    outcomes: Sequence[tuple[dict[str, Any], dict[str, Any]]]
    environment: dict[str, Any]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class NewTurn:
    """A turn to record after turn `parent` (row id; None: the first).

    undoes: row ids of the turns that a rollback undoes. replaces: of those whose patches a merge
    takes the place of. tensors: the state's digests. figures: JSON values of the method's own.
    """

    parent: int | None
    kind: str
    seed: int
    message: str
    method: str | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    dataset: Dataset | None = None
    edits: Sequence[RecordedEdit] = ()
    skipped: Sequence[tuple[int, str]] = ()
    undoes: Sequence[int] = ()
    replaces: Sequence[int] = ()
    patch: Blob | None = None
    editor_state: Blob | None = None
    tensors: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: int | None = None
    notes: Sequence[str] = ()
    figures: dict[str, Any] = field(default_factory=dict)
    evaluation: NewEvaluation | None = None


def record_turn(ledger: Ledger, new: NewTurn) -> int:
    """Make the turn exist and the branch point to it; its row id.

    Raises HistoryError, with nothing recorded, if the branch has moved on from `new.parent`.
    """
    base = ledger.base.fingerprint
    with database.writing(ledger.engine) as session:
        ref = _lock_branch(session, ledger.branch, new.parent)
        parent = None if new.parent is None else session.get_one(TurnRow, new.parent)
        now = datetime.now(UTC)
        dataset = None if new.dataset is None else dataset_row(session, new.dataset, now)
        _add_blobs(session, new, now)
        rows = edit_values(new.edits)
        turn = _turn_row(new, ledger.branch, parent, dataset, rows, ledger.base.ledger_id, now)
        turn.hash = chain.content_hash(
            chain.turn_content(
                turn,
                base=base,
                dataset=None if dataset is None else dataset.identity,
                skipped=new.skipped,
                undoes=_numbers(session, new.undoes),
                replaces=_numbers(session, new.replaces),
                parent=None if parent is None else parent.hash,
            )
        )
        session.add(turn)
        session.flush()
        insert_edits(session, turn.id, rows)
        _add_details(session, turn, new)
        _move(session, ref, turn, now)
        if new.evaluation is not None:
            record_evaluation(session, turn, new.evaluation, scope_turn=turn, edits=None, now=now)
        return turn.id


def edit_values(edits: Sequence[RecordedEdit]) -> list[dict[str, Any]]:
    """The columns of the edits' rows, but for the turn."""
    rows = []
    for position, recorded in enumerate(edits):
        edit = recorded.edit
        probes = edit.probes_json()
        rows.append(
            {
                "position": position,
                "row": recorded.row,
                "prompt": edit.prompt,
                "target": edit.target,
                "subject": edit.subject,
                "old_target": edit.old_target,
                "probes": probes,
                "prompt_key": chain.prompt_key(edit.prompt),
                "digest": chain.edit_digest(edit, recorded.row, probes),
            }
        )
    return rows


def insert_edits(session: Session, turn_id: int, rows: list[dict[str, Any]]) -> None:
    """Insert the edits of a turn in bulk."""
    for row in rows:
        row["turn_id"] = turn_id
    database.bulk_insert(session, EditRow, rows)


def record_evaluation(
    session: Session,
    turn: TurnRow,
    new: NewEvaluation,
    *,
    scope_turn: TurnRow | None,
    edits: Sequence[tuple[int, str]] | None,
    now: datetime,
) -> EvaluationRow:
    """Record scores of the state at `turn`. edits: (row id, digest) in the order of the outcomes;
    None: the edits of `scope_turn`."""
    if edits is None:
        assert scope_turn is not None
        query = select(EditRow.id, EditRow.digest).where(EditRow.turn_id == scope_turn.id)
        edits = [(i, d) for i, d in session.execute(query.order_by(EditRow.position))]
    row = EvaluationRow(
        turn_id=turn.id,
        scope="in_force" if scope_turn is None else "turn",
        scope_turn_id=None if scope_turn is None else scope_turn.id,
        protocol=new.protocol,
        seed=new.seed,
        n=len(new.outcomes),
        base=new.base,
        state=new.state,
        environment=new.environment,
        seconds=new.seconds,
        created_at=now,
    )
    pairs = list(zip(edits, new.outcomes, strict=True))
    row.hash = chain.content_hash(
        chain.evaluation_content(
            row,
            turn=turn.hash,
            scope_turn=None if scope_turn is None else scope_turn.hash,
            outcomes=[(digest, base, state) for (_, digest), (base, state) in pairs],
        )
    )
    session.add(row)
    session.flush()
    database.bulk_insert(
        session,
        OutcomeRow,
        [
            {"evaluation_id": row.id, "edit_id": edit_id, "base": base, "state": state}
            for (edit_id, _), (base, state) in pairs
        ],
    )
    return row


def author() -> str:
    """Who is running this."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _lock_branch(session: Session, branch: str, expected: int | None) -> RefRow:
    ref = session.scalars(
        select(RefRow).where(RefRow.name == branch, RefRow.kind == "branch").with_for_update()
    ).one_or_none()
    if ref is None:
        raise HistoryError(f"there is no branch {branch}")
    if ref.turn_id != expected:
        raise HistoryError(
            f"branch {branch} has got a new turn from someone else meanwhile; nothing was "
            "recorded, run the command again"
        )
    return ref


def dataset_row(session: Session, dataset: Dataset, now: datetime) -> DatasetRow:
    row = DatasetRow(
        uri=dataset.uri,
        revision=dataset.revision,
        sha256=dataset.sha256,
        format=dataset.format,
        layout=dataset.layout,
        mapping=dict(dataset.mapping),
        licence=dataset.licence,
        created_at=now,
    )
    row.identity = chain.dataset_identity(row)
    known = session.scalars(
        select(DatasetRow).where(DatasetRow.identity == row.identity)
    ).one_or_none()
    if known is not None:
        return known
    session.add(row)
    session.flush()
    return row


def _add_blobs(session: Session, new: NewTurn, now: datetime) -> None:
    for kind, blob in (("patch", new.patch), ("editor-state", new.editor_state)):
        if blob is not None and session.get(BlobRow, blob.digest) is None:
            session.add(
                BlobRow(
                    digest=blob.digest,
                    kind=kind,
                    bytes=blob.bytes,
                    changes=blob.changes,
                    created_at=now,
                )
            )
    session.flush()


def _turn_row(
    new: NewTurn,
    branch: str,
    parent: TurnRow | None,
    dataset: DatasetRow | None,
    rows: Sequence[dict[str, Any]],
    origin: str,
    now: datetime,
) -> TurnRow:
    numbers = [e.row for e in new.edits if e.row is not None] + [row for row, _ in new.skipped]
    return TurnRow(
        branch=branch,
        number=1 if parent is None else parent.number + 1,
        parent_id=None if parent is None else parent.id,
        kind=new.kind,
        method=new.method,
        hyperparameters=new.hyperparameters,
        seed=new.seed,
        message=new.message,
        author=author(),
        dataset_id=None if dataset is None else dataset.id,
        first_row=min(numbers, default=None),
        last_row=max(numbers, default=None),
        edits=len(rows),
        edits_digest=chain.edits_digest(row["digest"] for row in rows),
        skipped=len(new.skipped),
        patch_digest=None if new.patch is None else new.patch.digest,
        editor_state_digest=None if new.editor_state is None else new.editor_state.digest,
        tensors=new.tensors,
        environment=new.environment,
        seconds=new.seconds,
        peak_memory=new.peak_memory,
        notes=list(new.notes),
        figures=new.figures,
        origin=origin,
        withheld={},
        created_at=now,
    )


def _numbers(session: Session, ids: Sequence[int]) -> list[int]:
    query = select(TurnRow.number).where(TurnRow.id.in_(ids))
    return list(session.scalars(query))


def _add_details(session: Session, turn: TurnRow, new: NewTurn) -> None:
    database.bulk_insert(
        session,
        SkippedRow,
        [{"turn_id": turn.id, "row": row, "reason": reason} for row, reason in new.skipped],
    )
    database.bulk_insert(
        session, UndoRow, [{"turn_id": turn.id, "undone_id": undone} for undone in new.undoes]
    )
    database.bulk_insert(
        session,
        ReplacementRow,
        [{"turn_id": turn.id, "replaced_id": replaced} for replaced in new.replaces],
    )


def _move(session: Session, ref: RefRow, turn: TurnRow, now: datetime) -> None:
    session.add(
        RefMoveRow(
            ref=ref.name,
            from_turn_id=ref.turn_id,
            to_turn_id=turn.id,
            action=turn.kind,
            created_at=now,
        )
    )
    session.execute(update(RefRow).where(RefRow.name == ref.name).values(turn_id=turn.id))
