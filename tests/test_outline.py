"""The modules of a model laid out from its checkpoint: as transformers builds them, or none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from ledger.models import empty_model, module_outline, names_of
from patches.checkpoint import open_checkpoint
from patches.modules import editable_modules, targets_for
from patches.outline import ARCHITECTURES, outlined
from tests.tiny_models import build

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], Path]:
    def save(kind: str, tied: bool) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        config = AutoConfig.for_model(
            kind,
            vocab_size=64,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            tie_word_embeddings=tied,
        )
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
        model.save_pretrained(folder)
        return folder

    return save


def described(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    """Every parameter by name: its shape, and all names that it has."""
    return {
        name: (tuple(value.shape), sorted(names_of(model, value)))
        for name, value in model.named_parameters(remove_duplicate=False)
    }


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", sorted(ARCHITECTURES))
def test_an_outline_has_the_modules_that_transformers_builds(
    saved: Callable[[str, bool], Path], kind: str, tied: bool
) -> None:
    checkpoint = open_checkpoint(saved(kind, tied))
    whole, outline = empty_model(checkpoint.folder), outlined(checkpoint)
    assert outline is not None
    assert type(outline).__name__ == type(whole).__name__
    assert described(outline) == described(whole)
    linear = editable_modules(whole)
    assert set(editable_modules(outline)) == set(linear)
    for name in linear:
        [expected], [found] = (targets_for(m, checkpoint, [name]) for m in (whole, outline))
        assert (found.tensor, found.transposed) == (expected.tensor, expected.transposed)


def set_config(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    content = {**json.loads(path.read_text()), **settings}
    kept = {name: value for name, value in content.items() if value is not None}
    path.write_text(json.dumps(kept))


def add_tensor(folder: Path, name: str, value: Tensor) -> None:
    save_file({**load_file(folder / WEIGHTS), name: value}, folder / WEIGHTS)


def remove_tensor(folder: Path, name: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors[name]
    save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: set_config(folder, tie_word_embeddings=None),
        lambda folder: set_config(folder, num_hidden_layers=3),
        lambda folder: set_config(folder, model_type="unheard-of"),
        lambda folder: set_config(folder, model_type=["llama"]),
        lambda folder: set_config(folder, model_type=None, architectures=[None]),
        lambda folder: remove_tensor(folder, "model.embed_tokens.weight"),
        lambda folder: set_config(folder, architectures=["LlamaForSequenceClassification"]),
        lambda folder: set_config(folder, quantization_config={"quant_method": "fp8"}),
        lambda folder: add_tensor(folder, "lm_head.weight", torch.ones(64, 32)),
        lambda folder: add_tensor(folder, "model.layers.0.mlp.experts.weight", torch.ones(2, 2)),
        lambda folder: add_tensor(folder, "model.layers.0.mlp.up_proj.scale", torch.ones(2)),
        lambda folder: add_tensor(folder, "model.layers.0.mlp.up_proj.bias", torch.ones(2, 2)),
        lambda folder: add_tensor(folder, "model.norm.bias", torch.ones(2)),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "config.json").write_text("[]"),
    ],
)
def test_what_is_not_certain_is_left_to_transformers(
    saved: Callable[[str, bool], Path], change: Callable[[Path], object]
) -> None:
    folder = saved("llama", True)
    assert outlined(open_checkpoint(folder)) is not None
    change(folder)
    assert outlined(open_checkpoint(folder)) is None


def test_an_architecture_that_is_not_known_here_is_built_by_transformers(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(build(tmp_path / "model", "gpt2"))
    assert outlined(checkpoint) is None
    assert described(module_outline(checkpoint)) == described(empty_model(checkpoint.folder))
