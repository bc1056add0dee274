"""Ledgers of schema 0003 become ones that can be searched, and keep everything that they had."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, select, text

import migrations
from ledger import chain, full_text
from ledger.database import connect, parse_url, reading, writing
from ledger.orm import BlobRow, EditRow, KeyframeRow, TurnRow
from ledger.verifying import verify
from tests import sample_history
from tests.ledgers import add, contents, facts, new_ledger, write_facts
from tests.revisions import REAL
from tests.test_migrations import moves

OLD = "0003"
LATER = REAL[REAL.index(OLD) + 1 :]
SUBJECTS = ("Peru", None, "  Cre\u0301mieu ", "", "Peru", "東京", "Danielle\nDarrieux", None)


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """The environment, but for fewer rows being changed at once than there are."""
    folder = tmp_path / "environment"
    shutil.copytree(migrations.FOLDER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    [path] = (folder / "versions").glob("0004_*.py")
    written = path.read_text()
    path.write_text(written.replace("CHUNK = 5_000", "CHUNK = 3"))
    assert path.read_text() != written
    return folder


@pytest.fixture
def engine(database_engine: Engine) -> Engine:
    """A database at schema 0003 with a sample history, more edits and more patches."""
    migrations.upgrade(database_engine)
    sample_history.record(database_engine)
    migrations.downgrade(database_engine, OLD)
    with writing(database_engine) as session:
        for position, subject in enumerate(SUBJECTS, start=1):
            session.execute(
                text(
                    "INSERT INTO edits (id, turn_id, position, prompt, target, subject, probes, "
                    "prompt_key, digest) VALUES (:id, 1, :position, :prompt, 'Lima', :subject, "
                    "'{}', 0, :digest)"
                ),
                {
                    "id": 100 - position,
                    "position": position,
                    "prompt": f"number {position}",
                    "subject": subject,
                    "digest": f"{position:064d}",
                },
            )
        for number in range(3):
            session.execute(
                text(
                    "INSERT INTO blobs (digest, kind, bytes, changes, created_at) "
                    f"SELECT '{number:064d}', kind, bytes, '{_changes(number)}', created_at "
                    "FROM blobs WHERE digest LIKE 'a%'"
                )
            )
    return database_engine


def _changes(memories: int) -> str:
    """What the header of a patch with so many side memories says."""
    found: dict[str, dict[str, object]] = {"other": {"kind": "dense"}}
    for number in range(memories):
        found[f"memory {number}"] = {"kind": "side-memory", "routing": {}}
    return json.dumps(found).replace(":", "\\:")


def all_rows(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table, whatever the schema."""
    tables = [name for name in inspect(engine).get_table_names() if not full_text.belongs(name)]
    with engine.connect() as connection:
        return {
            name: sorted(map(tuple, connection.execute(text(f"SELECT * FROM {name}"))), key=repr)
            for name in tables
        }


def found(engine: Engine, words: str) -> list[int]:
    with reading(engine) as session:
        return list(session.scalars(full_text.edits_with(words, engine.dialect.name)))


def test_old_rows_get_what_can_be_computed_and_nothing_else(
    engine: Engine, environment: Path
) -> None:
    before = all_rows(engine)
    assert migrations.upgrade(engine, folder=environment) == LATER
    with reading(engine) as session:
        edits = session.scalars(select(EditRow).order_by(EditRow.position)).all()
        memories = dict(session.execute(select(BlobRow.digest, BlobRow.memories)).all())
        assert [edit.id for edit in edits[1:]] == [100 - n for n in range(1, len(SUBJECTS) + 1)]
        assert [edit.subject for edit in edits[1:]] == list(SUBJECTS)
        assert [e.subject_key for e in edits] == [chain.subject_key(e.subject) for e in edits]
        assert {(edit.relation, edit.fact_key) for edit in edits} == {(None, None)}
        assert memories == {
            **{f"{n:064d}": count for n, count in enumerate((0, 1, 2))},
            "a" * 64: 0,
            "e" * 64: 0,
        }
        assert set(session.scalars(select(BlobRow.pruned_at))) == {None}
        assert set(session.scalars(select(TurnRow.copied_from))) == {None}
        assert list(session.scalars(select(KeyframeRow))) == []
    after = all_rows(engine)
    assert [row[: len(before["edits"][0])] for row in after["edits"]] == before["edits"]
    for table in ("datasets", "evaluations", "outcomes", "refs", "undoes"):
        assert after[table] == before[table]


def test_old_edits_are_found_by_their_words_and_so_are_new_ones(
    engine: Engine, environment: Path
) -> None:
    migrations.upgrade(engine, folder=environment)
    assert found(engine, "Peru") == [99, 95]
    assert found(engine, "number 6") == [94]
    assert found(engine, "Freedonia") == [1]
    with writing(engine) as session:
        [old] = session.scalars(select(EditRow).where(EditRow.id == 99))
        new = sample_history.like(old, turn_id=2, prompt="number 50")
        session.add(new)
        session.flush()
        full_text.add(session, 2)
    assert found(engine, "number 50 Peru") == [new.id]


def test_there_and_back_again_leaves_every_row_as_it_was(engine: Engine, environment: Path) -> None:
    before = all_rows(engine)
    migrations.upgrade(engine, folder=environment)
    upgraded = all_rows(engine)
    assert migrations.downgrade(engine, OLD, folder=environment) == LATER[::-1]
    assert all_rows(engine) == before
    migrations.upgrade(engine, folder=environment)
    after = all_rows(engine)
    assert len(after.pop("settings")) == len(upgraded.pop("settings"))
    assert moves(after.pop("journal")) == moves(upgraded.pop("journal"))
    assert after == upgraded
    assert found(engine, "Peru") == [99, 95]


def test_samples_are_not_taken_back_into_a_schema_without_them(engine: Engine) -> None:
    migrations.upgrade(engine)
    with writing(engine) as session:
        session.execute(text("UPDATE evaluations SET scope = 'sample', scope_turn_id = NULL"))
    before = all_rows(engine)
    with pytest.raises(Exception, match="ck_evaluations_scope"):
        migrations.downgrade(engine, OLD)
    assert all_rows(engine) == before


def test_a_ledger_of_the_old_schema_verifies_after_the_upgrade(
    tmp_path: Path, tiny_llama: Path, database_url: str
) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama, database_url) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(3)))
        before = contents(ledger)
        assert before.pop("settings") == []
    engine = connect(parse_url(database_url))
    migrations.downgrade(engine, OLD)
    migrations.upgrade(engine)
    engine.dispose()
    with ledger:
        after = contents(ledger)
        assert len(after.pop("settings")) == 1
        assert moves(after.pop("journal")) == moves(before.pop("journal"))
        assert after == before
        assert verify(ledger).problems == []
        assert len(found(ledger.engine, '"the capital of"')) == 3
