"""What the database itself refuses, and what it gives back unchanged, on SQLite and PostgreSQL."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import Engine, select

from ledger.database import create_schema, reading, writing
from ledger.orm import (
    BaseRow,
    BlobRow,
    DatasetRow,
    EditRow,
    EvaluationRow,
    OutcomeRow,
    RefRow,
    Table,
    TurnRow,
    UndoRow,
)
from patches.errors import DatabaseError
from tests import sample_history
from tests.sample_history import like

NO_SUCH_ROW = 1_000_000


@pytest.fixture
def engine(database_engine: Engine) -> Engine:
    """A database of its own with the sample history."""
    fill(database_engine)
    return database_engine


@pytest.fixture(scope="module")
def shared(shared_engine: Engine) -> Engine:
    """One for all tests in which it refuses what is written."""
    fill(shared_engine)
    return shared_engine


def fill(engine: Engine) -> None:
    """Write a small valid history: turn 1 edits a fact, turn 2 undoes it."""
    with writing(engine) as session:
        create_schema(session.connection())
    sample_history.record(engine)


def first(engine: Engine, table: type[sample_history.Row]) -> sample_history.Row:
    """The oldest row of a table."""
    with reading(engine) as session:
        key = next(iter(table.__table__.primary_key))
        return session.scalars(select(table).order_by(key)).first() or pytest.fail("no rows")


def refused(engine: Engine, row: Table, reason: str) -> None:
    """Assert that the database refuses `row` for `reason`, and is as it was afterwards."""
    with reading(engine) as session:
        before = len(session.scalars(select(type(row))).all())
    with pytest.raises(DatabaseError, match=reason), writing(engine) as session:
        session.add(row)
    with reading(engine) as session:
        assert len(session.scalars(select(type(row))).all()) == before


def turn_like(engine: Engine, **changes: object) -> TurnRow:
    """A third turn that would be accepted but for `changes`."""
    turn = first(engine, TurnRow)
    valid: dict[str, object] = {"number": 3, "parent_id": 2, "hash": "6" * 64}
    return like(turn, **{**valid, **changes})


def test_a_valid_third_turn_is_accepted_so_that_the_refusals_below_mean_something(
    engine: Engine,
) -> None:
    with writing(engine) as session:
        session.add(turn_like(engine))
    with reading(engine) as session:
        assert session.scalars(select(TurnRow.number)).all() == [1, 2, 3]


def test_two_turns_of_one_number_on_a_branch_are_refused(shared: Engine) -> None:
    turn = turn_like(shared, number=2, parent_id=1)
    refused(shared, turn, r"uq_turns_origin_branch_number|turns\.branch, turns\.number")


def test_the_same_number_on_another_branch_is_accepted(engine: Engine) -> None:
    with writing(engine) as session:
        session.add(turn_like(engine, branch="other", number=2, parent_id=1))
    with reading(engine) as session:
        numbered_two = session.scalars(select(TurnRow.branch).where(TurnRow.number == 2)).all()
        assert sorted(numbered_two) == ["main", "other"]


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"patch_digest": None}, "ck_turns_edit_has_patch"),
        ({"method": None}, "ck_turns_edit_has_patch"),
        ({"edits": 0}, "ck_turns_edit_has_patch"),
        ({"kind": "guess"}, "ck_turns_kind"),
        ({"number": 0}, "ck_turns_number"),
        ({"parent_id": None}, "ck_turns_parent"),
        ({"branch": "other", "number": 1}, "ck_turns_parent"),
        ({"skipped": -1}, "ck_turns_counts"),
        ({"hash": "2" * 64}, r"uq_turns_hash|turns\.hash"),
        ({"parent_id": NO_SUCH_ROW}, "fk_turns_parent_id_turns|FOREIGN KEY"),
        ({"dataset_id": NO_SUCH_ROW}, "fk_turns_dataset_id_datasets|FOREIGN KEY"),
        ({"patch_digest": "0" * 64}, "fk_turns_patch_digest_blobs|FOREIGN KEY"),
        ({"editor_state_digest": "0" * 64}, "fk_turns_editor_state_digest_blobs|FOREIGN KEY"),
    ],
)
def test_a_turn_that_makes_no_sense_is_refused(
    shared: Engine, changes: dict[str, object], constraint: str
) -> None:
    refused(shared, turn_like(shared, **changes), constraint)


@pytest.mark.parametrize(
    ("undo", "constraint"),
    [
        (lambda: UndoRow(turn_id=1, undone_id=2), "ck_undoes_earlier"),
        (lambda: UndoRow(turn_id=2, undone_id=2), "ck_undoes_earlier"),
        (lambda: UndoRow(turn_id=NO_SUCH_ROW, undone_id=1), "fk_undoes_turn_id|FOREIGN KEY"),
        (lambda: UndoRow(turn_id=2, undone_id=1), r"pk_undoes|undoes\.turn_id, undoes\.undone_id"),
    ],
    ids=["of a later turn", "of itself", "by no turn", "twice"],
)
def test_an_undo_that_makes_no_sense_is_refused(
    shared: Engine, undo: Callable[[], UndoRow], constraint: str
) -> None:
    refused(shared, undo(), constraint)


@pytest.mark.parametrize(
    ("ref", "constraint"),
    [
        (lambda: RefRow(name="v1", kind="tag", turn_id=None), "ck_refs_tag_has_turn"),
        (lambda: RefRow(name="v1", kind="mark", turn_id=1), "ck_refs_kind"),
        (lambda: RefRow(name="main", kind="tag", turn_id=1), r"pk_refs|refs\.name"),
        (lambda: RefRow(name="v1", kind="tag", turn_id=NO_SUCH_ROW), "fk_refs_turn|FOREIGN KEY"),
    ],
    ids=["tag of nothing", "unknown kind", "name of a branch", "tag of no turn"],
)
def test_a_ref_that_makes_no_sense_is_refused(
    shared: Engine, ref: Callable[[], RefRow], constraint: str
) -> None:
    refused(shared, ref(), constraint)


def test_a_branch_without_a_turn_is_accepted_since_new_ledgers_have_one(engine: Engine) -> None:
    with writing(engine) as session:
        session.add(RefRow(name="empty", kind="branch", turn_id=None))
    with reading(engine) as session:
        assert session.get_one(RefRow, "empty").turn_id is None


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"turn_id": NO_SUCH_ROW}, "fk_edits_turn_id_turns|FOREIGN KEY"),
        ({"target": ""}, "ck_edits_target"),
        ({"position": -1}, "ck_edits_position"),
        ({"position": 0}, r"uq_edits_turn_id_position|edits\.turn_id, edits\.position"),
    ],
    ids=["orphan", "empty target", "before the first", "two at one position"],
)
def test_an_edit_that_makes_no_sense_is_refused(
    shared: Engine, changes: dict[str, object], constraint: str
) -> None:
    edit = like(first(shared, EditRow), **{"position": 1, **changes})
    refused(shared, edit, constraint)


@pytest.mark.parametrize(
    ("number", "constraint"), [(1, r"pk_bases|bases\.id"), (2, "ck_bases_one")]
)
def test_a_second_base_model_is_refused(shared: Engine, number: int, constraint: str) -> None:
    refused(shared, like(first(shared, BaseRow), id=number), constraint)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"kind": "notes"}, "ck_blobs_kind"),
        ({"bytes": 0}, "ck_blobs_bytes"),
        ({"digest": "a" * 64}, r"pk_blobs|blobs\.digest"),
    ],
)
def test_a_blob_that_makes_no_sense_is_refused(
    shared: Engine, changes: dict[str, object], constraint: str
) -> None:
    refused(shared, like(first(shared, BlobRow), **{"digest": "7" * 64, **changes}), constraint)


@pytest.mark.parametrize(
    ("changes", "constraint"),
    [
        ({"scope": "some"}, "ck_evaluations_scope"),
        ({"scope_turn_id": None}, "ck_evaluations_scope_turn"),
        ({"scope": "in_force"}, "ck_evaluations_scope_turn"),
        ({"n": -1}, "ck_evaluations_n"),
        ({"hash": "5" * 64}, r"uq_evaluations_hash|evaluations\.hash"),
    ],
)
def test_an_evaluation_that_makes_no_sense_is_refused(
    shared: Engine, changes: dict[str, object], constraint: str
) -> None:
    row = like(first(shared, EvaluationRow), **{"hash": "8" * 64, **changes})
    refused(shared, row, constraint)


def test_an_outcome_of_no_edit_is_refused(shared: Engine) -> None:
    row = like(first(shared, OutcomeRow), edit_id=NO_SUCH_ROW)
    refused(shared, row, "fk_outcomes_edit_id_edits|FOREIGN KEY")


def test_one_dataset_recorded_twice_is_refused(shared: Engine) -> None:
    row = like(first(shared, DatasetRow))
    refused(shared, row, r"uq_datasets_identity|datasets\.identity")


def test_a_turn_that_others_refer_to_cannot_be_deleted(shared: Engine) -> None:
    with (
        pytest.raises(DatabaseError, match=r"(?i)foreign key"),
        writing(shared) as session,
    ):
        session.delete(session.get_one(TurnRow, 1))


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 10, 25, 2, 30, 0, 999_999, tzinfo=timezone(timedelta(hours=2))),
        datetime(2026, 1, 1, 0, 0, 0, 1, tzinfo=timezone(timedelta(hours=-9, minutes=-30))),
        datetime(1999, 12, 31, 23, 59, 59, 123_456, tzinfo=UTC),
    ],
)
def test_a_moment_comes_back_to_the_microsecond_and_in_utc(
    engine: Engine, moment: datetime
) -> None:
    row = like(first(engine, BlobRow), digest="7" * 64, created_at=moment)
    with writing(engine) as session:
        session.add(row)
    with reading(engine) as session:
        found = session.get_one(BlobRow, "7" * 64).created_at
    assert found == moment
    assert found.utcoffset() == timedelta(0)


def test_numbers_in_json_come_back_exactly_since_hashes_cover_them(engine: Engine) -> None:
    numbers = [0.1, 1 / 3, 3e-4, 5e-324, 1.7976931348623157e308, -0.0, 1.0, 2**53 + 1, 2**70, 7]
    with writing(engine) as session:
        session.add(turn_like(engine, hyperparameters={"numbers": numbers}))
    with reading(engine) as session:
        row = session.scalars(select(TurnRow).where(TurnRow.number == 3)).one()
        found = row.hyperparameters["numbers"]
    assert [repr(number) for number in found] == [repr(number) for number in numbers]


def test_text_in_json_comes_back_as_it_was(engine: Engine) -> None:
    notes = ["Zürich", "\u2028", "東京", "👩\u200d🚀", 'a "quoted" \\ word', ""]
    with writing(engine) as session:
        session.add(turn_like(engine, notes=notes))
    with reading(engine) as session:
        row = session.scalars(select(TurnRow).where(TurnRow.number == 3)).one()
        assert row.notes == notes
