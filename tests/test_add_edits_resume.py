"""Runs that are interrupted, at any instant and in any way, and continued: bit by bit the same."""

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import database, history, open_ledger
from ledger.editing import AddEdits, add_edits
from ledger.progress import Progress
from ledger.reporting import log, show
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.deltas import LowRank
from patches.editors import EDITORS, Facts
from patches.errors import HistoryError
from patches.live import LiveModel
from patches.patch import PatchFile, read_state
from patches.tokens import encode
from tests.ledgers import add, contents, facts, new_ledger, write_facts
from tests.processes import INTERRUPTED, Report, Running
from tests.tiny_models import load, tokenizer

SIZE = 2
COUNT = 13

Outcome = list[tuple[str | None, str | None, dict[str, object], list[object]]]


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Read only."""
    return write_facts(tmp_path_factory.mktemp("source") / "facts.json", facts(COUNT))


@pytest.fixture(scope="module")
def uninterrupted(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, source: str
) -> Outcome:
    """Read only."""
    with new_ledger(tmp_path_factory.mktemp("whole") / "ledger", tiny_llama) as whole:
        add(whole, source, turn_size=SIZE)
        return outcome(whole)


def outcome(ledger: Ledger) -> Outcome:
    """Digests of patch and editor state, of the tensors, and the rows, of every turn."""
    turns = [show(ledger, turn.number) for turn in log(ledger)]
    return [
        (
            found.turn.row.patch_digest,
            found.turn.row.editor_state_digest,
            found.turn.row.tensors,
            [edit["row"] for edit in found.edits],
        )
        for found in turns
    ]


def add_all(report: Report, folder: Path, source: str) -> None:
    """In a process of its own: the run that is killed."""
    with open_ledger(folder) as ledger:
        for added in add_edits(ledger, AddEdits(source=source, turn_size=SIZE)).turns:
            report(added.turn)


def stop_in(where: str, times: int) -> Progress:
    """A progress during which somebody presses Ctrl-C, at the given call for this phase."""
    left = times

    def progress(phase: str, done: int, total: int) -> None:  # noqa: ARG001 (the protocol's)
        nonlocal left
        left -= phase == where
        if left == 0:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("done", [1, 3, 6])
def test_a_run_that_stops_between_turns_is_continued_bit_by_bit_as_if_it_had_not(
    ledger: Ledger, source: str, uninterrupted: Outcome, done: int
) -> None:
    run = add_edits(ledger, AddEdits(source=source, turn_size=SIZE, evaluate=False))
    for _ in range(done):
        next(run.turns)
    del run
    assert outcome(ledger) == uninterrupted[:done]
    again = add_edits(ledger, AddEdits(source=source, turn_size=SIZE, evaluate=False))
    assert [added.turn for added in again.turns] == list(range(done + 1, 8))
    assert again.counts.known == done * SIZE
    assert outcome(ledger) == uninterrupted


@pytest.mark.parametrize(
    ("phase", "times"), [("load", 2), ("edit", 1), ("edit", 3), ("evaluate", 1), ("evaluate", 4)]
)
def test_ctrl_c_in_any_phase_leaves_whole_turns_only(
    ledger: Ledger, source: str, uninterrupted: Outcome, phase: str, times: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        add(ledger, source, turn_size=SIZE, progress=stop_in(phase, times))
    left = outcome(ledger)
    assert left == uninterrupted[: len(left)]
    assert len(left) < len(uninterrupted)
    assert verify(ledger).problems == []
    add(ledger, source, turn_size=SIZE, evaluate=False)
    assert outcome(ledger) == uninterrupted


def test_a_run_killed_again_and_again_ends_bit_by_bit_as_if_it_had_not(
    ledger: Ledger, source: str, uninterrupted: Outcome
) -> None:
    ledger.close()
    draw = random.Random(5)
    for killed in range(4):
        running = Running(add_all, ledger.folder, source)
        reached = running.message()
        assert isinstance(reached, int)
        time.sleep(draw.uniform(0, 0.15))
        running.send(signal.SIGKILL)
        assert running.wait() in (-signal.SIGKILL, 0)
        left = outcome(ledger)
        assert len(left) >= max(reached, killed + 1)
        assert left == uninterrupted[: len(left)]
        assert verify(ledger).problems == []
        ledger.close()
        if len(left) == len(uninterrupted):
            break
    add(ledger, source, turn_size=SIZE)
    assert outcome(ledger) == uninterrupted


def test_a_run_stopped_by_ctrl_c_in_its_process_leaves_whole_turns_and_goes_on(
    ledger: Ledger, source: str, uninterrupted: Outcome
) -> None:
    ledger.close()
    running = Running(add_all, ledger.folder, source)
    assert [running.message(), running.message()] == [1, 2]
    running.send(signal.SIGINT)
    assert running.wait() == INTERRUPTED
    left = outcome(ledger)
    assert 2 <= len(left) < len(uninterrupted)
    assert left == uninterrupted[: len(left)]
    assert verify(ledger).problems == []
    add(ledger, source, turn_size=SIZE, evaluate=False)
    assert outcome(ledger) == uninterrupted


def test_resume_takes_the_settings_of_the_earlier_run(
    ledger: Ledger, source: str, tmp_path: Path
) -> None:
    modules = ("model.layers.1.mlp.down_proj", "model.layers.0.mlp.up_proj")
    add(ledger, source, limit=4, modules=modules, learning_rate=0.3, ridge=2.0)
    add(ledger, write_facts(tmp_path / "other.json", facts(2, start=20)))
    add(ledger, source, resume=True, turn_size=10)
    first, last = show(ledger, 1).to_json(), show(ledger, 4).to_json()
    assert last["hyperparameters"] == first["hyperparameters"]
    assert set(last["hyperparameters"]["modules"]) == set(modules)
    assert last["rows"] == [4, 12]
    add(ledger, source, limit=4, learning_rate=0.7)
    assert len(log(ledger)) == 4


def test_resume_without_an_earlier_run_is_an_error_and_records_nothing(
    ledger: Ledger, source: str, tmp_path: Path
) -> None:
    add(ledger, write_facts(tmp_path / "other.json", facts(2, start=20)))
    before = contents(ledger)
    with pytest.raises(HistoryError, match=r"nothing to resume: no turn was made from .*facts"):
        add(ledger, source, resume=True)
    assert contents(ledger) == before


def test_after_going_back_the_editor_goes_on_from_the_statistics_of_then(
    ledger: Ledger, tmp_path: Path, tiny_llama: Path
) -> None:
    first = write_facts(tmp_path / "first.json", facts(4))
    wrong = write_facts(tmp_path / "wrong.json", facts(4, start=10))
    then = write_facts(tmp_path / "then.json", facts(4, start=4))
    for source in (first, wrong):
        add(ledger, source, turn_size=4, evaluate=False)
    rollback_to(ledger, 1)
    add(ledger, then, turn_size=4, evaluate=False)
    with new_ledger(tmp_path / "straight", tiny_llama) as straight:
        add(straight, first, turn_size=4, evaluate=False)
        add(straight, then, turn_size=4, evaluate=False)
        went_back, never_went = log(ledger)[-1].row, log(straight)[-1].row
    assert went_back.number == 4
    assert went_back.tensors == never_went.tensors
    assert went_back.editor_state_digest == never_went.editor_state_digest


def test_after_undoing_a_turn_the_statistics_are_the_merge_over_the_others(
    ledger: Ledger, tmp_path: Path, tiny_llama: Path
) -> None:
    add(ledger, write_facts(tmp_path / "facts.json", facts(9)), evaluate=False)
    rollback_turn(ledger, 2)
    rows = facts(3, start=9)
    add(ledger, write_facts(tmp_path / "then.json", rows), evaluate=False)
    turns = [turn.row for turn in log(ledger)]
    kept = [turns[0], turns[2]]
    live = LiveModel(load(tiny_llama), ledger.checkpoint)
    live.set_state([PatchFile(ledger.store.path(row.patch_digest or "")) for row in kept])
    states = [read_state(ledger.store.path(row.editor_state_digest or "")) for row in kept]
    editor = EDITORS["ultraedit"].start(live, tokenizer(), turns[0].hyperparameters, states)
    with database.reading(ledger.engine) as session:
        edits = [history.edit_of(row) for row in history.edit_rows(session, [turns[4].id])]
    encoded = encode(tokenizer(), [edit.prompt for edit in edits], [edit.target for edit in edits])
    expected = editor.edit(Facts(edits=edits, encoded=encoded)).changes
    found = PatchFile(ledger.store.path(turns[4].patch_digest or ""))
    assert set(found.changes) == set(expected)
    for name, change in expected.items():
        delta, wanted = found.delta(name), change.delta
        assert isinstance(delta, LowRank)
        assert isinstance(wanted, LowRank)
        assert delta.A.equal(wanted.A)
        assert delta.B.equal(wanted.B)
