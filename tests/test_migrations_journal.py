"""Ledgers of schema 0005 get a journal of everything that they have."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, inspect, select, text

import migrations
from ledger.branching import reflog
from ledger.database import connect, parse_url, reading
from ledger.orm import EntryRow, TurnRow
from ledger.settings import reset
from ledger.verifying import verify
from ledger.workspace import Ledger
from tests import full_ledgers
from tests.ledgers import contents
from tests.test_migrations import moves

OLD, NEW = "0005", "0006"


@pytest.fixture
def ledger(tmp_path: Path, database_url: str) -> Iterator[Ledger]:
    """A ledger with a row in every table."""
    with full_ledgers.build(tmp_path, database_url) as ledger:
        yield ledger


@pytest.fixture
def engine(ledger: Ledger) -> Iterator[Engine]:
    """Its database, at the old schema."""
    engine = connect(parse_url(ledger.url.render_as_string(hide_password=False)))
    migrations.downgrade(engine, OLD)
    yield engine
    engine.dispose()


def hashes(ledger: Ledger) -> list[str]:
    with reading(ledger.engine) as session:
        return list(session.scalars(select(TurnRow.hash).order_by(TurnRow.id)))


def test_an_old_ledger_keeps_its_hashes_and_moves_verifies_and_goes_on(ledger: Ledger) -> None:
    before, turns, told = contents(ledger), hashes(ledger), reflog(ledger)
    engine = connect(parse_url(ledger.url.render_as_string(hide_password=False)))
    migrations.downgrade(engine, OLD)
    assert inspect(engine).has_table("ref_moves")
    assert not inspect(engine).has_table("journal")
    migrations.upgrade(engine)
    engine.dispose()
    assert not inspect(ledger.engine).has_table("ref_moves")
    assert hashes(ledger) == turns
    assert reflog(ledger) == told
    after = contents(ledger)
    assert moves(after.pop("journal")) == moves(before.pop("journal"))
    assert after == before
    assert verify(ledger).problems == []
    reset(ledger, "ultraedit")
    assert verify(ledger).problems == []


def test_everything_that_was_there_is_told_of_in_parts(ledger: Ledger, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE datasets SET licence = 'altered' WHERE id = 2"))
    migrations.upgrade(engine)
    with reading(engine) as session:
        entries = session.scalars(select(EntryRow).order_by(EntryRow.id)).all()
    told = {table: len(keys) for entry in entries for table, keys in entry.records.items()}
    assert told == {
        "bases": 1,
        "datasets": 3,
        "blobs": 7,
        "keyframes": 2,
        "turns": 5,
        "evaluations": 2,
        "publications": 2,
        "settings": 2,
        "trials": 2,
    }
    # What was altered before is found as it was before.
    problems = {problem.subject for problem in verify(ledger).problems}
    assert problems == {"turn 2"}
