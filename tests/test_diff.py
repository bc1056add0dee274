"""Diff in weights and scores, against numpy and known answers; and what the command prints."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from ledger.diffing import diff
from ledger.evaluating import evaluate
from ledger.history import patches_in_force
from ledger.workspace import Ledger
from patches.errors import HistoryError
from tests import plain_ledgers
from tests.command_line import call, done
from tests.known_answers import AUTHOR, FRANCE, GUITAR, TENSOR, TOYOTA, teach
from tests.ledgers import contents, facts, write_facts
from tests.plain_ledgers import FIRST, SECOND, SHAPES, TURNED, Matrix, change, line, new_ledger
from tests.side_memories import add_memories
from tests.test_cli import slow_modules_of

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_ledgers.build(tmp_path_factory.mktemp("diff") / "model")


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory, plain: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path_factory.mktemp("changed") / "ledger", plain) as ledger:
        plain_ledgers.add(ledger, {FIRST: change(FIRST, "low-rank", 1)})
        plain_ledgers.add(ledger, {FIRST: change(FIRST, "sparse", 2)})
        both = {SECOND: change(SECOND, "dense", 3), TURNED: change(TURNED, "low-rank", 4)}
        plain_ledgers.add(ledger, both)
        plain_ledgers.add(ledger, {FIRST: change(FIRST, "low-rank", 5, rank=1)})
        plain_ledgers.add(ledger, {TURNED: change(TURNED, "dense", 6)})
        yield ledger


def totals(ledger: Ledger, at: int) -> dict[str, Matrix]:
    """Σ Δ of every tensor, by numpy, from the patch files."""
    found: dict[str, Matrix] = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for step in patches_in_force(line(ledger), at):
        assert step.patch_digest is not None
        for name, delta in plain_ledgers.deltas(ledger.store.path(step.patch_digest)).items():
            found[name] = found[name] + delta
    return found


@pytest.mark.parametrize(
    ("a", "b", "tensors"),
    [
        (0, 5, {FIRST, SECOND, TURNED}),
        (2, 5, {FIRST, SECOND, TURNED}),
        (5, 2, {FIRST, SECOND, TURNED}),
        (4, 5, {TURNED}),
        (1, 2, {FIRST}),
        (2, 3, {SECOND, TURNED}),
        (3, 3, set()),
    ],
)
def test_the_weights_are_compared_tensor_by_tensor(
    changed: Ledger, plain: Path, a: int, b: int, tensors: set[str]
) -> None:
    found = diff(changed, a, b).weights
    assert found is not None
    assert {one.tensor for one in found.tensors} == tensors
    before, after = totals(changed, a), totals(changed, b)
    with safe_open(plain / "model.safetensors", framework="pt") as file:
        base = {name: file.get_tensor(name).double().numpy() for name in SHAPES}
    for one in found.tensors:
        old, new = before[one.tensor], after[one.tensor]
        norm = np.linalg.norm
        assert one.compared.relative_norm == pytest.approx(norm(new - old) / norm(base[one.tensor]))
        assert one.compared.rank == np.linalg.matrix_rank(new - old)
        assert 0 < one.compared.changed <= 1
        if old.any() and new.any():
            cosine = (old * new).sum() / norm(old) / norm(new)
            assert one.compared.cosine == pytest.approx(cosine)
        else:
            assert one.compared.cosine is None


def test_side_memories_that_stand_in_one_state_only_are_listed(
    tmp_path: Path, tiny_llama: Path
) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        source = write_facts(tmp_path / "facts.json", facts(4))
        add_memories(ledger, source, turn_size=2)
        found = diff(ledger, 1).weights
        back = diff(ledger, 2, 1).weights
        assert diff(ledger, 2).to_json()["weights"] == {"tensors": [], "memories": []}
        digest = line(ledger)[1].patch_digest
    assert digest is not None
    with safe_open(ledger.store.path(digest), framework="pt") as file:
        parts = [file.get_tensor(name) for name in file.keys()]  # noqa: SIM118 (no mapping)
    assert found is not None
    assert back is not None
    assert found.tensors == back.tensors == []
    [memory] = found.memories
    assert (memory.side, memory.turn, memory.tensor) == ("b", 2, TENSOR)
    assert memory.bytes == sum(part.nbytes for part in parts)
    assert [(one.side, one.turn) for one in back.memories] == [("a", 2)]


@pytest.fixture(scope="module")
def answering(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Ledger]:
    """The third turn breaks the first answer, the fourth brings it back; scores of 2, 3 and 4."""
    with new_ledger(tmp_path_factory.mktemp("answering") / "ledger", tiny_llama) as ledger:
        teach(ledger, {FRANCE: "Ro"})
        teach(ledger, {AUTHOR: "Lon"})
        broken = {GUITAR: "play", FRANCE: "To"}
        teach(ledger, broken, {FRANCE: "Ro"}, edits={GUITAR: "play"})
        mended = {TOYOTA: "Toyota", FRANCE: "Ro"}
        teach(ledger, mended, {FRANCE: "To"}, edits={TOYOTA: "Toyota"})
        teach(ledger, {FRANCE: "Fin"}, {FRANCE: "Ro"})
        for at in (2, 3, 4):
            evaluate(ledger, at=at)
        yield ledger


@pytest.mark.parametrize(
    ("a", "b", "n", "gained", "lost"),
    [
        (2, 3, 2, [], [FRANCE]),
        (3, 2, 2, [FRANCE], []),
        (3, 4, 3, [FRANCE], []),
        (2, 4, 2, [], []),
        # The base is scored beside every state.
        (0, 3, 3, [AUTHOR, GUITAR], []),
        (3, 0, 3, [], [AUTHOR, GUITAR]),
    ],
)
def test_recorded_scores_tell_which_edits_flipped(
    answering: Ledger, a: int, b: int, n: int, gained: list[str], lost: list[str]
) -> None:
    found = diff(answering, a, b, weights=False)
    scores = found.scores
    assert scores is not None
    assert (scores.recorded, scores.n) == (True, n)
    assert (scores.better, scores.worse) == (len(gained), len(lost))
    assert (scores.gained, scores.lost) == (len(gained), len(lost))
    assert [one.prompt for one in scores.edits if one.b > one.a] == gained
    assert [one.prompt for one in scores.edits if one.b < one.a] == lost
    assert all(one.flipped for one in scores.edits)
    right = {0: 0, 2: 2, 3: 2 if n == 3 else 1, 4: n}
    assert scores.a["exact_match"] == pytest.approx(right[a] / n)
    assert scores.b["exact_match"] == pytest.approx(right[b] / n)
    assert found.notes == ()
    told = found.to_json()["scores"]
    assert told["flipped"] == len(gained) + len(lost)
    assert json.loads(json.dumps(told)) == told


def test_without_scores_of_both_it_says_which_commands_give_them(answering: Ledger) -> None:
    found = diff(answering, 2, 5, weights=False)
    hashes = [step.hash[:10] for step in line(answering)]
    assert found.scores is None
    assert (
        f"ledger evaluate --at {hashes[1]} and ledger evaluate --at {hashes[4]}" in found.notes[0]
    )
    assert "--evaluate" in found.notes[0]
    assert "--at" in diff(answering, 0, 1, weights=False).notes[0]
    assert "--at" not in diff(answering, 0, 0, weights=False).notes[0]


def test_both_states_can_be_scored_now_and_nothing_is_recorded(answering: Ledger) -> None:
    before = contents(answering)
    recorded = diff(answering, 2, 3, weights=False).scores
    now = diff(answering, 2, 3, weights=False, evaluate=True).scores
    assert recorded is not None
    assert now is not None
    assert (now.recorded, recorded.recorded) == (False, True)
    assert now.edits == recorded.edits
    assert (now.n, now.a, now.b) == (recorded.n, recorded.a, recorded.b)
    # What the fifth turn overrides does not hold in both.
    after = diff(answering, 4, 5, weights=False, evaluate=True).scores
    assert after is not None
    assert (after.n, after.better, after.worse) == (3, 0, 0)
    alone = diff(answering, 0, 1, weights=False, evaluate=True).scores
    assert alone is not None
    assert [(one.prompt, one.a, one.b) for one in alone.edits] == [(FRANCE, 0.0, 1.0)]
    assert contents(answering) == before


def test_states_without_a_fact_in_common_cannot_be_scored(answering: Ledger) -> None:
    with pytest.raises(HistoryError, match="no edit is in force at turn 0 and at turn 0"):
        diff(answering, 0, 0, weights=False, evaluate=True)


def test_programs_get_facts_weights_and_scores(capsys: Capture, answering: Ledger) -> None:
    words = ("diff", "2", "3", "--ledger", str(answering.folder), "--json")
    told = done(capsys, *words).json()
    assert {*told} == {"a", "b", "facts", "weights", "scores", "notes"}
    assert {*told["facts"]} == {"counts", "turns", "added", "removed", "overridden"}
    [tensor] = told["weights"]["tensors"]
    assert {*tensor} == {"tensor", "relative_norm", "rank", "changed", "cosine"}
    assert (tensor["tensor"], tensor["rank"]) == (TENSOR, 2)
    assert told["weights"]["memories"] == []
    assert told["scores"]["edits"][0]["prompt"] == FRANCE
    stat = done(capsys, *words, "--stat").json()
    assert {*stat["facts"]} == {"counts", "turns"}
    assert "edits" not in stat["scores"]
    assert stat["facts"]["counts"] == told["facts"]["counts"]
    assert stat["weights"] == told["weights"]
    assert done(capsys, *words, "--no-weights").json() == {**told, "weights": None}


def test_people_see_what_was_added_and_what_was_lost(capsys: Capture, answering: Ledger) -> None:
    words = ("diff", "2", "3", "--ledger", str(answering.folder))
    lines = done(capsys, *words).out.splitlines()
    second, third = (line(answering)[at].hash[:7] for at in (1, 2))
    assert lines[0] == f"turn 2 ({second}) → turn 3 ({third})"
    assert lines[1] == "facts: 1 added, 0 removed, 0 overridden"
    assert lines[3].split() == ["+", "3", *GUITAR.split(), "-", "play"]
    assert lines[4] == "weights: 1 tensor with other patches"
    assert lines[6].split()[0] == TENSOR
    assert lines[7].startswith("scores, as recorded, on 2 edits: 0 better, 1 worse; flipped: 0 ")
    assert lines[-1].split() == ["lost", "1", *FRANCE.split(), "Ro", "1.000", "0.000"]
    stat = done(capsys, *words, "--stat").out.splitlines()
    assert stat == [*lines[:2], *lines[4:-2]]


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["9"], "no turn 9: the turns are 1 to 5"), (["0", "nowhere"], "nothing is called nowhere")],
)
def test_what_is_no_state_is_an_error(
    capsys: Capture, answering: Ledger, words: list[str], reason: str
) -> None:
    outcome = call(capsys, "diff", *words, "--ledger", str(answering.folder))
    assert (outcome.status, outcome.out) == (1, "")
    assert reason in outcome.err


def test_without_weights_nothing_slow_is_loaded(answering: Ledger) -> None:
    assert slow_modules_of(str(answering.folder), "diff", "1", "4", "--no-weights") == "[]"
