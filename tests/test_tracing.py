"""Keys and gradients of a trace, against a plain run of the whole model, for every architecture."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from patches.errors import ModelError
from patches.label_losses import output_head
from patches.modules import editable_modules
from patches.tokens import IGNORED, Batch, Encoded, encode, pad
from patches.tracing import Trace, logits_only_at, trace
from tests.tiny_models import FACTS, FAMILIES, build, load, tokenizer

TOLERANCE = 1e-5
ONE_TOKEN = slice(3, 4)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    folder = tmp_path_factory.mktemp(request.param)
    return load(build(folder, request.param, dtype=torch.float32))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return load(build(tmp_path_factory.mktemp("llama"), dtype=torch.float32))


def encoded(facts: slice = slice(None)) -> list[Encoded]:
    chosen = FACTS[facts]
    return encode(tokenizer(), [prompt for prompt, _ in chosen], [answer for _, answer in chosen])


def inner_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear module but the output head."""
    head = output_head(model)
    return {name: found for name, found in editable_modules(model).items() if found is not head}


def plain(
    model: nn.Module, modules: dict[str, nn.Module], batch: Batch, *, summed: bool = False
) -> Trace:
    """Of every position (b, t): a full forward, all logits, a full backward."""
    keys: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    sizes: dict[str, Tensor] = {}

    def look(name: str, module: nn.Module) -> list[Any]:
        def forward(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            keys[name] = inputs[0].detach().clone()
            sizes[name] = output.detach().norm(dim=-1)

        def backward(_module: nn.Module, _inputs: object, outputs: Any) -> None:
            gradients[name] = outputs[0].detach().clone()

        return [
            module.register_forward_hook(forward),
            module.register_full_backward_hook(backward),
        ]

    handles = [handle for name, module in modules.items() for handle in look(name, module)]
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    wanted = batch.labels != IGNORED
    losses = functional.cross_entropy(logits[wanted], batch.labels[wanted], reduction="none")
    torch.autograd.backward(losses.sum() if summed else losses.mean())
    for handle in handles:
        handle.remove()
    model.zero_grad()
    return Trace(keys=keys, gradients=gradients, sizes=sizes, losses=losses.detach())


def check_equal(seen: Trace, expected: Trace, positions: Tensor) -> None:
    torch.testing.assert_close(seen.losses, expected.losses, rtol=TOLERANCE, atol=TOLERANCE)
    assert seen.loss == pytest.approx(expected.losses.mean().item(), abs=TOLERANCE)
    assert seen.keys.keys() == seen.gradients.keys() == expected.keys.keys()
    for name, keys in seen.keys.items():
        torch.testing.assert_close(
            keys, expected.keys[name][positions], rtol=TOLERANCE, atol=TOLERANCE
        )
        sizes = expected.sizes[name][positions]
        torch.testing.assert_close(seen.sizes[name], sizes, rtol=TOLERANCE, atol=TOLERANCE)
        gradients = expected.gradients[name][positions]
        assert gradients.any()
        torch.testing.assert_close(
            seen.gradients[name],
            gradients,
            rtol=TOLERANCE,
            atol=TOLERANCE * gradients.abs().max().item(),
        )


@pytest.mark.parametrize(
    "facts", [slice(None), slice(2, 3), ONE_TOKEN], ids=["all", "row", "token"]
)
def test_a_trace_equals_a_full_backward_of_the_whole_model(model: nn.Module, facts: slice) -> None:
    batch = pad(encoded(facts))
    modules = inner_modules(model)
    expected = plain(model, modules, batch)
    labels, everywhere = batch.labels != IGNORED, batch.attention_mask.bool()
    check_equal(trace(model, modules, batch), expected, labels)
    check_equal(trace(model, modules, batch, everywhere=True), expected, everywhere)


def test_rows_come_sequence_by_sequence_as_if_each_were_alone(model: nn.Module) -> None:
    modules = inner_modules(model)
    items = encoded()
    together = trace(model, modules, pad(items))
    alone = [trace(model, modules, pad([item])) for item in items]
    assert together.keys.keys() == modules.keys()
    for name, keys in together.keys.items():
        one_by_one = torch.cat([single.keys[name] for single in alone])
        torch.testing.assert_close(keys, one_by_one, rtol=TOLERANCE, atol=TOLERANCE)


def test_logits_at_positions_are_those_of_a_full_run(model: nn.Module) -> None:
    batch = pad(encoded())
    wanted = batch.labels != IGNORED
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with torch.inference_mode():
        full = model(**inputs).logits
        with logits_only_at(model, wanted):
            some = model(**inputs).logits
        after = model(**inputs).logits
    assert some.shape == (1, int(wanted.sum()), full.shape[-1])
    torch.testing.assert_close(some[0], full[wanted], rtol=TOLERANCE, atol=TOLERANCE)
    assert torch.equal(after, full)


def test_the_low_cap_of_the_soft_capping_model_is_applied(tmp_path: Path) -> None:
    """Else the test above would prove nothing for such models."""
    model = load(build(tmp_path, "gemma2", dtype=torch.float32))
    ids = torch.tensor([[5, 6, 7]])
    capped = model(input_ids=ids).logits
    object.__setattr__(model.config, "final_logit_softcapping", None)
    assert not torch.allclose(model(input_ids=ids).logits, capped, atol=1e-2)
    assert capped.abs().max() < 2


@pytest.mark.parametrize("everywhere", [False, True])
def test_the_output_head_itself_can_be_traced(model: nn.Module, everywhere: bool) -> None:
    batch = pad(encoded())
    (name,) = editable_modules(model).keys() - inner_modules(model).keys()
    modules = {name: output_head(model)}
    expected = plain(model, modules, batch)
    seen = trace(model, modules, batch, everywhere=everywhere)
    check_equal(seen, expected, batch.labels != IGNORED)


def test_no_weight_gets_a_gradient_and_each_asks_as_before(model: nn.Module) -> None:
    weights = list(model.parameters())
    for at, weight in enumerate(weights):
        weight.requires_grad_(at % 2 == 0)
    try:
        trace(model, inner_modules(model), pad(encoded()))
        assert [weight.requires_grad for weight in weights] == [
            at % 2 == 0 for at in range(len(weights))
        ]
        assert all(weight.grad is None for weight in weights)
    finally:
        model.requires_grad_(True)


def test_a_frozen_model_is_traced_like_any_other(model: nn.Module) -> None:
    modules = inner_modules(model)
    batch = pad(encoded())
    expected = trace(model, modules, batch)
    model.requires_grad_(False)
    try:
        with torch.no_grad():
            seen = trace(model, modules, batch)
    finally:
        model.requires_grad_(True)
    for name in modules:
        assert torch.equal(seen.gradients[name], expected.gradients[name])


def test_an_error_leaves_no_hook_and_no_frozen_weight_behind(llama: nn.Module) -> None:
    batch = pad(encoded())
    beyond = Batch(
        input_ids=batch.input_ids + 10**6,
        attention_mask=batch.attention_mask,
        labels=batch.labels,
    )
    with pytest.raises(IndexError):
        trace(llama, inner_modules(llama), beyond)
    assert all(weight.requires_grad for weight in llama.parameters())
    assert all(
        not found._forward_hooks and not found._forward_pre_hooks for found in llama.modules()
    )


def test_a_module_that_does_not_run_is_named(llama: nn.Module) -> None:
    with pytest.raises(ModelError, match="module idle did not run"):
        trace(llama, {"idle": nn.Linear(2, 2)}, pad(encoded()))


def test_a_module_that_does_not_reach_the_loss_is_named(llama: nn.Module) -> None:
    side = nn.Linear(32, 32)

    def run_beside(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        side(output)

    handle = llama.get_submodule("model.embed_tokens").register_forward_hook(run_beside)
    try:
        with pytest.raises(ModelError, match="the loss does not depend on module side"):
            trace(llama, {"side": side}, pad(encoded()))
    finally:
        handle.remove()


def test_a_model_without_an_output_head_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear has no output embeddings"):
        output_head(nn.Linear(2, 2))
