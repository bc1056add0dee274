"""The suite `retention`: every turn's edits at every later state, recorded cell by cell."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click import unstyle
from sqlalchemy import select

from cli.triangle import print_triangle
from ledger import database
from ledger.branching import create_branch, switch
from ledger.cleaning import collect_garbage
from ledger.conflicts import OVERRIDE
from ledger.diffing import diff
from ledger.editing import AddEdits, add_edits
from ledger.evaluating import evaluate
from ledger.jobs import Job, LocalCrew
from ledger.orm import EvaluationRow, OutcomeRow
from ledger.progress import Progress, silent
from ledger.reporting import log, show, status
from ledger.rolling_back import rollback_turn
from ledger.sharing.pulling import clone
from ledger.squashing import squash
from ledger.suites.retention import retention
from ledger.suites.retention_plan import Plan, plan
from ledger.suites.teacher_forced import AskBase, AskState
from ledger.suites.triangle import Triangle, triangle
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import HistoryError, SettingError, StoreError
from patches.evaluation import METRICS, PROTOCOL, TOKENS, Scores
from patches.live import LiveModel
from tests import told_edits
from tests.ledgers import add, contents, copied, fact, facts, new_ledger, write_facts
from tests.scattered_crew import Scattered
from tests.side_memories import add_memories
from tests.test_push import push
from tests.test_query_plans import READ_WHOLE, read_whole, watched

ALL = 100
TURNS = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """Folder of a ledger of three turns with three edits each, not scored. Copy it."""
    folder = tmp_path_factory.mktemp("triangle")
    with new_ledger(folder / "ledger", tiny_llama) as ledger:
        add(ledger, write_facts(folder / "facts.json", facts(9)), evaluate=False)
    return folder / "ledger"


@pytest.fixture
def ledger(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    with copied(made, tmp_path / "ledger") as ledger:
        yield ledger


@pytest.fixture(scope="module")
def uncut(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Triangle:
    """What one worker finds, who is not interrupted."""
    folder = tmp_path_factory.mktemp("uncut") / "ledger"
    with copied(made, folder) as ledger:
        return run(ledger)


class Watched:
    """A crew in this process that remembers its jobs. after: it breaks once so many were done."""

    def __init__(self, ledger: Ledger, *, after: int | None = None) -> None:
        self._crew = LocalCrew(ledger, device="cpu", dtype=None)
        self._after = after
        self.jobs: list[Job] = []

    def run(
        self, jobs: Sequence[Job], *, phase: str, progress: Progress = silent
    ) -> Iterator[tuple[int, Any]]:
        for place, result in self._crew.run(jobs, phase=phase, progress=progress):
            if self._after is not None and len(self.jobs) == self._after:
                raise KeyboardInterrupt
            self.jobs.append(jobs[place])
            yield place, result

    @property
    def states(self) -> list[AskState]:
        return [job for job in self.jobs if isinstance(job, AskState)]

    @property
    def bases(self) -> list[AskBase]:
        return [job for job in self.jobs if isinstance(job, AskBase)]


def run(ledger: Ledger, *, crew: Any = None, sample: int = ALL, **options: Any) -> Triangle:
    return retention(ledger, crew or Watched(ledger), sample=sample, **options)


def places(found: Triangle) -> list[tuple[int, int, int]]:
    """Turn, state and number of edits of every cell."""
    return [(cell.turn, cell.at, cell.n) for cell in found.cells]


def told(found: Triangle) -> dict[str, Any]:
    """What does not depend on when and how often it was run."""
    content = found.to_json()
    del content["scored"], content["seconds"]
    return content


def comparable(scores: Scores) -> Scores:
    """Without what only free generation gives."""
    return {name: value for name, value in scores.items() if name != "generated_match"}


def test_every_cell_is_what_an_evaluation_of_that_turn_at_that_state_scores(
    database_url: str, tmp_path: Path, tiny_llama: Path
) -> None:
    with new_ledger(tmp_path / "other", tiny_llama, database_url) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(8)), evaluate=False)
        found = run(ledger)
        assert places(found) == [(1, 1, 3), (1, 2, 3), (1, 3, 3), (2, 2, 3), (2, 3, 3), (3, 3, 2)]
        for cell in found.cells:
            expected = evaluate(ledger, turn=cell.turn, at=cell.at)
            assert list(cell.outcomes) == [edit["state"] for edit in expected.edits]
            assert cell.scores == {name: expected.state[name] for name in cell.scores}
        assert len({cell.scores["edit_success"] for cell in found.cells}) > 1
        assert verify(ledger).problems == []


def test_a_cell_is_recorded_in_full_at_the_turn_of_its_state(ledger: Ledger) -> None:
    found = run(ledger, seed=7)
    expected = evaluate(ledger, turn=1, at=2, seed=7)
    with database.reading(ledger.engine) as session:
        rows = session.scalars(
            select(EvaluationRow).where(EvaluationRow.scope == "sample").order_by(EvaluationRow.id)
        ).all()
        first, second = (turn.row for turn in log(ledger)[:2])
        [row] = [r for r in rows if (r.turn_id, r.protocol["of"]) == (second.id, first.hash)]
        assert row.protocol == {
            **PROTOCOL,
            "suite": "retention",
            "per_turn": ALL,
            "dtype": None,
            "of": first.hash,
        }
        assert (row.seed, row.n, row.scope_turn_id) == (7, 3, None)
        assert (row.base, row.state) == (expected.base, expected.state)
        assert row.environment["device"] == "cpu"
        outcomes = session.execute(
            select(OutcomeRow.base, OutcomeRow.state)
            .where(OutcomeRow.evaluation_id == row.id)
            .order_by(OutcomeRow.edit_id)
        )
        assert [tuple(one) for one in outcomes] == [
            (edit["base"], edit["state"]) for edit in expected.edits
        ]
    assert len(rows) == len(found.cells) == found.scored == 6


def test_each_state_is_built_once_and_the_base_is_asked_once_for_each_turn(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[int] = []
    set_state = LiveModel.set_state

    def counting(live: LiveModel, patches: Any, memories: Any = ()) -> None:
        built.append(len(patches))
        set_state(live, patches, memories)

    monkeypatch.setattr(LiveModel, "set_state", counting)
    crew = Watched(ledger)
    run(ledger, crew=crew)
    assert built == [1, 2, 3]
    assert [job.size for job in crew.bases] == [3] * TURNS
    assert [job.size for job in crew.states] == [3] * 6


def test_the_numbers_are_the_same_whoever_does_the_jobs_in_whatever_order(
    ledger: Ledger, uncut: Triangle, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that cells are made of several jobs.
    monkeypatch.setattr("ledger.suites.asking.TOGETHER", 2)
    assert told(run(ledger, crew=Scattered(ledger))) == told(uncut)
    assert verify(ledger).problems == []


def test_a_run_that_was_cut_off_goes_on_and_scores_nothing_twice(
    ledger: Ledger, uncut: Triangle
) -> None:
    # Three jobs ask the base; the fifth cell is lost, as it was not recorded.
    broken = Watched(ledger, after=TURNS + 4)
    with pytest.raises(KeyboardInterrupt):
        run(ledger, crew=broken)
    assert verify(ledger).checked["evaluations"] == len(broken.states) == 4
    crew = Watched(ledger)
    found = run(ledger, crew=crew)
    assert found.scored == len(crew.states) == 2
    assert {job.at for job in crew.states} == {log(ledger)[2].row.id}
    assert verify(ledger).problems == []
    assert told(found) == told(uncut)


def test_a_second_run_loads_no_model_and_records_nothing(ledger: Ledger) -> None:
    first = run(ledger)
    before = contents(ledger)
    crew = Watched(ledger)
    again = run(ledger, crew=crew)
    assert crew.jobs == []
    assert again.scored == 0
    assert told(again) == told(first)
    assert contents(ledger) == before


def test_another_seed_sample_or_dtype_is_scored_anew(ledger: Ledger) -> None:
    kinds: list[dict[str, Any]] = [{}, {"seed": 1}, {"sample": 2}, {"dtype": "float32"}]
    assert [run(ledger, **options).scored for options in kinds] == [6, 6, 6, 6]
    assert [run(ledger, **options).scored for options in kinds] == [0, 0, 0, 0]


def test_a_longer_history_only_costs_its_new_cells(ledger: Ledger, tmp_path: Path) -> None:
    run(ledger, sample=2)
    add(ledger, write_facts(tmp_path / "more.json", facts(3, start=9)), evaluate=False)
    crew = Watched(ledger)
    found = run(ledger, crew=crew, sample=2)
    assert {cell.at for cell in found.cells} == {1, 2, 3, 4}
    assert found.scored == 4
    assert {job.at for job in crew.states} == {log(ledger)[3].row.id}
    assert run(ledger, sample=2, at=3).scored == 0


def test_the_sample_of_a_turn_is_the_same_in_every_state_and_another_with_another_seed(
    ledger: Ledger,
) -> None:
    def prompts(seed: int) -> dict[int, set[tuple[str, ...]]]:
        found: dict[int, set[tuple[str, ...]]] = {}
        for cell in plan(ledger, at=None, sample=2, states=20, seed=seed).cells:
            edits = tuple(sampled.edit.prompt for sampled in cell.edits)
            found.setdefault(cell.of.number, set()).add(edits)
        return found

    assert all(len(of_turn) == 1 for of_turn in prompts(0).values())
    assert prompts(0) == prompts(0)
    assert any(prompts(0) != prompts(seed) for seed in range(1, 5))


def test_overridden_edits_leave_and_come_back_when_the_overriding_turn_is_undone(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = [fact(0, target="Toyota Camry"), fact(4, target="Toyota Camry")]
    source = write_facts(tmp_path / "over.json", rows)
    list(add_edits(ledger, AddEdits(source=source, evaluate=False, on_conflict=OVERRIDE)).turns)
    rollback_turn(ledger, 3)
    before = run(ledger)
    assert [(turn, at, n) for turn, at, n in places(before) if at > 3] == [
        *((1, 4, 2), (1, 5, 2)),
        *((2, 4, 2), (2, 5, 2)),
        *((4, 4, 2), (4, 5, 2)),
    ]
    rollback_turn(ledger, 4)
    after = run(ledger)
    assert [(turn, n) for turn, at, n in places(after) if at == 6] == [(1, 3), (2, 3)]
    assert [(row.turn, row.n) for row in before.turns] == [(1, 2), (2, 2), (4, 2)]
    assert [(row.turn, row.n) for row in after.turns] == [(1, 3), (2, 3)]
    assert after.scored == 2


def test_a_turn_that_was_rolled_back_is_a_state_but_has_no_row(ledger: Ledger) -> None:
    rollback_turn(ledger, 2)
    found = run(ledger)
    assert [row.turn for row in found.turns] == [1, 3]
    assert [(one.turn, one.kind) for one in found.states] == [
        (1, "edit"),
        (2, "edit"),
        (3, "edit"),
        (4, "rollback"),
    ]
    assert places(found) == [(1, at, 3) for at in (1, 2, 3, 4)] + [(3, 3, 3), (3, 4, 3)]
    for turn, at in ((1, 4), (3, 4)):
        expected = evaluate(ledger, turn=turn, at=at).state
        [cell] = [cell for cell in found.cells if (cell.turn, cell.at) == (turn, at)]
        assert cell.scores == {name: expected[name] for name in cell.scores}


def test_a_turn_is_not_asked_where_it_was_out_of_force(ledger: Ledger) -> None:
    rollback_turn(ledger, 1)
    rollback_turn(ledger, 4)
    found = run(ledger)
    assert [at for turn, at, _ in places(found) if turn == 1] == [1, 2, 3, 5]


def test_branches_share_the_cells_of_the_turns_that_they_share(
    ledger: Ledger, tmp_path: Path
) -> None:
    run(ledger)
    create_branch(ledger, "side", at=2)
    switch(ledger, "side")
    add(ledger, write_facts(tmp_path / "more.json", facts(3, start=12)), evaluate=False)
    found = run(ledger)
    assert [one.turn for one in found.states] == [1, 2, 3]
    assert found.states[2].hash == log(ledger)[2].hash
    assert found.scored == 3
    expected = evaluate(ledger, turn=1)
    [cell] = [cell for cell in found.cells if (cell.turn, cell.at) == (1, 3)]
    assert list(cell.outcomes) == [edit["state"] for edit in expected.edits]
    switch(ledger, "main")
    assert run(ledger, at="side").scored == run(ledger).scored == 0


def test_states_with_side_memories_are_asked_through_them(tmp_path: Path, tiny_llama: Path) -> None:
    with new_ledger(tmp_path / "other", tiny_llama) as ledger:
        source = write_facts(tmp_path / "facts.json", facts(4))
        add(ledger, source, turn_size=2, limit=2, evaluate=False)
        add_memories(ledger, source, turn_size=2, offset=2)
        found = run(ledger)
        for cell in found.cells:
            expected = evaluate(ledger, turn=cell.turn, at=cell.at)
            assert list(map(comparable, cell.outcomes)) == [
                comparable(edit["state"]) for edit in expected.edits
            ]
        assert found.cells[-1].outcomes[0]["routed_edits"] is not None


def test_the_log_and_what_else_reads_scores_do_not_take_a_cell_for_something_else(
    tmp_path: Path, tiny_llama: Path
) -> None:
    def seen(ledger: Ledger) -> list[Any]:
        return [
            [turn.to_json() for turn in log(ledger)],
            [show(ledger, number).to_json() for number in (1, 2)],
            status(ledger).to_json(),
            log(ledger)[1].retention,
        ]

    with new_ledger(tmp_path / "other", tiny_llama) as ledger:
        source = write_facts(tmp_path / "facts.json", facts(8))
        list(add_edits(ledger, AddEdits(source=source, turn_size=4, retention=3)).turns)
        before = seen(ledger)
        assert before[-1] is not None
        run(ledger)
        assert seen(ledger) == before
        # These are scores of the same edits at both states, by the same protocol.
        change = diff(ledger, 1, 2, weights=False).scores
        assert change is not None
        assert change.n == 4
        first, second = (evaluate(ledger, turn=1, at=at).state for at in (1, 2))
        assert change.a == {name: first[name] for name in change.a}
        assert change.b == {name: second[name] for name in change.b}


def test_many_turns_are_followed_at_even_distances_with_the_first_and_the_last(
    tmp_path: Path,
) -> None:
    def numbers(made: Plan) -> list[int]:
        return [step.number for step in made.states]

    with told_edits.new_ledger(tmp_path) as ledger:
        edits = [told_edits.edit(f"Fact {number} is", "so") for number in range(50)]
        told_edits.record(ledger, *([edit] for edit in edits))
        every = plan(ledger, at=None, sample=1, states=50, seed=0)
        assert (numbers(every), every.notes) == ([*range(1, 51)], ())
        assert len(every.cells) == 50 * 51 / 2
        some = plan(ledger, at=None, sample=1, states=20, seed=0)
        assert numbers(some) == [*range(1, 51, 4), 50]
        assert [one.step.number for one in some.followed] == numbers(some)
        assert all(cell.of.number <= cell.at.number for cell in some.cells)
        assert some.notes == (
            "14 of 50 states, and 14 of 50 turns of edits, at even distances (--states N for more)",
        )
        few = plan(ledger, at=None, sample=1, states=3, seed=0)
        assert numbers(few) == [1, 33, 50]
        # A longer history keeps them, but for the last.
        shorter = plan(ledger, at=40, sample=1, states=20, seed=0)
        assert set(numbers(shorter)) - {40} < set(numbers(some))
        rollback_turn(ledger, 50)
        undone = plan(ledger, at=None, sample=1, states=20, seed=0)
        assert numbers(undone) == [*range(1, 50, 4), 51]
        assert undone.followed[-1].step.number == 49


def test_what_is_kept_and_what_is_forgotten_is_told_of_edits_that_still_hold(
    tmp_path: Path,
) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        edits = [told_edits.edit(f"Fact {number} is", "so") for number in range(4)]
        again = told_edits.edit("Fact 3 is", "not so")
        other = told_edits.edit("Another is", "so")
        told_edits.record(ledger, edits, [other], [again])
        made = plan(ledger, at=None, sample=10, states=20, seed=0)
    # Of turn 1: always right, lost, lost and found and lost again, overridden by turn 3.
    success: dict[tuple[int, int], list[float | None]] = {
        (1, 1): [1.0, 1.0, 1.0, 1.0],
        (1, 2): [1.0, 1.0, 0.5, 0.0],
        (1, 3): [1.0, 0.0, 0.5],
        (2, 2): [0.0],
        (2, 3): [1.0],
        (3, 3): [None],
    }
    by_place = {
        cell.key: [
            (_scores(0.25), _scores(value)) for value in success[cell.of.number, cell.at.number]
        ]
        for cell in made.cells
    }
    found = triangle(made, by_place, protocol={}, seed=0, sample=10, scored=6, seconds=1.0)
    first, second, third = found.turns
    assert (first.n, first.sampled, first.edits) == (3, 4, 4)
    assert (first.base, first.then, first.now, first.kept) == (0.25, 1.0, 0.5, 0.5)
    assert (first.lost, first.gained, first.first) == (2, 0, 1)
    assert (second.then, second.now, second.kept) == (0.0, 1.0, None)
    assert (second.lost, second.gained) == (0, 1)
    # It is too long for the model.
    assert (third.sampled, third.n, third.now, third.kept, third.first) == (1, 0, None, None, None)
    lost = [(one.turn, one.row, one.prompt, one.now, one.lost_at) for one in found.forgotten]
    assert lost == [(1, 1, "Fact 1 is", 0.0, 3), (1, 2, "Fact 2 is", 0.5, 2)]
    assert [one.n for one in found.states] == [4, 5, 5]
    assert found.states[1].scores["edit_success"] == pytest.approx(2.5 / 5)


def _scores(success: float | None) -> Scores:
    return {**dict.fromkeys(METRICS, None), TOKENS: 0.0, "edit_success": success}


def test_what_it_tells_programs_has_every_cell_with_its_scores_and_intervals(
    ledger: Ledger,
) -> None:
    found = run(ledger)
    content = found.to_json()
    assert json.loads(json.dumps(content)) == content
    assert set(content) == {
        *("suite", "turn", "protocol", "seed", "sample", "turns", "states", "cells"),
        *("forgotten", "scored", "seconds", "notes"),
    }
    assert (content["suite"], content["turn"], content["sample"]) == ("retention", 3, ALL)
    for cell in content["cells"]:
        assert set(cell) == {"turn", "at", "n", "scores", "intervals"}
        for metric in ("edit_success", "generalization", "exact_match", "stability"):
            low, high = cell["intervals"][metric]
            assert low <= cell["scores"][metric] <= high
    for turn in content["turns"]:
        assert turn["n"] == turn["sampled"] == turn["edits"] == 3
        then, now = (
            evaluate(ledger, turn=turn["turn"], at=at).state["edit_success"]
            for at in (turn["turn"], 3)
        )
        assert (turn["then"], turn["now"]) == (pytest.approx(then), pytest.approx(now))
    state = content["states"][-1]
    assert state["n"] == 9
    assert state["scores"]["edit_success"] == pytest.approx(evaluate(ledger).state["edit_success"])


def test_the_printed_triangle_has_a_row_for_each_turn_and_a_column_for_each_state(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    rollback_turn(ledger, 2)
    found = run(ledger)
    print_triangle(found)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["turn", "1", "2", "3", "4", "kept"]
    assert [len(line.split()) for line in lines[2:5]] == [6, 4, 5]
    assert [line.split()[0] for line in lines[2:5]] == ["1", "3", "all"]
    [cell] = [cell for cell in found.cells if (cell.turn, cell.at) == (1, 3)]
    shown = f"{cell.scores['edit_success']:.2f}".removeprefix("0")
    assert lines[2].split()[3] in (shown, "1.0")
    assert "after turn 4, 6 edits of the samples still hold:" in lines


def test_the_printed_triangle_fits_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        edits = [told_edits.edit(f"Fact {number} is", "so") for number in range(20)]
        told_edits.record(ledger, *([edit] for edit in edits))
        made = plan(ledger, at=None, sample=1, states=20, seed=0)
    outcomes = {
        cell.key: [(_scores(0.0), _scores(1.0 if cell.at.number < 9 else 0.5))]
        for cell in made.cells
    }
    found = triangle(made, outcomes, protocol={}, seed=0, sample=1, scored=0, seconds=0.0)
    print_triangle(found, most=3)
    wide = capsys.readouterr().out
    assert wide.splitlines()[1].split() == ["turn", *map(str, range(1, 21)), "kept"]
    assert "8 edits were right and are wrong now:" in wide
    assert "… and 5 more edits (--json lists them)" in wide
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    print_triangle(found)
    narrow = unstyle(capsys.readouterr().out).splitlines()
    head = narrow[1].split()
    assert (head[1], head[-2], len(head)) == ("1", "20", 12)
    assert all(len(line) <= 60 for line in narrow[1:23])
    assert "10 of 20 states fit here; --json has them all" in narrow


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"sample": 0}, "--sample counts the edits"), ({"states": 2}, "--states 2: at least 3")],
)
def test_sizes_that_make_no_sense_are_refused(
    ledger: Ledger, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SettingError, match=reason):
        run(ledger, **options)


def test_without_edits_in_force_there_is_nothing_to_score(
    ledger: Ledger, tmp_path: Path, tiny_llama: Path
) -> None:
    with (
        new_ledger(tmp_path / "empty", tiny_llama) as empty,
        pytest.raises(HistoryError, match="no turns yet; add some with: ledger add-edits"),
    ):
        run(empty)
    with pytest.raises(HistoryError, match="no edit is in force at turn 0: nothing to score"):
        run(ledger, at=0)
    for number in (1, 2, 3):
        rollback_turn(ledger, number)
    with pytest.raises(HistoryError, match="no edit is in force at turn 6: nothing to score"):
        run(ledger)


@pytest.mark.usefixtures("hub")
def test_edits_without_their_texts_cannot_be_asked(
    ledger: Ledger, tmp_path: Path, tiny_llama: Path
) -> None:
    push(ledger, "me/edits", "patch")
    cloned, _ = clone("me/edits", folder=tmp_path / "clone", model=str(tiny_llama))
    with cloned:
        with pytest.raises(HistoryError, match="the texts of the edits are not here"):
            run(cloned)
        add(cloned, write_facts(tmp_path / "more.json", facts(2, start=12)), evaluate=False)
        found = run(cloned)
        assert places(found) == [(4, 4, 2)]
        assert found.notes == ("the texts of the edits of turns 1-3 are not here: left out",)


def test_states_whose_patches_were_pruned_are_left_out(ledger: Ledger) -> None:
    squash(ledger, 1, 2)
    rollback_turn(ledger, 3)
    collect_garbage(ledger, prune=True, grace=-60.0)
    found = run(ledger)
    assert [one.turn for one in found.states] == [4, 5]
    assert [(row.turn, row.first) for row in found.turns] == [(1, 4), (2, 4)]
    note = "patches of the states after turns 1-3 were pruned: cells are left out"
    assert found.notes == (note,)
    with pytest.raises(StoreError, match="was pruned"):
        run(ledger, at=2)


def test_what_was_recorded_of_a_state_is_told_after_its_patches_were_pruned(
    ledger: Ledger,
) -> None:
    run(ledger, at=2)
    squash(ledger, 1, 2)
    rollback_turn(ledger, 3)
    collect_garbage(ledger, prune=True, grace=-60.0)
    found = run(ledger)
    assert places(found) == [
        *((1, 1, 3), (1, 2, 3), (1, 4, 3), (1, 5, 3)),
        *((2, 2, 3), (2, 4, 3), (2, 5, 3)),
    ]
    assert found.scored == 4
    assert [row.first for row in found.turns] == [1, 2]


def test_what_is_recorded_is_found_through_indexes(ledger: Ledger) -> None:
    run(ledger)
    with watched(ledger.engine) as statements:
        assert run(ledger).scored == 0
    assert statements
    for statement in statements:
        found = read_whole(ledger.engine, statement) - READ_WHOLE
        assert not found, f"{found} in {statement[0]}"
