"""A low-rank change of eight matrices of a model, in the forms that programs take it in.

Its numbers are drawn from a seed, and of the size of a real edit. Its factors are bfloat16, which
float32 holds too, so that all forms say the same.
"""

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from patches.rounding import round_to

RANK, MATRICES = 120, 8
_WEIGHTS, _ADAPTER = "model.safetensors", "adapter_model.safetensors"
# What other programs look for in a file of weights.
_FORMAT = {"format": "pt"}
_SCALE = 0.02


@dataclass(frozen=True, kw_only=True, eq=False)
class Factors:
    """Of one matrix, Δ = B A: A (rank, d_in) and B (d_out, rank), bfloat16."""

    A: Tensor
    B: Tensor


def drawn(model: Path, *, seed: int) -> dict[str, Factors]:
    """Module → factors, for the last MLP matrix of the eight layers below the last four."""
    shapes = {name: tuple(value.shape) for name, value in load_file(model / _WEIGHTS).items()}
    down = [name for name in shapes if name.endswith(".mlp.down_proj.weight")]
    layers = sorted(down, key=lambda name: int(name.split(".")[2]))[-MATRICES - 4 : -4]
    random = torch.Generator().manual_seed(seed)
    found = {}
    for name in layers:
        d_out, d_in = shapes[name]
        a = torch.randn(RANK, d_in, generator=random) / math.sqrt(d_in)
        b = torch.randn(d_out, RANK, generator=random) * _SCALE
        found[name.removesuffix(".weight")] = Factors(A=a.bfloat16(), B=b.bfloat16())
    return found


def write_adapter(change: Mapping[str, Factors], folder: Path) -> None:
    """As PEFT writes an adapter."""
    folder.mkdir()
    tensors = {}
    for module, factors in change.items():
        tensors[f"base_model.model.{module}.lora_A.weight"] = factors.A
        tensors[f"base_model.model.{module}.lora_B.weight"] = factors.B
    save_file(tensors, folder / _ADAPTER, metadata=_FORMAT)
    config = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": RANK,
        "target_modules": sorted({module.rpartition(".")[2] for module in change}),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def write_update(change: Mapping[str, Factors], file: Path) -> None:
    """As git-theta takes low-rank updates from a file: R and C of Δ = R C, float32."""
    tensors = {}
    for module, factors in change.items():
        tensors[f"{module}.weight/R"] = factors.B.float()
        tensors[f"{module}.weight/C"] = factors.A.float()
    save_file(tensors, file, metadata=_FORMAT)


def write_model(
    model: Path,
    folder: Path,
    *,
    change: Mapping[str, Factors] | None = None,
    rounded: torch.dtype | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """A copy of `model` with the change.

    rounded: what W + Δ is rounded to, once, from float64. dtype: that the copy is stored in. Both
    are by default the model's.
    """
    tensors = load_file(model / _WEIGHTS)
    for module, factors in (change or {}).items():
        weight = tensors[f"{module}.weight"]
        total = weight.double() + factors.B.double() @ factors.A.double()
        tensors[f"{module}.weight"] = round_to(total, rounded or weight.dtype)
    folder.mkdir()
    for file in model.iterdir():
        if file.name != _WEIGHTS:
            shutil.copy(file, folder)
    stored = {name: value.to(dtype or value.dtype) for name, value in tensors.items()}
    save_file(stored, folder / _WEIGHTS, metadata=_FORMAT)
    if dtype is not None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config["dtype"] = str(dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def differing(one: Path, other: Path) -> int:
    """In how many tensors the weights of two models have not the same bytes."""
    first, second = load_file(one / _WEIGHTS), load_file(other / _WEIGHTS)
    if first.keys() != second.keys():
        return len(first.keys() | second.keys())
    return sum(not _same(first[name], second[name]) for name in first)


def _same(one: Tensor, other: Tensor) -> bool:
    alike = (one.dtype, one.shape) == (other.dtype, other.shape)
    return alike and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def norms(base: Path, model: Path, modules: Iterable[str]) -> dict[str, float]:
    """Module → ‖W′ − W‖ (Frobenius) between two models."""
    before, after = load_file(base / _WEIGHTS), load_file(model / _WEIGHTS)
    names = {module: f"{module}.weight" for module in modules}
    return {
        module: float((after[name].double() - before[name].double()).norm())
        for module, name in names.items()
    }
