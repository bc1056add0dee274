"""What UltraEdit is solved from is the same however the edits are read."""

from pathlib import Path

import pytest
import torch
from torch import nn

from patches.checkpoint import open_checkpoint
from patches.editors import capturing
from patches.editors.capturing import Captured, capture
from patches.editors.statistics import Statistics
from patches.modules import targets_for
from patches.tokens import encode
from tests.tiny_models import FACTS, build, load, tokenizer

MODULES = ["model.layers.0.mlp.down_proj", "model.layers.2.mlp.down_proj"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("llama"), dtype=torch.float32)


@pytest.fixture(scope="module")
def model(folder: Path) -> nn.Module:
    return load(folder)


def captured(
    model: nn.Module, folder: Path, batch_size: int
) -> tuple[dict[str, Captured], Statistics, float]:
    encoded = encode(tokenizer(), [prompt for prompt, _ in FACTS], [answer for _, answer in FACTS])
    targets = targets_for(model, open_checkpoint(folder), MODULES)
    return capture(model, targets, encoded, batch_size=batch_size, everywhere=False, device="cpu")


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("tokens", [10, 10_000])
def test_packed_rows_give_what_padded_batches_give(
    model: nn.Module,
    folder: Path,
    batch_size: int,
    tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(capturing, "_TOKENS", tokens)
    packed, moments, loss = captured(model, folder, batch_size)
    monkeypatch.setattr(capturing, "traceable", lambda *_: False)
    padded, expected, mean = captured(model, folder, batch_size)
    assert loss == pytest.approx(mean, rel=1e-5)
    for name in MODULES:
        torch.testing.assert_close(packed[name].keys, padded[name].keys, rtol=1e-4, atol=1e-5)
        scale = float(padded[name].gradients.abs().max())
        torch.testing.assert_close(
            packed[name].gradients, padded[name].gradients, rtol=1e-4, atol=1e-5 * scale
        )
    for group, some in expected.items():
        assert moments[group].count == some.count
        torch.testing.assert_close(moments[group].mean, some.mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(moments[group].excess, some.excess, rtol=1e-3, atol=1e-5)


def test_gradients_are_those_of_each_batch_s_mean(model: nn.Module, folder: Path) -> None:
    """So a batch of one weighs its tokens as if there were no others."""
    alone, _, _ = captured(model, folder, 1)
    together, _, _ = captured(model, folder, 100)
    name = MODULES[-1]
    torch.testing.assert_close(alone[name].keys, together[name].keys, rtol=1e-4, atol=1e-5)
    assert alone[name].gradients.norm() > 2 * together[name].gradients.norm()
