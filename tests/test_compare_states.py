"""Two states compared edit by edit: what flips, what is recorded, and whoever does the work."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

import cli.comparing_states
from ledger import database
from ledger.branching import create_branch, create_tag, switch
from ledger.comparing_states import Comparison, compare_states
from ledger.diffing import diff
from ledger.evaluating import evaluate
from ledger.jobs import LocalCrew
from ledger.orm import EvaluationRow, OutcomeRow, TurnRow
from ledger.reporting import log, show, status
from ledger.rolling_back import rollback_turn
from ledger.sharing.pulling import clone
from ledger.suites import asking
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import HistoryError, SettingError
from patches.evaluation import METRICS, PROTOCOL
from tests.command_line import call, done
from tests.known_answers import AUTHOR, FRANCE, GUITAR, TOYOTA, teach
from tests.ledgers import add, contents, copied, facts, new_ledger, write_facts
from tests.scattered_crew import Scattered
from tests.side_memories import add_memories
from tests.test_push import push

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def answering_folder(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """The third turn breaks the first answer, the fourth brings it back, the fifth has another.
    Copy it."""
    folder = tmp_path_factory.mktemp("answering") / "ledger"
    with new_ledger(folder, tiny_llama) as ledger:
        teach(ledger, {FRANCE: "Ro"})
        teach(ledger, {AUTHOR: "Lon"})
        teach(ledger, {GUITAR: "play", FRANCE: "To"}, {FRANCE: "Ro"}, edits={GUITAR: "play"})
        mended = {TOYOTA: "Toyota", FRANCE: "Ro"}
        teach(ledger, mended, {FRANCE: "To"}, edits={TOYOTA: "Toyota"})
        teach(ledger, {FRANCE: "Fin"}, {FRANCE: "Ro"})
    return folder


@pytest.fixture
def answering(tmp_path: Path, answering_folder: Path) -> Iterator[Ledger]:
    with copied(answering_folder, tmp_path / "answering") as ledger:
        yield ledger


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Ledger]:
    """Three turns with 3, 3 and 2 edits, of which the second is undone by the fourth."""
    folder = tmp_path_factory.mktemp("edited")
    with new_ledger(folder / "ledger", tiny_llama) as ledger:
        add(ledger, write_facts(folder / "facts.json", facts(8)), evaluate=False)
        rollback_turn(ledger, 2)
        yield ledger


def compare(ledger: Ledger, a: int | str, b: int | str, **options: Any) -> Comparison:
    return compare_states(ledger, LocalCrew(ledger, device="cpu", dtype=None), a, b, **options)


def flips(found: Comparison) -> tuple[list[str], list[str]]:
    gained = [one.prompt for one in found.flipped if one.gained]
    return gained, [one.prompt for one in found.flipped if not one.gained]


def told(found: Comparison) -> dict[str, Any]:
    """What does not depend on how long it took."""
    content = found.to_json()
    del content["seconds"]
    return content


@pytest.mark.parametrize(
    ("a", "b", "n", "left_out", "gained", "lost"),
    [
        (2, 3, 2, 1, [], [FRANCE]),
        (3, 2, 2, 1, [FRANCE], []),
        (3, 4, 3, 1, [FRANCE], []),
        (2, 4, 2, 2, [], []),
        (4, 4, 4, 0, [], []),
        # What the fifth turn overrides does not hold in both.
        (4, 5, 3, 2, [], []),
        ("HEAD~3", "HEAD~2", 2, 1, [], [FRANCE]),
        # The base has no edits of its own.
        (0, 3, 3, 0, [AUTHOR, GUITAR], []),
        (3, 0, 3, 0, [], [AUTHOR, GUITAR]),
    ],
)
def test_edits_that_flip_are_listed_and_counted(
    answering: Ledger,
    a: int | str,
    b: int | str,
    n: int,
    left_out: int,
    gained: list[str],
    lost: list[str],
) -> None:
    found = compare(answering, a, b)
    assert (found.n, found.drawn_from, found.scope) == (n, n, None)
    assert (found.not_in_both, found.without_texts) == (left_out, 0)
    assert flips(found) == (gained, lost)
    assert (found.gained, found.lost) == (len(gained), len(lost))
    exact = found.metrics["exact_match"]
    assert (exact.better, exact.worse) == (len(gained), len(lost))
    assert (exact.n, exact.same) == (n, n - len(gained) - len(lost))
    assert exact.difference == pytest.approx((len(gained) - len(lost)) / n)
    assert 0 < exact.p_value <= 1
    content = found.to_json()
    assert json.loads(json.dumps(content)) == content
    assert [one["turn"] for one in content["flipped"]] == [
        {FRANCE: 1, AUTHOR: 2, GUITAR: 3}[prompt] for prompt in gained + lost
    ]


def test_better_means_better_also_where_less_is_better(answering: Ledger) -> None:
    told = compare(answering, 3, 4).metrics["perplexity"]
    assert told.mean_b < told.mean_a
    assert told.better > told.worse  # the model is in bfloat16: others move a little
    assert told.difference == pytest.approx(told.mean_b - told.mean_a)


def test_the_edits_of_one_turn_can_be_asked_wherever_they_hold(answering: Ledger) -> None:
    found = compare(answering, 4, 5, turn=1)
    assert (found.scope, found.n, found.not_in_both) == (1, 1, 0)
    assert flips(found) == ([], [FRANCE])
    assert found.metrics["exact_match"].interval is None
    assert compare(answering, 1, 2, turn=4).n == 1


def test_a_turn_of_many_edits_is_better_on_them_and_not_by_chance(
    tmp_path: Path, tiny_llama: Path
) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        source = write_facts(tmp_path / "facts.json", facts(24))
        add(ledger, source, turn_size=2, limit=2, evaluate=False)
        add(ledger, source, turn_size=22, offset=2, evaluate=False)
        later, earlier = compare(ledger, 1, 2, turn=2), compare(ledger, 2, 1, turn=2)
        success, perplexity = (later.metrics[name] for name in ("edit_success", "perplexity"))
        assert (later.n, success.worse, perplexity.better) == (22, 0, 22)
        assert success.difference > 0
        assert perplexity.p_value < 0.001
        for name, one in earlier.metrics.items():
            other = later.metrics[name]
            assert (one.better, one.worse, one.same) == (other.worse, other.better, other.same)
            assert one.difference == pytest.approx(-other.difference)
            assert one.p_value == pytest.approx(other.p_value)


def test_states_of_other_branches_and_tags_can_be_compared(answering: Ledger) -> None:
    create_tag(answering, "first", 1)
    create_branch(answering, "other", at=1)
    switch(answering, "other")
    teach(answering, {FRANCE: "To", AUTHOR: "play"}, {FRANCE: "Ro"}, edits={AUTHOR: "play"})
    switch(answering, "main")
    found = compare(answering, "first", "other")
    assert (found.a.turn, found.b.turn, found.n) == (1, 2, 1)
    assert flips(found) == ([], [FRANCE])
    assert flips(compare(answering, "other", 2)) == ([FRANCE], [])


def test_the_means_are_those_of_the_evaluations_of_both(edited: Ledger) -> None:
    found = compare(edited, 1, 4, turn=1)
    both = [evaluate(edited, at=at, turn=1) for at in (1, 4)]
    for metric, one in found.metrics.items():
        assert [one.mean_a, one.mean_b] == [scores.state[metric] for scores in both]
    assert [*found.metrics] == [name for name in METRICS if both[0].state[name] is not None]
    assert "stability" in found.metrics
    base = compare(edited, 0, 4, turn=1).metrics
    assert {name: one.mean_a for name, one in base.items()} == {
        name: both[0].base[name] for name in base
    }


def test_a_sample_is_drawn_by_the_seed(edited: Ledger) -> None:
    one, same, other = (compare(edited, 1, 4, turn=2, sample=2, seed=s) for s in (1, 1, 3))
    assert (one.n, one.drawn_from) == (2, 3)
    assert told(one) == told(same)
    assert told(one) != told(other)
    assert compare(edited, 1, 4, turn=2, sample=99).n == 3
    # Edits that hold in both: those of the first turn.
    assert compare(edited, 2, 4).n == 3


def test_the_scores_are_recorded_as_a_sample_that_nobody_takes_for_another(
    answering: Ledger,
) -> None:
    before = contents(answering)
    readers = [status(answering).to_json(), [turn.to_json() for turn in log(answering)]]
    shown = show(answering, 3).to_json()
    found = compare(answering, 2, 3, seed=5)
    after = contents(answering)
    assert {name for name in after if after[name] != before[name]} == {
        "evaluations",
        "outcomes",
        "journal",
    }
    with database.reading(answering.engine) as session:
        rows = session.scalars(select(EvaluationRow).order_by(EvaluationRow.id)).all()
        numbers = [session.get_one(TurnRow, row.turn_id).number for row in rows]
        outcomes = session.scalars(select(OutcomeRow)).all()
    assert numbers == [2, 3]
    for row, other in zip(rows, (found.b, found.a), strict=True):
        assert (row.scope, row.scope_turn_id, row.seed, row.n) == ("sample", None, 5, 2)
        wanted = {"sample": "comparison", "with": other.hash, "of": None, "dtype": None}
        assert row.protocol == {**PROTOCOL, **wanted}
    assert len(outcomes) == 4
    assert [row.state["exact_match"] for row in rows] == [1.0, 0.5]
    assert readers == [status(answering).to_json(), [turn.to_json() for turn in log(answering)]]
    assert show(answering, 3).to_json() == shown
    assert verify(answering).problems == []
    assert verify(answering).checked["evaluations"] == 2
    # Scores of both states on the same edits are what a diff looks for.
    scores = diff(answering, 2, 3, weights=False).scores
    assert scores is not None
    assert (scores.recorded, scores.n, scores.lost) == (True, 2, 1)


def test_the_base_is_scored_but_only_turns_have_records(answering: Ledger) -> None:
    compare(answering, 0, 2)
    compare(answering, 2, 2)
    with database.reading(answering.engine) as session:
        rows = session.scalars(select(EvaluationRow).order_by(EvaluationRow.id)).all()
    assert [row.protocol["with"] for row in rows] == [None, log(answering)[1].hash]


def test_other_workers_give_the_same_numbers(
    edited: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "TOGETHER", 2)
    here = compare(edited, 2, 3)
    assert (here.n, here.drawn_from) == (6, 6)
    assert told(here) == told(compare_states(edited, Scattered(edited), 2, 3))


def test_progress_counts_the_edits_of_both_states(edited: Ledger) -> None:
    seen: list[tuple[str, int, int]] = []
    compare(edited, 1, 4, progress=lambda *step: seen.append(step))
    # The end of a phase may be told more than once.
    assert list(dict.fromkeys(step for step in seen if step[1] == step[2])) == [
        ("load", 1, 1),
        ("evaluate base", 3, 3),
        ("evaluate", 6, 6),
    ]


def test_states_with_side_memories_are_asked_freely_too(tmp_path: Path, tiny_llama: Path) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add_memories(ledger, write_facts(tmp_path / "facts.json", facts(4)), turn_size=2)
        found = compare(ledger, 1, 2)
        assert found.n == 2
        assert {"generated_match", "routed_edits", "routed_locality"} <= {*found.metrics}
        beside = compare(ledger, 0, 2).metrics["routed_locality"]
        # What goes to a memory without cause is no gain.
        assert (beside.mean_a, beside.better) == (0, 0)


@pytest.fixture(scope="module")
def undone(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Ledger]:
    """Of three turns, the fourth undoes the first; on branch `empty` nothing is in force. Read
    only."""
    with new_ledger(tmp_path_factory.mktemp("undone") / "ledger", tiny_llama) as ledger:
        teach(ledger, {FRANCE: "Ro"})
        teach(ledger, {AUTHOR: "Lon"})
        teach(ledger, {GUITAR: "play"})
        rollback_turn(ledger, 1)
        create_branch(ledger, "parted", at=1)
        create_branch(ledger, "empty", at=4)
        ledger.branch = "empty"
        rollback_turn(ledger, 2)
        rollback_turn(ledger, 3)
        ledger.branch = "main"
        yield ledger


@pytest.mark.parametrize(
    ("a", "b", "options", "reason"),
    [
        (0, 0, {}, "both states are the base"),
        (1, 9, {}, "no turn 9"),
        (4, 1, {"turn": 0}, "turn 0 is the base"),
        (4, 1, {"turn": 4}, "turn 4 is a rollback: it has no edits"),
        ("parted", 4, {}, "no edit holds both at turn 1 and at turn 4.*--turn N"),
        ("empty", 0, {}, "no edit is in force at turn 6"),
    ],
)
def test_where_there_is_nothing_to_compare_the_reason_is_said(
    undone: Ledger, a: int | str, b: int | str, options: dict[str, Any], reason: str
) -> None:
    before = contents(undone)
    with pytest.raises(HistoryError, match=reason):
        compare(undone, a, b, **options)
    assert contents(undone) == before


@pytest.mark.usefixtures("hub")
def test_edits_without_their_texts_are_left_out(
    answering: Ledger, tmp_path: Path, tiny_llama: Path
) -> None:
    push(answering, "me/edits", "patch")
    cloned, _ = clone("me/edits", folder=tmp_path / "clone", model=str(tiny_llama))
    with cloned:
        for options in ({}, {"turn": 1}):
            with pytest.raises(HistoryError, match="the texts of the edits are not here"):
                compare(cloned, 2, 3, **options)
        teach(cloned, {FRANCE: "To"}, {FRANCE: "Fin"})
        found = compare(cloned, 0, 6)
        assert (found.n, found.not_in_both, found.without_texts) == (1, 0, 5)
        assert flips(found) == ([FRANCE], [])


def test_a_sample_of_nothing_makes_no_sense(answering: Ledger) -> None:
    with pytest.raises(SettingError, match="--sample counts edits: at least 1, not 0"):
        compare(answering, 0, 1, sample=0)


def test_programs_get_all_of_it(capsys: Capture, answering: Ledger) -> None:
    words = ("evaluate", "--compare", "2", "3", "--ledger", str(answering.folder), "--device=cpu")
    content = done(capsys, *words, "--json").json()
    assert {*content} == {
        "a", "b", "scope", "n", "drawn_from", "not_in_both", "without_texts", "protocol", "seed",
        "metrics", "gained", "lost", "flipped", "seconds",
    }  # fmt: skip
    assert (content["a"]["turn"], content["b"]["turn"], content["scope"]) == (2, 3, "in_force")
    assert {*content["metrics"]["edit_success"]} == {
        "n", "mean_a", "mean_b", "difference", "interval", "better", "worse", "same", "p_value",
    }  # fmt: skip
    assert content["metrics"]["exact_match"]["interval"] == [-1, 0]
    [flip] = content["flipped"]
    assert flip == {
        "turn": 1, "row": None, "prompt": FRANCE, "target": "Ro", "gained": False, "a": 1, "b": 0,
    }  # fmt: skip
    one = done(capsys, *words, "--json", "--turn", "1", "--sample", "1", "--seed", "3").json()
    assert (one["scope"], one["n"], one["seed"]) == (1, 1, 3)
    assert one["metrics"]["exact_match"]["interval"] is None


def test_people_see_what_is_better_and_whether_it_is_chance(
    capsys: Capture, answering: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("evaluate", "--ledger", str(answering.folder), "--device=cpu", "--compare")
    lines = done(capsys, *words, "2", "3").out.splitlines()
    assert lines[0].startswith("turn 2 (")
    assert lines[0].split(" → ")[1].startswith("turn 3 (")
    assert lines[1].startswith("on 2 edits that hold in both, in ")
    assert lines[2].split() == [
        *("metric", "A", "B", "B", "-", "A", "95", "%", "interval"),
        *("better", "worse", "same", "p"),
    ]
    [exact] = [line.split() for line in lines if line.startswith("exact match")]
    means, within = ["1.000", "0.500", "-0.500"], ["-1.000", "to", "0.000"]
    assert exact[2:] == [*means, *within, "0", "1", "1", "1.000"]
    assert any(line.startswith("perplexity ↓") for line in lines)
    at = lines.index("whole answers: 0 gained, 1 lost")
    assert lines[at + 2].split() == ["lost", "1", "-", *FRANCE.split(), "Ro", "1.000", "0.000"]
    assert lines[at + 3 :] == [
        "note: 1 edit left out: in force at one state only, overridden, or repeated"
    ]
    monkeypatch.setattr(cli.comparing_states, "_SHOWN", 1)
    lines = done(capsys, *words, "0", "3").out.splitlines()
    assert lines[0].startswith("the base → turn 3 (")
    assert lines[1].startswith("on 3 edits that hold at B, in ")
    assert lines[-1] == "… and 1 more edit that flipped (--json lists them)"
    drawn = done(capsys, *words, "3", "4", "--sample", "2").out.splitlines()
    assert drawn[1].startswith("on 2 edits of 3 that hold in both")


def test_what_is_no_state_is_an_error(capsys: Capture, answering: Ledger) -> None:
    words = ("evaluate", "--ledger", str(answering.folder), "--compare", "2", "9")
    outcome = call(capsys, *words)
    assert (outcome.status, outcome.out) == (1, "")
    assert "no turn 9: the turns are 1 to 5" in outcome.err
