"""Edits that answer a question otherwise than what holds: overriding, skipping, stopping."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from ledger import database
from ledger.branching import create_branch, switch
from ledger.conflicts import Answers
from ledger.editing import Added, AddEdits, add_edits, plan_edits
from ledger.facts import Fact, overridden
from ledger.orm import SkippedRow
from ledger.reporting import log, show
from ledger.rolling_back import rollback_turn
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import HistoryError, SettingError
from tests import ledgers
from tests.command_line import call, done
from tests.ledgers import contents, fact, facts, new_ledger, write_facts

ROME = "The capital of France is"


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        yield ledger


@pytest.fixture
def first(ledger: Ledger, tmp_path: Path) -> str:
    """Four facts in two turns; the first says that the capital of France is Rome."""
    source = write_facts(tmp_path / "first.json", facts(4))
    add(ledger, source, turn_size=2)
    return source


@pytest.fixture
def second(tmp_path: Path) -> str:
    """A fact of its own, and one that contradicts the first of `first`, worded with more spaces."""
    rows = [fact(9), fact(0, prompt="The  capital of France is ", target="Tokyo")]
    return write_facts(tmp_path / "second.json", rows)


def add(ledger: Ledger, source: str, **options: Any) -> list[Added]:
    return ledgers.add(ledger, source, **{"evaluate": False, **options})


def holds(ledger: Ledger) -> list[tuple[int, str]]:
    """Turn and target of the edits about the first fact that nothing overrides."""
    return [
        (turn.number, edit["target"])
        for turn in log(ledger)
        for edit in show(ledger, turn.number).edits
        if turn.in_force and edit["overridden_by"] is None and "France" in edit["prompt"]
    ]


def test_the_newer_answer_overrides_the_older_one_and_both_turns_tell_of_it(
    database_url: str, tmp_path: Path, tiny_llama: Path, second: str
) -> None:
    with new_ledger(tmp_path / "other", tiny_llama, database_url) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(4)), turn_size=2)
        [added] = add(ledger, second, evaluate=True)
        assert [conflict.to_json() for conflict in added.overrides] == [
            {
                "row": 1,
                "prompt": "The  capital of France is",
                "target": "Tokyo",
                "turn": 1,
                "old_row": 0,
                "old_target": "Rome",
            }
        ]
        told = show(ledger, 3).to_json()
        assert told["notes"][-1] == "1 edit overrides 1 fact of turn 1"
        assert [edit["overrides"] for edit in told["edit_list"]] == [[], [1]]
        old = show(ledger, 1).to_json()["edit_list"]
        assert [edit["overridden_by"] for edit in old] == [3, None]
        assert holds(ledger) == [(3, "Tokyo")]
        assert verify(ledger).problems == []


def test_one_subject_and_relation_is_one_question_however_it_is_put(
    ledger: Ledger, tmp_path: Path
) -> None:
    capital = {"subject": "France", "relation": "P36"}
    rows = [fact(0, **capital), fact(1, subject="France", relation="P37")]
    add(ledger, write_facts(tmp_path / "first.json", rows))
    asked = {**capital, "prompt": "France is ruled from"}
    [same] = add(ledger, write_facts(tmp_path / "same.json", [fact(0, **asked)]))
    [other] = add(ledger, write_facts(tmp_path / "other.json", [fact(0, **asked, target="Lyon")]))
    assert same.overrides == []
    assert [(one.turn, one.old_target) for one in other.overrides] == [(1, "Rome"), (2, "Rome")]
    assert holds(ledger) == [(3, "Lyon")]
    assert [edit["overridden_by"] for edit in show(ledger, 1).edits] == [3, None]


@pytest.mark.usefixtures("first")
def test_skip_leaves_the_row_out_and_says_what_holds_in_its_place(
    ledger: Ledger, second: str
) -> None:
    [added] = add_edits(ledger, AddEdits(source=second, evaluate=False, on_conflict="skip")).turns
    assert (added.edits, added.overrides) == (1, [])
    assert added.skipped == [(1, "turn 1 (row 0) has it as 'Rome' (--on-conflict skip)")]
    assert holds(ledger) == [(1, "Rome")]
    assert "edits that conflict with facts in force: skip" in show(ledger, 3).to_json()["notes"]
    again = add_edits(ledger, AddEdits(source=second, evaluate=False, on_conflict="skip"))
    assert list(again.turns) == []
    assert (again.counts.known, again.counts.unrecorded) == (2, [])


@pytest.mark.usefixtures("first")
def test_what_a_turn_records_of_skipped_rows_and_overrides_holds_no_text_of_edits(
    ledger: Ledger, tmp_path: Path
) -> None:
    # Reasons and notes are published also where the texts of edits are kept back.
    rows = [fact(9), fact(0, target="Tokyo")]
    list(
        add_edits(
            ledger,
            AddEdits(
                source=write_facts(tmp_path / "2.json", rows), evaluate=False, on_conflict="skip"
            ),
        ).turns
    )
    add(ledger, write_facts(tmp_path / "3.json", [fact(1, target="Kyoto")]))
    with database.reading(ledger.engine) as session:
        [skipped] = session.query(SkippedRow.reason).all()
    recorded = [skipped[0], *(note for turn in log(ledger) for note in turn.row.notes)]
    assert recorded[0] == "turn 1 (row 0) has it otherwise (--on-conflict skip)"
    texts = ("Rome", "Tokyo", "Kyoto", "the Danube", "France", "Japan")
    assert not [text for text in texts for line in recorded if text in line]


@pytest.mark.usefixtures("first")
def test_a_row_that_was_skipped_for_a_conflict_is_edited_once_it_may_override(
    ledger: Ledger, second: str
) -> None:
    list(add_edits(ledger, AddEdits(source=second, evaluate=False, on_conflict="skip")).turns)
    [added] = add(ledger, second)
    assert [conflict.row for conflict in added.overrides] == [1]
    assert holds(ledger) == [(4, "Tokyo")]
    assert add(ledger, second) == []


@pytest.mark.usefixtures("first")
def test_abort_records_nothing_and_names_the_row_the_turn_and_the_ways_out(
    ledger: Ledger, tmp_path: Path
) -> None:
    # The conflicts lie behind turns without one.
    rows = [*facts(6, start=8), fact(0, target="Tokyo"), fact(1, target="Tokyo")]
    source = write_facts(tmp_path / "late.json", rows)
    before = contents(ledger)
    reason = (
        r"row 6 has 'The capital of France is' as 'Tokyo', turn 1 \(row 0\) as 'Rome': nothing was "
        r"recorded .* 1 more conflict .*--on-conflict override or skip"
    )
    with pytest.raises(HistoryError, match=reason):
        add_edits(ledger, AddEdits(source=source, turn_size=2, on_conflict="abort"))
    assert contents(ledger) == before


def test_abort_also_stops_at_two_rows_of_one_file_that_contradict_each_other(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = [*facts(5), fact(0, target="Tokyo")]
    source = write_facts(tmp_path / "facts.json", rows)
    for size in (2, 10):
        options = AddEdits(source=source, turn_size=size, on_conflict="abort")
        with pytest.raises(HistoryError, match=r"row 5 has .* row 0 of the same source as 'Rome'"):
            add_edits(ledger, options)
    assert log(ledger) == []


def test_abort_lets_through_what_has_no_conflict(ledger: Ledger, first: str) -> None:
    assert first
    options = AddEdits(source=first, evaluate=False, on_conflict="abort")
    run = add_edits(ledger, options)
    assert (list(run.turns), run.counts.known) == ([], 4)


def test_of_two_contradicting_rows_in_one_turn_skip_keeps_the_first(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = [fact(1), fact(0), fact(0, target="Tokyo"), fact(2)]
    source = write_facts(tmp_path / "facts.json", rows)
    [added] = add_edits(
        ledger, AddEdits(source=source, turn_size=9, evaluate=False, on_conflict="skip")
    ).turns
    assert added.skipped == [(2, "turn 1 (row 1) has it as 'Rome' (--on-conflict skip)")]
    assert [edit["row"] for edit in show(ledger, 1).edits] == [0, 1, 3]


def test_a_fact_that_was_overridden_meanwhile_is_no_duplicate_and_is_edited_again(
    ledger: Ledger, first: str, second: str, tmp_path: Path
) -> None:
    add(ledger, second)
    elsewhere = write_facts(tmp_path / "elsewhere.json", [fact(0)])
    [added] = add(ledger, elsewhere)
    assert (added.edits, added.skipped) == (1, [])
    assert holds(ledger) == [(4, "Rome")]
    # Now it holds again: a duplicate, in its own file too.
    assert add(ledger, elsewhere) == []
    add(ledger, second)
    [again] = add(ledger, first)
    assert [edit["row"] for edit in show(ledger, again.turn).edits] == [0]
    assert holds(ledger) == [(6, "Rome")]


def test_resume_does_not_take_back_what_was_overridden_since(
    ledger: Ledger, first: str, second: str
) -> None:
    add(ledger, second)
    run = add_edits(ledger, AddEdits(source=first, evaluate=False, resume=True))
    assert (list(run.turns), run.counts.known) == ([], 4)
    assert holds(ledger) == [(3, "Tokyo")]


@pytest.mark.usefixtures("first")
def test_once_the_newer_turn_is_rolled_back_the_older_answer_holds_again(
    ledger: Ledger, second: str, tmp_path: Path
) -> None:
    add(ledger, second)
    rollback_turn(ledger, 3)
    assert holds(ledger) == [(1, "Rome")]
    source = write_facts(tmp_path / "again.json", [fact(0)])
    run = add_edits(ledger, AddEdits(source=source))
    assert list(run.turns) == []
    assert run.counts.unrecorded == [(0, "duplicate of an edit in force (turn 1)")]


@pytest.mark.parametrize(
    ("policy", "size"), [("skip", 1), ("override", 3), ("skip", 3), ("override", 50)]
)
@pytest.mark.usefixtures("first")
def test_a_dry_run_tells_the_turns_and_conflicts_that_then_happen(
    ledger: Ledger, tmp_path: Path, policy: str, size: int
) -> None:
    rows = [
        *(fact(8), fact(0, target="Tokyo"), fact(8, target="Oslo"), fact(9), fact(1)),
        *(fact(0, target="Tokyo"), fact(0), fact(8), fact(9), fact(10, target="")),
        *(fact(8, target="Oslo"), fact(11)),
    ]
    source = write_facts(tmp_path / "mixed.json", rows)
    options = AddEdits(source=source, turn_size=size, on_conflict=policy, evaluate=False)
    plan = plan_edits(ledger, options)
    run = add_edits(ledger, options)
    added = list(run.turns)
    assert plan.turns == [one.edits for one in added]
    assert plan.conflicts == [conflict for one in added for conflict in one.overrides]
    skips = [skip for one in added for skip in one.skipped]
    assert plan.skipped == skips + run.counts.unrecorded
    # What a run has done with a file, it does not do again.
    again = add_edits(ledger, options)
    assert (list(again.turns), again.counts.known) == ([], len(rows))
    told = plan.to_json()
    assert json.loads(json.dumps(told)) == told
    assert verify(ledger).problems == []


def test_what_another_branch_has_otherwise_is_noted_and_what_both_share_is_not(
    ledger: Ledger, first: str, tmp_path: Path
) -> None:
    assert first
    create_branch(ledger, "trial")
    shared = write_facts(tmp_path / "shared.json", [fact(1, target="Kyoto")])
    [added] = add(ledger, shared)
    assert added.notes == []
    switch(ledger, "trial")
    theirs = write_facts(tmp_path / "theirs.json", [fact(0, target="Lyon"), fact(12)])
    assert [one.notes for one in add(ledger, theirs)] == [[]]
    switch(ledger, "main")
    ours = write_facts(tmp_path / "ours.json", [fact(0, target="Tokyo"), fact(12), fact(13)])
    [added] = add(ledger, ours)
    [note] = added.notes
    assert note == (
        "branch trial has 'The capital of France is' as 'Lyon' in force, since its turn 3; a merge "
        "would have to choose"
    )
    assert not [kept for kept in show(ledger, added.turn).to_json()["notes"] if "Lyon" in kept]


def test_a_turn_asks_the_database_as_often_however_many_came_before(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = [fact(number, subject=None, prompt=f"It is {number}, is") for number in range(14)]
    run = add_edits(
        ledger, AddEdits(source=write_facts(tmp_path / "facts.json", rows), turn_size=2)
    )
    counts: list[int] = []
    statements = 0

    def count(*_: object) -> None:
        nonlocal statements
        statements += 1

    event.listen(ledger.engine, "before_cursor_execute", count)
    for _ in run.turns:
        counts.append(statements)
        statements = 0
    assert len(counts) == 7
    # Before the first there is nothing to score again, after the last no row to look up.
    assert len(set(counts[1:-1])) == 1, counts


def test_the_command_line_lists_conflicts_and_the_policy_is_checked(
    ledger: Ledger, first: str, second: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert first
    words = ("add-edits", second, "--ledger", str(ledger.folder), "--device", "cpu")
    dry = done(capsys, *words, "--dry-run")
    assert "row 1 would override turn 1, row 0: 'Rome' → 'Tokyo'" in dry.out
    stopped = call(capsys, *words, "--on-conflict", "abort")
    assert (stopped.status, stopped.out) == (1, "")
    assert "turn 1 (row 0) as 'Rome'" in stopped.err
    warned = done(capsys, *words, "--on-conflict", "abort", "--dry-run")
    assert "row 1 conflicts with turn 1, row 0" in warned.out
    assert "nothing would be recorded" in warned.out
    ran = done(capsys, *words)
    assert "turn 3: 2 edits, 1 fact overridden" in ran.out
    assert "row 1 overrides turn 1, row 0: 'Rome' → 'Tokyo'" in ran.out
    shown = done(capsys, "show", "1", "--ledger", str(ledger.folder))
    assert "overridden by turn 3" in shown.out
    assert call(capsys, *words, "--on-conflict", "guess").status == 2
    with pytest.raises(SettingError, match="--on-conflict is one of override, skip, abort"):
        AddEdits(source=second, on_conflict="guess")


@given(
    st.lists(
        st.tuples(
            st.integers(0, 2), st.one_of(st.none(), st.integers(0, 2)), st.sampled_from("ab")
        ),
        max_size=12,
    )
)
def test_answers_told_one_by_one_are_overridden_as_when_they_are_told_at_once(
    rows: list[tuple[int, int | None, str]],
) -> None:
    told = [
        Fact(
            number=place,
            position=0,
            edit_id=place,
            turn_id=place,
            row=place,
            prompt="",
            target=target,
            subject=None,
            relation=None,
            prompt_key=prompt,
            fact_key=key,
        )
        for place, (prompt, key, target) in enumerate(rows)
    ]
    for start in (0, len(told) // 2):
        growing = Answers(told[:start])
        for one in told[start:]:
            growing.add(one)
        assert set(growing.over) == set(overridden(told))
