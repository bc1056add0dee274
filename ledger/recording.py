"""The one commit point: a single transaction makes a turn exist.

Blobs are in the store before; killed at any instant, the ledger is as before or as after.
"""

import getpass
from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ledger import chain, database, journal
from ledger.datasets import Dataset
from ledger.edit_values import EditValues, digests, edit_values, insert_edits
from ledger.history import chunks
from ledger.new_turn import Blob, NewEvaluation, NewTurn, RecordedEdit
from ledger.orm import (
    BlobRow,
    DatasetRow,
    EditRow,
    EvaluationRow,
    OutcomeRow,
    RefRow,
    ReplacementRow,
    SkippedRow,
    Table,
    TurnRow,
    UndoRow,
)
from ledger.pruned import is_recorded, use_again
from ledger.workspace import Ledger
from patches.errors import HistoryError

__all__ = [
    "Blob",
    "NewEvaluation",
    "NewTurn",
    "RecordedEdit",
    "add_evaluation",
    "author",
    "blob_row",
    "dataset_row",
    "record_evaluation",
    "record_turn",
    "record_turns",
]


def record_turn(ledger: Ledger, new: NewTurn) -> int:
    """Make the turn exist and the branch point to it; its row id.

    Raises HistoryError, with nothing recorded, if the branch has moved on from `new.parent`.
    """
    return record_turns(ledger, [new])[0]


def record_turns(ledger: Ledger, news: Sequence[NewTurn]) -> list[int]:
    """Make the turns exist, each after the one before, and the branch point to the last; row ids.

    All of them or, where something fails, none. The first one's `parent` is where the branch must
    be, or HistoryError is raised; that of the others is not looked at.
    """
    if not news:
        return []
    with database.writing(ledger.engine) as session:
        first = news[0].parent
        ref = _branch_at(session, ledger.branch, first)
        for new in news:
            use_again(session, ledger, new.needs)
        parent = None if first is None else session.get_one(TurnRow, first)
        turns: list[TurnRow] = []
        for new in news:
            parent = _record(session, ledger, ref, new, parent, turns)
            turns.append(parent)
        return [turn.id for turn in turns]


def _record(
    session: Session,
    ledger: Ledger,
    ref: RefRow,
    new: NewTurn,
    parent: TurnRow | None,
    earlier: Sequence[TurnRow],
) -> TurnRow:
    """Record one turn, and let the branch point to it. earlier: those of the same call."""
    now = datetime.now(UTC)
    added: list[Table] = []
    dataset = _dataset(session, new, now, added)
    _add_blobs(session, ledger, new, now, added)
    rows = edit_values(new.edits)
    turn = _turn_row(new, ledger.branch, parent, dataset, rows, ledger.base.ledger_id, now)
    undoes = [*new.undoes, *(earlier[place].id for place in new.undoes_new)]
    replaces = [*new.replaces, *(earlier[place].id for place in new.replaces_new)]
    turn.hash = chain.content_hash(
        chain.turn_content(
            turn,
            base=ledger.base.fingerprint,
            dataset=None if dataset is None else dataset.identity,
            skipped=new.skipped,
            undoes=_numbers(session, undoes),
            replaces=_numbers(session, replaces),
            parent=None if parent is None else parent.hash,
        )
    )
    session.add(turn)
    session.flush()
    insert_edits(session, turn.id, rows)
    _add_details(session, turn, new.skipped, undoes, replaces)
    added.append(turn)
    if new.evaluation is not None:
        added.append(
            add_evaluation(session, turn, new.evaluation, scope_turn=turn, edits=None, now=now)
        )
    added += [
        add_evaluation(session, turn, scores, scope_turn=None, edits=edits, now=now, sample=True)
        for scores, edits in new.samples
    ]
    _move(session, ref, turn, added)
    return turn


def record_evaluation(
    session: Session,
    turn: TurnRow,
    new: NewEvaluation,
    *,
    scope_turn: TurnRow | None,
    edits: Sequence[tuple[int, str]] | None,
    now: datetime,
    sample: bool = False,
    text: int | None = None,
) -> EvaluationRow:
    """Record scores of the state at `turn`. edits: (row id, digest) in the order of the outcomes;
    None: the edits of `scope_turn`. sample: they are some of the edits in force, in any order.
    text: how much of something else was scored, which has no outcomes."""
    row = add_evaluation(
        session,
        turn,
        new,
        scope_turn=scope_turn,
        edits=edits,
        now=now,
        sample=sample,
        text=text,
    )
    journal.record(session, journal.EVALUATE, [row], at=now)
    return row


def add_evaluation(
    session: Session,
    turn: TurnRow,
    new: NewEvaluation,
    *,
    scope_turn: TurnRow | None,
    edits: Sequence[tuple[int, str]] | None,
    now: datetime,
    sample: bool = False,
    text: int | None = None,
) -> EvaluationRow:
    """As `record_evaluation`, for an entry of the journal that tells of more than the scores."""
    if edits is None:
        assert scope_turn is not None
        query = select(EditRow.id, EditRow.digest).where(EditRow.turn_id == scope_turn.id)
        edits = [(i, d) for i, d in session.execute(query.order_by(EditRow.position))]
    row = EvaluationRow(
        turn_id=turn.id,
        scope=_scope(scope_turn, sample, text),
        scope_turn_id=None if scope_turn is None else scope_turn.id,
        protocol=new.protocol,
        seed=new.seed,
        n=len(new.outcomes) if text is None else text,
        base=new.base,
        state=new.state,
        environment=new.environment,
        seconds=new.seconds,
        created_at=now,
    )
    pairs = list(zip(edits, new.outcomes, strict=True))
    if sample:
        places = _places(session, [edit_id for edit_id, _ in edits])
        pairs.sort(key=lambda pair: places[pair[0][0]])
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


def _scope(turn: TurnRow | None, sample: bool, text: int | None) -> str:
    if text is not None:
        return "text"
    return "turn" if turn is not None else "sample" if sample else "in_force"


def _places(session: Session, ids: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Row id of an edit → its turn and position: the order in which outcomes are hashed."""
    return {
        edit_id: (turn_id, position)
        for some in chunks(ids)
        for edit_id, turn_id, position in session.execute(
            select(EditRow.id, EditRow.turn_id, EditRow.position).where(EditRow.id.in_(some))
        )
    }


def author() -> str:
    """Who is running this."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def _branch_at(session: Session, branch: str, expected: int | None) -> RefRow:
    ref = session.scalars(
        select(RefRow).where(RefRow.name == branch, RefRow.kind == "branch")
    ).one_or_none()
    if ref is None:
        raise HistoryError(f"there is no branch {branch}")
    if ref.turn_id != expected:
        raise HistoryError(
            f"branch {branch} has got a new turn from someone else meanwhile; nothing was "
            "recorded, run the command again"
        )
    return ref


def _dataset(
    session: Session, new: NewTurn, now: datetime, added: list[Table]
) -> DatasetRow | None:
    if new.dataset_id is not None:
        return session.get_one(DatasetRow, new.dataset_id)
    return None if new.dataset is None else dataset_row(session, new.dataset, now, added)


def dataset_row(
    session: Session, dataset: Dataset, now: datetime, added: list[Table]
) -> DatasetRow:
    """The row of a dataset, which is put into `added` too if it is new."""
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
    added.append(row)
    return row


def _add_blobs(
    session: Session, ledger: Ledger, new: NewTurn, now: datetime, added: list[Table]
) -> None:
    for kind, blob in (("patch", new.patch), ("editor-state", new.editor_state)):
        if blob is not None and not is_recorded(session, ledger, blob.digest):
            added.append(blob_row(kind, blob, now))
            session.add(added[-1])
    session.flush()


def blob_row(kind: str, blob: Blob, now: datetime) -> BlobRow:
    """The row of a file that is new in the store."""
    return BlobRow(
        digest=blob.digest,
        kind=kind,
        bytes=blob.bytes,
        changes=blob.changes,
        created_at=now,
        memories=sum("routing" in change for change in blob.changes.values()),
    )


def _turn_row(
    new: NewTurn,
    branch: str,
    parent: TurnRow | None,
    dataset: DatasetRow | None,
    rows: Sequence[EditValues],
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
        edits_digest=chain.edits_digest(digests(rows)),
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
        copied_from=new.copied_from,
        created_at=now,
    )


def _numbers(session: Session, ids: Sequence[int]) -> list[int]:
    return [
        number
        for some in chunks(ids)
        for number in session.scalars(select(TurnRow.number).where(TurnRow.id.in_(some)))
    ]


def _add_details(
    session: Session,
    turn: TurnRow,
    skipped: Sequence[tuple[int, str]],
    undoes: Sequence[int],
    replaces: Sequence[int],
) -> None:
    database.bulk_insert(
        session,
        SkippedRow,
        [{"turn_id": turn.id, "row": row, "reason": reason} for row, reason in skipped],
    )
    database.bulk_insert(
        session, UndoRow, [{"turn_id": turn.id, "undone_id": undone} for undone in undoes]
    )
    database.bulk_insert(
        session,
        ReplacementRow,
        [{"turn_id": turn.id, "replaced_id": replaced} for replaced in replaces],
    )


def _move(session: Session, ref: RefRow, turn: TurnRow, added: Sequence[Table]) -> None:
    move = journal.Move(ref=ref.name, left=ref.turn_id, reached=turn.id)
    journal.record(session, turn.kind, added, at=turn.created_at, move=move)
    session.execute(update(RefRow).where(RefRow.name == ref.name).values(turn_id=turn.id))
