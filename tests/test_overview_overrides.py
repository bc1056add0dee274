"""Which facts of a line are answered otherwise by later ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import database, history
from ledger.branching import create_branch
from ledger.overview.overrides import Overrides, overrides
from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger
from tests import told_edits
from tests.plain_ledgers import line
from tests.told_edits import edit

ROME = "The capital of Italy is"


@pytest.fixture
def ledger(tmp_path: Path, database_url: str) -> Iterator[Ledger]:
    """The second turn answers a question of the first in other words, the third one again."""
    with told_edits.new_ledger(tmp_path, database_url) as made:
        told_edits.record(
            made,
            [edit(ROME, "Paris", "Italy", "P36"), edit("The Nile is a", "lake")],
            [edit("Italy's capital is", "Oslo", "Italy", "P36"), edit("The Po is a", "town")],
            [edit("The  Nile is a", "hill"), edit("The Po is a", "town")],
        )
        yield made


def read(ledger: Ledger, most: int = 100) -> Overrides:
    with database.reading(ledger.engine) as session:
        return overrides(session, history.line(session, ledger.branch), most=most)


def test_an_empty_history_has_none(tmp_path: Path, database_url: str) -> None:
    with told_edits.new_ledger(tmp_path, database_url) as made:
        assert read(made) == Overrides(count=0, edits=(), more=0)


def test_both_edits_are_told_the_newest_first(ledger: Ledger) -> None:
    found = read(ledger)
    nile, rome = found.edits
    assert (nile.turn, nile.target, nile.by_turn, nile.by_target) == (1, "lake", 3, "hill")
    assert (rome.prompt, rome.subject, rome.target, rome.row) == (ROME, "Italy", "Paris", 0)
    assert (rome.by_prompt, rome.by_target, rome.by_row) == ("Italy's capital is", "Oslo", 2)
    hashes = [step.hash for step in line(ledger)]
    assert (rome.hash, rome.by_hash) == (hashes[0], hashes[1])
    assert (found.count, found.more) == (2, 0)


def test_only_so_many_are_listed_and_all_are_counted(ledger: Ledger) -> None:
    found = read(ledger, most=1)
    assert ([one.by_turn for one in found.edits], found.count, found.more) == ([3], 2, 1)
    assert read(ledger, most=0).edits == ()


def test_rolled_back_edits_and_those_of_other_branches_override_nothing(ledger: Ledger) -> None:
    create_branch(ledger, "side", at=1)
    ledger.branch = "side"
    assert read(ledger).count == 0
    told_edits.record(ledger, [edit(ROME, "Bern")])
    assert [one.by_target for one in read(ledger).edits] == ["Bern"]
    ledger.branch = "main"
    rollback_turn(ledger, 3)
    assert [one.by_target for one in read(ledger).edits] == ["Oslo"]
    rollback_turn(ledger, 1)
    assert read(ledger).count == 0


def test_what_says_the_same_as_an_overridden_edit_goes_with_it(ledger: Ledger) -> None:
    told_edits.record(ledger, [edit("Rome is in", "Italy", "Rome", "P17"), edit("Where?", "Italy")])
    told_edits.record(ledger, [edit("Where?", "Italy", "Rome", "P17")])
    told_edits.record(ledger, [edit("Rome is in", "Asia", "Rome", "P17")])
    found = {(one.turn, one.prompt) for one in read(ledger).edits if one.by_turn == 6}
    assert found == {(4, "Rome is in"), (4, "Where?"), (5, "Where?")}
