"""Side memories in a ledger: recorded, written, loaded, undone and merged, beside weight shifts."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from sqlalchemy import select
from torch import Tensor, nn

from ledger import database, load_patched, open_ledger
from ledger.applying import apply_to_folder, apply_to_model
from ledger.evaluating import evaluate
from ledger.history import edits_in_force, patches_in_force
from ledger.merging import Merged, merge_shards
from ledger.orm import EvaluationRow
from ledger.reporting import log, show, status
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.routing import route
from ledger.verifying import Verified, verify
from ledger.verifying_checkpoint import verify_checkpoint
from ledger.workspace import Ledger
from patches.application import side_weight
from patches.canonical import sha256
from patches.checkpoint import open_checkpoint, tensor_digests
from patches.deltas import Sparse
from patches.dtypes import tensor_bytes
from patches.errors import (
    CheckpointError,
    EditingError,
    EditLedgerError,
    HistoryError,
    PatchError,
    SettingError,
)
from patches.memory_file import MEMORY_FILE, read_memories
from patches.merging import Merge
from patches.patch import PatchFile, read_state
from patches.routing import attach, attached, bypassed
from tests.ledgers import add, contents, fact, facts, files, new_ledger, write_facts
from tests.tiny_models import build, load, tokenizer

DOWN = "model.layers.{}.mlp.down_proj"
QUICK: dict[str, object] = {"iterations": 6, "learning_rate": 0.05, "templates": 0}
PROMPTS = ("The capital of France is", "The official language of Japan is", "He plays the")


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_facts(tmp_path / "facts.json", facts(12))


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path, source: str) -> Iterator[Ledger]:
    """Three turns with a side memory each, of three facts, beside the last layer's matrix."""
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add_memories(ledger, source, limit=9)
        yield ledger


def add_memories(
    ledger: Ledger, source: str, *, layer: int = 2, evaluate: bool = False, **options: Any
) -> None:
    add(
        ledger,
        source,
        method="wise",
        modules=(DOWN.format(layer),),
        evaluate=evaluate,
        **{**QUICK, **options},
    )


def padded() -> dict[str, Tensor]:
    ids = [tokenizer()(prompt)["input_ids"] for prompt in PROMPTS]
    width = max(map(len, ids))
    return {
        "input_ids": torch.tensor([row + [2] * (width - len(row)) for row in ids]),
        "attention_mask": torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in ids]),
    }


@torch.inference_mode()
def logits(model: nn.Module) -> Tensor:
    found: Tensor = model(**padded(), use_cache=False).logits
    return found[padded()["attention_mask"].bool()]


def weights(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor_bytes(weight) for name, weight in model.named_parameters()}


def turns_in(model: nn.Module) -> list[int]:
    """The turns of all side memories in a live model."""
    return sorted(m.turn for router in attached(model).values() for m in router.memories)


def test_a_turn_records_the_memory_and_how_it_was_trained(ledger: Ledger) -> None:
    told = show(ledger, 2).to_json()
    assert (told["kind"], told["method"], told["edits"]) == ("edit", "wise", 3)
    assert told["hyperparameters"]["modules"] == [DOWN.format(2)]
    assert len(told["figures"]["losses"]) == 3
    assert told["figures"]["iterations"] == 6
    assert told["figures"]["threshold"] > 0
    assert told["tensors"] == {}
    [state] = {turn.row.editor_state_digest for turn in log(ledger)}
    prompts = read_state(ledger.store.path(state or ""))
    [words] = torch.split(prompts["outside/ids"], prompts["outside/lengths"].tolist())
    assert tokenizer().decode(words) == "<s>He plays the guitar, she plays the"
    patch = PatchFile(ledger.store.path(told["patch"]["digest"]))
    assert patch.changes == {}
    made = patch.memory(f"{DOWN.format(2)}.weight")
    assert made.routing.threshold == told["figures"]["threshold"]
    assert made.routing.edits.n == 3
    assert verify(ledger).problems == []


def test_the_same_run_again_gives_the_same_patches(
    ledger: Ledger, tmp_path: Path, tiny_llama: Path, source: str
) -> None:
    with new_ledger(tmp_path / "again", tiny_llama) as again:
        add_memories(again, source, limit=9)
        digests = [turn.row.patch_digest for turn in log(again)]
    assert digests == [turn.row.patch_digest for turn in log(ledger)]


def test_a_run_goes_on_after_an_interruption_bit_by_bit(
    tmp_path: Path, tiny_llama: Path, source: str, ledger: Ledger
) -> None:
    with new_ledger(tmp_path / "stopped", tiny_llama) as stopped:
        calls = 0

        def stop(phase: str, _done: int, _total: int) -> None:
            nonlocal calls
            calls += phase == "edit"
            if calls == 9:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            add_memories(stopped, source, limit=9, progress=stop)
        assert len(log(stopped)) == 1
        assert verify(stopped).problems == []
        add_memories(stopped, source, limit=9)
        found = [turn.row.patch_digest for turn in log(stopped)]
        assert found == [turn.row.patch_digest for turn in log(ledger)]
        add(stopped, source, method="wise", resume=True, evaluate=False)
        assert [turn.row.edits for turn in log(stopped)] == [3, 3, 3, 3]
        assert log(stopped)[3].row.hyperparameters == log(stopped)[0].row.hyperparameters


def test_a_failed_turn_records_nothing(ledger: Ledger, source: str) -> None:
    before = contents(ledger)
    with pytest.raises(EditingError, match=r"turn 4 \(rows 9 to 11 .*Nothing of it was recorded"):
        add_memories(ledger, source, learning_rate=1e30)
    assert contents(ledger) == before
    assert verify(ledger).problems == []


def test_a_live_model_gets_routers_and_loses_them_leaving_the_very_modules(
    ledger: Ledger, tiny_llama: Path
) -> None:
    model = load(tiny_llama)
    modules, before, plain = dict(model.named_modules()), weights(model), logits(model)
    applied = apply_to_model(ledger, model)
    assert applied.memories == [1, 2, 3]
    assert turns_in(model) == [1, 2, 3]
    assert weights(model) == before
    assert not torch.equal(logits(model), plain)
    rollback_to(ledger, 0)
    assert apply_to_model(ledger, model).memories == []
    assert dict(model.named_modules()) == modules
    assert torch.equal(logits(model), plain)


@pytest.mark.parametrize("undone", [1, 2, 3])
def test_rolling_back_a_turn_removes_exactly_its_memory(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path, undone: int
) -> None:
    others = [number for number in (1, 2, 3) if number != undone]
    rolled_back = rollback_turn(ledger, undone)
    assert rolled_back.in_force == others
    model = load(tiny_llama)
    before = weights(model)
    apply_to_model(ledger, model)
    assert turns_in(model) == others
    assert weights(model) == before
    expected = load(tiny_llama)
    patches = [PatchFile(ledger.store.path(t.row.patch_digest or "")) for t in log(ledger)[:3]]
    attach(expected, [patches[n - 1].memory(f"{DOWN.format(2)}.weight") for n in others])
    assert torch.equal(logits(model), logits(expected))
    apply_to_folder(ledger, tmp_path / "out")
    loaded, _ = load_patched(tmp_path / "out", device="cpu")
    assert torch.equal(logits(loaded), logits(model))


def test_a_folder_holds_the_untouched_checkpoint_and_the_memories(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    applied = apply_to_folder(ledger, out)
    assert (applied.memories, applied.tensors) == ([1, 2, 3], {})
    written = files(out)
    notes = json.loads((out / "ledger.json").read_text())
    assert notes["beside"] == {MEMORY_FILE: written.pop(MEMORY_FILE)}
    written.pop("ledger.json")
    assert written == files(tiny_llama)
    assert [m.turn for m in read_memories(out / MEMORY_FILE).memories] == [1, 2, 3]
    # Everybody else loads the main weights.
    assert torch.equal(logits(load(out)), logits(load(tiny_llama)))
    rollback_to(ledger, 0)
    apply_to_folder(ledger, out)
    assert not (out / MEMORY_FILE).exists()


@pytest.mark.parametrize("materialise", [False, True])
def test_load_patched_gives_the_routed_model(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path, materialise: bool
) -> None:
    apply_to_folder(ledger, tmp_path / "out")
    model, words = load_patched(tmp_path / "out", device="cpu", materialise=materialise)
    live = load(tiny_llama)
    apply_to_model(ledger, live, materialise=materialise)
    assert torch.equal(logits(model), logits(live))
    inputs = words(list(PROMPTS), return_tensors="pt", padding=True, padding_side="left")
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 2}
    given = cast(Any, model).generate(**inputs, **settings)
    assert torch.equal(given, cast(Any, live).generate(**inputs, **settings))


def test_load_patched_without_memories_is_the_plain_patched_model(
    ledger: Ledger, tmp_path: Path, source: str
) -> None:
    rollback_to(ledger, 0)
    add(ledger, source, evaluate=False, offset=9)
    apply_to_folder(ledger, tmp_path / "out")
    model, _ = load_patched(str(tmp_path / "out"), device="cpu")
    assert attached(model) == {}
    assert torch.equal(logits(model), logits(load(tmp_path / "out")))


def overwrite(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_load_patched_refuses_what_is_not_as_it_was_written(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"no ledger.json in it"):
        load_patched(tiny_llama)
    out = tmp_path / "out"
    apply_to_folder(ledger, out)

    def damaged(name: str) -> Path:
        copied = tmp_path / name
        shutil.copytree(out, copied)
        return copied

    overwrite(damaged("bytes") / MEMORY_FILE, -1)
    with pytest.raises(CheckpointError, match="is not the file that was written here"):
        load_patched(tmp_path / "bytes")
    (damaged("missing") / MEMORY_FILE).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load_patched(tmp_path / "missing")
    tensor = open_checkpoint(damaged("weight")).tensor(f"{DOWN.format(2)}.weight")
    overwrite(tmp_path / "weight" / tensor.file, tensor.start)
    with pytest.raises(CheckpointError, match=r"down_proj.weight is not the one that the side"):
        load_patched(tmp_path / "weight")
    other = damaged("base") / "ledger.json"
    other.write_text(other.read_text().replace(ledger.base.fingerprint, "f" * 64))
    with pytest.raises(CheckpointError, match="were trained on another base model"):
        load_patched(tmp_path / "base")
    unknown = damaged("unknown") / "ledger.json"
    unknown.write_text(unknown.read_text().replace(MEMORY_FILE, "../else"))
    with pytest.raises(CheckpointError, match="names files beside the weights"):
        load_patched(tmp_path / "unknown")


def test_a_memory_file_that_is_damaged_or_none_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    apply_to_folder(ledger, tmp_path / "out")
    content = (tmp_path / "out" / MEMORY_FILE).read_bytes()
    for name, data in {
        "cut": content[:-5],
        "patch": ledger.store.path(log(ledger)[0].row.patch_digest or "").read_bytes(),
        "words": content.replace(b'\\"turn\\"', b'\\"trun\\"'),
        "masks": content.replace(b'"0/mask"', b'"0/musk"'),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PatchError, match=name):
            read_memories(tmp_path / name)


def test_verify_finds_a_memory_file_that_was_altered_and_names_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    apply_to_folder(ledger, out)

    def problems() -> list[str]:
        result = Verified()
        verify_checkpoint(ledger, out, result)
        return [f"{problem.subject} {problem.what}" for problem in result.problems]

    assert problems() == []
    content = (out / MEMORY_FILE).read_bytes()
    overwrite(out / MEMORY_FILE, -1)
    assert "is not that of turn 3" in problems()[0]
    (out / MEMORY_FILE).unlink()
    assert "is missing: turn 3 has side memories" in problems()[0]
    rollback_to(ledger, 0)
    apply_to_folder(ledger, out)
    (out / MEMORY_FILE).write_bytes(content)
    assert "does not belong there" in problems()[0]


def test_a_memory_of_another_base_is_refused(ledger: Ledger, tmp_path: Path, source: str) -> None:
    model = build(tmp_path / "other", seed=1)
    with new_ledger(tmp_path / "theirs", model) as theirs:
        add_memories(theirs, source, limit=3)
        foreign = theirs.store.path(log(theirs)[0].row.patch_digest or "").read_bytes()
        ours = log(ledger)[0].row.patch_digest or ""
        assert PatchFile(theirs.store.path(log(theirs)[0].row.patch_digest or "")).header.base
        digest = ledger.store.put(foreign)
        with pytest.raises(HistoryError, match="was made for another base model"):
            _opened_with(ledger, ours, digest)


def _opened_with(ledger: Ledger, ours: str, theirs: str) -> None:
    from ledger.states import open_patch

    turn = next(turn for turn in log(ledger) if turn.row.patch_digest == ours)
    turn.row.patch_digest = theirs
    open_patch(ledger, turn)


def test_the_base_may_not_have_a_file_of_that_name(tmp_path: Path, source: str) -> None:
    model = build(tmp_path / "model")
    (model / MEMORY_FILE).write_bytes(b"something")
    with new_ledger(tmp_path / "ledger", model) as ledger:
        add_memories(ledger, source, limit=3)
        with pytest.raises(CheckpointError, match="the name that side memories need"):
            apply_to_folder(ledger, tmp_path / "out")


class TestBesideShifts:
    """Weight shifts and side memories of one matrix in force together."""

    @pytest.fixture
    def mixed(self, tmp_path: Path, tiny_llama: Path, source: str) -> Iterator[Ledger]:
        """Turn 1 shifts the matrix, turn 2 puts a memory beside it, turn 3 shifts it again."""
        with new_ledger(tmp_path / "mixed", tiny_llama) as ledger:
            add(ledger, source, limit=3, evaluate=False)
            add_memories(ledger, source, offset=3, limit=3)
            add(ledger, source, offset=6, limit=3, evaluate=False)
            yield ledger

    def side(self, model: nn.Module) -> Tensor:
        """W′ of the one memory in a live model."""
        [router] = attached(model).values()
        [memory] = router.memories
        main = memory.main
        if main is None:
            main = cast(Tensor, router.weight.data)
        assert sha256(tensor_bytes(main)) == memory.routing.main
        return side_weight(memory, main)

    def test_both_work_and_are_undone_on_their_own(
        self, mixed: Ledger, tiny_llama: Path, tmp_path: Path
    ) -> None:
        name = f"{DOWN.format(2)}.weight"
        model = load(tiny_llama)
        apply_to_model(mixed, model, at=2)
        [router] = attached(model).values()
        assert router.memories[0].main is None
        expected = self.side(model)
        apply_to_model(mixed, model)
        shifted = weights(model)[name]
        assert torch.equal(self.side(model), expected)
        for undone in (3, 1):
            rollback_turn(mixed, undone)
            apply_to_model(mixed, model)
            assert weights(model)[name] != shifted
            assert torch.equal(self.side(model), expected)
            assert tensor_digests(self.written(mixed, tmp_path), names=[name]) == {
                name: sha256(weights(model)[name])
            }
        assert weights(model) == weights(load(tiny_llama))
        rollback_turn(mixed, 2)
        apply_to_model(mixed, model)
        assert attached(model) == {}

    def written(self, ledger: Ledger, tmp_path: Path) -> Any:
        apply_to_folder(ledger, tmp_path / "out")
        checked = verify(ledger)
        verify_checkpoint(ledger, tmp_path / "out", checked)
        assert checked.problems == []
        return open_checkpoint(tmp_path / "out")

    def test_undoing_the_memory_leaves_the_shifts(self, mixed: Ledger, tiny_llama: Path) -> None:
        before = load(tiny_llama)
        apply_to_model(mixed, before)
        rollback_turn(mixed, 2)
        model = load(tiny_llama)
        apply_to_model(mixed, model)
        assert weights(model) == weights(before)
        with bypassed(before):
            assert torch.equal(logits(model), logits(before))

    def test_a_folder_brings_the_main_weight_of_the_memory_along(
        self, mixed: Ledger, tiny_llama: Path, tmp_path: Path
    ) -> None:
        apply_to_folder(mixed, tmp_path / "out")
        [memory] = read_memories(tmp_path / "out" / MEMORY_FILE).memories
        assert memory.main is not None
        assert sha256(tensor_bytes(memory.main)) == memory.routing.main
        model, _ = load_patched(tmp_path / "out", device="cpu")
        live = load(tiny_llama)
        apply_to_model(mixed, live)
        assert torch.equal(logits(model), logits(live))
        assert torch.equal(self.side(model), self.side(live))

    def test_a_run_that_shifts_beside_memories_keeps_them_as_they_were(
        self, mixed: Ledger, source: str, tiny_llama: Path
    ) -> None:
        add(mixed, source, offset=9, limit=3, evaluate=True)
        assert verify(mixed).problems == []
        model = load(tiny_llama)
        applied = apply_to_model(mixed, model)
        assert applied.tensors == log(mixed)[-1].row.tensors
        assert applied.memories == [2]


def test_memories_beside_two_layers_are_in_force_together(
    ledger: Ledger, source: str, tiny_llama: Path
) -> None:
    add_memories(ledger, source, layer=1, offset=9)
    model = load(tiny_llama)
    apply_to_model(ledger, model)
    assert {t: [m.turn for m in r.memories] for t, r in attached(model).items()} == {
        f"{DOWN.format(1)}.weight": [4],
        f"{DOWN.format(2)}.weight": [1, 2, 3],
    }
    [first] = route(ledger, ["The capital of France is"])
    assert [candidate.turn for candidate in first.memories] == [1, 2, 3, 4]
    rollback_turn(ledger, 4)
    apply_to_model(ledger, model)
    assert turns_in(model) == [1, 2, 3]


def test_scores_tell_what_is_routed_and_generated(ledger: Ledger) -> None:
    found = evaluate(ledger)
    told = found.to_json(per_edit=True)
    assert found.state["routed_edits"] > 0.8
    assert found.base["routed_edits"] == 0
    for name in ("routed_rephrasings", "routed_locality", "generated_match", "perplexity"):
        assert found.state[name] is not None, name
    assert found.state["perplexity"] < found.base["perplexity"]
    assert {edit["state"]["routed_edits"] for edit in told["edits"]} <= {0.0, 1.0}
    assert verify(ledger).problems == []


def test_a_turn_is_scored_when_it_is_made(ledger: Ledger, source: str) -> None:
    add_memories(ledger, source, offset=9, evaluate=True)
    scores = log(ledger)[-1].to_json()["scores"]
    assert scores["n"] == 3
    assert scores["state"]["routed_edits"] is not None
    assert scores["state"]["edit_success"] >= scores["base"]["edit_success"]


def test_out_of_distribution_prompts_are_scored(ledger: Ledger, tmp_path: Path) -> None:
    rows = [
        {"prompt": "The river", "target_new": "is the Danube", "ood_rephrase": "In Vienna, it"},
        {"prompt": "The guitar", "target_new": "is a piano", "ood_rephrase": "He plays, and it"},
    ]
    add_memories(ledger, write_facts(tmp_path / "temporal.json", rows), evaluate=True)
    scores = log(ledger)[-1].to_json()["scores"]
    assert 0 <= scores["state"]["out_of_distribution"] <= 1
    assert show(ledger, 4).to_json()["dataset"]["layout"] == "wise-temporal"


def merge(ledger: Ledger, first: int = 1, last: int = 3, **options: Any) -> Merged:
    how = Merge(**{"method": "ties", **options.pop("how", {})})
    return merge_shards(ledger, first, last, how, device="cpu", **options)


class TestMerge:
    def test_it_is_a_turn_that_takes_the_place_of_the_shards(
        self, ledger: Ledger, tiny_llama: Path
    ) -> None:
        done = merge(ledger, message="one of three")
        assert (done.turn, done.merges, done.method) == (4, [1, 2, 3], "ties")
        turns = log(ledger)
        told = show(ledger, 4).to_json()
        assert (told["kind"], told["replaces"], told["edits"]) == ("merge", [1, 2, 3], 0)
        assert [turn.number for turn in edits_in_force(turns)] == [1, 2, 3]
        assert [turn.number for turn in patches_in_force(turns)] == [4]
        assert status(ledger).to_json()["turns"]["merge"] == 1
        assert status(ledger).to_json()["edits_in_force"] == 9
        model = load(tiny_llama)
        assert apply_to_model(ledger, model).memories == [4]
        assert verify(ledger).problems == []

    def test_the_merged_delta_is_the_merge_of_the_deltas(self, ledger: Ledger) -> None:
        name = f"{DOWN.format(2)}.weight"
        patches = [PatchFile(ledger.store.path(t.row.patch_digest or "")) for t in log(ledger)]
        stack = torch.stack(
            [cast(Sparse, p.delta(name)).dense(dtype=torch.float32) for p in patches]
        )
        merge(ledger, how={"method": "linear", "weights": (0.5, 0.25, 0.25)}, evaluate=False)
        made = PatchFile(ledger.store.path(log(ledger)[3].row.patch_digest or "")).memory(name)
        expected = (stack * torch.tensor([0.5, 0.25, 0.25])[:, None, None]).sum(0)
        found = made.delta.dense(dtype=torch.float32)
        assert torch.equal(found, expected.to(torch.bfloat16).float())
        assert made.routing.edits.n == 9

    def test_the_threshold_is_taken_from_the_merged_memory(self, ledger: Ledger) -> None:
        own = [show(ledger, number).to_json()["figures"]["threshold"] for number in (1, 2, 3)]
        done = merge(ledger, evaluate=False)
        assert done.threshold not in own
        edits = [str(fact(number)["prompt"]) for number in range(9)]
        for routed in route(ledger, edits):
            assert routed.turns == [4]
            assert routed.memories[0].threshold == done.threshold

    def test_rolling_it_back_brings_the_shards_back(self, ledger: Ledger, tiny_llama: Path) -> None:
        model = load(tiny_llama)
        apply_to_model(ledger, model)
        before = logits(model)
        merge(ledger, evaluate=False)
        apply_to_model(ledger, model)
        assert not torch.equal(logits(model), before)
        undone = rollback_turn(ledger, 4)
        assert (undone.separated, undone.in_force, undone.brought_back) == (
            [1, 2, 3],
            [1, 2, 3],
            [],
        )
        apply_to_model(ledger, model)
        assert turns_in(model) == [1, 2, 3]
        assert torch.equal(logits(model), before)
        again = rollback_turn(ledger, 5)
        assert again.separated == []
        apply_to_model(ledger, model)
        assert turns_in(model) == [4]
        rollback_to(ledger, 3)
        apply_to_model(ledger, model)
        assert torch.equal(logits(model), before)
        assert verify(ledger).problems == []

    def test_a_shard_cannot_be_taken_out_of_it(self, ledger: Ledger) -> None:
        merge(ledger, 1, 2, evaluate=False)
        before = contents(ledger)
        with pytest.raises(HistoryError, match=r"turn 2 is part of the merge in turn 4.*rollback"):
            rollback_turn(ledger, 2)
        assert contents(ledger) == before
        assert rollback_turn(ledger, 3).in_force == [1, 2]

    def test_it_cannot_come_back_without_a_shard_that_was_undone_meanwhile(
        self, ledger: Ledger
    ) -> None:
        merge(ledger, evaluate=False)
        rollback_turn(ledger, 4)
        rollback_turn(ledger, 2)
        with pytest.raises(HistoryError, match="turn 2 is part of the merge in turn 4"):
            rollback_turn(ledger, 5)

    def test_merges_can_be_merged(self, ledger: Ledger, tiny_llama: Path) -> None:
        merge(ledger, 1, 2, evaluate=False)
        done = merge(ledger, 3, 4, evaluate=False)
        assert done.merges == [3, 4]
        model = load(tiny_llama)
        apply_to_model(ledger, model)
        assert turns_in(model) == [5]
        assert show(ledger, 5).to_json()["patch"] is not None
        made = PatchFile(ledger.store.path(log(ledger)[4].row.patch_digest or ""))
        routing = made.memories[f"{DOWN.format(2)}.weight"].routing
        assert routing is not None
        assert routing.edits.n == 9
        assert rollback_turn(ledger, 5).separated == [3, 4]

    def test_its_scores_are_on_all_edits_in_force(self, ledger: Ledger) -> None:
        done = merge(ledger)
        assert done.scores is not None
        assert done.scores["n"] == 9
        with database.reading(ledger.engine) as session:
            row = session.scalars(select(EvaluationRow)).one()
            assert (row.scope, row.n, row.state) == ("in_force", 9, done.scores["state"])
        found = evaluate(ledger)
        assert found.state == pytest.approx(done.scores["state"])
        assert verify(ledger).problems == []

    def test_its_edits_are_not_added_again(self, ledger: Ledger, source: str) -> None:
        merge(ledger, evaluate=False)
        add_memories(ledger, source)
        assert [turn.row.edits for turn in log(ledger)] == [3, 3, 3, 0, 3]

    def test_ranges_and_memories_that_do_not_fit_are_refused(
        self, ledger: Ledger, source: str
    ) -> None:
        before = contents(ledger)
        with pytest.raises(HistoryError, match="there are: 2"):
            merge(ledger, 2, 2)
        with pytest.raises(HistoryError, match="there is no turn 9"):
            merge(ledger, 1, 9)
        with pytest.raises(SettingError, match="slerp merges two"):
            merge(ledger, how={"method": "slerp"})
        with pytest.raises(EditingError, match="the merge by ties is zero"):
            merge(ledger, how={"density": 1e-4})
        assert contents(ledger) == before
        add_memories(ledger, source, layer=1, offset=9)
        with pytest.raises(HistoryError, match="beside one matrix"):
            merge(ledger, 1, 4)


def test_route_tells_every_activation_and_the_choice(ledger: Ledger) -> None:
    edit = str(fact(4)["prompt"])
    [found, other] = route(ledger, [edit, "He plays the guitar, she plays the"])
    assert [candidate.turn for candidate in found.memories] == [1, 2, 3]
    for candidate in (*found.memories, *other.memories):
        assert candidate.strength == pytest.approx(candidate.activation / candidate.threshold)
    strongest = max(found.memories, key=lambda candidate: candidate.strength)
    assert found.turns == [strongest.turn]
    assert [c.turn for c in found.memories if c.chosen] == found.turns
    assert route(ledger, [edit], at=1)[0].memories == found.memories[:1]


def test_route_refuses_what_it_cannot_answer(ledger: Ledger) -> None:
    with pytest.raises(SettingError, match=r"has \d+ tokens, the model takes from 1 to 64"):
        route(ledger, ["a b c d e f g h " * 20])
    rollback_to(ledger, 0)
    with pytest.raises(HistoryError, match="no side memory is in force at turn 4"):
        route(ledger, ["It is"])


def test_a_memory_in_a_model_that_is_compiled_is_refused_and_nothing_applied(
    ledger: Ledger, tiny_llama: Path
) -> None:
    model = load(tiny_llama)
    model.compile(backend="eager")
    with pytest.raises(EditLedgerError, match="compiled"):
        apply_to_model(ledger, model)
    assert attached(model) == {}
    torch.compiler.reset()


def test_the_ledger_opens_again_with_all_of_it(ledger: Ledger, tiny_llama: Path) -> None:
    merge(ledger, 1, 2, evaluate=False)
    ledger.close()
    with open_ledger(ledger.folder) as again:
        model = load(tiny_llama)
        assert apply_to_model(again, model).memories == [3, 4]
        assert verify(again).problems == []
