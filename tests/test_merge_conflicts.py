"""Branches that have changed facts to different targets."""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete

from ledger import database, history, joining
from ledger import facts as facts_of_ledger
from ledger.branching import create_branch
from ledger.joining import Joined, merge_branch
from ledger.merge_plan import MergeBranch, Plan, plan_merge
from ledger.orm import EditRow, TurnRow
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import EditingError, HistoryError
from tests.branch_scenes import (
    FEATURE,
    capital,
    copied,
    edit,
    on,
    part,
    plain_ledger,
    turn,
)
from tests.command_line import call, done
from tests.ledgers import add, contents, fact, new_ledger, write_facts
from tests.plain_ledgers import FIRST, change, line, recorded
from tests.plain_ledgers import add as add_changes


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Turn 1 on both branches, turns 2 and 3 on main and on feature."""
    folder = tmp_path_factory.mktemp("branches")
    with plain_ledger(folder) as ledger:
        turn(ledger, 1, capital("France", "Paris"), edit("It is", "a"))
        part(ledger)
        turn(ledger, 2, capital("France", "Rome"), edit("He plays the", "piano"))
        turn(ledger, 3, capital("Japan", "Tokyo"))
        with on(ledger):
            turn(ledger, 4, capital("France", "Vienna"), edit("It is", "b"))
            turn(ledger, 5, edit("He plays the", "piano"), capital("Italy", "London"))
    return folder / "ledger"


@pytest.fixture
def ledger(plain: Path, tmp_path: Path) -> Iterator[Ledger]:
    with copied(plain, tmp_path / "ledger") as ledger:
        yield ledger


def targets(plan: Plan) -> list[tuple[str, str, int, str, int]]:
    return [
        (c.ours.prompt, c.ours.target, c.ours.number, c.theirs.target, c.turn_of_theirs)
        for c in plan.conflicts
    ]


FRANCE = "The capital of France is"


class TestWhatIsAConflict:
    def test_a_fact_that_both_have_changed_differently_and_no_other(self, ledger: Ledger) -> None:
        plan = plan_merge(ledger, FEATURE)
        assert targets(plan) == [(FRANCE, "Rome", 2, "Vienna", 2)]
        with on(ledger):
            assert targets(plan_merge(ledger, "main")) == [(FRANCE, "Vienna", 2, "Rome", 2)]

    def test_what_holds_on_each_side_counts(self, ledger: Ledger) -> None:
        turn(ledger, 6, capital("France", "Vienna"))
        assert plan_merge(ledger, FEATURE).conflicts == ()
        with on(ledger):
            turn(ledger, 7, capital("France", "London"), capital("Japan", "Rome"))
        assert targets(plan_merge(ledger, FEATURE)) == [
            ("The capital of Japan is", "Tokyo", 3, "Rome", 4),
            (FRANCE, "Vienna", 4, "London", 4),
        ]

    def test_other_words_for_the_same_subject_and_relation_are_one_question(
        self, ledger: Ledger
    ) -> None:
        with on(ledger):
            turn(ledger, 6, replace(capital("Japan", "Vienna"), prompt="Japan is ruled from"))
        assert targets(plan_merge(ledger, FEATURE))[1] == (
            *("The capital of Japan is", "Tokyo", 3),
            *("Vienna", 4),
        )

    def test_what_was_rolled_back_on_either_side_is_no_conflict(self, ledger: Ledger) -> None:
        with on(ledger):
            rollback_turn(ledger, 2)
        assert plan_merge(ledger, FEATURE).conflicts == ()
        with on(ledger):
            rollback_turn(ledger, 4)
        assert len(plan_merge(ledger, FEATURE).conflicts) == 1
        rollback_turn(ledger, 2)
        assert plan_merge(ledger, FEATURE).conflicts == ()

    def test_what_theirs_brings_back_counts_as_its_change(self, ledger: Ledger) -> None:
        rollback_to(ledger, 0)
        create_branch(ledger, "third")
        turn(ledger, 6, edit("It is", "c"))
        with on(ledger, "third"):
            rollback_turn(ledger, 4)
        assert targets(plan_merge(ledger, "third")) == [("It is", "c", 5, "a", 1)]

    def test_it_is_the_same_whichever_side_has_more_edits(self, ledger: Ledger) -> None:
        many = [edit(f"The number after {n} is", "12") for n in range(30)]
        turn(ledger, 6, *many)
        assert targets(plan_merge(ledger, FEATURE)) == [(FRANCE, "Rome", 2, "Vienna", 2)]
        with on(ledger):
            turn(ledger, 7, *many, *many)
        assert targets(plan_merge(ledger, FEATURE)) == [(FRANCE, "Rome", 2, "Vienna", 2)]

    def test_edits_that_cannot_be_compared_are_told(
        self, ledger: Ledger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert plan_merge(ledger, FEATURE).not_compared == 0
        with database.writing(ledger.engine) as session:
            ours = session.get_one(TurnRow, line(ledger)[1].id)
            ours.withheld = {"edits": True}
            session.execute(delete(EditRow).where(EditRow.turn_id == ours.id))
        plan = plan_merge(ledger, FEATURE)
        assert (plan.conflicts, plan.not_compared) == ((), 2)
        out = done(capsys, "merge", FEATURE, "--dry-run", "--ledger", str(ledger.folder)).out
        assert "the texts of 2 edits of this branch are not here" in out

    def test_looking_for_them_loads_no_torch(self, ledger: Ledger) -> None:
        code = (
            "import sys; from cli.main import main\n"
            f"main(['merge', '{FEATURE}', '--dry-run', '--ledger', {str(ledger.folder)!r}])\n"
            "print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
        )
        ended = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert ended.stdout.splitlines()[-1] == "set()"


class TestAbort:
    def test_nothing_is_recorded_and_it_is_said_how_to_go_on(self, ledger: Ledger) -> None:
        before = contents(ledger)
        with pytest.raises(HistoryError, match=r"1 fact .* --on-conflict ours or theirs"):
            merge_branch(ledger, FEATURE, MergeBranch())
        assert contents(ledger) == before

    def test_facts_by_a_method_that_is_not_here_cannot_hold(
        self, plain: Path, tmp_path: Path
    ) -> None:
        with copied(plain, tmp_path / "other") as ledger:
            with on(ledger):
                again = [capital("France", "Vienna")]
                add_changes(ledger, {FIRST: change(FIRST, "dense", 8)}, edits=again, method="rome")
            before = contents(ledger)
            with pytest.raises(HistoryError, match="cannot edit by rome; nothing was recorded"):
                merge_branch(ledger, FEATURE, MergeBranch(on_conflict="theirs"))
            assert contents(ledger) == before

    def test_the_command_lists_the_facts_and_ends_with_status_1(
        self, ledger: Ledger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        where = ("--ledger", str(ledger.folder))
        outcome = call(capsys, "merge", FEATURE, *where)
        assert outcome.status == 1
        assert outcome.out.splitlines()[:3] == [
            "1 fact changed on both sides:",
            "prompt                    ours  turn  theirs  their turn",
            "The capital of France is  Rome     2  Vienna           2",
        ]
        assert outcome.err.startswith("error: feature and this branch have changed 1 fact to")
        dry = done(capsys, "merge", FEATURE, "--dry-run", *where)
        assert dry.out == outcome.out
        told = done(capsys, "merge", FEATURE, "--dry-run", "--json", *where).json()
        assert told["conflicts"] == [
            {
                "prompt": FRANCE,
                "subject": "France",
                "ours": {"turn": 2, "row": None, "prompt": FRANCE, "target": "Rome"},
                "theirs": {"turn": 2, "row": None, "prompt": FRANCE, "target": "Vienna"},
            }
        ]
        refused = call(capsys, "merge", FEATURE, "--json", *where)
        assert (refused.status, refused.json()) == (1, told)


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """On a language model: facts 0 and 1 on both branches, 2 to 4 on each with other targets."""
    folder = tmp_path_factory.mktemp("edits")
    with new_ledger(folder / "ledger", tiny_llama) as ledger:
        add(ledger, write_facts(folder / "common.json", [fact(0), fact(1)]), evaluate=False)
        part(ledger)
        ours = [fact(n, target="a piano") for n in (2, 3)] + [fact(6), fact(7)]
        add(ledger, write_facts(folder / "ours.json", ours), turn_size=2, evaluate=False)
        with on(ledger):
            theirs = [fact(n, target="the guitar") for n in (2, 3)] + [fact(8)]
            source = write_facts(folder / "theirs.json", theirs)
            add(ledger, source, turn_size=2, evaluate=False, learning_rate=2e-4, seed=5)
    return folder / "ledger"


@pytest.fixture
def edits(edited: Path, tmp_path: Path) -> Iterator[Ledger]:
    with copied(edited, tmp_path / "ledger") as ledger:
        yield ledger


def merge(ledger: Ledger, winner: str = "abort", rev: str = FEATURE, **options: Any) -> Joined:
    chosen = MergeBranch(**{"on_conflict": winner, "evaluate": False, "device": "cpu", **options})
    return merge_branch(ledger, rev, chosen)


def held(ledger: Ledger) -> dict[str, str]:
    """What holds: prompt → target of the last edit in force."""
    with database.reading(ledger.engine) as session:
        steps = history.edits_in_force(history.line(session, ledger.branch))
        return {one.prompt: one.target for one in facts_of_ledger.facts_of(session, steps)}


CONTESTED = {str(fact(n)["prompt"]) for n in (2, 3)}


class TestWinners:
    @pytest.mark.parametrize(
        ("winner", "target", "seed"), [("ours", "a piano", 0), ("theirs", "the guitar", 5)]
    )
    def test_the_facts_of_the_winner_hold_and_are_edited_once_more(
        self, edits: Ledger, winner: str, target: str, seed: int
    ) -> None:
        done = merge(edits, winner)
        (again,) = done.edited_again
        assert (again.turn, again.edits) == (6, 2)
        assert {held(edits)[prompt] for prompt in CONTESTED} == {target}
        with database.reading(edits.engine) as session:
            row = history.row_of(session, line(edits)[-1])
            prompts = {one.prompt for one in history.edit_rows(session, [row.id])}
            notes = history.row_of(session, line(edits)[-2]).notes
        assert (row.kind, row.method, row.seed, row.copied_from) == (
            "edit",
            "ultraedit",
            seed,
            None,
        )
        assert prompts == CONTESTED
        assert notes[-1].endswith(f"2 facts changed on both sides, to hold: {winner}")
        assert merge(edits).plan.apart.is_merged
        assert verify(edits).problems == []

    def test_the_merge_and_the_second_edit_can_be_undone(self, edits: Ledger) -> None:
        before = recorded(edits)
        merge(edits, "ours")
        rollback_to(edits, 3)
        assert recorded(edits) == before

    @pytest.mark.parametrize(
        ("winner", "expected"),
        [
            # Two facts edited again, whose scores are new, and two that nobody contests.
            ("ours", {"ours": 4, "theirs": 1}),
            ("theirs", {"ours": 2, "theirs": 3}),
        ],
    )
    def test_scores_are_those_of_the_facts_that_hold(
        self, edits: Ledger, winner: str, expected: dict[str, int]
    ) -> None:
        done = merge(edits, winner, evaluate=True)
        assert {side.side: side.n for side in done.scores} == expected
        assert {side.n_then for side in done.scores} == {0}

    def test_what_was_settled_is_no_conflict_in_later_merges(self, edits: Ledger) -> None:
        merge(edits, "theirs")
        with on(edits):
            assert merge(edits, rev="main").plan.conflicts == ()
            assert {held(edits)[prompt] for prompt in CONTESTED} == {"the guitar"}
        assert merge(edits).plan.apart.is_merged

    def test_what_changes_after_it_is_a_conflict_again(self, edits: Ledger, tmp_path: Path) -> None:
        merge(edits, "ours")
        with on(edits):
            source = write_facts(tmp_path / "more.json", [fact(2, target="London 12")])
            add(edits, source, evaluate=False)
        assert targets(plan_merge(edits, FEATURE)) == [
            (fact(2)["prompt"], "a piano", 6, "London 12", 4)
        ]
        merge(edits, "theirs")
        assert held(edits)[str(fact(2)["prompt"])] == "London 12"


class TestInterrupted:
    @pytest.fixture
    def interrupted(self, edits: Ledger, monkeypatch: pytest.MonkeyPatch) -> Ledger:
        """A merge that came as far as its transaction."""

        def fail(*_: object) -> None:
            raise EditingError("out of memory")

        with monkeypatch.context() as patch:
            patch.setattr(joining, "_edit_again", fail)
            with pytest.raises(EditingError, match="out of memory"):
                merge(edits, "ours")
        assert len(line(edits)) == 5
        return edits

    def test_the_next_merge_goes_on_with_the_facts_that_were_to_hold(
        self, interrupted: Ledger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert {held(interrupted)[prompt] for prompt in CONTESTED} == {"the guitar"}
        where = ("--ledger", str(interrupted.folder), "--device", "cpu")
        out = done(capsys, "merge", FEATURE, *where).out.splitlines()
        assert out[0] == (
            "the merge of feature in turns 4 to 5 was interrupted: 2 facts had still to be edited "
            "again"
        )
        assert out[1].startswith("turn 6: 2 edits")
        assert out[-1] == "feature is merged already: there is nothing more to do"
        assert {held(interrupted)[prompt] for prompt in CONTESTED} == {"a piano"}
        assert plan_merge(interrupted, FEATURE).pending == ()
        assert verify(interrupted).problems == []

    def test_the_plan_tells_of_them(
        self, interrupted: Ledger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        where = ("--ledger", str(interrupted.folder))
        told = done(capsys, "merge", FEATURE, "--dry-run", "--json", *where).json()
        assert {one["target"] for one in told["pending"]} == {"a piano"}
        out = done(capsys, "merge", FEATURE, "--dry-run", *where).out.splitlines()
        assert "was interrupted: 2 facts had still to be edited again" in out[0]
        assert out[1:] == ["feature is merged already: there is nothing more to do"]

    def test_facts_that_were_edited_since_are_not_edited_again(
        self, interrupted: Ledger, tmp_path: Path
    ) -> None:
        source = write_facts(tmp_path / "more.json", [fact(2, target="London 12")])
        add(interrupted, source, evaluate=False)
        (again,) = merge(interrupted).edited_again
        assert again.edits == 1
        assert held(interrupted)[str(fact(2)["prompt"])] == "London 12"
        assert held(interrupted)[str(fact(3)["prompt"])] == "a piano"

    def test_a_merge_that_was_taken_back_is_not_gone_on_with(self, interrupted: Ledger) -> None:
        rollback_to(interrupted, 3)
        assert merge(interrupted).edited_again == []
        assert {held(interrupted)[prompt] for prompt in CONTESTED} == {"a piano"}
