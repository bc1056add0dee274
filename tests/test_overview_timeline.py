"""A history as a timeline: what was done, how it scored, and what was in force after each turn."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import database, history
from ledger.history import Step
from ledger.orm import TurnRow
from ledger.overview.timeline import Timeline, edits_in_force, timeline
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.workspace import Ledger
from tests import told_edits
from tests.plain_ledgers import line
from tests.told_edits import edit
from tests.told_scores import score

TURNS = [[edit(f"Question {turn}.{place}", "yes") for place in range(turn)] for turn in (1, 2, 3)]


@pytest.fixture
def ledger(tmp_path: Path, database_url: str) -> Iterator[Ledger]:
    """Turns of 1, 2 and 3 edits."""
    with told_edits.new_ledger(tmp_path, database_url) as made:
        told_edits.record(made, *TURNS, message="[bold]no[/] ☃")
        yield made


def read(ledger: Ledger, most: int | None = None) -> Timeline:
    with database.reading(ledger.engine) as session:
        found = history.line(session, ledger.branch)
        return timeline(session, ledger.branch, found, most=most)


def test_an_empty_history_has_no_points(tmp_path: Path, database_url: str) -> None:
    with told_edits.new_ledger(tmp_path, database_url) as ledger:
        found = read(ledger, most=5)
    assert (found.turns, found.points, found.wholes, found.notes) == (0, (), (), ())


def test_edits_in_force_follow_rollbacks_and_their_rollbacks(ledger: Ledger) -> None:
    rollback_turn(ledger, 2)
    rollback_to(ledger, 1)
    rollback_turn(ledger, 5)
    rollback_to(ledger, 3)
    found = read(ledger)
    assert [point.edits_in_force for point in found.points] == [1, 3, 6, 4, 1, 4, 6]
    assert [point.undone_by for point in found.points[:3]] == [None, None, None]
    assert [point.in_force for point in found.points[:3]] == [True, True, True]


def test_a_point_tells_what_the_turn_did(ledger: Ledger) -> None:
    rollback_turn(ledger, 2, message="wrong")
    second, rollback = read(ledger).points[1], read(ledger).points[3]
    assert (second.turn, second.edits, second.method, second.message) == (
        2,
        2,
        "x",
        "[bold]no[/] ☃",
    )
    assert (second.in_force, second.undone_by, second.hash) == (False, 4, line(ledger)[1].hash)
    assert (rollback.kind, rollback.method, rollback.undoes) == ("rollback", None, (2,))
    assert (rollback.edits, rollback.edits_in_force, rollback.message) == (0, 4, "wrong")
    assert (second.n, second.base, second.state, second.kept) == (None, {}, {}, None)


def test_scores_of_own_edits_are_told_and_those_of_all_in_force_apart(ledger: Ledger) -> None:
    score(ledger, 1, {(1, 0): 1.0}, of=1)
    score(ledger, 2, {(1, 0): 0.5, (2, 0): 1.0, (2, 1): 1.0}, whole=True)
    score(ledger, 2, {(1, 0): 0.0, (2, 0): 1.0, (2, 1): 1.0}, whole=True)
    score(ledger, 3, {(1, 0): 0.0}, sample="retention", then=1.0)
    found = read(ledger)
    assert [point.n for point in found.points] == [1, None, None]
    assert found.points[0].state == {"edit_success": 1.0}
    assert found.points[0].base == {"edit_success": 0.25}
    assert found.points[2].kept == {"n": 1, "then": 1.0, "now": 0.0}
    [whole] = found.wholes
    assert (whole.turn, whole.n, whole.state["edit_success"]) == (2, 3, pytest.approx(2 / 3))


def test_of_a_long_history_the_newest_turns_are_told_and_a_note_says_so(ledger: Ledger) -> None:
    score(ledger, 1, {(1, 0): 1.0}, whole=True)
    found = read(ledger, most=2)
    assert [point.turn for point in found.points] == [2, 3]
    assert [point.edits_in_force for point in found.points] == [3, 6]
    assert (found.turns, found.wholes) == (3, ())
    assert found.notes == ("the newest 2 of 3 turns",)
    assert read(ledger, most=3).notes == ()
    assert read(ledger, most=0).points == ()


def test_a_turn_that_failed_its_gate_is_told_as_rejected(ledger: Ledger) -> None:
    with database.writing(ledger.engine) as session:
        for step in line(ledger)[1:]:
            session.get_one(TurnRow, step.id).figures = {"gate": {"passed": False}}
    rollback_turn(ledger, 3)
    assert [point.rejected for point in read(ledger).points] == [False, False, True, False]


def test_it_is_told_to_programs(ledger: Ledger) -> None:
    score(ledger, 1, {(1, 0): 1.0}, whole=True)
    told = json.loads(json.dumps(read(ledger).to_json(), allow_nan=False))
    assert told["points"][0]["created_at"].endswith("+00:00")
    assert told["wholes"][0]["turn"] == 1


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """Lines in which rollbacks undo turns that were in force, or not any more."""
    steps: list[Step] = []
    for number in range(1, draw(st.integers(1, 12)) + 1):
        undoes: tuple[int, ...] = ()
        if number > 1 and draw(st.booleans()):
            undoes = tuple(sorted(draw(st.sets(st.integers(1, number - 1), min_size=1))))
        steps.append(_step(number, undoes))
    return steps


def _step(number: int, undoes: tuple[int, ...]) -> Step:
    fields = dict.fromkeys(Step._fields)
    kind = "rollback" if undoes else "edit"
    known = {"id": number, "number": number, "kind": kind, "edits": 10**number, "undoes": undoes}
    return Step(**{**fields, **known})


@given(histories())
@settings(max_examples=50)
def test_edits_in_force_are_those_of_the_one_rule_for_every_history(steps: list[Step]) -> None:
    expected = {
        step.number: sum(one.edits for one in history.edits_in_force(steps, step.number))
        for step in steps
    }
    assert edits_in_force(steps) == expected
