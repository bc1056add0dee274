"""A live model has the bytes of a model loaded from disk, however it got to its state."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from patches.application import patched_bytes
from patches.canonical import sha256
from patches.checkpoint import Checkpoint, open_checkpoint
from patches.checkpoint_writer import write_checkpoint
from patches.deltas import Dense, LowRank
from patches.dtypes import tensor_bytes
from patches.errors import EditLedgerError, ModelError, PatchError
from patches.live import LiveModel
from patches.modules import targets_for
from patches.patch import Change, PatchFile, PatchHeader, encode_patch
from tests.tiny_models import Setting, build, load

# Case → family, its settings, modules to edit.
CASES: dict[str, tuple[str, dict[str, Setting], tuple[str, ...]]] = {
    "llama": (
        "llama",
        {},
        ("model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj", "lm_head"),
    ),
    "tied llama": (
        "llama",
        {"tie_word_embeddings": True},
        ("model.layers.0.mlp.up_proj", "lm_head"),
    ),
    "gpt2": ("gpt2", {}, ("transformer.h.0.mlp.c_fc", "transformer.h.1.mlp.c_proj", "lm_head")),
    "phi3": ("phi3", {}, ("model.layers.2.mlp.gate_up_proj",)),
    "gemma3": ("gemma3", {}, ("model.layers.1.mlp.gate_proj",)),
}


def opened(folder: Path, case: str, dtype: torch.dtype = torch.bfloat16) -> LiveModel:
    family, settings, _ = CASES[case]
    build(folder, family, dtype=torch.bfloat16, seed=0, max_shard_size="30KB", **settings)
    return LiveModel(load(folder, dtype), open_checkpoint(folder))


def without_prefix(folder: Path, prefix: str) -> None:
    """Rename the tensors as in checkpoints of the bare model, such as the Hub's GPT-2."""
    for path in folder.glob("*.safetensors"):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})


def patches(live: LiveModel, case: str, folder: Path, count: int = 4) -> list[PatchFile]:
    """Random patches, alternately low-rank and dense, of all and of one of the modules."""
    targets = targets_for(live.model, live.checkpoint, CASES[case][2])
    draw = torch.Generator().manual_seed(7)
    made = []
    for turn in range(count):
        changes = {}
        for target in targets[: 1 if turn == 2 else None]:
            stored = live.checkpoint.tensor(target.tensor).shape
            d_out, d_in = stored[::-1] if target.transposed else stored
            if turn % 2:
                full = torch.randn(d_out, d_in, generator=draw) / 50
                changes[target.tensor] = Change(
                    delta=Dense(delta=full), transposed=target.transposed
                )
            else:
                a, b = (torch.randn(3, size, generator=draw) / 5 for size in (d_in, d_out))
                changes[target.tensor] = Change(
                    delta=LowRank(A=a.bfloat16(), B=b), transposed=target.transposed
                )
        path = folder / f"patch-{turn}"
        header = PatchHeader(base="b", method="m", hyperparameters={}, turn=turn, parent=None)
        path.write_bytes(encode_patch(header, changes))
        made.append(PatchFile(path))
    return made


def weights(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor_bytes(weight) for name, weight in model.named_parameters()}


def from_disk(base: Checkpoint, used: Sequence[PatchFile], folder: Path) -> nn.Module:
    """The model loaded from the checkpoint that `apply` would write."""
    write_checkpoint(base, folder, patched=patched_bytes(base, used), provenance={}, owner="me")
    return load(folder)


@pytest.mark.parametrize("case", CASES)
def test_a_live_state_has_the_bytes_of_the_written_checkpoint(case: str, tmp_path: Path) -> None:
    live = opened(tmp_path / "base", case)
    base = weights(live.model)
    made = patches(live, case, tmp_path)
    states: tuple[list[PatchFile], ...] = ([], made, [made[0], made[3]], made[2:3], made[::-1], [])
    for at, used in enumerate(states):
        live.set_state(used)
        written = weights(from_disk(live.checkpoint, used, tmp_path / f"state-{at}"))
        assert weights(live.model) == written
        assert (written == base) is (not used)


@pytest.mark.parametrize("case", CASES)
def test_advancing_turn_by_turn_gives_the_bytes_of_the_whole_sum(case: str, tmp_path: Path) -> None:
    live = opened(tmp_path / "base", case)
    made = patches(live, case, tmp_path)
    live.set_state(made[:1])
    for turn in range(1, len(made)):
        live.advance(made[turn])
        fresh = LiveModel(load(live.checkpoint.folder), live.checkpoint)
        fresh.set_state(made[: turn + 1])
        assert weights(live.model) == weights(fresh.model)
        assert live.digests() == fresh.digests()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_the_base_is_visited_and_left_bit_by_bit(
    case: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    live = opened(tmp_path / "base", case, dtype)
    base = weights(live.model)
    live.set_state(patches(live, case, tmp_path))
    state = weights(live.model)
    assert state != base
    with live.at_base() as model:
        assert model is live.model
        assert weights(model) == base
    assert weights(live.model) == state
    with pytest.raises(KeyboardInterrupt), live.at_base():
        raise KeyboardInterrupt
    assert weights(live.model) == state
    live.set_state([])
    assert weights(live.model) == base


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_digests_are_those_of_the_tensors_on_disk_whatever_the_live_dtype(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    live = opened(tmp_path / "base", "tied llama", dtype)
    made = patches(live, "tied llama", tmp_path)
    live.set_state(made)
    expected = {
        name: sha256(build()) for name, build in patched_bytes(live.checkpoint, made).items()
    }
    assert live.digests() == expected
    live.set_state([])
    assert live.digests() == {}


def test_a_float32_model_keeps_what_bfloat16_would_round_away(tmp_path: Path) -> None:
    live = opened(tmp_path / "base", "llama", torch.float32)
    made = patches(live, "llama", tmp_path)
    live.set_state(made)
    weight = live.model.get_parameter("model.layers.0.mlp.down_proj.weight")
    assert weight.dtype == torch.float32
    assert not torch.equal(weight.bfloat16().float(), weight)
    written = from_disk(live.checkpoint, made, tmp_path / "out")
    on_disk = written.get_parameter("model.layers.0.mlp.down_proj.weight")
    torch.testing.assert_close(weight.bfloat16(), on_disk)


def test_a_tied_weight_stays_tied_and_changes_on_both_sides(tmp_path: Path) -> None:
    live = opened(tmp_path / "base", "tied llama")
    made = patches(live, "tied llama", tmp_path)
    assert "model.embed_tokens.weight" in made[1].changes
    before = live.model.get_parameter("lm_head.weight").clone()
    live.set_state(made)
    head, embeddings = (
        live.model.get_parameter(name) for name in ("lm_head.weight", "model.embed_tokens.weight")
    )
    assert head is embeddings
    assert not torch.equal(head, before)


def test_a_checkpoint_of_the_bare_model_is_matched_by_its_names(tmp_path: Path) -> None:
    folder = build(tmp_path / "base", "gpt2")
    without_prefix(folder, "transformer.")
    live = LiveModel(load(folder), open_checkpoint(folder))
    assert "h.0.mlp.c_fc.weight" in live.checkpoint.tensors
    made = patches(live, "gpt2", tmp_path)
    assert set(made[0].changes) == {"h.0.mlp.c_fc.weight", "h.1.mlp.c_proj.weight", "wte.weight"}
    live.set_state(made)
    assert weights(live.model) == weights(from_disk(live.checkpoint, made, tmp_path / "out"))


def test_a_checkpoint_with_a_longer_prefix_is_matched_too(tmp_path: Path) -> None:
    folder = build(tmp_path / "base")
    path = folder / "model.safetensors"
    model = load(folder)
    longer = {f"language.{name}": tensor for name, tensor in load_file(path).items()}
    save_file(longer, path, metadata={"format": "pt"})
    (target,) = targets_for(model, open_checkpoint(folder), ["model.layers.0.mlp.up_proj"])
    assert target.tensor == "language.model.layers.0.mlp.up_proj.weight"


STRANGE: dict[str, tuple[str, Change, type[EditLedgerError], str]] = {
    "unknown tensor": (
        "absent.weight",
        Change(delta=Dense(delta=torch.ones(2, 2))),
        ModelError,
        "has no parameter absent.weight",
    ),
    "other shape": (
        "model.layers.0.mlp.down_proj.weight",
        Change(delta=Dense(delta=torch.ones(48, 32))),
        PatchError,
        r"as \(48, 32\), but the model has it as \(32, 48\)",
    ),
    "other layout": (
        "model.layers.1.self_attn.q_proj.weight",
        Change(delta=Dense(delta=torch.ones(32, 32)), transposed=True),
        PatchError,
        "is stored in another layout",
    ),
}


@pytest.mark.parametrize("case", STRANGE)
def test_a_patch_of_another_model_is_refused_and_changes_nothing(case: str, tmp_path: Path) -> None:
    live = opened(tmp_path / "base", "llama")
    made = patches(live, "llama", tmp_path)
    live.set_state(made)
    before = weights(live.model)
    name, change, error, message = STRANGE[case]
    header = PatchHeader(base="b", method="m", hyperparameters={}, turn=1, parent=None)
    path = tmp_path / "strange"
    path.write_bytes(encode_patch(header, {name: change}))
    with pytest.raises(error, match=message):
        live.advance(PatchFile(path))
    assert weights(live.model) == before
    with pytest.raises(error, match=message):
        live.set_state([*made, PatchFile(path)])
    assert weights(live.model) == before
    with live.at_base():
        pass
    assert weights(live.model) == before


def test_a_reset_gives_the_base_back_to_weights_that_were_changed_outside(tmp_path: Path) -> None:
    live = opened(tmp_path / "base", "llama")
    base = weights(live.model)
    name = "model.layers.0.mlp.down_proj.weight"
    with torch.no_grad():
        live.model.get_parameter(name).add_(1)
    live.reset([name])
    assert weights(live.model) == base
