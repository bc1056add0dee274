"""The edits that are most like a text: those with this very prompt first."""

from collections.abc import Iterator

import pytest

from ledger import database, history
from ledger.branching import create_branch
from ledger.rolling_back import rollback_turn
from ledger.searching import Near, near, nearest
from ledger.workspace import Ledger
from patches.edit import Edit
from tests import told_edits
from tests.told_edits import edit

FRANCE, ITALY = "The capital of France is", "The capital of Italy is"
TURNS: list[list[Edit]] = [
    [edit(FRANCE, "Rome", "France"), edit(ITALY, "Paris", "Italy"), edit("It is", "a")],
    [edit("The river that flows through Vienna is the", "Thames", "Vienna")],
    [edit("The  capital of France is ", "Tokyo", "France")],
]
SIDE = [edit("The capital of Finland is", "Rome", "Finland")]


@pytest.fixture(scope="module")
def ledger(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Three turns, the second rolled back, and a turn on another branch."""
    folder = tmp_path_factory.mktemp("near")
    with told_edits.new_ledger(folder, shared_url) as made:
        told_edits.record(made, *TURNS)
        create_branch(made, "side")
        made.branch = "side"
        told_edits.record(made, SIDE)
        made.branch = "main"
        rollback_turn(made, 2)
        yield made


def told(found: list[Near]) -> list[tuple[int, str, bool]]:
    return [(one.hit.turn, one.hit.target, one.is_same) for one in found]


def test_edits_with_this_very_prompt_come_first_and_then_the_likest(ledger: Ledger) -> None:
    found = near(ledger, FRANCE)
    assert told(found) == [(3, "Tokyo", True), (1, "Rome", True), (1, "Paris", False)]
    assert [one.likeness for one in found[:2]] == [1, 1]
    assert 0.5 < found[2].likeness < 1
    assert told(near(ledger, FRANCE, count=1)) == [(3, "Tokyo", True)]
    # Turn 3 has more spaces, which are letters to what tells how like a text is.
    assert told(near(ledger, ITALY)) == [
        (1, "Paris", True),
        (1, "Rome", False),
        (3, "Tokyo", False),
    ]


def test_a_prompt_that_no_edit_has_is_like_some(ledger: Ledger) -> None:
    found = near(ledger, "The capital of Italia is")
    assert told(found)[0] == (1, "Paris", False)
    assert [one.likeness for one in found] == sorted((one.likeness for one in found), reverse=True)
    assert told(near(ledger, "Which river flows through Vienna?")) == [(2, "Thames", False)]
    # The subject alone.
    assert told(near(ledger, "Viena")) == [(2, "Thames", False)]
    for text in ("?", "", "quite something else"):
        assert near(ledger, text) == []


def test_only_edits_of_the_line_are_near_with_what_became_of_them(ledger: Ledger) -> None:
    assert told(near(ledger, SIDE[0].prompt))[0][2] is False
    states = {one.hit.target: one.hit.state for one in near(ledger, FRANCE)}
    assert states == {"Tokyo": "in_force", "Rome": "overridden", "Paris": "in_force"}
    [river] = near(ledger, TURNS[1][0].prompt, count=1)
    assert (river.hit.state, river.is_same) == ("rolled_back", True)
    assert told(near(ledger, FRANCE, at=1))[0] == (1, "Rome", True)
    assert near(ledger, FRANCE, at=0) == []
    with database.reading(ledger.engine) as session:
        side = history.line(session, "side")
    assert told(near(ledger, SIDE[0].prompt, line=side))[0] == (4, "Rome", True)


def test_edits_that_are_near_are_told_as_json(ledger: Ledger) -> None:
    [one] = near(ledger, ITALY, count=1)
    assert one.to_json() == {**one.hit.to_json(), "likeness": 1.0, "is_same": True}


def test_the_texts_that_are_nearest_are_those_of_the_edits_that_are_near(ledger: Ledger) -> None:
    assert nearest(ledger, "The capital of Itali is")[0] == ITALY
    assert nearest(ledger, "Viena") == ["Vienna"]


def test_an_edit_with_the_prompt_is_found_behind_many_newer_ones(ledger: Ledger) -> None:
    ledger.branch = "side"
    try:
        many = [edit(f"The capital of France is {n}", "Rome") for n in range(60)]
        told_edits.record(ledger, many)
        assert told(near(ledger, FRANCE, count=3))[:2] == [(3, "Tokyo", True), (1, "Rome", True)]
    finally:
        ledger.branch = "main"
