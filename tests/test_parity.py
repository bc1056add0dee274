"""Against a recorded run of the published UltraEdit code on a real model, in float32.

Set LEDGER_PARITY to the folder with ``ultraedit.json`` and ``ultraedit.safetensors``, and
LEDGER_DATA to the one with ``counterfact-2000.json``.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypedDict

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoTokenizer

from patches.checkpoint import open_checkpoint
from patches.editors import statistics
from patches.editors.capturing import Captured, capture
from patches.editors.statistics import Statistics
from patches.editors.ultraedit import UltraEditSettings, shift
from patches.modules import Target, targets_for
from patches.patch import Change
from patches.tokens import IGNORED, Encoded, batches, encode, pad
from tests.tiny_models import load

pytestmark = [pytest.mark.real]

KEYS_AND_GRADIENTS, STATISTICS = 1e-4, 1e-5
# The published float32 solve is itself 2e-4 off its float64 value for down projections.
DOWN_PROJECTIONS, OTHERS = 1e-3, 1e-4


class ReferenceBatch(TypedDict):
    rows: list[int]
    input_ids: list[list[int]]
    attention_mask: list[list[int]]
    labels: list[list[int]]


class ReferenceTurn(TypedDict):
    rows: list[int]
    order_after_sort: list[int]
    batches: list[ReferenceBatch]


class Reference(TypedDict):
    turns: list[ReferenceTurn]
    edit_modules: list[str]
    lr: float
    batch_size: int
    model_sha256: str


class Row(TypedDict):
    prompt: str
    target_new: str


@dataclass(frozen=True, kw_only=True)
class Ours:
    """One turn as this program computes it; statistics after it."""

    captured: Mapping[str, Captured]
    lifelong: Statistics
    changes: Mapping[str, Change]


def folder_in(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names the folder with the reference material")
    return Path(value)


@pytest.fixture(scope="module")
def parity() -> Path:
    return folder_in("LEDGER_PARITY")


@pytest.fixture(scope="module")
def reference(parity: Path) -> Reference:
    content: Reference = json.loads((parity / "ultraedit.json").read_text())
    return content


@pytest.fixture(scope="module")
def recorded(parity: Path) -> dict[str, Tensor]:
    with safe_open(parity / "ultraedit.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)


@pytest.fixture(scope="module")
def model_folder(parity: Path) -> Path:
    assert parity.is_dir()
    folder = Path(os.environ.get("LEDGER_TEST_MODEL") or ".demo/smollm2")
    if not folder.is_dir():
        pytest.skip(f"no model in {folder}: run `make model`, or set LEDGER_TEST_MODEL")
    return folder


def sequences(batch: ReferenceBatch) -> Iterator[Encoded]:
    """What the reference fed to the model, without its padding."""
    for ids, mask, labels in zip(
        batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True
    ):
        yield Encoded(
            ids=tuple(ids[: sum(mask)]),
            answer=tuple(label for label in labels if label != IGNORED),
        )


def in_order_of_rows(turn: ReferenceTurn) -> list[Encoded]:
    """The turn's sequences as they stand in the data, before anything is sorted."""
    by_row = {
        row: item
        for batch in turn["batches"]
        for row, item in zip(batch["rows"], sequences(batch), strict=True)
    }
    return [by_row[row] for row in turn["rows"]]


@pytest.fixture(scope="module")
def model(model_folder: Path) -> nn.Module:
    return load(model_folder, torch.float32)


@pytest.fixture(scope="module")
def ours(
    model: nn.Module, model_folder: Path, reference: Reference, recorded: Mapping[str, Tensor]
) -> list[Ours]:
    """Both turns. The second runs on the model that the reference's first shifts have made."""
    settings = UltraEditSettings(
        modules=tuple(reference["edit_modules"]),
        learning_rate=reference["lr"],
        batch_size=reference["batch_size"],
        variance="published",
    )
    targets = targets_for(model, open_checkpoint(model_folder), settings.modules)
    lifelong: Statistics = {}
    turns = []
    for number, turn in enumerate(reference["turns"]):
        captured, moments, _ = capture(
            model,
            targets,
            in_order_of_rows(turn),
            batch_size=settings.batch_size,
            everywhere=False,
            device="cpu",
        )
        lifelong = statistics.merged(lifelong, moments)
        changes = shift(captured, targets, lifelong, settings)
        turns.append(Ours(captured=captured, lifelong=lifelong, changes=changes))
        _apply(targets, recorded, number)
    return turns


def _apply(targets: Sequence[Target], recorded: Mapping[str, Tensor], number: int) -> None:
    for target in targets:
        weight = target.module.get_parameter("weight")
        with torch.no_grad():
            weight.add_(recorded[f"turn{number}/{target.name}/param_shift"].T)


def distance(one: Tensor, reference: Tensor) -> float:
    """Relative Frobenius norm of the difference."""
    exact = reference.double()
    return float((one.double() - exact).norm() / exact.norm())


def test_the_model_is_the_one_of_the_reference(model_folder: Path, reference: Reference) -> None:
    with (model_folder / "model.safetensors").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == reference["model_sha256"]


@pytest.mark.parametrize("turn", [0, 1])
def test_batches_are_those_of_the_published_code(reference: Reference, turn: int) -> None:
    expected = reference["turns"][turn]["batches"]
    items = in_order_of_rows(reference["turns"][turn])
    for indices, wanted in zip(batches(items, reference["batch_size"]), expected, strict=True):
        batch = pad([items[i] for i in indices])
        assert batch.input_ids.tolist() == wanted["input_ids"]
        assert batch.attention_mask.tolist() == wanted["attention_mask"]
        assert batch.labels.tolist() == wanted["labels"]


@pytest.mark.parametrize("turn", [0, 1])
def test_keys_and_gradients_are_those_of_the_published_code(
    ours: list[Ours], recorded: Mapping[str, Tensor], reference: Reference, turn: int
) -> None:
    for name in reference["edit_modules"]:
        seen = ours[turn].captured[name]
        assert distance(seen.keys, recorded[f"turn{turn}/{name}/keys"]) < KEYS_AND_GRADIENTS
        gradients = recorded[f"turn{turn}/{name}/values_grad"]
        assert distance(seen.gradients, gradients) < KEYS_AND_GRADIENTS


@pytest.mark.parametrize("turn", [0, 1])
def test_statistics_are_those_of_the_published_code(
    ours: list[Ours], recorded: Mapping[str, Tensor], turn: int
) -> None:
    assert len(ours[turn].lifelong) == 2
    for group, moments in ours[turn].lifelong.items():
        place = f"turn{turn}/norm/({group.replace('x', ', ')})"
        assert moments.count == recorded[f"{place}/n"].item()
        assert distance(moments.mean, recorded[f"{place}/mean"]) < STATISTICS
        assert distance(moments.deviation("published"), recorded[f"{place}/std"]) < STATISTICS


@pytest.mark.parametrize("turn", [0, 1])
def test_shifts_are_those_of_the_published_code(
    ours: list[Ours], recorded: Mapping[str, Tensor], reference: Reference, turn: int
) -> None:
    for name in reference["edit_modules"]:
        delta = ours[turn].changes[f"{name}.weight"].delta
        total = torch.zeros(delta.shape, dtype=torch.float64)
        delta.add_to(total)
        limit = DOWN_PROJECTIONS if name.endswith("down_proj") else OTHERS
        assert distance(total.T, recorded[f"turn{turn}/{name}/param_shift"]) < limit


def test_prompts_are_tokenised_as_the_published_code_does(
    reference: Reference, model_folder: Path
) -> None:
    rows: list[Row] = json.loads((folder_in("LEDGER_DATA") / "counterfact-2000.json").read_text())
    expected = list(chain.from_iterable(in_order_of_rows(turn) for turn in reference["turns"]))
    chosen = rows[: len(expected)]
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    encoded = encode(
        tokenizer, [row["prompt"] for row in chosen], [row["target_new"] for row in chosen]
    )
    assert len(encoded) == 40
    assert encoded == expected
