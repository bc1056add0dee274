"""Branches blended other than by adding up: a turn in the place of the patches of both sides."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ledger import database, history
from ledger.applying import apply_to_model
from ledger.joining import Joined, merge_branch
from ledger.merge_plan import MergeBranch
from ledger.picking import cherry_pick
from ledger.rolling_back import rollback_turn
from ledger.squashing import squash
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.deltas import Dense, Sparse
from patches.errors import EditingError, SettingError
from patches.merging import Merge, merged
from patches.patch import Change, PatchFile
from tests.branch_scenes import FEATURE, copied, edit, line_of, on, part, parts, plain_ledger, turn
from tests.command_line import call, done
from tests.ledgers import add, contents, facts, new_ledger, write_facts
from tests.plain_ledgers import FIRST, SECOND, SHAPES, Matrix, line, recorded, state, summed
from tests.plain_ledgers import add as add_changes
from tests.side_memories import DOWN, add_memories, turns_in
from tests.tiny_models import load


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Turn 1 on both branches, turns 2 and 3 on main and on feature."""
    folder = tmp_path_factory.mktemp("branches")
    with plain_ledger(folder) as ledger:
        turn(ledger, 1)
        part(ledger)
        turn(ledger, 2, edit("He plays the", "piano"))
        turn(ledger, 3, kind="dense")
        with on(ledger):
            turn(ledger, 4, edit("She plays the", "guitar"))
            turn(ledger, 5, kind="sparse")
    return folder


@pytest.fixture
def ledger(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    with copied(made / "ledger", tmp_path / "ledger") as ledger:
        yield ledger


@pytest.fixture
def model(made: Path) -> Path:
    return made / "model"


def merge(ledger: Ledger, strategy: str, **options: object) -> Joined:
    chosen = MergeBranch(strategy=strategy, evaluate=False, device="cpu", **options)  # type: ignore[arg-type]  # of tests
    return merge_branch(ledger, FEATURE, chosen)


def total(some: list[dict[str, Matrix]], name: str) -> Matrix:
    """Σ Δ of a tensor."""
    found: Matrix = np.zeros(SHAPES[name])
    for one in some:
        found = found + one.get(name, 0.0)
    return found


def newest(ledger: Ledger) -> PatchFile:
    return PatchFile(ledger.store.path(line(ledger)[-1].patch_digest or ""))


class TestWeights:
    @pytest.mark.parametrize("strategy", ["linear", "ties", "dare", "slerp"])
    def test_the_turn_holds_the_blend_of_both_sums_and_takes_the_place_of_both(
        self, ledger: Ledger, model: Path, strategy: str
    ) -> None:
        ours, theirs = parts(ledger)[1:], parts(ledger, line_of(ledger)[1:])
        done = merge(ledger, strategy, seed=3)
        made = parts(ledger, line(ledger)[-1:])[0]
        for name in (FIRST, SECOND):
            sides = torch.tensor(np.stack([total(ours, name), total(theirs, name)])).float()
            expected = merged(sides, Merge(method=strategy, seed=3))
            assert np.array_equal(made[name], expected.double().numpy())
        steps = line(ledger)
        assert (done.blends, steps[5].replaces) == ([6], (2, 3, 4, 5))
        assert (steps[5].kind, steps[5].method) == ("merge", strategy)
        assert [step.number for step in history.patches_in_force(steps)] == [1, 6]
        assert [step.number for step in history.edits_in_force(steps)] == [1, 2, 3, 4, 5]
        expected_state = summed(model, [parts(ledger, steps[:1])[0], made])
        assert state(ledger) == recorded(ledger) == expected_state
        assert verify(ledger).problems == []

    def test_linear_is_the_weighted_sum(self, ledger: Ledger) -> None:
        ours, theirs = parts(ledger)[1:], parts(ledger, line_of(ledger)[1:])
        merge(ledger, "linear", weights=(0.75, 0.25))
        made = parts(ledger, line(ledger)[-1:])[0]
        expected = 0.75 * total(ours, FIRST) + 0.25 * total(theirs, FIRST)
        assert np.allclose(made[FIRST], expected, rtol=1e-6, atol=1e-6)

    def test_rolled_back_it_leaves_the_plain_sum(self, ledger: Ledger, model: Path) -> None:
        expected = summed(model, [*parts(ledger), *parts(ledger, line_of(ledger)[1:])])
        merge(ledger, "ties")
        assert state(ledger) != expected
        rollback_turn(ledger, 6)
        assert state(ledger) == recorded(ledger) == expected

    def test_the_patch_is_sparse_only_where_all_are(self, ledger: Ledger) -> None:
        merge(ledger, "ties")
        kinds = {name: info.kind for name, info in newest(ledger).changes.items()}
        assert kinds == {FIRST: "dense", SECOND: "sparse"}

    def test_what_was_blended_how_is_recorded(self, ledger: Ledger) -> None:
        fork, theirs = line(ledger)[0].hash, line_of(ledger)[-1].hash
        merge(ledger, "dare", density=0.25, weights=(1.0, 2.0), seed=5, message="release 2")
        expected = {
            "method": "dare",
            "density": 0.25,
            "weights": [1.0, 2.0],
            "seed": 5,
            "branch": FEATURE,
            "fork": fork,
            "theirs": theirs,
            "merges": [2, 3, 4, 5],
        }
        with database.reading(ledger.engine) as session:
            row = history.row_of(session, line(ledger)[-1])
            assert (row.hyperparameters, row.seed, row.message) == (expected, 5, "release 2")
        header = newest(ledger).header
        assert (header.hyperparameters, header.turn) == (expected, 6)

    def test_a_blend_is_merged_back_with_what_it_stands_for(self, ledger: Ledger) -> None:
        merge(ledger, "ties")
        with on(ledger):
            merge_branch(ledger, "main", MergeBranch(evaluate=False))
            steps = line(ledger)
            # Turns 2 and 3 of main, and the blend, which stands for them and for ours.
            assert [step.replaces for step in steps[3:]] == [(), (), (2, 3, 4, 5)]
            there = recorded(ledger)
        assert there == recorded(ledger)

    def test_a_squash_across_the_fork_is_added_as_it_is(self, ledger: Ledger, model: Path) -> None:
        squash(ledger, 1, 2)
        done = merge(ledger, "ties")
        steps = line(ledger)
        assert [step.number for step in history.patches_in_force(steps)] == [4, 7]
        assert steps[6].replaces == (3, 5, 6)
        assert any("turn 4 also" in note for note in done.notes)
        used = [steps[3], steps[6]]
        assert state(ledger) == recorded(ledger) == summed(model, parts(ledger, used))

    def test_where_only_one_side_has_changed_weights_they_are_copied(
        self, ledger: Ledger, model: Path
    ) -> None:
        rollback_turn(ledger, 2)
        rollback_turn(ledger, 3)
        whole = [*parts(ledger), *parts(ledger, line_of(ledger)[1:])]
        done = merge(ledger, "linear")
        assert done.blends == []
        assert any("linear had nothing to blend" in note for note in done.notes)
        assert state(ledger) == recorded(ledger) == summed(model, whole)

    def test_what_was_merged_before_counts_as_ours(self, ledger: Ledger) -> None:
        cherry_pick(ledger, ["feature~1"])
        merge(ledger, "linear")
        assert line(ledger)[5].replaces == (2, 3, 4, 5)
        made = parts(ledger, line(ledger)[-1:])[0]
        ours = parts(ledger, line(ledger)[1:4])
        theirs = parts(ledger, line(ledger)[4:5])
        expected = 0.5 * total(ours, FIRST) + 0.5 * total(theirs, FIRST)
        assert np.allclose(made[FIRST], expected, rtol=1e-6, atol=1e-6)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "what"),
        [
            ({"strategy": "average"}, "--strategy is one of sum, linear, ties, dare, slerp"),
            ({"strategy": "sum", "density": 0.5}, "takes no --density"),
            ({"strategy": "sum", "weights": (0.5, 0.5)}, "no --weights"),
            ({"strategy": "ties", "weights": (1.0,)}, "--weights are two numbers"),
            ({"strategy": "ties", "density": 1.5}, "density must be above 0 and at most 1"),
            ({"strategy": "ties", "weights": (1.0, -1.0)}, "weights must be positive"),
            ({"strategy": "ties", "on_conflict": "mine"}, "--on-conflict is one of"),
        ],
    )
    def test_settings_without_sense_record_nothing(
        self, ledger: Ledger, options: dict[str, object], what: str
    ) -> None:
        before = contents(ledger)
        with pytest.raises(SettingError, match=what):
            merge(ledger, **options)  # type: ignore[arg-type]  # of tests
        assert contents(ledger) == before

    def test_a_blend_that_leaves_nothing_records_nothing(self, ledger: Ledger) -> None:
        # Opposite signs of one size elect neither.
        delta = torch.ones(SHAPES[FIRST])
        for name in ("one", "other"):
            part(ledger, name)
        for name, sign in (("one", 1.0), ("other", -1.0)):
            with on(ledger, name):
                add_changes(ledger, {FIRST: Change(delta=Dense(delta=sign * delta))})
        before = contents(ledger)
        with on(ledger, "one"):
            with pytest.raises(EditingError, match="linear leaves nothing"):
                merge_branch(ledger, "other", MergeBranch(strategy="linear", evaluate=False))
            assert len(line(ledger)) == 4
        assert contents(ledger)["turns"] == before["turns"]


class TestSideMemories:
    @pytest.fixture(scope="class")
    @staticmethod
    def shards(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
        """On main two memories beside layer 2, one of them beside a shifted weight, and one beside
        layer 1; on feature one beside layer 2, and shifts."""
        folder = tmp_path_factory.mktemp("edits")
        source = write_facts(folder / "facts.json", facts(20))
        with new_ledger(folder / "ledger", tiny_llama) as ledger:
            part(ledger)
            add_memories(ledger, source, limit=3)
            add(ledger, source, offset=3, limit=3, evaluate=False, modules=(DOWN.format(2),))
            add_memories(ledger, source, offset=6, limit=2)
            add_memories(ledger, source, offset=8, limit=2, layer=1)
            with on(ledger):
                add_memories(ledger, source, offset=10, limit=3)
                add(ledger, source, offset=13, limit=3, evaluate=False, modules=(DOWN.format(2),))
        return folder / "ledger"

    @pytest.fixture
    def edits(self, shards: Path, tmp_path: Path) -> Iterator[Ledger]:
        with copied(shards, tmp_path / "ledger") as ledger:
            yield ledger

    def test_shards_of_both_sides_beside_a_matrix_become_one(
        self, edits: Ledger, tiny_llama: Path
    ) -> None:
        names = [0, 2, 4]
        done = merge(edits, "ties", seed=2)
        steps = line(edits)
        assert (done.blends, steps[6].replaces, steps[7].replaces) == ([7, 8], (2, 6), (1, 3, 5))
        assert [step.has_memory for step in steps[6:]] == [False, True]
        name = f"{DOWN.format(2)}.weight"
        shards = [PatchFile(edits.store.path(steps[n].patch_digest or "")) for n in names]
        deltas = [patch.delta(name) for patch in shards]
        stack = torch.stack([d.dense(dtype=torch.float32) for d in deltas if isinstance(d, Sparse)])
        expected = merged(stack, Merge(method="ties", seed=2)).to(torch.bfloat16)
        memory = newest(edits).memory(name)
        assert torch.equal(memory.delta.dense(dtype=torch.float32), expected.float())
        assert memory.routing.edits.n == 8
        assert memory.routing.main == recorded(edits)[name]
        model = load(tiny_llama)
        applied = apply_to_model(edits, model)
        assert (applied.memories, turns_in(model)) == ([4, 8], [4, 8])
        assert applied.tensors == recorded(edits)
        assert verify(edits).problems == []

    def test_the_weights_of_a_side_are_shared_out_among_its_shards(self, edits: Ledger) -> None:
        merge(edits, "linear", weights=(0.5, 0.75))
        steps = line(edits)
        name = f"{DOWN.format(2)}.weight"
        shards = [PatchFile(edits.store.path(steps[n].patch_digest or "")) for n in (0, 2, 4)]
        dense = [shard.memory(name).delta.dense(dtype=torch.float64) for shard in shards]
        expected = 0.25 * dense[0] + 0.25 * dense[1] + 0.75 * dense[2]
        found = newest(edits).memory(name).delta.dense(dtype=torch.float64)
        assert torch.allclose(found, expected, rtol=2**-7, atol=1e-6)

    def test_rolled_back_the_shards_stand_side_by_side(
        self, edits: Ledger, tiny_llama: Path
    ) -> None:
        merge(edits, "ties")
        rollback_turn(edits, 8)
        rollback_turn(edits, 7)
        assert apply_to_model(edits, load(tiny_llama)).memories == [1, 3, 4, 5]

    def test_slerp_takes_two_shards_and_records_nothing_otherwise(self, edits: Ledger) -> None:
        before = contents(edits)
        with pytest.raises(SettingError, match="slerp merges two shards, not 3"):
            merge(edits, "slerp")
        assert contents(edits) == before


class TestCommand:
    def test_it_says_which_turn_stands_for_both(
        self, ledger: Ledger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ("merge", FEATURE, "--strategy", "ties", "--density", "0.4", "--no-evaluate")
        out = done(capsys, *words, "--weights", "0.3,0.7", "--ledger", str(ledger.folder)).out
        assert "turn 6 takes the place of the patches of both sides; rolled back, they are" in out

    def test_wrong_weights_are_wrong_usage(
        self, ledger: Ledger, capsys: pytest.CaptureFixture[str]
    ) -> None:
        words = ("merge", FEATURE, "--weights", "1", "--strategy", "ties")
        outcome = call(capsys, *words, "--ledger", str(ledger.folder))
        assert (outcome.status, outcome.out) == (2, "")
        assert "--weights are two numbers" in outcome.err
