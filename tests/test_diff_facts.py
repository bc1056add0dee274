"""Diff in facts: what holds in one of two states and not in the other, and what with another
answer; against a history kept in the plainest form."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from ledger import database
from ledger.branching import create_branch
from ledger.diffing import diff
from ledger.picking import cherry_pick
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.workspace import Ledger
from patches.edit import Edit
from tests import plain_ledgers
from tests.command_line import done
from tests.plain_ledgers import SECOND, change, line, new_ledger

Capture = pytest.CaptureFixture[str]
Answers = Mapping[str, str]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_ledgers.build(tmp_path_factory.mktemp("diff") / "model")


def tell(ledger: Ledger, *facts: tuple[str, str], relation: str | None = None) -> int:
    """A turn with these edits, and a change that does not matter."""
    edits = [
        Edit(prompt=prompt, target=target, subject="France", relation=relation)
        for prompt, target in facts
    ]
    number = len(line(ledger))
    return plain_ledgers.add(ledger, {SECOND: change(SECOND, "dense", number)}, edits=edits)


def facts_between(ledger: Ledger, a: int | str, b: int | str | None) -> dict[str, Any]:
    found = diff(ledger, a, b, weights=False).to_json()["facts"]
    return {
        name: {(f["prompt"], f["old_target"], f["new_target"]) for f in found[name]}
        for name in ("added", "removed", "overridden")
    }


def expected(before: Answers, after: Answers) -> dict[str, Any]:
    """The same, from what each state answers to every prompt."""
    both = before.keys() & after.keys()
    return {
        "added": {(p, None, after[p]) for p in after.keys() - both},
        "removed": {(p, before[p], None) for p in before.keys() - both},
        "overridden": {(p, before[p], after[p]) for p in both if before[p] != after[p]},
    }


class Told:
    """What the states of a history answer, by the rules in their plainest form."""

    def __init__(self) -> None:
        self.turns: list[tuple[Answers, list[int]]] = []

    def answers(self, at: int) -> dict[str, str]:
        undone: set[int] = set()
        active = []
        for number in range(at, 0, -1):
            if number not in undone:
                active.append(number)
                undone |= {*self.turns[number - 1][1]}
        return {p: t for number in reversed(active) for p, t in self.turns[number - 1][0].items()}


STEPS = st.one_of(
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from("XYZ"), min_size=1, max_size=3),
    st.integers(0, 20),
)


@settings(max_examples=10, deadline=None)
@given(steps=st.lists(STEPS, min_size=2, max_size=7))
def test_the_facts_are_those_that_the_states_answer_differently(
    tmp_path_factory: pytest.TempPathFactory, plain: Path, steps: Sequence[Any]
) -> None:
    told = Told()
    with new_ledger(tmp_path_factory.mktemp("facts") / "ledger", plain) as ledger:
        for step in steps:
            if isinstance(step, dict):
                tell(ledger, *step.items())
                told.turns.append((step, []))
                continue
            active = [turn.number for turn in line(ledger) if turn.in_force]
            if active:
                chosen = active[step % len(active)]
                rollback_turn(ledger, chosen)
                told.turns.append(({}, [chosen]))
        last = len(told.turns)
        for a in range(last + 1):
            for b in (last // 2, last):
                found = facts_between(ledger, a, b)
                assert found == expected(told.answers(a), told.answers(b)), (a, b)


@pytest.fixture
def branched(tmp_path: Path, plain: Path) -> Iterator[Ledger]:
    """Turns 1 and 2 on both branches; then main has turn 3, and aside another and a fourth."""
    with new_ledger(tmp_path / "ledger", plain) as ledger:
        tell(ledger, ("a", "1"), ("b", "1"))
        tell(ledger, ("c", "1"))
        create_branch(ledger, "aside")
        tell(ledger, ("a", "2"), ("d", "1"))
        ledger.branch = "aside"
        tell(ledger, ("a", "3"), ("e", "1"))
        tell(ledger, ("b", "2"))
        ledger.branch = "main"
        yield ledger


def test_states_of_two_branches_are_compared_by_what_holds_in_each(branched: Ledger) -> None:
    here = {"a": "2", "b": "1", "c": "1", "d": "1"}
    there = {"a": "3", "b": "2", "c": "1", "e": "1"}
    assert facts_between(branched, "main", "aside") == expected(here, there)
    assert facts_between(branched, "aside", None) == expected(there, here)
    told = diff(branched, "main", "aside", weights=False).to_json()
    assert told["facts"]["turns"] == {"a": [3], "b": [3, 4]}
    assert told["facts"]["counts"] == {"added": 1, "removed": 1, "overridden": 2}
    [changed] = [fact for fact in told["facts"]["overridden"] if fact["prompt"] == "b"]
    assert (changed["old_turn"], changed["new_turn"]) == (1, 4)
    assert (told["a"]["turn"], told["b"]["turn"]) == (3, 4)


def test_a_turn_that_was_picked_from_a_branch_is_no_difference(branched: Ledger) -> None:
    before = facts_between(branched, "main", "aside")
    cherry_pick(branched, ["aside~1", "aside"])
    assert facts_between(branched, 3, "main") == {
        "added": {("e", None, "1")},
        "removed": set(),
        "overridden": {("a", "2", "3"), ("b", "1", "2")},
    }
    left = facts_between(branched, "main", "aside")
    assert left == {"added": set(), "removed": before["removed"], "overridden": set()}
    # Of its weights too, only the third turn is left.
    found = diff(branched, "main", "aside").weights
    assert found is not None
    assert [one.compared.rank for one in found.tensors] == [5]
    rollback_turn(branched, 3)
    assert facts_between(branched, "main", "aside") == expected({}, {})
    assert diff(branched, "main", "aside").to_json()["weights"]["tensors"] == []


def test_another_prompt_for_the_same_subject_and_relation_overrides(
    tmp_path: Path, plain: Path
) -> None:
    with new_ledger(tmp_path / "ledger", plain) as ledger:
        tell(ledger, ("France has as its capital", "Paris"), relation="P36")
        tell(ledger, ("The capital of France is", "Rome"), relation="P36")
        tell(ledger, ("The capital of France is", "Oslo"))
        tell(ledger, ("France has as its language", "French"), relation="P37")
        [found] = diff(ledger, 1, 2, weights=False).facts.overridden
        assert found.to_json() == {
            "prompt": "The capital of France is",
            "subject": "France",
            "relation": "P36",
            "old_target": "Paris",
            "new_target": "Rome",
            "old_turn": 1,
            "new_turn": 2,
        }
        # The first is overridden by one that the last has in common with neither.
        rollback_turn(ledger, 2)
        assert facts_between(ledger, 3, 5) == {
            "added": {
                ("France has as its capital", None, "Paris"),
                ("France has as its language", None, "French"),
            },
            "removed": set(),
            "overridden": set(),
        }


def test_facts_are_found_on_every_database(tmp_path: Path, plain: Path, database_url: str) -> None:
    with new_ledger(tmp_path / "ledger", plain, database_url) as ledger:
        tell(ledger, ("a", "1"), ("b", "1"))
        tell(ledger, ("a", "2"), ("c", "1"))
        rollback_to(ledger, 0)
        assert facts_between(ledger, 1, 2) == expected(
            {"a": "1", "b": "1"}, {"a": "2", "b": "1", "c": "1"}
        )
        assert facts_between(ledger, 2, None) == expected({"a": "2", "b": "1", "c": "1"}, {})
        assert diff(ledger, 1).to_json()["scores"] is None


def test_no_query_scans_the_edits_of_the_ledger(branched: Ledger) -> None:
    asked: list[tuple[str, Any]] = []

    def keep(_c: object, _u: object, statement: str, parameters: Any, *_rest: object) -> None:
        asked.append((statement, parameters))

    event.listen(branched.engine, "before_cursor_execute", keep)
    diff(branched, "main", "aside", weights=False)
    event.remove(branched.engine, "before_cursor_execute", keep)
    found = [(statement, values) for statement, values in asked if "FROM edits" in statement]
    assert found
    with database.reading(branched.engine) as session:
        for statement, values in found:
            explain = f"EXPLAIN QUERY PLAN {statement}"
            for step in session.connection().exec_driver_sql(explain, values):
                assert "SCAN" not in step[-1], statement


def test_long_lists_are_cut_and_say_so(capsys: Capture, branched: Ledger) -> None:
    words = ("diff", "0", "aside", "--no-weights", "--ledger", str(branched.folder))
    lines = done(capsys, *words, "--edits", "2").out.splitlines()
    assert lines[1] == "facts: 4 added, 0 removed, 0 overridden"
    assert len([row for row in lines if row.startswith("+")]) == 2
    assert "… and 2 more added (--edits 4)" in lines
    shown = done(capsys, *words, "--edits", "4").out
    assert "more added" not in shown
    # A fact with two answers is shown with both turns.
    words = ("diff", "main", "aside", "--no-weights", "--ledger", str(branched.folder))
    assert any(
        row.split() == ["≠", "1", "→", "4", "b", "1", "2"]
        for row in done(capsys, *words).out.splitlines()
    )
