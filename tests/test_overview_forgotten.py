"""What is told to be forgotten: what was right when it was made, and is not any more."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import database, history
from ledger.overview.forgotten import Forgetting, Kept, forgetting
from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger
from tests import told_edits
from tests.plain_ledgers import line
from tests.told_edits import edit
from tests.told_scores import ROME, TURNS, record_scored, score

NOTHING = Kept(asked=0, right_then=0, right_now=0, lost=0, gained=0)


@pytest.fixture
def ledger(tmp_path: Path, database_url: str) -> Iterator[Ledger]:
    """Three turns of two edits, of which the first was right as a whole when it was made."""
    with told_edits.new_ledger(tmp_path, database_url) as made:
        record_scored(made)
        yield made


def read(ledger: Ledger, most: int = 100) -> Forgetting:
    with database.reading(ledger.engine) as session:
        return forgetting(session, history.line(session, ledger.branch), most=most)


def lost(found: Forgetting) -> list[tuple[int, int]]:
    return [(one.turn, one.position) for one in found.edits]


def test_what_was_never_scored_again_is_not_known_to_be_lost(
    tmp_path: Path, database_url: str
) -> None:
    with told_edits.new_ledger(tmp_path, database_url) as ledger:
        assert read(ledger) == Forgetting(kept=NOTHING, edits=(), more=0, notes=())
        told_edits.record(ledger, *TURNS)
        score(ledger, 1, {(1, 0): 1.0, (1, 1): 1.0}, of=1)
        found = read(ledger)
    assert (found.kept, found.edits, found.more) == (NOTHING, (), 0)
    [note] = found.notes
    assert note.startswith("0 of 6 edits in force were scored again")
    assert "ledger evaluate" in note


def test_a_lost_edit_is_told_with_when_it_was_first_and_last_seen_wrong(ledger: Ledger) -> None:
    score(ledger, 2, {(1, 0): 0.75}, sample="retention")
    score(ledger, 3, {(1, 0): 0.5, (1, 1): 0.5, (2, 0): 1.0}, sample="retention")
    found = read(ledger)
    [one] = found.edits
    assert (one.turn, one.position, one.row, one.hash) == (1, 0, 0, line(ledger)[0].hash)
    assert (one.prompt, one.target, one.subject) == (ROME, "Paris", "Italy")
    assert (one.then, one.now, one.lost_at, one.at) == (1.0, 0.5, 2, 3)
    assert found.kept == Kept(asked=3, right_then=2, right_now=1, lost=1, gained=0)
    assert found.notes == ()


def test_an_edit_that_recovered_is_not_lost(ledger: Ledger) -> None:
    score(ledger, 2, {(1, 0): 0.0}, sample="retention")
    score(ledger, 3, {(1, 0): 1.0, (1, 1): 1.0}, of=1)
    found = read(ledger)
    assert found.edits == ()
    assert found.kept == Kept(asked=2, right_then=1, right_now=2, lost=0, gained=1)


def test_the_newest_state_counts_not_the_newest_evaluation(ledger: Ledger) -> None:
    score(ledger, 3, {(1, 0): 1.0}, sample="retention")
    score(ledger, 2, {(1, 0): 0.0}, sample="retention")
    assert read(ledger).edits == ()


def test_of_one_state_the_newest_evaluation_counts(ledger: Ledger) -> None:
    score(ledger, 3, {(1, 0): 1.0}, sample="retention")
    score(ledger, 3, {(1, 0): 0.0}, sample="retention")
    assert lost(read(ledger)) == [(1, 0)]


def test_the_largest_losses_are_listed_and_the_others_counted(ledger: Ledger) -> None:
    told_edits.record(ledger, [edit("The Po is a", "town")])
    score(ledger, 4, {(1, 0): 0.5, (2, 0): 0.0, (3, 0): 0.75, (2, 1): 0.0}, whole=True)
    assert lost(read(ledger)) == [(2, 0), (1, 0), (3, 0)]
    found = read(ledger, most=2)
    assert (lost(found), found.more, found.kept.lost) == ([(2, 0), (1, 0)], 1, 3)
    found = read(ledger, most=0)
    assert (found.edits, found.more, found.kept.asked) == ((), 3, 4)


def test_what_something_overrides_or_was_rolled_back_is_not_forgotten(ledger: Ledger) -> None:
    told_edits.record(ledger, [edit(ROME, "Oslo", "Italy", "P36")])
    rollback_turn(ledger, 2)
    scores = {(1, 0): 0.0, (1, 1): 0.5, (2, 0): 0.0, (3, 0): 0.0}
    score(ledger, 4, scores, sample="retention")
    found = read(ledger)
    assert lost(found) == [(3, 0)]
    assert found.kept == Kept(asked=2, right_then=1, right_now=0, lost=1, gained=0)


def test_a_turn_without_scores_of_its_own_is_known_by_those_of_all(
    tmp_path: Path, database_url: str
) -> None:
    with told_edits.new_ledger(tmp_path, database_url) as ledger:
        told_edits.record(ledger, *TURNS)
        first, second = (step.hash for step in line(ledger)[:2])
        score(ledger, 2, {(1, 0): 1.0, (1, 1): 1.0, (2, 0): 1.0, (2, 1): 1.0}, whole=True)
        score(ledger, 1, {(1, 0): 1.0}, suite="retention", sample_of=first)
        score(ledger, 2, {(2, 0): 1.0}, suite="retention", sample_of=second)
        score(ledger, 3, {(1, 0): 0.0, (1, 1): 0.0, (2, 1): 0.0}, sample="retention")
        found = read(ledger)
    assert lost(found) == [(1, 0), (2, 1)]
    assert found.kept.asked == 2, "of the other one it is not known how it was after its turn"


def test_edits_without_a_score_and_other_suites_tell_nothing(ledger: Ledger) -> None:
    score(ledger, 3, {(1, 0): 0.0}, name="generation", suite="generation")
    score(ledger, 2, {(1, 0): None}, sample="retention")
    assert read(ledger).kept == NOTHING


def test_it_is_told_to_programs(ledger: Ledger) -> None:
    score(ledger, 3, {(1, 0): 0.5}, sample="retention")
    told = json.loads(json.dumps(read(ledger).to_json(), allow_nan=False))
    assert told["kept"]["lost"] == 1
    assert told["edits"][0]["lost_at"] == 3
