"""Turns of other branches, repeated one by one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sqlalchemy import delete

from ledger import database, history
from ledger.applying import apply_to_model
from ledger.orm import EditRow, TurnRow
from ledger.picking import cherry_pick
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.squashing import squash
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import HistoryError
from patches.routing import attached
from patches.side_memory import SideMemory
from tests.branch_scenes import (
    FEATURE,
    capital,
    copied,
    edit,
    line_of,
    on,
    part,
    parts,
    plain_ledger,
    turn,
)
from tests.command_line import call, done
from tests.ledgers import add, contents, facts, new_ledger, write_facts
from tests.plain_ledgers import line, recorded, state, summed
from tests.side_memories import add_memories, side_weight
from tests.tiny_models import load


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Turn 1 on both branches, turn 2 on main, turns 2 to 4 on feature."""
    folder = tmp_path_factory.mktemp("branches")
    with plain_ledger(folder) as ledger:
        turn(ledger, 1, edit("It is", "a"))
        part(ledger)
        turn(ledger, 2, capital("France", "Paris"), edit("He plays the", "piano"))
        with on(ledger):
            turn(ledger, 3, edit("She plays the", "guitar"))
            turn(ledger, 4, capital("France", "Rome"), edit("He plays the", "piano"))
            turn(ledger, 5, edit("Who was it?", "nobody"))
    return folder


@pytest.fixture
def ledger(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    with copied(made / "ledger", tmp_path / "ledger") as ledger:
        yield ledger


@pytest.fixture
def model(made: Path) -> Path:
    return made / "model"


class TestCopy:
    def test_it_is_a_new_turn_with_the_patch_and_the_edits_of_its_source(
        self, ledger: Ledger
    ) -> None:
        (picked,) = cherry_pick(ledger, ["feature~1"])
        made, source = line(ledger)[-1], line_of(ledger)[2]
        assert (picked.turn, picked.source, picked.branch) == (3, 3, FEATURE)
        assert picked.hash == made.copied_from == source.hash != made.hash
        assert (made.kind, made.method, made.edits) == ("edit", "ultraedit", 2)
        assert made.patch_digest == source.patch_digest
        with database.reading(ledger.engine) as session:
            rows = history.edit_rows(session, [source.id, made.id])
            texts = [(row.prompt, row.target, row.relation, row.digest) for row in rows]
        assert texts[:2] == texts[2:]
        assert verify(ledger).problems == []

    def test_the_state_is_base_and_our_patches_and_the_picked_ones(
        self, ledger: Ledger, model: Path
    ) -> None:
        theirs = line_of(ledger)
        picked = [theirs[3], theirs[1]]
        expected = summed(model, [*parts(ledger), *parts(ledger, picked)])
        cherry_pick(ledger, ["feature", "feature~2"])
        assert [step.copied_from for step in line(ledger)[2:]] == [step.hash for step in picked]
        assert state(ledger) == recorded(ledger) == expected

    def test_rolling_it_back_gives_the_state_from_before(self, ledger: Ledger) -> None:
        before = recorded(ledger)
        cherry_pick(ledger, ["feature"])
        rollback_turn(ledger, 3)
        assert state(ledger) == recorded(ledger) == before

    def test_a_rolled_back_turn_of_the_same_branch_is_repeated_at_its_end(
        self, ledger: Ledger, model: Path
    ) -> None:
        rollback_to(ledger, 0)
        assert [picked.source for picked in cherry_pick(ledger, [2, 1])] == [2, 1]
        steps = line(ledger)
        assert [step.number for step in history.edits_in_force(steps)] == [4, 5]
        expected = summed(model, parts(ledger, [steps[1], steps[0]]))
        assert state(ledger) == expected

    def test_the_message_is_that_of_the_source_unless_another_is_given(
        self, ledger: Ledger
    ) -> None:
        cherry_pick(ledger, ["feature"], message="for release 2")
        part(ledger, "third")
        with on(ledger, "third"):
            rollback_turn(ledger, 3)
            cherry_pick(ledger, ["main"])
            cherry_pick(ledger, ["feature~1"])
        rows = _rows(ledger, line_of(ledger, "third")[2:])
        messages = ["for release 2", "roll back turn 3", "for release 2", rows[3].notes[0]]
        assert [row.message for row in rows] == messages
        source = line_of(ledger)[2].hash
        assert rows[3].notes[0] == f"copied from turn 3 of feature ({source[:12]})"

    def test_dataset_rows_settings_and_editor_state_come_along_and_skipped_rows_do_not(
        self, tmp_path: Path, tiny_llama: Path
    ) -> None:
        rows: list[object] = [*facts(4), {"prompt": "no target"}, *facts(2, 4)]
        source = write_facts(tmp_path / "facts.json", rows)
        with new_ledger(tmp_path / "edits", tiny_llama) as ledger:
            part(ledger)
            with on(ledger):
                add(ledger, source, turn_size=4, seed=7, evaluate=False, learning_rate=2e-4)
            cherry_pick(ledger, ["feature"])
            first, made = _rows(ledger, [line_of(ledger)[1], line(ledger)[0]])
            for name in (
                *("dataset_id", "first_row", "last_row", "hyperparameters", "seed", "figures"),
                *("editor_state_digest", "edits_digest", "patch_digest"),
            ):
                assert getattr(made, name) == getattr(first, name) is not None, name
            assert (made.first_row, made.last_row, made.edits) == (5, 6, 2)
            assert (made.seed, made.hyperparameters["learning_rate"]) == (7, 2e-4)
            assert (first.skipped, made.skipped) == (0, 0)
            cherry_pick(ledger, ["feature~1"])
            with_skip, again = _rows(ledger, [line_of(ledger)[0], line(ledger)[1]])
            assert (with_skip.skipped, again.skipped) == (1, 0)
            assert (again.first_row, again.last_row) == (0, 3)
            assert verify(ledger).problems == []


class TestMerges:
    def test_a_squash_brings_the_turns_along_that_it_stands_for(
        self, ledger: Ledger, model: Path
    ) -> None:
        with on(ledger):
            squash(ledger, 2, 3)
        before = recorded(ledger)
        picked = cherry_pick(ledger, ["feature"])
        assert [(one.turn, one.source, one.replaces) for one in picked] == [
            *((3, 2, []), (4, 3, [])),
            (5, 5, [3, 4]),
        ]
        used = history.patches_in_force(line(ledger))
        assert [step.number for step in used] == [1, 2, 5]
        squashed = line_of(ledger)[4]
        whole = [*parts(ledger, used[:2]), *parts(ledger, [squashed])]
        assert state(ledger) == recorded(ledger) == summed(model, whole)
        rollback_to(ledger, 2)
        assert recorded(ledger) == before
        assert verify(ledger).problems == []

    def test_what_it_stands_for_and_is_in_force_here_is_not_repeated(self, ledger: Ledger) -> None:
        with on(ledger):
            squash(ledger, 1, 3)
        cherry_pick(ledger, ["feature~2"])
        picked = cherry_pick(ledger, ["feature"])
        assert [(one.turn, one.source, one.replaces) for one in picked] == [
            *((4, 2, []), (5, 5, [1, 3, 4])),
        ]
        used = history.patches_in_force(line(ledger))
        assert [step.number for step in used] == [2, 5]

    def test_a_part_of_another_merge_here_is_not_counted_twice(self, ledger: Ledger) -> None:
        with on(ledger):
            squash(ledger, 1, 3)
        squash(ledger, 1, 2)
        before = contents(ledger)
        with pytest.raises(HistoryError, match=r"part of another merge here \(turn 1\)"):
            cherry_pick(ledger, ["feature"])
        assert contents(ledger) == before


class TestRefusals:
    def test_a_turn_in_force_here_is_not_repeated(self, ledger: Ledger) -> None:
        cherry_pick(ledger, ["feature"])
        before = contents(ledger)
        for name, what in (
            *(("feature", "turn 4 of feature is in force here already, as turn 3"),),
            *((3, "turn 3 of main is in force here already"), (1, "turn 1 of main is in force")),
        ):
            with pytest.raises(HistoryError, match=what):
                cherry_pick(ledger, [name])
        with on(ledger), pytest.raises(HistoryError, match="in force here already, as turn 4"):
            cherry_pick(ledger, ["main"])
        assert contents(ledger) == before

    def test_a_copy_of_a_copy_is_the_same_turn(self, ledger: Ledger) -> None:
        cherry_pick(ledger, ["feature"])
        part(ledger, "third")
        with on(ledger, "third"):
            rollback_turn(ledger, 3)
            cherry_pick(ledger, ["main"])
        with on(ledger), pytest.raises(HistoryError, match="in force here already, as turn 4"):
            cherry_pick(ledger, ["third"])

    def test_a_rollback_and_the_base_have_no_patch_to_repeat(self, ledger: Ledger) -> None:
        with on(ledger):
            rollback_turn(ledger, 3)
        with pytest.raises(HistoryError, match="turn 5 of feature is a rollback"):
            cherry_pick(ledger, ["feature"])
        with pytest.raises(HistoryError, match="feature~5 is the base"):
            cherry_pick(ledger, ["feature~5"])

    def test_if_one_turn_is_refused_none_is_recorded(self, ledger: Ledger) -> None:
        before = contents(ledger)
        with pytest.raises(HistoryError, match="in force here already"):
            cherry_pick(ledger, ["feature", "feature~1", 2])
        assert contents(ledger) == before

    def test_a_turn_without_the_texts_of_its_edits_is_refused(self, ledger: Ledger) -> None:
        with database.writing(ledger.engine) as session:
            session.execute(delete(EditRow).where(EditRow.turn_id == line_of(ledger)[3].id))
        before = contents(ledger)
        with pytest.raises(HistoryError, match=r"turn 4 .* --include-edits, and run ledger pull"):
            cherry_pick(ledger, ["feature"])
        assert contents(ledger) == before


class TestConflicts:
    def test_facts_that_it_contradicts_are_told_and_overridden(self, ledger: Ledger) -> None:
        (picked,) = cherry_pick(ledger, ["feature~1"])
        (conflict,) = picked.overrides
        assert (conflict.prompt, conflict.target) == ("The capital of France is", "Rome")
        assert (conflict.turn, conflict.old_target) == (2, "Paris")
        (repeat,) = picked.repeats
        assert (repeat.prompt, repeat.target, repeat.turn) == ("He plays the", "piano", 2)
        (row,) = _rows(ledger, line(ledger)[2:])
        assert "1 edit overrides 1 fact of turn 2" in row.notes

    def test_what_was_overridden_before_is_no_conflict(self, ledger: Ledger) -> None:
        turn(ledger, 6, replace(capital("France", "b"), prompt="Where is it? It is in"))
        (picked,) = cherry_pick(ledger, ["feature~1"])
        assert [(one.turn, one.old_target) for one in picked.overrides] == [(3, "b")]

    def test_abort_records_nothing_and_names_both_turns(self, ledger: Ledger) -> None:
        before = contents(ledger)
        with pytest.raises(HistoryError, match=r"turn 3 of feature .* 'Rome'.* turn 2 .*'Paris'"):
            cherry_pick(ledger, ["feature~2", "feature~1"], on_conflict="abort")
        assert contents(ledger) == before
        assert len(cherry_pick(ledger, ["feature~2", "feature"], on_conflict="abort")) == 2


def test_a_side_memory_keeps_the_main_weight_of_its_own_branch(
    tmp_path: Path, tiny_llama: Path
) -> None:
    source = write_facts(tmp_path / "facts.json", facts(9))
    with new_ledger(tmp_path / "edits", tiny_llama) as ledger:
        part(ledger)
        with on(ledger):
            add(ledger, source, limit=3, evaluate=False, modules=("*layers.2.mlp.down_proj",))
            add_memories(ledger, source, offset=3, limit=3)
        cherry_pick(ledger, ["feature"])
        there, here = load(tiny_llama), load(tiny_llama)
        with on(ledger):
            apply_to_model(ledger, there)
        assert apply_to_model(ledger, here).memories == [1]
        own, picked = _memory(there), _memory(here)
        assert (own.turn, picked.turn, own.main) == (2, 1, None)
        assert picked.main is not None
        theirs = _main_weight(there)
        assert not torch.equal(_main_weight(here), theirs)
        assert torch.equal(picked.main, theirs)
        assert torch.equal(side_weight(picked, picked.main), side_weight(own, theirs))
        assert verify(ledger).problems == []


def _memory(model: torch.nn.Module) -> SideMemory:
    ((memory,),) = [router.memories for router in attached(model).values()]
    return memory


def _main_weight(model: torch.nn.Module) -> torch.Tensor:
    """The main weight beside which the memory stands."""
    (found,) = [w for n, w in model.named_parameters() if "layers.2.mlp.down_proj" in n]
    return found.detach()


class TestCommand:
    def test_it_says_what_was_repeated_and_what_it_overrides(
        self, ledger: Ledger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ("cherry-pick", "feature~2", "feature~1", "--ledger", str(ledger.folder))
        out = done(capsys, *words).out.splitlines()
        assert out[:4] == [
            "turn 3 repeats turn 2 of feature: ultraedit, 1 edit",
            "turn 4 repeats turn 3 of feature: ultraedit, 2 edits",
            "an edit overrides turn 2: 'Paris' → 'Rome'",
            "an edit says what turn 2 does: 'piano'",
        ]

    def test_json_has_a_turn_for_every_copy(
        self, ledger: Ledger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        where = ("--ledger", str(ledger.folder), "--json")
        (told,) = done(capsys, "cherry-pick", "feature~1", *where).json()
        assert told["turn"] == 3
        assert told["copied_from"] == {
            "turn": 3,
            "branch": FEATURE,
            "hash": line_of(ledger)[2].hash,
        }
        assert [one["old_target"] for one in told["overrides"]] == ["Paris"]
        newest = done(capsys, "log", *where).json()[-1]
        assert newest["copied_from"] == told["copied_from"]["hash"]

    def test_abort_ends_with_status_1_and_one_line(
        self, ledger: Ledger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ("cherry-pick", "feature~1", "--on-conflict", "abort")
        outcome = call(capsys, *words, "--ledger", str(ledger.folder))
        assert (outcome.status, outcome.out) == (1, "")
        assert outcome.err.startswith("error: turn 3 of feature has 'The capital of France is'")
        assert outcome.err.count("\n") == 1


def _rows(ledger: Ledger, steps: list[history.Step]) -> list[TurnRow]:
    with database.reading(ledger.engine) as session:
        found = [history.row_of(session, step) for step in steps]
        session.expunge_all()
        return found
