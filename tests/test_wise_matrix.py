"""What is recorded of prompts at WISE's matrix, and run again, is what each prompt gives alone."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from patches import replay
from patches.editors import wise_matrix
from patches.editors.last_layer import last_feed_forward, only_at
from patches.editors.wise_matrix import Lines, Matrix
from patches.errors import EditingError
from patches.packed import Row
from patches.side_memory import Form
from patches.tokens import Encoded, encode
from tests.tiny_models import FACTS, FAMILIES, build, load, tokenizer


def model_of(family: str, folder: Path) -> nn.Module:
    return load(build(folder, family, dtype=torch.float32))


def matrix_of(model: nn.Module, name: str, *, packed: bool | None = None) -> Matrix:
    made = Matrix(model, name, form=Form(name="paper"), device=torch.device("cpu"))
    if packed is not None:
        made.__dict__["_packable"] = packed
    return made


def lines_of_facts() -> list[Encoded]:
    """Also two that begin alike, up to the first label or with the whole prompt and that."""
    prompts, answers = zip(*FACTS, strict=True)
    more = encode(tokenizer(), [prompts[0], prompts[0]], ["Rome is Rome", "the Danube"])
    found = [*encode(tokenizer(), prompts, answers), *more]
    one = found[-1]
    return [*found, replace(one, answer=(*one.answer[:-1], one.answer[-1] + 1))]


def losses_and_gradient(
    matrix: Matrix, encoded: list[Encoded], delta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Of every sequence, of Σ loss with respect to Δ, and the activations, at this Δ."""
    losses, activations = [], []
    gradient = torch.zeros_like(delta)
    for lines in matrix.record_lines(encoded, told=str):
        change = (lines.prompts.inputs @ delta.T).requires_grad_()
        with matrix.computing(lines):
            losses.append(matrix.losses(lines, change, weight=1.0))
            torch.testing.assert_close(matrix.losses(lines, change.detach()), losses[-1])
        assert change.grad is not None
        gradient += change.grad.T @ lines.prompts.inputs
        activations.append(matrix.activations(lines.prompts, change.detach()))
    return torch.cat(losses), gradient, torch.cat(activations)


@pytest.mark.parametrize(
    ("family", "place"),
    [
        *((family, "layers.1.mlp") for family in FAMILIES if not family.startswith("gpt")),
        *(("llama", place) for place in ("layers.2.mlp", "layers.1.self_attn")),
        *(("gemma3", place) for place in ("layers.2.mlp", "layers.1.self_attn")),
    ],
)
def test_sequences_in_one_row_give_what_each_gives_alone(
    family: str, place: str, tmp_path: Path
) -> None:
    model = model_of(family, tmp_path)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    name = f"model.{place}.{'o_proj' if 'attn' in place else 'down_proj'}"
    weight = model.get_parameter(f"{name}.weight")
    delta = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)) * 0.1
    encoded = lines_of_facts()
    together = losses_and_gradient(matrix_of(model, name), encoded, delta)
    padded = matrix_of(model, name, packed=False)
    alone = [losses_and_gradient(padded, [one], delta) for one in encoded]
    torch.testing.assert_close(together[0], torch.cat([one[0] for one in alone]))
    gradient = torch.stack([one[1] for one in alone]).sum(0)
    torch.testing.assert_close(together[1], gradient, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(together[2], torch.cat([one[2] for one in alone]))
    for given, wanted in zip(losses_and_gradient(padded, encoded, delta), together, strict=True):
        torch.testing.assert_close(given, wanted, rtol=1e-3, atol=1e-5)


def test_a_common_beginning_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wise_matrix, "_REPLAYED_TOKENS", 1000)
    matrix = matrix_of(model_of("llama", tmp_path), "model.layers.1.mlp.down_proj")
    encoded = lines_of_facts()
    [lines] = matrix.record_lines(encoded, told=str)
    distinct = {one.ids[:end] for one in encoded for end in range(1, len(one.ids) + 1)}
    assert isinstance(lines.recorded.given, Row)
    assert len(lines.prompts.inputs) == len(distinct) < sum(len(one.ids) for one in encoded)


def test_parts_are_even_and_keep_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = matrix_of(model_of("llama", tmp_path), "model.layers.1.mlp.down_proj")
    encoded = lines_of_facts()
    monkeypatch.setattr(wise_matrix, "_REPLAYED_TOKENS", 1000)
    [whole] = matrix.record_lines(encoded, told=str)
    tokens = len(whole.prompts.inputs)
    monkeypatch.setattr(wise_matrix, "_REPLAYED_TOKENS", tokens // 2 + 1)
    parts = matrix.record_lines(encoded, told=str)
    assert len(parts) == 2
    longest = max(len(one.ids) for one in encoded)
    assert all(len(part.prompts.inputs) < tokens / 2 + longest for part in parts)
    assert sum(len(part.labels.counts) for part in parts) == len(encoded)


def test_the_part_around_the_matrix_is_not_kept_where_it_gives_the_same(tmp_path: Path) -> None:
    model = model_of("llama", tmp_path)

    def lines(name: str) -> Lines:
        return matrix_of(model, name).record_lines(lines_of_facts(), told=str)[0]

    inside = lines("model.layers.1.mlp.down_proj").recorded
    assert inside.part == "model.layers.1.mlp"
    assert not any(part.startswith("model.layers.1.mlp.") for part in inside.before)
    beside = lines("model.layers.1.mlp.up_proj").recorded
    assert beside.part == "model.layers.1.mlp.up_proj"
    assert "model.layers.1.mlp.gate_proj" in beside.before
    assert "model.layers.1.mlp.down_proj" not in beside.before
    called = replay.record(model, "model.layers.1.mlp.down_proj", inside.given)
    assert called.part == "model.layers.1.mlp.down_proj"


def test_the_sequence_whose_numbers_are_not_finite_is_told(tmp_path: Path) -> None:
    model = model_of("llama", tmp_path)
    encoded = lines_of_facts()
    broken = 5
    only = set(encoded[broken].ids) - {
        i for n, e in enumerate(encoded) if n != broken for i in e.ids
    }
    model.get_parameter("model.embed_tokens.weight").data[sorted(only)[0]] = float("nan")
    for packed in (True, False):
        matrix = matrix_of(model, "model.layers.1.mlp.down_proj", packed=packed)
        with pytest.raises(EditingError, match=f"sequence {broken} gives inputs that are not"):
            matrix.record_lines(encoded, told=lambda index: f"sequence {index}")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_feed_forward_part_gives_the_same_at_the_places_asked_for(
    family: str, tmp_path: Path
) -> None:
    model = model_of(family, tmp_path)
    name = last_feed_forward(model)
    assert name is not None
    assert "2" in name.split(".")
    ids = torch.tensor([encode(tokenizer(), [FACTS[0][0]], ["Rome"])[0].ids])
    places = torch.zeros(ids.shape, dtype=torch.bool)
    places[0, 1::2] = True
    with torch.no_grad():
        whole = model(input_ids=ids, use_cache=False).logits
        with only_at(model.get_submodule(name), places):
            some = model(input_ids=ids, use_cache=False).logits
        again = model(input_ids=ids, use_cache=False).logits
    torch.testing.assert_close(some[places], whole[places])
    assert not torch.allclose(some[~places], whole[~places])
    assert torch.equal(again, whole)
