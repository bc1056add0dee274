"""Running from a matrix on gives the bits of a whole run, for every architecture and matrix."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from patches import replay
from patches.errors import ModelError
from patches.modules import editable_modules
from patches.tokens import Batch, encode, pad
from tests.tiny_models import FACTS, FAMILIES, build, load, tokenizer

NAME = "model.layers.1.mlp.down_proj"


def batch() -> Batch:
    prompts, answers = zip(*FACTS, strict=True)
    return pad(encode(tokenizer(), prompts, answers))


def whole(model: nn.Module, name: str, given: Batch, change: Tensor) -> Tensor:
    """All logits, with `change` added to what the module gives."""
    handle = model.get_submodule(name).register_forward_hook(
        lambda _module, _inputs, output: output + change.reshape(output.shape)
    )
    logits: Tensor = model(
        input_ids=given.input_ids, attention_mask=given.attention_mask, use_cache=False
    ).logits
    handle.remove()
    return logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_replay_gives_the_bits_of_a_whole_run(family: str, tmp_path: Path) -> None:
    model = load(build(tmp_path, family, dtype=torch.float32))
    names = [name for name in editable_modules(model) if ".1." in name]
    assert len(names) > 3
    for name in names:
        recorded = replay.record(model, name, batch())
        change = torch.randn_like(recorded.outputs) * 0.1
        with torch.no_grad():
            expected = whole(model, name, batch(), change)
            with replay.replayed(model, name, recorded, recorded.outputs + change) as run:
                assert torch.equal(run().logits, expected), name


def test_gradients_of_the_outputs_are_those_of_a_whole_run(tmp_path: Path) -> None:
    model = load(build(tmp_path, dtype=torch.float32))
    recorded = replay.record(model, NAME, batch())
    first = torch.zeros_like(recorded.outputs, requires_grad=True)
    torch.autograd.backward(whole(model, NAME, batch(), first).square().mean())
    second = torch.zeros_like(recorded.outputs, requires_grad=True)
    with replay.replayed(model, NAME, recorded, recorded.outputs + second) as run:
        torch.autograd.backward(run().logits.square().mean())
    assert first.grad is not None
    assert second.grad is not None
    assert first.grad.abs().max() > 0
    assert torch.equal(first.grad, second.grad)


def test_inputs_and_outputs_are_those_of_the_matrix(tmp_path: Path) -> None:
    model = load(build(tmp_path, dtype=torch.float32))
    recorded = replay.record(model, NAME, batch())
    weight = model.get_parameter(f"{NAME}.weight")
    torch.testing.assert_close(recorded.inputs @ weight.T, recorded.outputs)


def test_layers_before_the_last_one_keep_no_numbers(tmp_path: Path) -> None:
    model = load(build(tmp_path, dtype=torch.float32))
    recorded = replay.record(model, "model.layers.2.mlp.down_proj", batch())
    [first] = recorded.before["model.layers.0"]
    [second] = recorded.before["model.layers.1"]
    assert first.is_meta
    assert not second.is_meta


def test_every_part_computes_again_afterwards_also_after_an_error(tmp_path: Path) -> None:
    model = load(build(tmp_path, dtype=torch.float32))
    given = batch()
    before = model(input_ids=given.input_ids, use_cache=False).logits
    recorded = replay.record(model, NAME, given)
    with (
        pytest.raises(KeyboardInterrupt),
        replay.replayed(model, NAME, recorded, recorded.outputs),
        replay.computing_in(model, recorded, torch.float64),
    ):
        raise KeyboardInterrupt
    assert all("forward" not in module.__dict__ for module in model.modules())
    assert torch.equal(model(input_ids=given.input_ids, use_cache=False).logits, before)


def test_computing_in_another_dtype_is_exact_and_leaves_the_weights_to_the_bit(
    tmp_path: Path,
) -> None:
    half, full = load(build(tmp_path)), load(tmp_path, torch.float32)
    before = {name: weight.clone() for name, weight in half.named_parameters()}
    recorded = replay.in_dtype(replay.record(full, NAME, batch()), torch.float32)
    with torch.no_grad():
        with replay.replayed(full, NAME, recorded, recorded.outputs) as run:
            expected = run().logits
        with (
            replay.computing_in(half, recorded, torch.float32),
            replay.replayed(half, NAME, recorded, recorded.outputs) as run,
        ):
            assert torch.equal(run().logits, expected)
    for name, weight in half.named_parameters():
        assert weight.dtype == torch.bfloat16
        assert torch.equal(weight, before[name])


def test_a_module_that_does_not_run_is_named(tmp_path: Path) -> None:
    model = load(build(tmp_path, dtype=torch.float32))
    model.add_module("idle", nn.Linear(2, 2))
    with pytest.raises(ModelError, match="module idle did not run on the prompts"):
        replay.record(model, "idle", batch())


class _InPlace(nn.Module):
    """A layer that changes what came before it."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor, **kwargs: object) -> Tensor:
        given: Tensor = self.layer(hidden, **kwargs)
        hidden += 1
        return given


def test_an_architecture_that_changes_kept_results_in_place_is_refused(tmp_path: Path) -> None:
    model = load(build(tmp_path, dtype=torch.float32))
    layers = model.get_submodule("model.layers")
    assert isinstance(layers, nn.ModuleList)
    layers[1] = _InPlace(layers[1])
    name = "model.layers.1.layer.mlp.down_proj"
    recorded = replay.record(model, name, batch())
    with (
        torch.no_grad(),
        pytest.raises(ModelError, match="changes intermediate results in place"),
        replay.replayed(model, name, recorded, recorded.outputs) as run,
    ):
        run()
