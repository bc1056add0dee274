"""Which rows become edits, which are skipped with a reason, and which are known already."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from ledger import database
from ledger.editing import Added, AddEdits, add_edits, plan_edits
from ledger.orm import EditRow
from ledger.reporting import log, show
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.verifying import verify
from ledger.workspace import Ledger, open_ledger
from tests import ledgers
from tests.ledgers import Fact, contents, fact, facts, files, new_ledger, write_facts
from tests.tiny_models import CONTEXT

LONG = "The capital of France is Paris. " * 20


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        yield ledger


def add(ledger: Ledger, source: str, **options: Any) -> list[Added]:
    return ledgers.add(ledger, source, **{"evaluate": False, **options})


def skipped(ledger: Ledger, number: int) -> list[tuple[int, str]]:
    return show(ledger, number).skipped


def edited(ledger: Ledger, number: int) -> list[int]:
    return [edit["row"] for edit in show(ledger, number).edits]


UNUSABLE: list[tuple[object, str]] = [
    (fact(9, target=""), "empty target"),
    (fact(9, target="  \n"), "empty target"),
    (fact(9, target=None), "no target"),
    (fact(9, target=[]), "no target"),
    (fact(9, prompt=""), "empty prompt"),
    (fact(9, prompt=None), "no prompt"),
    (fact(9, prompt=7), "prompt is not text: 7 (int)"),
    (fact(9, target=True), "target is not text: True (bool)"),
    (fact(9, target={"a": 1}), "target is not text: dict"),
    (fact(9, target="a\0b"), "target holds a NUL character, which databases cannot store"),
    (fact(9, prompt="\ud800 is"), "prompt holds a lone surrogate (U+D800)"),
    (fact(9, locality="none"), "locality is not a list: 'none' (str)"),
    ("a text", "it is not an object with named fields, but str"),
    (fact(0), "duplicate of row 0"),
    (fact(0, prompt="The  capital of\nFrance is "), "duplicate of row 0"),
]


def test_rows_that_cannot_be_used_are_recorded_with_their_numbers_and_the_reasons(
    ledger: Ledger, tmp_path: Path
) -> None:
    bad, reasons = zip(*UNUSABLE, strict=True)
    source = write_facts(tmp_path / "facts.json", [*facts(2), *bad, *facts(2, start=2)])
    [added] = add(ledger, source, turn_size=10)
    assert added.skipped == skipped(ledger, 1) == list(enumerate(reasons, start=2))
    assert added.edits == 4
    last = len(UNUSABLE) + 2
    assert edited(ledger, 1) == [0, 1, last, last + 1]
    assert show(ledger, 1).to_json()["skipped"] == len(UNUSABLE)
    assert verify(ledger).problems == []


def test_a_prompt_beyond_the_context_is_skipped_and_one_that_just_fits_is_edited(
    ledger: Ledger, tmp_path: Path
) -> None:
    words = [fact(0, prompt="a " * count + "is", target="a") for count in range(CONTEXT)]
    source = write_facts(tmp_path / "facts.json", [fact(0), *words])
    run = add_edits(ledger, AddEdits(source=source, turn_size=100, evaluate=False))
    [added] = run.turns
    tokens = [int(reason.split()[4]) for _, reason in added.skipped]
    assert tokens[0] == CONTEXT + 1
    assert tokens == sorted(tokens)
    assert added.edits + len(tokens) == 1 + CONTEXT
    assert all(reason.endswith(f"the model takes {CONTEXT}") for _, reason in added.skipped)


def test_two_answers_to_one_prompt_are_two_turns_of_which_the_later_row_holds(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = [fact(0, target="Rome"), fact(0, target="Tokyo"), fact(1), fact(0, target="Tokyo")]
    source = write_facts(tmp_path / "facts.json", rows)
    first, second = add(ledger, source, turn_size=10)
    assert (edited(ledger, 1), edited(ledger, 2)) == ([0], [1, 2])
    assert (first.skipped, second.skipped) == ([], [(3, "duplicate of row 1")])
    assert add(ledger, source, turn_size=10) == []


def test_a_fact_in_force_from_another_file_is_skipped_and_names_the_turn(
    ledger: Ledger, tmp_path: Path
) -> None:
    add(ledger, write_facts(tmp_path / "first.json", facts(4)), turn_size=2)
    second = write_facts(tmp_path / "second.json", [*facts(3, start=4), fact(3), fact(0)])
    [added] = add(ledger, second, turn_size=10)
    assert added.skipped == [
        (3, "duplicate of an edit in force (turn 2)"),
        (4, "duplicate of an edit in force (turn 1)"),
    ]
    rollback_turn(ledger, 2)
    third = write_facts(tmp_path / "third.json", [fact(0), fact(3)])
    [again] = add(ledger, third)
    assert edited(ledger, again.turn) == [1]
    assert again.skipped == [(0, "duplicate of an edit in force (turn 1)")]


def test_rows_skipped_after_the_last_usable_one_belong_to_the_last_turn(
    ledger: Ledger, tmp_path: Path
) -> None:
    empty = fact(9, target="")
    source = write_facts(tmp_path / "facts.json", [empty, *facts(2), empty, *facts(1, 2), empty])
    add(ledger, source, turn_size=2)
    assert skipped(ledger, 1) == [(0, "empty target"), (3, "empty target")]
    assert skipped(ledger, 2) == [(5, "empty target")]
    assert show(ledger, 1).to_json()["rows"] == [0, 3]
    assert show(ledger, 2).to_json()["rows"] == [4, 5]


def test_a_file_without_a_usable_row_makes_no_turn_and_names_every_row(
    ledger: Ledger, tmp_path: Path
) -> None:
    before = contents(ledger)
    source = write_facts(tmp_path / "facts.json", [fact(0, target=""), fact(1, prompt=LONG)])
    run = add_edits(ledger, AddEdits(source=source, evaluate=False))
    assert list(run.turns) == []
    assert [row for row, _ in run.counts.unrecorded] == [0, 1]
    assert (run.counts.usable, run.counts.skipped, run.counts.known) == (0, 2, 0)
    assert contents(ledger) == before


def test_the_same_command_again_finds_every_row_known_and_records_nothing(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = [*facts(3), fact(9, target=""), *facts(2, start=3)]
    source = write_facts(tmp_path / "facts.json", rows)
    add(ledger, source, turn_size=2)
    before = contents(ledger)
    # The same bytes are the same rows, wherever the file lies.
    copy = tmp_path / "copy.json"
    copy.write_bytes(Path(source).read_bytes())
    for again in (source, str(copy)):
        run = add_edits(ledger, AddEdits(source=again, turn_size=3, evaluate=False))
        assert list(run.turns) == []
        assert (run.counts.usable, run.counts.skipped, run.counts.known) == (0, 0, 6)
    assert contents(ledger) == before


def test_rows_of_a_turn_that_was_rolled_back_can_be_added_again(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = [*facts(3), fact(9, target=""), *facts(3, start=3)]
    source = write_facts(tmp_path / "facts.json", rows)
    add(ledger, source, turn_size=2)
    assert edited(ledger, 2) == [2, 4]
    rollback_turn(ledger, 2)
    run = add_edits(ledger, AddEdits(source=source, turn_size=10, evaluate=False))
    [added] = run.turns
    assert edited(ledger, added.turn) == [2, 4]
    assert added.skipped == [(3, "empty target")]
    assert run.counts.known == 4
    rollback_to(ledger, 0)
    [whole] = add(ledger, source, turn_size=10)
    assert edited(ledger, whole.turn) == [0, 1, 2, 4, 5, 6]
    assert verify(ledger).problems == []


def test_offset_and_limit_count_rows_of_the_file_and_keep_their_numbers(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = [*facts(4), fact(9, target=""), *facts(4, start=4)]
    source = write_facts(tmp_path / "facts.json", rows)
    add(ledger, source, turn_size=2, offset=3, limit=4)
    assert [edited(ledger, turn.number) for turn in log(ledger)] == [[3, 5], [6]]
    run = add_edits(ledger, AddEdits(source=source, turn_size=2, evaluate=False))
    assert sorted(row for added in run.turns for row in edited(ledger, added.turn)) == [
        0,
        1,
        2,
        7,
        8,
    ]
    assert run.counts.known == 4


def test_another_reading_of_the_same_file_is_not_taken_for_known(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = [{"q": f"It is {number}, is", "a": "Rome", "b": "a piano"} for number in range(3)]
    source = write_facts(tmp_path / "facts.json", rows)
    for answer in ("a", "b"):
        options = AddEdits(source=source, mapping={"prompt": "q", "target": answer}, evaluate=False)
        assert [added.edits for added in add_edits(ledger, options).turns] == [3]
    with database.reading(ledger.engine) as session:
        targets = session.scalars(select(EditRow.target).order_by(EditRow.id)).all()
    assert targets == ["Rome"] * 3 + ["a piano"] * 3


def test_a_dry_run_tells_what_is_then_recorded_and_changes_nothing(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows: list[Fact] = [
        *facts(4),
        fact(1),
        fact(9, target=""),
        *facts(3, start=4),
        fact(8, prompt=LONG),
    ]
    source = write_facts(tmp_path / "facts.json", rows)
    add(ledger, source, limit=2)
    rows_before = contents(ledger)
    ledger.close()
    bytes_before = files(ledger.folder)
    with open_ledger(ledger.folder) as opened:
        plan = plan_edits(opened, AddEdits(source=source, turn_size=3, evaluate=False))
        assert contents(opened) == rows_before
    unchanged = {name: digest for name, digest in files(ledger.folder).items() if "-" not in name}
    assert unchanged == {n: digest for n, digest in bytes_before.items() if "-" not in n}
    run = add_edits(ledger, AddEdits(source=source, turn_size=3, evaluate=False))
    added = list(run.turns)
    assert plan.turns == [turn.edits for turn in added] == [3, 2]
    assert plan.skipped == [skip for turn in added for skip in turn.skipped]
    assert plan.known == run.counts.known == 2
    assert plan.dataset == run.dataset
    told = plan.to_json()
    assert json.loads(json.dumps(told)) == told
    assert told["edits"] == 5


def test_a_dry_run_of_nothing_usable_names_the_rows(ledger: Ledger, tmp_path: Path) -> None:
    source = write_facts(tmp_path / "facts.json", [fact(0, target="")])
    plan = plan_edits(ledger, AddEdits(source=source, evaluate=False))
    assert plan.turns == []
    assert plan.skipped == [(0, "empty target")]
