"""Bisect by a script: its exit status, what it is given, and that nothing of it is left behind."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger.applying import apply_to_folder
from ledger.bisecting_script import BisectedByScript, bisect_script
from ledger.branching import create_branch
from ledger.workspace import Ledger
from patches.errors import HistoryError
from tests.command_line import call, done
from tests.ledgers import files
from tests.plain_ledgers import SECOND, add, add_several, build, change, new_ledger

Capture = pytest.CaptureFixture[str]
TURNS = 12


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("script") / "model")


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[Ledger]:
    """Twelve turns of changes; on the branch aside the twelfth is another."""
    with new_ledger(tmp_path_factory.mktemp("script") / "ledger", model) as ledger:
        add_several(ledger, TURNS)
        create_branch(ledger, "aside", at=TURNS - 1)
        ledger.branch = "aside"
        add(ledger, {SECOND: change(SECOND, "dense", 99)})
        ledger.branch = "main"
        yield ledger


def bad_from(turn: int, *skipped: int) -> Callable[[Path, int], int]:
    """A script for which states are bad from a turn on, and some cannot be told."""
    return lambda _folder, number: 125 if number in skipped else int(number >= turn)


def verdicts(found: BisectedByScript) -> dict[int, str]:
    return {step.turn: step.verdict for step in found.steps}


@pytest.mark.parametrize("culprit", range(1, TURNS + 1))
def test_the_first_bad_turn_is_found(ledger: Ledger, culprit: int) -> None:
    found = bisect_script(ledger, bad_from(culprit))
    assert (found.turn, found.change) == (culprit, "lost")
    assert [step.turn for step in found.steps][:2] == [0, TURNS]
    assert len(found.steps) <= 2 + 4
    assert verdicts(found) == {
        turn: "bad" if turn >= culprit else "good" for turn in verdicts(found)
    }


def test_the_turn_since_which_states_are_good_is_found_too(ledger: Ledger) -> None:
    found = bisect_script(ledger, lambda _folder, turn: 3 * (turn < 7), first=2, last=9)
    assert (found.turn, found.change, found.turns) == (7, "gained", 7)
    assert {step.exit for step in found.steps} == {0, 3}


@pytest.mark.parametrize("status", [1, 2, 124, 126, 127])
def test_up_to_127_a_status_says_bad(ledger: Ledger, status: int) -> None:
    found = bisect_script(ledger, lambda _folder, turn: status * (turn >= 5))
    assert found.turn == 5


@pytest.mark.parametrize("skipped", [(6,), (5, 6, 7, 8), (1, 2, 3), (9, 10, 11)])
def test_around_skipped_states_others_are_tried(ledger: Ledger, skipped: tuple[int, ...]) -> None:
    culprit = 4 if 4 not in skipped else 9
    found = bisect_script(ledger, bad_from(culprit, *skipped))
    tried = verdicts(found)
    assert all(tried[turn] == "skip" for turn in tried if turn in skipped)
    candidates = [one.turn for one in found.culprits]
    assert culprit in candidates
    # As near as it can be told.
    assert {*candidates[:-1]} <= {*skipped}
    assert candidates[-1] not in skipped


def test_only_skipped_states_left_names_the_candidates(ledger: Ledger) -> None:
    found = bisect_script(ledger, bad_from(7, 5, 6, 7))
    assert found.turn is None
    assert [one.turn for one in found.culprits] == [5, 6, 7, 8]
    assert found.to_json()["culprit"] is None


def test_the_script_sees_the_exact_checkpoint_of_each_turn(
    ledger: Ledger, model: Path, tmp_path: Path
) -> None:
    seen: dict[int, dict[str, str]] = {}
    folders = set()

    def script(folder: Path, turn: int) -> int:
        folders.add(folder)
        seen[turn] = files(folder)
        (folder / "left-by-the-script.txt").write_text("x", encoding="utf-8")
        return int(turn >= 3)

    before = files(model)
    bisect_script(ledger, script)
    assert len(folders) == 1
    assert len(seen) >= 4
    for turn, found in seen.items():
        apply_to_folder(ledger, tmp_path / f"turn-{turn}", at=turn)
        assert found == files(tmp_path / f"turn-{turn}")
    assert files(model) == before


def test_files_without_an_edited_tensor_are_links_and_no_copies(
    ledger: Ledger, model: Path
) -> None:
    def script(folder: Path, turn: int) -> int:
        assert (folder / "config.json").samefile(model / "config.json")
        assert not (folder / "model.safetensors").samefile(model / "model.safetensors") or not turn
        return int(turn >= 3)

    assert bisect_script(ledger, script).turn == 3


def test_the_states_are_those_of_the_branch_that_is_named(ledger: Ledger) -> None:
    seen = {}

    def script(folder: Path, turn: int) -> int:
        seen[turn] = files(folder)
        return int(turn == TURNS)

    here = bisect_script(ledger, script)
    on_main = dict(seen)
    there = bisect_script(ledger, script, last="aside")
    assert here.turn == there.turn == TURNS
    assert here.culprits[0].hash != there.culprits[0].hash
    assert seen[TURNS - 1] == on_main[TURNS - 1]
    assert seen[TURNS]["model.safetensors"] != on_main[TURNS]["model.safetensors"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (lambda _folder, _turn: 0, "says good at both ends: exit status 0 at turn 0, 0 at turn 12"),
        (lambda _folder, _turn: 9, "says bad at both ends: exit status 9 at turn 0, 9 at turn 12"),
        (bad_from(3, 0), r"skips turn 0 \(exit status 125\)"),
        (bad_from(3, TURNS), r"skips turn 12 \(exit status 125\)"),
        (lambda _folder, turn: 128 if turn == 6 else int(turn > 2), "status 128 at turn 6"),
        (lambda _folder, turn: -9 if turn == 6 else int(turn > 2), "status -9 at turn 6"),
    ],
)
def test_what_cannot_be_searched_is_an_error_and_leaves_no_folder(
    ledger: Ledger, script: Callable[[Path, int], int], reason: str
) -> None:
    before = files(ledger.folder)
    with pytest.raises(HistoryError, match=reason):
        bisect_script(ledger, script)
    assert files(ledger.folder) == before
    assert not list(ledger.folder.glob(".bisect*"))


def test_the_command_gets_folder_and_turn_and_the_shell_runs_it(
    capfd: Capture, ledger: Ledger, tmp_path: Path
) -> None:
    log = tmp_path / "tried with spaces.log"
    command = (
        'echo "judging $LEDGER_TURN"; test -f "$LEDGER_MODEL/model.safetensors" || exit 200; '
        f'echo "$LEDGER_TURN" >> "{log}"; test "$LEDGER_TURN" -lt 9'
    )
    outcome = call(capfd, "bisect", "--script", command, "--ledger", str(ledger.folder), "--json")
    told = outcome.json()
    assert outcome.status == 0
    assert {*told} == {"turn", "change", "turns", "steps", "culprit", "candidates"}
    assert (told["turn"], told["change"], told["culprit"]["turn"]) == (9, "lost", 9)
    turns = [step["turn"] for step in told["steps"]]
    assert log.read_text(encoding="utf-8").split() == [str(turn) for turn in turns]
    assert outcome.err.splitlines() == [f"judging {turn}" for turn in turns]
    assert [step["verdict"] for step in told["steps"]] == [
        "bad" if turn >= 9 else "good" for turn in turns
    ]
    assert {step["exit"] for step in told["steps"]} == {0, 1}


def test_people_see_the_verdicts_and_the_culprit(capsys: Capture, ledger: Ledger) -> None:
    command = 'test "$LEDGER_TURN" -lt 9'
    words = ("bisect", "--ledger", str(ledger.folder), "--script", command)
    lines = done(capsys, *words, "--from", "8", "--to", "10").out.splitlines()
    assert [line.split() for line in lines[:4]] == [
        ["turn", "verdict", "exit", "status"],
        ["8", "good", "0"],
        ["10", "bad", "1"],
        ["9", "bad", "1"],
    ]
    assert lines[4] == "turn 9 lost the good verdict: 3 states tried for 2 turns"
    assert "turn      9 (import, in force)" in lines


def test_only_skipped_states_left_ends_with_status_1(capsys: Capture, ledger: Ledger) -> None:
    command = "case $LEDGER_TURN in 0) exit 0;; 4) exit 1;; *) exit 125;; esac"
    words = ("bisect", "--ledger", str(ledger.folder), "--to", "4", "--script", command)
    outcome = call(capsys, *words)
    assert outcome.status == 1
    last = outcome.out.splitlines()[-1]
    assert last == "only skipped states are left; the culprit is one of turns 1-4"
    outcome = call(capsys, *words, "--json")
    assert outcome.status == 1
    assert outcome.json()["turn"] is None
    assert [one["turn"] for one in outcome.json()["candidates"]] == [1, 2, 3, 4]


def test_a_stopped_script_is_one_line_and_status_1(capsys: Capture, ledger: Ledger) -> None:
    words = ("bisect", "--ledger", str(ledger.folder), "--script", "exit 129")
    outcome = call(capsys, *words)
    assert outcome.status == 1
    assert outcome.err.startswith("error: the script ended with status 129 at turn 0")
    assert outcome.out == ""
