"""Ledgers of schema 0004 get a place for settings and trials, and go on with their method."""

from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, select, text

import migrations
from ledger import chain
from ledger.database import connect, parse_url, reading, writing
from ledger.orm import EvaluationRow, SettingsRow, TrialRow
from ledger.verifying import verify
from patches.errors import DatabaseError
from tests import sample_history
from tests.ledgers import add, facts, new_ledger, write_facts
from tests.test_migrations import moves, rows, schema

OLD, NEW = "0004", "0005"


@pytest.fixture
def engine(database_engine: Engine) -> Engine:
    """A database at schema 0004 with a sample history, in which ultraedit has made a turn."""
    migrations.upgrade(database_engine)
    sample_history.record(database_engine)
    migrations.downgrade(database_engine, OLD)
    return database_engine


def settings(engine: Engine) -> list[SettingsRow]:
    with reading(engine) as session:
        return list(session.scalars(select(SettingsRow)))


def test_a_ledger_with_turns_of_ultraedit_goes_on_with_the_published_method(
    engine: Engine,
) -> None:
    assert not inspect(engine).has_table("settings")
    assert migrations.upgrade(engine)[0] == NEW
    [row] = settings(engine)
    assert (row.method, row.values) == ("ultraedit", {"step": "published"})
    assert "published method" in row.evidence["reason"]
    assert row.hash == chain.content_hash(chain.settings_content(row, base="b" * 64))


@pytest.mark.parametrize("change", ["method = 'wise'", "method = NULL, kind = 'rollback'"])
def test_a_ledger_without_turns_of_ultraedit_gets_the_new_default(
    engine: Engine, change: str
) -> None:
    with writing(engine) as session:
        session.execute(text(f"UPDATE turns SET {change}"))
    migrations.upgrade(engine)
    assert settings(engine) == []


def test_an_empty_database_gets_no_settings(database_engine: Engine) -> None:
    migrations.upgrade(database_engine)
    assert settings(database_engine) == []


def test_everything_else_is_kept_there_and_back_again(engine: Engine) -> None:
    migrations.upgrade(engine)
    before, tables = rows(engine), schema(engine)
    assert before["trials"] == []
    migrations.downgrade(engine, OLD)
    migrations.upgrade(engine)
    after = rows(engine)
    assert schema(engine) == tables
    assert moves(after.pop("journal")) == moves(before.pop("journal"))
    assert len(after.pop("settings")) == len(before.pop("settings")) == 1
    assert after == before


def test_scores_on_running_text_are_not_taken_back_into_a_schema_without_them(
    engine: Engine,
) -> None:
    migrations.upgrade(engine)
    with writing(engine) as session:
        [evaluation] = session.scalars(select(EvaluationRow))
        evaluation.scope, evaluation.scope_turn_id = "text", None
    before = rows(engine)
    with pytest.raises(DatabaseError, match=r"1 evaluations on running text.*Nothing was changed"):
        migrations.downgrade(engine, OLD)
    assert rows(engine) == before


def test_a_trial_is_recorded_once(engine: Engine) -> None:
    migrations.upgrade(engine)
    trial = sample_history.tuned_trial()
    with writing(engine) as session:
        session.add(trial)
        session.flush()
        again = sample_history.like(trial, hash="5" * 64)
    with pytest.raises(DatabaseError, match=r"(?i)unique"), writing(engine) as session:
        session.add(again)
    with reading(engine) as session:
        assert len(list(session.scalars(select(TrialRow)))) == 1


def test_an_old_ledger_verifies_after_the_upgrade(
    tmp_path: Path, tiny_llama: Path, database_url: str
) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama, database_url) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(3)), evaluate=False)
    engine = connect(parse_url(database_url))
    migrations.downgrade(engine, OLD)
    migrations.upgrade(engine)
    engine.dispose()
    with ledger:
        checked = verify(ledger)
    assert (checked.problems, checked.checked["settings"]) == ([], 1)
