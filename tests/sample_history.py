"""A small valid history, with at least one row in every table."""

from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import Engine, inspect
from sqlalchemy.orm import Session

from ledger import full_text
from ledger.chain import subject_key
from ledger.database import writing
from ledger.orm import (
    BaseRow,
    BlobRow,
    DatasetRow,
    EditRow,
    EntryRow,
    EvaluationRow,
    KeyframeRow,
    OutcomeRow,
    PublicationRow,
    RefRow,
    ReplacementRow,
    SettingsRow,
    SkippedRow,
    Table,
    TrialRow,
    TurnRow,
    UndoRow,
)

NOW = datetime(2026, 3, 29, 1, 30, 0, 123457, tzinfo=UTC)
ORIGIN = "11111111-2222-3333-4444-555555555555"
Row = TypeVar("Row", bound=Table)


def record(engine: Engine) -> None:
    """Write it: turn 1 edits one fact, turn 2 undoes it; a branch, a tag and an evaluation."""
    with writing(engine) as session:
        _add(session, *_origins())
        turn = _add(session, _edit_turn())
        undoing = _add(session, _rollback_turn(turn))
        edit = _add(session, _edit(turn))
        evaluation = _add(session, _evaluation(turn))
        _add(
            session,
            SkippedRow(turn_id=turn.id, row=7, reason="the target is empty"),
            UndoRow(turn_id=undoing.id, undone_id=turn.id),
            ReplacementRow(turn_id=undoing.id, replaced_id=turn.id),
            RefRow(name="main", kind="branch", turn_id=undoing.id),
            RefRow(name="first", kind="tag", turn_id=turn.id),
            _move(turn, undoing),
            _publication(undoing),
            _keyframe(),
            tuned_trial(),
            _settings(),
            OutcomeRow(
                evaluation_id=evaluation.id,
                edit_id=edit.id,
                base={"edit_success": 0.25},
                state={"edit_success": 1.0},
            ),
        )
        full_text.add(session, turn.id)


def like(row: Row, **changes: object) -> Row:
    """A new row with the columns of `row`, except its number and what `changes` says."""
    columns = [column.key for column in inspect(type(row)).column_attrs if column.key != "id"]
    return type(row)(**{**{name: getattr(row, name) for name in columns}, **changes})


def _add(session: Session, row: Row, *rows: Table) -> Row:
    """Insert rows now, so that they have their numbers; return the first."""
    session.add_all([row, *rows])
    session.flush()
    return row


def _origins() -> list[Table]:
    base = BaseRow(
        id=1,
        ledger_id=ORIGIN,
        fingerprint="b" * 64,
        uri="models/tiny",
        revision=None,
        architecture="LlamaForCausalLM",
        licence="apache-2.0",
        tensors={"lm_head.weight": ["BF16", [4, 2], "c" * 64]},
        created_at=NOW,
    )
    dataset = DatasetRow(
        identity="d" * 64,
        uri="facts.json",
        revision=None,
        sha256="f" * 64,
        format="json",
        layout="canonical",
        mapping={"prompt": "prompt"},
        licence=None,
        created_at=NOW,
    )
    patch = BlobRow(
        digest="a" * 64, kind="patch", bytes=100, changes={}, created_at=NOW, memories=0
    )
    state = like(patch, digest="e" * 64, kind="editor-state", bytes=10)
    return [base, dataset, patch, state]


def _edit_turn() -> TurnRow:
    return TurnRow(
        branch="main",
        number=1,
        parent_id=None,
        kind="edit",
        method="ultraedit",
        hyperparameters={"learning_rate": 3e-4},
        seed=0,
        message="",
        author="someone",
        dataset_id=1,
        first_row=1,
        last_row=8,
        edits=1,
        edits_digest="1" * 64,
        skipped=1,
        patch_digest="a" * 64,
        editor_state_digest="e" * 64,
        tensors={"lm_head.weight": "9" * 64},
        environment={},
        seconds={"editing": 0.5},
        peak_memory=None,
        notes=[],
        created_at=NOW,
        hash="2" * 64,
        figures={"loss_before": 7.5},
        origin=ORIGIN,
        withheld={},
    )


def _rollback_turn(undone: TurnRow) -> TurnRow:
    return like(
        undone,
        number=2,
        parent_id=undone.id,
        kind="rollback",
        method=None,
        edits=0,
        skipped=0,
        patch_digest=None,
        hash="3" * 64,
    )


def _edit(turn: TurnRow) -> EditRow:
    return EditRow(
        turn_id=turn.id,
        position=0,
        row=1,
        prompt="The capital of Freedonia is",
        target="Fredville",
        subject="Freedonia",
        old_target=None,
        probes="{}",
        prompt_key=-5,
        digest="4" * 64,
        subject_key=subject_key("Freedonia"),
    )


def _evaluation(turn: TurnRow) -> EvaluationRow:
    return EvaluationRow(
        turn_id=turn.id,
        scope="turn",
        scope_turn_id=turn.id,
        protocol={"name": "teacher-forced"},
        seed=0,
        n=1,
        base={"edit_success": 0.25},
        state={"edit_success": 1.0},
        environment={},
        seconds=0.1,
        created_at=NOW,
        hash="5" * 64,
    )


def _publication(turn: TurnRow) -> PublicationRow:
    return PublicationRow(
        turn_id=turn.id,
        form="patch",
        repo="someone/edits",
        revision="main",
        commit="6" * 40,
        tag="turn-2",
        created_at=NOW,
        hash="7" * 64,
    )


def _keyframe() -> KeyframeRow:
    return KeyframeRow(key="8" * 64, kind="weights", digest="9" * 64, bytes=100, created_at=NOW)


def tuned_trial() -> TrialRow:
    return TrialRow(
        study="1" * 64,
        key="2" * 64,
        values={"learning_rate": "3e-4"},
        result={"edit_success": 0.5},
        failure=None,
        seconds=1.5,
        created_at=NOW,
        hash="3" * 64,
    )


def _settings() -> SettingsRow:
    return SettingsRow(
        method="ultraedit",
        values={"learning_rate": 3e-4},
        evidence={"trials": 1},
        created_at=NOW,
        hash="4" * 64,
    )


def _move(old: TurnRow, new: TurnRow) -> EntryRow:
    return EntryRow(
        id=1,
        action="rollback",
        ref="main",
        from_turn_id=old.id,
        to_turn_id=new.id,
        records={},
        created_at=NOW,
        hash="8" * 64,
    )
