"""Branches merged by adding up: what comes over, what is undone, and that every bit is as it must
be."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete

from ledger import database, history
from ledger.applying import apply_to_folder
from ledger.branching import create_branch, create_tag
from ledger.history import Step
from ledger.joining import Joined, merge_branch
from ledger.merge_plan import MergeBranch, plan_merge
from ledger.orm import EditRow
from ledger.picking import cherry_pick
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.squashing import squash
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import HistoryError
from tests.branch_scenes import (
    FEATURE,
    copied,
    edit,
    line_of,
    on,
    part,
    parts,
    plain_ledger,
    turn,
)
from tests.ledgers import contents
from tests.plain_ledgers import line, recorded, state, summed

QUIET = MergeBranch(evaluate=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Turns 1 and 2 on both branches, turn 3 on main, turns 3 to 5 on feature."""
    folder = tmp_path_factory.mktemp("branches")
    with plain_ledger(folder) as ledger:
        turn(ledger, 1, edit("It is", "a"))
        turn(ledger, 2)
        part(ledger)
        turn(ledger, 3, edit("He plays the", "piano"), kind="dense")
        with on(ledger):
            turn(ledger, 4, edit("She plays the", "guitar"))
            turn(ledger, 5, kind="sparse")
            turn(ledger, 6, edit("Who was it?", "nobody"))
    return folder


@pytest.fixture
def ledger(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    with copied(made / "ledger", tmp_path / "ledger") as ledger:
        yield ledger


@pytest.fixture
def model(made: Path) -> Path:
    return made / "model"


def merge(ledger: Ledger, rev: int | str = FEATURE) -> Joined:
    return merge_branch(ledger, rev, QUIET)


def sources(ledger: Ledger, steps: Sequence[Step]) -> list[int]:
    """The numbers, on feature, of the turns that these are copies of."""
    numbers = {step.hash: step.number for step in line_of(ledger)}
    return [numbers[step.copied_from or ""] for step in steps]


class TestSum:
    def test_the_state_is_base_and_ours_and_theirs_in_our_order(
        self, ledger: Ledger, model: Path
    ) -> None:
        expected = summed(model, [*parts(ledger), *parts(ledger, line_of(ledger)[2:])])
        merge(ledger)
        assert state(ledger) == recorded(ledger) == expected
        assert sources(ledger, line(ledger)[3:]) == [3, 4, 5]
        assert verify(ledger).problems == []

    def test_every_turn_of_it_has_the_digests_of_its_own_state(
        self, ledger: Ledger, model: Path
    ) -> None:
        merge(ledger)
        steps = line(ledger)
        for number in range(4, 7):
            expected = summed(model, parts(ledger, steps[:number]))
            with database.reading(ledger.engine) as session:
                assert history.tensors_at(session, steps[:number]) == expected
            assert state(ledger, number) == expected

    def test_it_can_be_undone_turn_by_turn_and_as_a_whole(
        self, ledger: Ledger, model: Path
    ) -> None:
        before = recorded(ledger)
        merge(ledger)
        steps = line(ledger)
        rollback_turn(ledger, 5)
        kept = [step for step in steps if step.number != 5]
        assert state(ledger) == recorded(ledger) == summed(model, parts(ledger, kept))
        rollback_to(ledger, 3)
        assert state(ledger) == recorded(ledger) == before

    def test_the_folder_holds_what_was_recorded(self, ledger: Ledger, tmp_path: Path) -> None:
        merge(ledger)
        applied = apply_to_folder(ledger, tmp_path / "patched")
        assert applied.tensors == recorded(ledger)
        with on(ledger):
            back = apply_to_folder(ledger, tmp_path / "theirs")
        assert back.tensors != applied.tensors

    def test_kinds_edits_and_messages_come_along(self, ledger: Ledger) -> None:
        done = merge_branch(ledger, FEATURE, MergeBranch(evaluate=False, message="release 2"))
        steps = line(ledger)[3:]
        assert [step.kind for step in steps] == ["edit", "import", "edit"]
        assert [step.edits for step in steps] == [1, 0, 1]
        head = line_of(ledger)[-1].hash
        with database.reading(ledger.engine) as session:
            rows = [history.row_of(session, step) for step in steps]
            prompts = [row.prompt for row in history.edit_rows(session, [s.id for s in steps])]
        assert {row.message for row in rows} == {"release 2"}
        assert prompts == ["She plays the", "Who was it?"]
        assert rows[-1].notes[1] == f"merge of feature at {head}, as turns 4 to 6"
        assert [turn["turn"] for turn in done.to_json()["turns"]] == [4, 5, 6]

    @pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
    def test_it_is_the_same_on_postgresql(self, tmp_path: Path, database_url: str) -> None:
        with plain_ledger(tmp_path, database_url) as ledger:
            turn(ledger, 1, edit("It is", "a"))
            part(ledger)
            turn(ledger, 2, edit("He plays the", "piano"))
            with on(ledger):
                rollback_turn(ledger, 1)
                turn(ledger, 3, edit("She plays the", "guitar"))
            merge(ledger)
            kept = [step for step in line(ledger) if step.number in (2, 4)]
            assert state(ledger) == summed(tmp_path / "model", parts(ledger, kept))
            assert merge(ledger).plan.apart.is_merged
            assert verify(ledger).problems == []


class TestNothingToDo:
    @pytest.mark.parametrize("name", ["main", "HEAD", 1, 0, "feature~3", "empty"])
    def test_itself_and_what_came_before_are_merged_already(
        self, ledger: Ledger, name: str | int
    ) -> None:
        create_branch(ledger, "empty", 0)
        before = contents(ledger)
        done = merge(ledger, name)
        assert done.plan.apart.is_merged
        assert contents(ledger) == before

    def test_a_second_merge_has_nothing_to_do(self, ledger: Ledger) -> None:
        merge(ledger)
        before = contents(ledger)
        assert merge(ledger).plan.apart.is_merged
        assert contents(ledger) == before

    def test_merging_back_brings_only_what_is_ours(self, ledger: Ledger) -> None:
        merge(ledger)
        with on(ledger):
            back = merge(ledger, "main")
            assert [repeat.source.number for repeat in back.plan.apart.repeats] == [3]
            assert state(ledger) == recorded(ledger)
            assert merge(ledger, "main").plan.apart.is_merged
        assert merge(ledger).plan.apart.is_merged

    def test_a_later_merge_brings_only_what_is_new(self, ledger: Ledger) -> None:
        merge(ledger)
        with on(ledger):
            turn(ledger, 7)
        assert sources(ledger, line(ledger)[3:]) == [3, 4, 5]
        merge(ledger)
        assert sources(ledger, line(ledger)[6:]) == [6]


class TestOtherStarts:
    def test_an_empty_branch_gets_all_that_is_in_force(self, ledger: Ledger, model: Path) -> None:
        with on(ledger):
            rollback_turn(ledger, 4)
        create_branch(ledger, "empty", 0)
        with on(ledger, "empty"):
            merge(ledger)
            kept = [line_of(ledger)[place] for place in (0, 1, 2, 4)]
            assert [s.copied_from for s in line(ledger)] == [step.hash for step in kept]
            assert state(ledger) == recorded(ledger) == summed(model, parts(ledger, kept))

    def test_a_tag_a_turn_and_a_hash_can_be_merged(self, ledger: Ledger) -> None:
        with on(ledger):
            create_tag(ledger, "v1", 3)
        merge(ledger, "v1")
        merge(ledger, "feature~1")
        merge(ledger, line_of(ledger)[4].hash[:12])
        assert sources(ledger, line(ledger)[3:]) == [3, 4, 5]
        assert merge(ledger).plan.apart.is_merged

    def test_a_turn_that_was_picked_before_does_not_come_twice(self, ledger: Ledger) -> None:
        cherry_pick(ledger, ["feature~1"])
        merge(ledger)
        assert sources(ledger, line(ledger)[3:]) == [4, 3, 5]


class TestUndone:
    def test_what_theirs_has_rolled_back_since_does_not_come(self, ledger: Ledger) -> None:
        with on(ledger):
            rollback_turn(ledger, 4)
        merge(ledger)
        assert sources(ledger, line(ledger)[3:]) == [3, 5]

    def test_a_common_turn_that_theirs_has_rolled_back_is_rolled_back_here(
        self, ledger: Ledger, model: Path
    ) -> None:
        with on(ledger):
            rollback_turn(ledger, 1)
            rollback_turn(ledger, 2)
        done = merge(ledger)
        steps = line(ledger)
        assert (done.rollback, steps[3].undoes) == (4, (1, 2))
        kept = [step for step in steps if step.number in (3, 5, 6, 7)]
        assert state(ledger) == recorded(ledger) == summed(model, parts(ledger, kept))
        assert merge(ledger).plan.apart.is_merged

    def test_a_common_turn_that_both_have_rolled_back_stays_so(self, ledger: Ledger) -> None:
        rollback_turn(ledger, 1)
        with on(ledger):
            rollback_turn(ledger, 1)
        done = merge(ledger)
        assert done.rollback is None
        assert [s.number for s in history.edits_in_force(line(ledger))] == [2, 3, 5, 6, 7]

    def test_a_common_rollback_that_theirs_has_undone_is_undone_here(
        self, ledger: Ledger, model: Path
    ) -> None:
        rollback_to(ledger, 0)
        part(ledger, "third")
        with on(ledger, "third"):
            rollback_turn(ledger, 4)
            rollback_turn(ledger, 2)
        turn(ledger, 9)
        done = merge(ledger, "third")
        assert (done.rollback, done.plan.apart.brought_back) == (6, (1, 3))
        kept = [step for step in line(ledger) if step.number in (1, 3, 5)]
        assert state(ledger) == recorded(ledger) == summed(model, parts(ledger, kept))
        assert merge(ledger, "third").plan.apart.is_merged

    def test_what_was_rolled_back_here_after_a_merge_stays_so(self, ledger: Ledger) -> None:
        merge(ledger)
        rollback_turn(ledger, 5)
        done = merge(ledger)
        assert done.plan.apart.is_merged
        assert [step.number for step in done.plan.apart.undone_here] == [4]

    def test_what_theirs_rolls_back_after_a_merge_is_rolled_back_here_once(
        self, ledger: Ledger
    ) -> None:
        merge(ledger)
        with on(ledger):
            rollback_turn(ledger, 4)
        assert merge(ledger).plan.apart.undoes == (5,)
        rollback_turn(ledger, 7)
        assert merge(ledger).plan.apart.is_merged
        with on(ledger):
            rollback_turn(ledger, 6)
        assert merge(ledger).plan.apart.is_merged

    def test_a_rollback_of_a_turn_that_is_part_of_a_squash_here_is_refused(
        self, ledger: Ledger
    ) -> None:
        squash(ledger, 1, 3)
        with on(ledger):
            rollback_turn(ledger, 2)
        before = contents(ledger)
        with pytest.raises(HistoryError, match=r"part of the merge in turn 4.*ledger rollback"):
            merge(ledger)
        assert contents(ledger) == before


class TestSquashes:
    def test_a_squash_comes_with_the_turns_that_it_stands_for(
        self, ledger: Ledger, model: Path
    ) -> None:
        with on(ledger):
            squash(ledger, 3, 4)
            squash(ledger, 5, 6)
        theirs = line_of(ledger)
        merge(ledger)
        steps = line(ledger)
        assert [step.replaces for step in steps[3:]] == [(), (), (), (4, 5), (6, 7)]
        assert [s.number for s in history.patches_in_force(steps)] == [1, 2, 3, 8]
        whole = [*parts(ledger, steps[:3]), *parts(ledger, [theirs[6]])]
        assert state(ledger) == recorded(ledger) == summed(model, whole)
        rollback_turn(ledger, 8)
        assert [s.number for s in history.patches_in_force(line(ledger))] == [1, 2, 3, 6, 7]
        assert verify(ledger).problems == []

    def test_a_squash_of_common_turns_takes_their_place_here_too(
        self, ledger: Ledger, model: Path
    ) -> None:
        with on(ledger):
            squash(ledger, 1, 3)
        merge(ledger)
        used = history.patches_in_force(line(ledger))
        assert [step.number for step in used] == [3, 5, 6, 7]
        assert line(ledger)[6].replaces == (1, 2, 4)
        assert state(ledger) == recorded(ledger) == summed(model, parts(ledger, used))

    @pytest.mark.parametrize(
        ("undo", "why"),
        [(True, "turn 2, a part of it, was rolled back here"), (False, "part of another merge")],
    )
    def test_a_squash_that_does_not_fit_is_left_out_and_its_turns_stand_for_themselves(
        self, ledger: Ledger, undo: bool, why: str
    ) -> None:
        with on(ledger):
            squash(ledger, 2, 3)
        if undo:
            rollback_turn(ledger, 2)
        else:
            squash(ledger, 1, 2)
        done = merge(ledger)
        ((step, reason),) = done.plan.apart.left_out
        assert (step.number, why in reason) == (6, True)
        assert sources(ledger, line(ledger)[4:]) == [3, 4, 5]
        assert merge(ledger).plan.apart.is_merged


class TestRefusals:
    def test_a_turn_without_the_texts_of_its_edits_is_refused(self, ledger: Ledger) -> None:
        with database.writing(ledger.engine) as session:
            session.execute(delete(EditRow).where(EditRow.turn_id == line_of(ledger)[4].id))
        before = contents(ledger)
        with pytest.raises(HistoryError, match="--include-edits"):
            merge(ledger)
        assert contents(ledger) == before

    def test_a_branch_that_moves_meanwhile_gets_nothing(self, ledger: Ledger) -> None:
        plan = plan_merge(ledger, FEATURE)
        turn(ledger, 8)
        with pytest.raises(HistoryError, match="someone else"):
            merge_branch(ledger, FEATURE, QUIET, plan=plan)
        assert len(line(ledger)) == 4


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    kinds=st.lists(st.sampled_from(["low-rank", "dense", "sparse"]), min_size=1, max_size=4),
    undone=st.sets(st.integers(1, 6)),
    common=st.sets(st.integers(1, 2)),
)
def test_whatever_theirs_has_in_force_is_added_to_what_ours_has(
    made: Path,
    tmp_path_factory: pytest.TempPathFactory,
    kinds: list[str],
    undone: set[int],
    common: set[int],
) -> None:
    folder = tmp_path_factory.mktemp("random") / "ledger"
    with copied(made / "ledger", folder) as ledger:
        ours = set(range(1, 4)) - common
        for number in common:
            rollback_turn(ledger, number)
        with on(ledger):
            for seed, kind in enumerate(kinds):
                turn(ledger, 20 + seed, kind=kind)
            theirs = line_of(ledger)
            gone = {number for number in undone if number <= len(theirs)}
            for number in gone:
                rollback_turn(ledger, number)
        mine = [step for step in line(ledger) if step.number in ours - (gone & {1, 2})]
        new = [step for step in theirs if step.number > 2 and step.number not in gone]
        expected = summed(made / "model", [*parts(ledger, mine), *parts(ledger, new)])
        merge(ledger)
        assert state(ledger) == recorded(ledger) == expected
