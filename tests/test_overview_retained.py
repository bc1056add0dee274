"""Retention as it is recorded, whatever the evaluations that it comes from."""

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

from ledger import database, history
from ledger.overview.retained import Retained, retained
from ledger.overview.spread import spread
from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger
from tests import told_edits
from tests.plain_ledgers import line
from tests.told_edits import edit
from tests.told_scores import ROME, TURNS, record_scored, score


@pytest.fixture
def ledger(tmp_path: Path, database_url: str) -> Iterator[Ledger]:
    """Three turns of two edits, each scored when it was made."""
    with told_edits.new_ledger(tmp_path, database_url) as made:
        record_scored(made)
        yield made


def read(ledger: Ledger, most: int = 40) -> Retained:
    with database.reading(ledger.engine) as session:
        return retained(session, history.line(session, ledger.branch), most=most)


def cells(found: Retained) -> dict[tuple[int, int], tuple[int, float]]:
    return {(cell.turn, cell.at): (cell.n, cell.success) for cell in found.cells}


def test_without_scores_there_is_nothing_to_show(tmp_path: Path, database_url: str) -> None:
    with told_edits.new_ledger(tmp_path, database_url) as ledger:
        assert read(ledger) == Retained(
            turns=(), states=(), cells=(), base={}, recorded=0, notes=()
        )
        told_edits.record(ledger, *TURNS)
        assert read(ledger).cells == ()


def test_own_scores_are_the_diagonal_and_a_note_says_how_to_get_the_rest(ledger: Ledger) -> None:
    found = read(ledger)
    assert cells(found) == {(turn, turn): (2, 0.75) for turn in (1, 2, 3)}
    assert (found.turns, found.states, found.recorded) == ((1, 2, 3), (1, 2, 3), 3)
    assert found.base == {1: 0.25, 2: 0.25, 3: 0.25}
    assert found.notes == ()
    told_edits.record(ledger, [edit("The Elbe is a", "town")], [edit("The Po is a", "town")])
    for turn in (4, 5):
        score(ledger, turn, {(turn, 0): 1.0}, of=turn)
    [note] = read(ledger).notes
    assert note.startswith("5 of 15 cells are recorded")
    assert "ledger evaluate --suite retention" in note


def test_scores_of_several_turns_are_taken_apart(ledger: Ledger) -> None:
    score(ledger, 3, {(1, 0): 0.5, (1, 1): 0.0, (2, 0): 1.0, (2, 1): 1.0, (3, 0): 1.0}, whole=True)
    score(ledger, 2, {(1, 1): 0.5}, sample="retention", then=1.0)
    found = cells(read(ledger))
    assert found[1, 3] == (2, 0.25)
    assert found[2, 3] == (2, 1.0)
    assert found[3, 3] == (2, 0.75), "the scores of both edits say more than those of one"
    assert found[1, 2] == (1, 0.5)


def test_cells_of_the_suite_and_of_one_turns_edits_count(ledger: Ledger) -> None:
    first = line(ledger)[0].hash
    score(ledger, 2, {(1, 0): 0.0}, suite="retention", sample_of=first)
    score(ledger, 3, {(1, 0): 0.5, (1, 1): 0.5}, of=1)
    assert cells(read(ledger))[1, 3] == (2, 0.5)
    assert cells(read(ledger))[1, 2] == (1, 0.0)


def test_of_two_evaluations_of_the_same_edits_the_newest_counts(ledger: Ledger) -> None:
    for now in (0.0, 1.0):
        score(ledger, 3, {(1, 0): now, (1, 1): now}, of=1)
    found = read(ledger)
    assert cells(found)[1, 3] == (2, 1.0)
    assert found.recorded == 4


def test_an_overridden_edit_is_not_shown_as_forgotten(ledger: Ledger) -> None:
    told_edits.record(ledger, [edit(ROME, "Oslo", "Italy", "P36")])
    score(ledger, 4, {(1, 0): 0.0, (1, 1): 1.0, (4, 0): 1.0}, whole=True)
    found = cells(read(ledger))
    assert found[1, 4] == (1, 1.0)
    assert found[1, 1] == (2, 0.75), "when it was made it held"


def test_a_rolled_back_turn_ends_where_it_was_last_scored(ledger: Ledger) -> None:
    score(ledger, 3, {(2, 0): 1.0}, sample="retention")
    rollback_turn(ledger, 2)
    score(ledger, 4, {(1, 0): 1.0, (1, 1): 1.0, (3, 0): 1.0, (3, 1): 1.0}, whole=True)
    assert [at for turn, at in cells(read(ledger)) if turn == 2] == [2, 3]


def test_other_suites_and_edits_without_a_score_are_left_out(ledger: Ledger) -> None:
    score(ledger, 3, {(1, 0): 0.0, (1, 1): 0.0}, name="generation", suite="generation")
    score(ledger, 2, {(1, 0): None, (1, 1): 0.5}, sample="retention")
    score(ledger, 3, {(2, 0): None}, sample="retention")
    found = cells(read(ledger))
    assert found[1, 2] == (1, 0.5)
    assert {(1, 3), (2, 3)}.isdisjoint(found)


def test_a_state_before_the_edits_were_made_is_no_cell(ledger: Ledger) -> None:
    score(ledger, 1, {(3, 0): 0.0, (3, 1): 0.0}, of=3)
    assert (3, 1) not in cells(read(ledger))


def test_many_edits_are_read_by_way_of_the_turns_that_are_shown(ledger: Ledger) -> None:
    more = [[edit(f"Question {turn}.{n}", "yes") for n in range(3)] for turn in range(4, 14)]
    told_edits.record(ledger, *more)
    newer = {(turn, n): 1.0 for turn in range(4, 14) for n in range(3)}
    older = {(turn, n): 0.5 for turn in (1, 2, 3) for n in range(2)}
    score(ledger, 13, {**older, **newer}, whole=True)
    found = read(ledger, most=3)
    assert cells(found) == {
        (1, 1): (2, 0.75),
        (1, 13): (2, 0.5),
        (12, 13): (3, 1.0),
        (13, 13): (3, 1.0),
    }
    assert found.notes == ("3 of 13 turns with scores",)


def test_turns_that_were_only_scored_with_all_others_are_shown(
    tmp_path: Path, database_url: str
) -> None:
    with told_edits.new_ledger(tmp_path, database_url) as made:
        told_edits.record(made, *TURNS)
        score(made, 2, {(1, 0): 1.0, (1, 1): 0.0, (2, 0): 1.0, (2, 1): 1.0}, whole=True)
        found = read(made)
    assert cells(found) == {(1, 2): (2, 0.5), (2, 2): (2, 1.0)}
    assert (found.turns, found.states, found.base) == ((1, 2), (2,), {})


def test_of_a_long_history_the_turns_that_the_suite_followed_are_shown(ledger: Ledger) -> None:
    told_edits.record(ledger, *([edit(f"Question {n}", "yes")] for n in range(4, 21)))
    hashes = [step.hash for step in line(ledger)]
    chosen = list(range(1, 21, 2))
    for turn in range(4, 21):
        score(ledger, turn, {(turn, 0): 1.0}, of=turn)
    for turn, at in combinations(chosen, 2):
        score(ledger, at, {(turn, 0): 0.5}, suite="retention", sample_of=hashes[turn - 1])
    found = read(ledger, most=15)
    assert found.turns == found.states == tuple(chosen)
    assert len(found.cells) == len(chosen) * (len(chosen) + 1) // 2
    assert found.notes == ("10 of 20 turns with scores",)
    assert read(ledger, most=5).turns == (1, 5, 9, 13, 19)


def test_it_is_told_to_programs(ledger: Ledger) -> None:
    told = json.loads(json.dumps(read(ledger).to_json(), allow_nan=False))
    assert told["cells"][0] == {"turn": 1, "at": 1, "n": 2, "success": 0.75}
    assert set(told) == {"turns", "states", "cells", "base", "recorded", "notes"}


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(3, 3, [0, 1, 2]), (9, 3, [0, 4, 8]), (9, 2, [0, 8]), (9, 1, [8]), (9, 0, []), (0, 2, [])],
)
def test_some_of_many_are_at_even_distances(count: int, most: int, expected: list[int]) -> None:
    assert spread(range(count), most) == expected
