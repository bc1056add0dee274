"""Where the edits of a line came from, and where its states were pushed to."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ledger import database, history
from ledger.orm import TurnRow
from ledger.overview.origins import Origin, Publication, origins, published
from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger
from tests import full_ledgers, told_edits
from tests.plain_ledgers import line
from tests.told_edits import SOURCE, edit


@pytest.fixture(scope="module")
def ledger(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Tests only read it."""
    with full_ledgers.build(tmp_path_factory.mktemp("origins"), shared_url) as made:
        yield made


@pytest.fixture
def altered(tmp_path: Path) -> Iterator[Ledger]:
    """The same, to be changed."""
    with full_ledgers.build(tmp_path) as made:
        yield made


def read(ledger: Ledger) -> tuple[Origin, ...]:
    with database.reading(ledger.engine) as session:
        return origins(session, history.line(session, ledger.branch))


def pushes(ledger: Ledger) -> tuple[Publication, ...]:
    with database.reading(ledger.engine) as session:
        return published(session, history.line(session, ledger.branch))


def test_an_empty_history_comes_from_nowhere(tmp_path: Path, database_url: str) -> None:
    with told_edits.new_ledger(tmp_path, database_url) as made:
        assert (read(made), pushes(made)) == ((), ())


def test_each_dataset_is_told_in_order_with_what_was_used_of_it(ledger: Ledger) -> None:
    first, second, third = read(ledger)
    assert [one.turns for one in (first, second, third)] == [(1,), (2,), (3,)]
    assert (first.uri, first.name, first.licence) == ("facts-1.json", "facts-1.json", "cc0-1.0")
    assert (first.edits, first.skipped, first.sha256) == (3, 2, "1" * 64)
    assert (second.format, second.layout, second.mapping) == ("json", "canonical", {})
    assert third.id is not None


def test_turns_of_one_dataset_are_told_together(tmp_path: Path, database_url: str) -> None:
    with told_edits.new_ledger(tmp_path, database_url) as made:
        told_edits.record(made, [edit("a", "b"), edit("c", "d")], [edit("e", "f")])
        rollback_turn(made, 1)
        [found] = read(made)
    assert (found.uri, found.name) == (SOURCE.uri, "facts.json")
    assert (found.turns, found.edits, found.skipped) == ((1, 2), 3, 0)


def test_a_withheld_source_is_told_as_its_publisher_does(altered: Ledger) -> None:
    source = {"uri": "hf://someone/facts", "sha256": "ab", "licence": 5, "mapping": ["hostile"]}
    with database.writing(altered.engine) as session:
        for number in (1, 2):
            row = session.get_one(TurnRow, line(altered)[number - 1].id)
            row.dataset_id = None
            row.withheld = {"dataset": "cd" * 32, "source": source}
    pulled, own = read(altered)
    assert (pulled.turns, pulled.edits, pulled.skipped, pulled.id) == ((1, 2), 6, 4, None)
    assert (pulled.name, pulled.sha256, pulled.licence) == ("hf://someone/facts", "ab", "5")
    assert (pulled.format, pulled.mapping) == ("", {})
    assert own.turns == (3,)


def test_rows_tell_the_range_that_was_used(altered: Ledger) -> None:
    with database.writing(altered.engine) as session:
        for number, rows in ((1, (10, 12)), (2, (20, 22))):
            row = session.get_one(TurnRow, line(altered)[number - 1].id)
            row.dataset_id = 1
            row.first_row, row.last_row = rows
    first = read(altered)[0]
    assert (first.turns, first.first_row, first.last_row) == ((1, 2), 10, 22)


def test_pushes_are_told_newest_first_with_their_turn(ledger: Ledger) -> None:
    newer, older = pushes(ledger)
    assert (newer.commit, older.commit) == ("7" * 40, "6" * 40)
    assert (newer.turn, newer.hash, newer.repo) == (1, line(ledger)[0].hash, "someone/edits")
    assert (newer.form, newer.revision, newer.tag) == ("patch", "main", None)
    told = json.loads(json.dumps([one.to_json() for one in pushes(ledger)]))
    assert told[0] == {**told[1], "commit": "7" * 40, "created_at": newer.created_at}


def test_a_push_of_a_turn_that_the_line_does_not_go_through_has_no_number(ledger: Ledger) -> None:
    with database.reading(ledger.engine) as session:
        [first, _] = published(session, [])
    assert first.turn is None
    assert replace(first, turn=1) == pushes(ledger)[0]
