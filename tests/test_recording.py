"""Turns are recorded together or not at all, as copies too, with samples of earlier edits."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select, update

from ledger import database, history
from ledger.datasets import Dataset
from ledger.orm import (
    BlobRow,
    EditRow,
    EntryRow,
    EvaluationRow,
    OutcomeRow,
    TurnRow,
)
from ledger.recording import (
    Blob,
    NewEvaluation,
    NewTurn,
    RecordedEdit,
    record_turn,
    record_turns,
)
from ledger.verifying import problems_text, verify
from ledger.workspace import Ledger
from patches.deltas import LowRank
from patches.edit import Edit
from patches.errors import DatabaseError, HistoryError
from patches.patch import Change, PatchHeader, describe, encode_patch
from tests.ledgers import contents, new_ledger

TENSOR = "model.layers.0.mlp.down_proj.weight"
DATASET = Dataset(
    uri="/facts.json", revision=None, sha256="f" * 64, format="json", layout="canonical", licence=""
)


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path, database_url: str) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama, database_url) as ledger:
        yield ledger


def patch(ledger: Ledger, size: float = 1.0) -> Blob:
    """A small real patch in the store."""
    changes = {TENSOR: Change(delta=LowRank(A=torch.ones(1, 48), B=torch.full((1, 32), size)))}
    header = PatchHeader(
        base=ledger.base.fingerprint, method="ultraedit", hyperparameters={}, turn=1, parent=None
    )
    content = encode_patch(header, changes)
    return Blob(
        digest=ledger.store.put(content),
        bytes=len(content),
        changes={name: describe(change).to_json() for name, change in changes.items()},
    )


def edits(first: int, count: int = 2) -> list[RecordedEdit]:
    return [
        RecordedEdit(
            edit=Edit(prompt=f"{row} is in", target="Rome", subject=str(row), relation="P131"),
            row=row,
        )
        for row in range(first, first + count)
    ]


def edit_turn(ledger: Ledger, first: int, parent: int | None = None, **changes: Any) -> NewTurn:
    return replace(
        NewTurn(
            parent=parent,
            kind="edit",
            method="ultraedit",
            seed=first,
            message="",
            dataset=DATASET,
            edits=edits(first),
            patch=patch(ledger, float(first + 1)),
        ),
        **changes,
    )


def undoing(**changes: Any) -> NewTurn:
    return NewTurn(parent=None, kind="rollback", seed=0, message="", **changes)


def scores(count: int, start: float = 0.0) -> NewEvaluation:
    outcomes = [({"edit_success": 0.0}, {"edit_success": start + n}) for n in range(count)]
    return NewEvaluation(
        protocol={"sample": "seeded"},
        seed=3,
        base={"edit_success": 0.0},
        state={"edit_success": 0.5},
        outcomes=outcomes,
        environment={},
        seconds=0.1,
    )


def steps(ledger: Ledger) -> list[history.Step]:
    with database.reading(ledger.engine) as session:
        return history.line(session, ledger.branch)


def recorded_edits(ledger: Ledger) -> list[EditRow]:
    with database.reading(ledger.engine) as session:
        return list(session.scalars(select(EditRow).order_by(EditRow.id)))


def problems(ledger: Ledger) -> str:
    return "\n".join(problems_text(verify(ledger).problems))


def test_turns_recorded_together_follow_one_another_and_each_move_is_logged(
    ledger: Ledger,
) -> None:
    first = record_turn(ledger, edit_turn(ledger, 0))
    news = [edit_turn(ledger, 10, parent=first), edit_turn(ledger, 20, parent=-7)]
    ids = record_turns(ledger, news)
    line = steps(ledger)
    assert [step.id for step in line] == [first, *ids]
    assert [step.number for step in line] == [1, 2, 3]
    with database.reading(ledger.engine) as session:
        query = select(EntryRow.from_turn_id, EntryRow.to_turn_id).order_by(EntryRow.id)
        moves = [tuple(move) for move in session.execute(query)]
    assert moves == [(None, None), (None, first), (first, ids[0]), (ids[0], ids[1])]
    assert problems(ledger) == ""


def test_nothing_to_record_records_nothing(ledger: Ledger) -> None:
    before = contents(ledger)
    assert record_turns(ledger, []) == []
    assert contents(ledger) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "magic"},
        {"patch": None},
        {"skipped": [(3, "no prompt"), (3, "no target")]},
        {"dataset_id": 77},
        {"undoes": [77]},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_turn_that_cannot_be_recorded_takes_those_before_it_along(
    ledger: Ledger, changes: dict[str, Any]
) -> None:
    first = record_turn(ledger, edit_turn(ledger, 0))
    before = contents(ledger)
    news = [edit_turn(ledger, 10, parent=first), edit_turn(ledger, 20, **changes)]
    if changes == {"undoes": [77]}:
        news[1] = undoing(undoes=[77])
    with pytest.raises(DatabaseError):
        record_turns(ledger, news)
    assert contents(ledger) == before


def test_a_branch_that_went_on_meanwhile_gets_none_of_them(ledger: Ledger) -> None:
    record_turn(ledger, edit_turn(ledger, 0))
    before = contents(ledger)
    with pytest.raises(HistoryError, match="got a new turn from someone else"):
        record_turns(ledger, [edit_turn(ledger, 10), edit_turn(ledger, 20)])
    assert contents(ledger) == before


def test_turns_undo_and_replace_others_of_the_same_call(ledger: Ledger) -> None:
    first = record_turn(ledger, edit_turn(ledger, 0))
    news = [
        edit_turn(ledger, 10, parent=first),
        edit_turn(ledger, 20),
        undoing(undoes=[first], undoes_new=[1]),
        NewTurn(
            parent=None,
            kind="merge",
            method="squash",
            seed=0,
            message="",
            replaces_new=[0],
            patch=patch(ledger, 0.5),
        ),
    ]
    record_turns(ledger, news)
    line = steps(ledger)
    assert [step.undoes for step in line] == [(), (), (), (1, 3), ()]
    assert [step.replaces for step in line] == [(), (), (), (), (2,)]
    assert [step.number for step in history.patches_in_force(line)] == [5]
    assert problems(ledger) == ""


def test_a_turn_is_copied_with_what_the_database_knows_of_it(ledger: Ledger) -> None:
    new = edit_turn(ledger, 0, skipped=[(7, "empty target")])
    first = record_turn(ledger, new)
    with database.reading(ledger.engine) as session:
        source = session.get_one(TurnRow, first)
        copied = [
            RecordedEdit(edit=history.edit_of(row), row=row.row)
            for row in history.edit_rows(session, [first])
        ]
    copy = replace(
        edit_turn(ledger, 0),
        parent=first,
        dataset=None,
        dataset_id=source.dataset_id,
        edits=copied,
        skipped=new.skipped,
        copied_from=source.hash,
    )
    second = record_turn(ledger, copy)
    with database.reading(ledger.engine) as session:
        made = session.get_one(TurnRow, second)
        same = ("dataset_id", "first_row", "last_row", "edits_digest", "patch_digest")
        assert [getattr(made, name) for name in same] == [getattr(source, name) for name in same]
        assert made.copied_from == source.hash
    assert problems(ledger) == ""
    with database.writing(ledger.engine) as session:
        session.execute(update(TurnRow).where(TurnRow.id == second).values(copied_from=None))
    assert "turn 2: its content does not give its hash" in problems(ledger)


def sampled(ledger: Ledger) -> list[tuple[int, str]]:
    """Edits of two turns, in no order."""
    one, two, three, *_ = recorded_edits(ledger)
    return [(row.id, row.digest) for row in (three, one, two)]


def outcomes(ledger: Ledger) -> dict[int, Any]:
    with database.reading(ledger.engine) as session:
        query = select(OutcomeRow.edit_id, OutcomeRow.state)
        return dict(session.execute(query).all())


def test_a_sample_of_earlier_edits_is_recorded_with_the_turn_and_verified(
    ledger: Ledger,
) -> None:
    last = record_turns(ledger, [edit_turn(ledger, 0), edit_turn(ledger, 10)])[-1]
    sample = sampled(ledger)
    own = scores(2, start=0.25)
    new = edit_turn(ledger, 20, parent=last, evaluation=own, samples=[(scores(3), sample)])
    turn = record_turn(ledger, new)
    with database.reading(ledger.engine) as session:
        rows = list(session.scalars(select(EvaluationRow).order_by(EvaluationRow.id)))
    assert [(row.turn_id, row.scope, row.scope_turn_id, row.n) for row in rows] == [
        (turn, "turn", turn, 2),
        (turn, "sample", None, 3),
    ]
    found = outcomes(ledger)
    assert [found[edit_id]["edit_success"] for edit_id, _ in sample] == [0.0, 1.0, 2.0]
    checked = verify(ledger)
    assert (checked.problems, checked.checked["evaluations"]) == ([], 2)
    with database.writing(ledger.engine) as session:
        mine = OutcomeRow.evaluation_id == rows[1].id
        changed = {"edit_success": 9.0}
        session.execute(
            update(OutcomeRow).where(mine, OutcomeRow.edit_id == sample[0][0]).values(state=changed)
        )
    assert f"evaluation {rows[1].id} of turn 3: its scores have been altered" in problems(ledger)


def test_a_sample_that_cannot_be_recorded_leaves_no_turn_behind(ledger: Ledger) -> None:
    first = record_turn(ledger, edit_turn(ledger, 0))
    before = contents(ledger)
    unfit: Sequence[tuple[NewEvaluation, Sequence[tuple[int, str]]]]
    unfit = [(scores(2), [(row.id, row.digest) for row in recorded_edits(ledger)])] * 2
    with pytest.raises(DatabaseError):  # two evaluations with one hash
        record_turn(ledger, edit_turn(ledger, 20, parent=first, samples=unfit))
    assert contents(ledger) == before


def test_a_patch_is_recorded_with_the_number_of_its_side_memories(ledger: Ledger) -> None:
    blob = patch(ledger)
    kinds = {"a": {"kind": "side-memory", "routing": {}}, "b": {"kind": "dense"}}
    record_turn(ledger, edit_turn(ledger, 0, patch=replace(blob, changes={**kinds, "c": {}})))
    with database.reading(ledger.engine) as session:
        assert session.get_one(BlobRow, blob.digest).memories == 1
