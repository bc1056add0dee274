"""`ledger replay`: turns edited again from what is recorded, on another state or base model."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import database, history
from ledger.adding import Added
from ledger.branching import create_branch, switch
from ledger.editing import AddEdits, add_edits
from ledger.facts import facts_of
from ledger.history import Step
from ledger.refs import branches
from ledger.replaying import Replay, Replayed, edit_again, replay
from ledger.reporting import log, show
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.squashing import squash
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import HistoryError, ModelError, SettingError
from tests.command_line import call, done
from tests.ledgers import add, contents, copied, fact, facts, new_ledger, write_facts
from tests.side_memories import add_memories
from tests.tiny_models import build


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """Turns 1 to 4 of two facts each, from files that are gone; each with a message and a seed.
    Read only."""
    folder = tmp_path_factory.mktemp("replay")
    with new_ledger(folder / "ledger", tiny_llama) as ledger:
        for number in range(4):
            rows = facts(2, start=2 * number)
            source = Path(write_facts(folder / f"facts-{number}.json", rows))
            options = AddEdits(
                source=str(source), seed=number, message=f"facts {number}", evaluate=False
            )
            assert len(list(add_edits(ledger, options).turns)) == 1
            source.unlink()
    return folder / "ledger"


@pytest.fixture
def ledger(tmp_path: Path, recorded: Path) -> Iterator[Ledger]:
    """A copy of it."""
    with copied(recorded, tmp_path / "ledger") as ledger:
        yield ledger


def made(ledger: Ledger, source: Ledger | None = None, **options: object) -> list[Added]:
    """The turns of a replay that must leave nothing out."""
    run = started(ledger, source, **options)
    turns = list(run.turns)
    assert run.left_out == []
    return turns


def started(ledger: Ledger, source: Ledger | None = None, **options: object) -> Replayed:
    """It makes no scores unless told to."""
    options = {"evaluate": False, **options}
    return replay(ledger, Replay(**options), source=source)  # type: ignore[arg-type]  # by name


def line(ledger: Ledger, branch: str = "main") -> list[Step]:
    with database.reading(ledger.engine) as session:
        return history.line(session, branch)


def told(ledger: Ledger, turn: str | int) -> dict[str, object]:
    """What a turn and the one that it was edited again from have in common."""
    found = show(ledger, turn).to_json()
    names = ("method", "hyperparameters", "seed", "dataset", "rows")
    edits = [
        (edit["row"], edit["prompt"], edit["target"], edit["digest"]) for edit in found["edit_list"]
    ]
    return {**{name: found[name] for name in names}, "edits": edits}


def test_on_the_same_state_replayed_turns_come_out_bit_by_bit_as_they_were(ledger: Ledger) -> None:
    added = made(ledger, first=2, last=4, onto=1, evaluate=True)
    assert [one.turn for one in added] == [2, 3, 4]
    assert all(one.scores for one in added)
    original, again = line(ledger), line(ledger, "replay-2-4")
    assert [step.patch_digest for step in again] == [step.patch_digest for step in original]
    states = [step.editor_state_digest for step in original]
    assert [step.editor_state_digest for step in again] == states
    assert again[0] == original[0]
    for old, new in zip(original[1:], again[1:], strict=True):
        assert new.copied_from == old.hash
        assert told(ledger, new.hash) == told(ledger, old.hash)
        message = show(ledger, new.hash).to_json()["message"]
        assert message == f"replay of turn {old.number}: facts {old.number - 1}"
    assert ledger.branch == "main"
    assert verify(ledger).problems == []


def test_replayed_without_a_turn_before_they_come_out_as_if_it_had_never_been(
    ledger: Ledger, tmp_path: Path, tiny_llama: Path
) -> None:
    made(ledger, first=3, last=4, onto=1, branch="without-2")
    with new_ledger(tmp_path / "straight", tiny_llama) as straight:
        for number in (0, 2, 3):
            source = write_facts(tmp_path / "facts.json", facts(2, start=2 * number))
            add(straight, source, seed=number, evaluate=False)
        expected = [step.patch_digest for step in line(straight)]
    assert [step.patch_digest for step in line(ledger, "without-2")] == expected
    assert expected[1] != line(ledger)[2].patch_digest


def test_side_memories_are_trained_again_to_the_same_bits(tmp_path: Path, tiny_llama: Path) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add_memories(ledger, write_facts(tmp_path / "facts.json", facts(4)), turn_size=2)
        made(ledger, first=1, last=2, onto=0)
        again = line(ledger, "replay-1-2")
        assert [step.patch_digest for step in again] == [s.patch_digest for s in line(ledger)]
        assert verify(ledger).problems == []


def test_on_top_of_the_branch_only_what_no_longer_holds_is_edited_again(
    ledger: Ledger, tmp_path: Path
) -> None:
    add(ledger, write_facts(tmp_path / "newer.json", [fact(2, target="Kyoto")]), evaluate=False)
    run = started(ledger, first=1, last=3)
    [added] = run.turns
    assert (added.turn, added.edits) == (6, 1)
    assert added.copied_from == line(ledger)[1].hash
    assert [(one.turn, one.old_target) for one in added.overrides] == [(5, "Kyoto")]
    assert added.skipped == [(1, "duplicate of an edit in force (turn 2)")]
    assert [number for number, _ in run.left_out] == [1, 3]
    assert "nothing left to edit: duplicate of an edit in force" in run.left_out[0][1]


def test_what_was_rolled_back_merged_or_is_in_place_of_others_is_left_out_and_said(
    ledger: Ledger,
) -> None:
    rollback_turn(ledger, 2)
    squash(ledger, 3, 4)
    run = started(ledger, first=1, last="HEAD", onto=0, branch="again")
    assert [added.edits for added in run.turns] == [2, 2, 2]
    assert run.left_out == [
        (2, "is rolled back"),
        (5, "is a rollback"),
        (6, "is a merge of patches, without edits of its own"),
    ]
    before = contents(ledger)
    with pytest.raises(HistoryError, match=r"no edits in force .*turn 5 is a rollback; turn 6 is"):
        started(ledger, first=5, last=6, onto=1)
    assert contents(ledger) == before


def test_a_replay_that_was_stopped_goes_on_and_ends_as_if_it_had_not(ledger: Ledger) -> None:
    made(ledger, first=2, last=4, onto=0, branch="whole")
    run = started(ledger, first=2, last=4, onto=0, branch="halves")
    next(run.turns)
    del run
    again = started(ledger, first=2, last=4, onto=0, branch="halves")
    assert [added.turn for added in again.turns] == [2, 3]
    assert again.left_out == [(2, "is here already, as turn 1")]
    whole, halves = line(ledger, "whole"), line(ledger, "halves")
    assert [step.patch_digest for step in halves] == [step.patch_digest for step in whole]
    assert list(started(ledger, first=2, last=4, onto=0, branch="halves").turns) == []
    assert verify(ledger).problems == []


def test_a_replay_that_was_killed_before_its_first_turn_takes_the_branch_that_it_made(
    ledger: Ledger,
) -> None:
    create_branch(ledger, "replay-2-3", 1)
    assert [added.turn for added in made(ledger, first=2, last=3, onto=1)] == [2, 3]


def test_a_branch_of_another_history_is_not_written_to(ledger: Ledger) -> None:
    create_branch(ledger, "mine", 2)
    before = contents(ledger)
    with pytest.raises(HistoryError, match=r"a branch mine already.*--as BRANCH"):
        started(ledger, first=2, last=4, onto=1, branch="mine")
    assert contents(ledger) == before


def test_a_branch_that_the_replay_cannot_begin_is_not_made(ledger: Ledger, tmp_path: Path) -> None:
    other = build(tmp_path / "gpt2", "gpt2")
    with new_ledger(tmp_path / "other", other) as moved:
        run = started(moved, ledger, first=1, last=2, onto=0)
        assert "another base model; --defaults" in run.notes[0]
        with pytest.raises(ModelError, match=r"settings of turn 1 do not fit .*--defaults"):
            next(run.turns)
        assert log(moved) == []
        with database.reading(moved.engine) as session:
            assert set(branches(session)) == {"main"}


def test_a_ledger_moves_to_a_new_base_model_with_the_settings_that_suit_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    other = build(tmp_path / "gpt2", "gpt2")
    with new_ledger(tmp_path / "other", other) as moved:
        added = made(moved, ledger, first=1, last="HEAD", defaults=True)
        assert [one.copied_from for one in added] == [step.hash for step in line(ledger)]
        for number in range(1, 5):
            old, new = told(ledger, number), told(moved, number)
            for name in ("method", "seed", "dataset", "rows", "edits"):
                assert new[name] == old[name]
        settings = show(moved, 1).to_json()["hyperparameters"]
        assert settings["modules"] == ["transformer.h.2.mlp.c_proj"]
        assert verify(moved).problems == []


def test_conflicts_follow_the_policy_and_abort_makes_no_branch(
    ledger: Ledger, tmp_path: Path
) -> None:
    newer = write_facts(tmp_path / "newer.json", [fact(2, target="Kyoto"), fact(20)])
    switch(ledger, "trial", create=True, at=1)
    add(ledger, newer, evaluate=False)
    before = contents(ledger)
    with pytest.raises(HistoryError, match=r"turn 2 \(row 0\) as 'Kyoto'"):
        started(ledger, first="main~2", last="main", on_conflict="abort")
    assert contents(ledger) == before
    run = started(ledger, first="main~2", last="main", on_conflict="skip")
    first, *_ = run.turns
    assert first.skipped == [(0, "turn 2 (row 0) has it as 'Kyoto' (--on-conflict skip)")]
    assert [step.edits for step in line(ledger, "trial")] == [2, 2, 1, 2, 2]


def test_a_range_that_is_none_and_options_that_make_no_sense_are_refused(ledger: Ledger) -> None:
    rollback_to(ledger, 0)
    with pytest.raises(HistoryError, match="give the older one first"):
        started(ledger, first=3, last=2)
    with pytest.raises(HistoryError, match="turn 0 is the base"):
        started(ledger, first=0, last=2)
    with pytest.raises(SettingError, match="--as names the branch that --onto makes"):
        Replay(first=1, last=2, branch="x")
    with pytest.raises(SettingError, match="--on-conflict is one of"):
        Replay(first=1, last=2, on_conflict="x")


def test_edits_made_again_hold_though_nothing_of_them_is_new(
    ledger: Ledger, tmp_path: Path
) -> None:
    add(ledger, write_facts(tmp_path / "newer.json", [fact(0, target="Kyoto")]), evaluate=False)
    with database.reading(ledger.engine) as session:
        facts_made = facts_of(session, line(ledger))
    losing, *_, last = [fact for fact in facts_made if fact.target != "Kyoto"]
    added = edit_again(ledger, [losing, last], message="both hold", evaluate=False)
    # Each with the seed of its own turn.
    assert [one.edits for one in added] == [1, 1]
    seeds = [show(ledger, one.turn).to_json()["seed"] for one in added]
    assert seeds == [0, 3]
    assert [one.copied_from for one in added] == [None, None]
    assert [[c.old_target for c in one.overrides] for one in added] == [["Kyoto"], []]
    assert told(ledger, 6)["dataset"] == told(ledger, 1)["dataset"]
    assert verify(ledger).problems == []


def test_edits_made_alike_are_made_again_in_one_turn(ledger: Ledger) -> None:
    with database.reading(ledger.engine) as session:
        some = facts_of(session, line(ledger)[2:3])
    [added] = edit_again(ledger, [*some, *some], message="again")
    assert (added.edits, added.overrides) == (2, [])
    assert added.scores is not None
    shown = show(ledger, added.turn).to_json()
    assert shown["message"] == "again"


def test_the_command_line_replays_a_range_or_one_turn_and_tells_what_it_left_out(
    ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rollback_turn(ledger, 3)
    words = ("--ledger", str(ledger.folder), "--device", "cpu", "--no-evaluate")
    ran = done(capsys, "replay", "2..HEAD", "--onto", "1", "--as", "new", *words)
    assert "editing turns 2, 4 again on branch new" in ran.out
    assert "turn 3 is rolled back" in ran.out
    assert "recorded in turns 2-3 of branch new; go there with: ledger switch new" in ran.out
    one = done(capsys, "replay", "4", "--onto", "HEAD~3", "--json", *words).json()
    assert (one["branch"], one["edits"], one["left_out"]) == ("replay-4-4", 2, [])
    assert one["turns"][0]["copied_from"] == line(ledger)[3].hash
    with new_ledger(tmp_path / "other", ledger.checkpoint.folder) as other:
        there = ("--from-ledger", str(ledger.folder), "--ledger", str(other.folder), *words[2:])
        assert (
            "recorded in turns 1-2 of branch main\n" in done(capsys, "replay", "1..2", *there).out
        )
    nothing = done(capsys, "replay", "4..4", *words)
    assert "nothing to record" in nothing.out
    assert call(capsys, "replay", "4..", *words).status == 2
