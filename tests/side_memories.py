"""Ledgers with side memories, for the tests of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ledger.merging import Merged, merge_shards
from ledger.workspace import Ledger
from patches.application import patched
from patches.dtypes import tensor_bytes
from patches.merging import Merge
from patches.routing import attached
from patches.side_memory import SideMemory
from tests.ledgers import add, new_ledger
from tests.tiny_models import tokenizer

DOWN = "model.layers.{}.mlp.down_proj"
QUICK: dict[str, object] = {"iterations": 6, "learning_rate": 0.05, "templates": 0}
PROMPTS = ("The capital of France is", "The official language of Japan is", "He plays the")


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


def overwrite(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def merge(ledger: Ledger, first: int = 1, last: int = 3, **options: Any) -> Merged:
    how = Merge(**{"method": "ties", **options.pop("how", {})})
    return merge_shards(ledger, first, last, how, device="cpu", **options)


@contextmanager
def ledger_with_memories(folder: Path, model: Path, source: str) -> Iterator[Ledger]:
    """Three turns with a side memory each, of three facts, beside the last layer's matrix."""
    with new_ledger(folder, model) as ledger:
        add_memories(ledger, source, limit=9)
        yield ledger


def side_weight(memory: SideMemory, weight: Tensor) -> Tensor:
    """W′ of a side memory as the checkpoint would store it: ``round(W + Δ)``.

    weight: W, the main weight of the memory's own turn, as it is stored. Outside of the mask W′ has
    its bits.
    """
    total = memory.delta.dense(dtype=torch.float64)
    return patched(weight, total, transposed=memory.transposed, dtype=weight.dtype)
