"""Commands on a checkpoint larger than they may hold in memory: time, peak memory, right bytes.

The checkpoint has the layers of a 7B model (hidden 4096, MLP 14336), as many as make 28 GB of
bfloat16. The tensors that are edited hold noise, the others are holes of sparse files: they read as
zeros and take no space. Unchanged shards are linked, so that about 2 GB of the disk are used.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from patches.adapter import encode_adapter
from patches.canonical import sha256
from patches.canonical_tensors import safetensors_head
from patches.checkpoint import Checkpoint, open_checkpoint, tensor_digests
from patches.deltas import LowRank
from patches.dtypes import tensor_from_bytes, tensor_view
from patches.rounding import round_to
from tests.benchmarks.command import Ran
from tests.benchmarks.command import ledger as run
from tests.benchmarks.measurement import Measurement

HIDDEN, MLP, HEADS, KEY_HEADS, VOCABULARY = 4096, 14336, 32, 8, 32000
LAYERS = 64
RANK = 400
_LAYERS_PER_SHARD = 8
# The layers whose last matrix an adapter changes, and what another tool has trained on.
_ADAPTED = (30, 31)
_RETRAINED = ("model.embed_tokens.weight", "model.layers.0.mlp.down_proj.weight")
_MOST = 2e9
_GIGA = 1e9
_ROWS = 512

Shapes = Mapping[str, tuple[int, ...]]


def measure(scratch: Path) -> list[Measurement]:
    """Every command once, each in a process of its own, on a ledger in `scratch`."""
    model, edited, adapter = (scratch / name for name in ("base", "edited", "adapter"))
    _write_base(model)
    _write_retrained(model, edited)
    factors = _write_adapter(adapter)
    steps = _Steps(folder=scratch / "ledger", figures=[])
    steps.run("init", "--model", str(model))
    steps.run("import", str(adapter), what=f"import, an adapter of rank {RANK}")
    steps.run("import", "--edited", str(edited), what="import --edited, two tensors retrained")
    applied = scratch / "applied"
    result = steps.run("apply", "--to", str(applied), "--link", what="apply --to --link")
    _check_applied(model, edited, applied, factors, json.loads(result.output)["tensors"])
    steps.run("verify", "--model", str(applied), what="verify --model")
    steps.run("diff", "0", "1", what=f"diff, two tensors, rank {RANK}")
    steps.run("diff", "1", "2", what="diff, two tensors, full rank")
    for form, at in (("peft", "1"), ("safetensors", "2")):
        out = scratch / form
        steps.run("export", "--format", form, "--out", str(out), "--at", at, what=f"export {form}")
        shutil.rmtree(out)
    return steps.figures


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """Commands on one ledger, and what they took."""

    folder: Path
    figures: list[Measurement]

    def run(self, *arguments: str, what: str = "") -> Ran:
        done = run(*arguments, "--json", folder=self.folder)
        what = f"28 GB: {what or arguments[0]}"
        self.figures.extend(
            (
                Measurement(what=what, value=done.seconds, unit="s"),
                Measurement(
                    what="  peak memory",
                    value=done.peak / _GIGA,
                    unit="GB",
                    beside="what it may hold",
                    other=_MOST / _GIGA,
                    ceiling=1.0,
                ),
            )
        )
        return done


def _shards() -> Iterator[Shapes]:
    """The tensors of every shard, in order."""
    yield {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    for first in range(0, LAYERS, _LAYERS_PER_SHARD):
        yield {
            f"model.layers.{layer}.{name}.weight": shape
            for layer in range(first, first + _LAYERS_PER_SHARD)
            for name, shape in _layer().items()
        }
    yield {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}


def _layer() -> Shapes:
    key = HIDDEN // HEADS * KEY_HEADS
    return {
        "input_layernorm": (HIDDEN,),
        "self_attn.q_proj": (HIDDEN, HIDDEN),
        "self_attn.k_proj": (key, HIDDEN),
        "self_attn.v_proj": (key, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HIDDEN),
        "post_attention_layernorm": (HIDDEN,),
        "mlp.gate_proj": (MLP, HIDDEN),
        "mlp.up_proj": (MLP, HIDDEN),
        "mlp.down_proj": (HIDDEN, MLP),
    }


def _write_base(folder: Path) -> None:
    folder.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS,
        "num_hidden_layers": LAYERS,
        "vocab_size": VOCABULARY,
        "tie_word_embeddings": False,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    shards = list(_shards())
    where: dict[str, str] = {}
    for number, shapes in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_holes(folder / file, shapes)
        where |= dict.fromkeys(shapes, file)
    index = {"metadata": {}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    checkpoint = open_checkpoint(folder)
    for number, name in enumerate((*_RETRAINED, *map(_adapted, _ADAPTED))):
        _write_noise(checkpoint, name, seed=number)


def _adapted(layer: int) -> str:
    return f"model.layers.{layer}.mlp.down_proj.weight"


def _write_holes(path: Path, shapes: Shapes) -> None:
    head, _ = safetensors_head({n: (torch.bfloat16, s) for n, s in shapes.items()}, {})
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(2 * prod(shape) for shape in shapes.values()))


def _write_noise(checkpoint: Checkpoint, name: str, *, seed: int, shift: int | None = None) -> None:
    """Weights of the usual size, a few rows at a time; shift: a seed of small changes of them."""
    stored = checkpoint.tensor(name)
    draw = torch.Generator().manual_seed(seed)
    moved = None if shift is None else torch.Generator().manual_seed(shift)
    rows, width = stored.shape
    with (checkpoint.folder / stored.file).open("r+b") as file:
        file.seek(stored.start)
        for first in range(0, rows, _ROWS):
            shape = (min(_ROWS, rows - first), width)
            weights = torch.randn(shape, generator=draw) / 50
            if moved is not None:
                weights = weights.bfloat16() + torch.randn(shape, generator=moved) / 2000
            file.write(tensor_view(weights.bfloat16()))


def _write_retrained(model: Path, edited: Path) -> None:
    """The base with two tensors trained on; shards without them are links."""
    edited.mkdir()
    checkpoint = open_checkpoint(model)
    changed = {checkpoint.tensor(name).file for name in _RETRAINED}
    for path in model.iterdir():
        if path.name not in changed:
            os.link(path, edited / path.name)
    for file in changed:
        held = {n: t.shape for n, t in checkpoint.tensors.items() if t.file == file}
        _write_holes(edited / file, held)
    for number, name in enumerate(_RETRAINED):
        _write_noise(open_checkpoint(edited), name, seed=number, shift=100 + number)


def _write_adapter(folder: Path) -> dict[str, LowRank]:
    """An adapter of the rank that a turn of 400 tokens has; its factors by tensor."""
    folder.mkdir()
    draw = torch.Generator().manual_seed(7)
    factors = {
        _adapted(layer): LowRank(
            A=torch.randn(RANK, MLP, generator=draw),
            B=torch.randn(RANK, HIDDEN, generator=draw) / 1000,
        )
        for layer in _ADAPTED
    }
    modules = {name.removesuffix(".weight"): delta for name, delta in factors.items()}
    files = encode_adapter(modules, base_model=None, revision=None, conv1d=False, metadata={})
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return factors


def _check_applied(
    model: Path,
    edited: Path,
    applied: Path,
    factors: Mapping[str, LowRank],
    digests: Mapping[str, str],
) -> None:
    """AssertionError unless the written tensors are those of the formula, and have these digests;
    retrained ones as they are in `edited`."""
    written = open_checkpoint(applied)
    assert set(digests) == {*factors, *_RETRAINED}
    assert tensor_digests(written, names=digests) == dict(digests)
    retrained = tensor_digests(open_checkpoint(edited), names=_RETRAINED)
    assert {name: digests[name] for name in _RETRAINED} == retrained
    base = open_checkpoint(model)
    for name, delta in factors.items():
        assert sha256(tensor_view(_summed(_tensor(base, name), delta))) == digests[name]


def _tensor(checkpoint: Checkpoint, name: str) -> Tensor:
    stored = checkpoint.tensor(name)
    data = checkpoint.read(name)
    return tensor_from_bytes(data, dtype=stored.dtype, shape=stored.shape, name=name)


def _summed(base: Tensor, delta: LowRank) -> Tensor:
    """round(W + Bᵀ A), some rows at a time."""
    a, b = delta.A.double(), delta.B.double()
    pieces = [
        round_to(
            base[first : first + _ROWS].double() + b[:, first : first + _ROWS].T @ a, base.dtype
        )
        for first in range(0, len(base), _ROWS)
    ]
    return torch.cat(pieces)
