"""What other tools leave behind, made small: changed checkpoints, and LoRA adapters."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ledger.workspace import Ledger
from patches.adapter import CONFIG_FILE, encode_adapter
from patches.deltas import LowRank
from patches.dtypes import tensor_bytes
from patches.errors import EditLedgerError
from tests.ledgers import contents, files

Edit = Callable[[dict[str, Tensor]], None]
DOWN = "model.layers.1.mlp.down_proj"


def edited(model: Path, folder: Path, change: Edit) -> Path:
    """A copy of a model with other weights."""
    folder.mkdir()
    for path in model.iterdir():
        if path.suffix == ".json":
            (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def shifted(tensors: dict[str, Tensor]) -> None:
    tensors[f"{DOWN}.weight"] += 0.25


def weights(folder: Path) -> dict[str, bytes]:
    return {n: tensor_bytes(t) for n, t in load_file(folder / "model.safetensors").items()}


def adapter(folder: Path, modules: Mapping[str, LowRank], **changes: Any) -> str:
    folder.mkdir()
    for name, content in encode_adapter(
        modules, base_model=None, revision=None, conv1d=False, metadata={}
    ).items():
        (folder / name).write_bytes(content)
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return str(folder)


def ones(d_out: int = 32, d_in: int = 48, size: float = 0.125) -> LowRank:
    return LowRank(A=torch.ones(1, d_in), B=torch.full((1, d_out), float(size)))


def refused(ledger: Ledger, reason: str, call: Callable[[], object]) -> None:
    """Nothing may change: the records, and the files of the store."""
    before, stored = contents(ledger), files(ledger.store.folder)
    with pytest.raises(EditLedgerError) as caught:
        call()
    assert reason in str(caught.value)
    assert contents(ledger) == before
    assert files(ledger.store.folder) == stored
