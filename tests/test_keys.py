"""Keys, against whole runs of one prompt at a time, and the most similar ones, against numpy."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from patches import keys as module
from patches.errors import ModelError, SettingError
from patches.keys import keys, nearest
from patches.modules import editable_modules
from patches.routing import attach, detach
from patches.tokens import Encoded, encode, encode_prompts
from tests.test_routing import ALWAYS, NEVER, memory
from tests.tiny_models import FACTS, FAMILIES, build, load, tokenizer

PROMPTS = [prompt for prompt, _ in FACTS]
DOWN = "model.layers.{}.mlp.down_proj"


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    folder = tmp_path_factory.mktemp(request.param)
    return load(build(folder, request.param, dtype=torch.float32))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return load(build(tmp_path_factory.mktemp("llama"), dtype=torch.float32))


def encoded() -> list[Encoded]:
    return encode_prompts(tokenizer(), PROMPTS)


@torch.inference_mode()
def plainly(model: nn.Module, prompt: str) -> dict[str, Tensor]:
    """The last input of every module in a whole run of one prompt."""
    seen: dict[str, Tensor] = {}

    def look(name: str, module: nn.Module) -> Any:
        return module.register_forward_pre_hook(
            lambda _module, inputs: seen.update({name: inputs[0]})
        )

    handles = [look(name, module) for name, module in editable_modules(model).items()]
    model(input_ids=torch.tensor([tokenizer()(prompt)["input_ids"]]))
    for handle in handles:
        handle.remove()
    return {name: found.reshape(-1, found.shape[-1])[-1] for name, found in seen.items()}


def test_keys_are_the_inputs_at_the_last_token_of_each_prompt_alone(model: nn.Module) -> None:
    alone = [plainly(model, prompt) for prompt in PROMPTS]
    for name in editable_modules(model):
        found = keys(model, name, encoded(), "cpu")
        expected = torch.stack([one[name] for one in alone])
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_answers_that_follow_the_prompts_do_not_show(llama: nn.Module) -> None:
    with_answers = encode(tokenizer(), PROMPTS, [answer for _, answer in FACTS])
    name = DOWN.format(1)
    assert torch.equal(keys(llama, name, with_answers, "cpu"), keys(llama, name, encoded(), "cpu"))


@pytest.mark.parametrize("tokens", [1, 20, 100_000])
def test_batching_does_not_show(
    llama: nn.Module, monkeypatch: pytest.MonkeyPatch, tokens: int
) -> None:
    expected = keys(llama, DOWN.format(2), encoded(), "cpu")
    monkeypatch.setattr(module, "_TOKENS_PER_BATCH", tokens)
    found = keys(llama, DOWN.format(2), encoded(), "cpu")
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_no_more_of_the_model_runs_than_it_takes_and_no_hook_is_left(llama: nn.Module) -> None:
    above = llama.get_submodule(DOWN.format(1))
    ran: list[object] = []
    handle = above.register_forward_hook(lambda *_: ran.append(1))
    keys(llama, DOWN.format(0), encoded(), "cpu")
    assert ran == []
    keys(llama, DOWN.format(2), encoded(), "cpu")
    assert ran
    handle.remove()
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in llama.modules())


def test_keys_of_a_narrow_model_are_float32_numbers(llama: nn.Module) -> None:
    expected = keys(llama, DOWN.format(0), encoded(), "cpu")
    llama.bfloat16()
    try:
        found = keys(llama, DOWN.format(0), encoded(), "cpu")
    finally:
        llama.float()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05)


def test_a_side_memory_below_is_routed_to_and_one_beside_does_not_show(llama: nn.Module) -> None:
    name = DOWN.format(2)
    plain = keys(llama, name, encoded(), "cpu")
    try:
        for threshold, changed in ((ALWAYS, True), (NEVER, False)):
            attach(llama, [memory(llama, threshold=threshold)])
            found = keys(llama, name, encoded(), "cpu")
            expected = torch.stack([plainly(llama, prompt)[name] for prompt in PROMPTS])
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
            assert torch.allclose(found, plain, rtol=1e-5, atol=1e-5) != changed
        attach(llama, [memory(llama, tensor=f"{name}.weight")])
        found = keys(llama, name, encoded(), "cpu")
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
    finally:
        detach(llama)


def test_no_prompts_have_no_keys(model: nn.Module) -> None:
    for name, key in plainly(model, "It is").items():
        assert keys(model, name, [], "cpu").shape == (0, len(key)), name


def test_what_has_no_keys_is_named(llama: nn.Module) -> None:
    with pytest.raises(ModelError, match=r"LlamaForCausalLM has no linear module model\.norm"):
        keys(llama, "model.norm", encoded(), "cpu")
    with pytest.raises(SettingError, match="a prompt without tokens has no key"):
        keys(llama, DOWN.format(0), [*encoded(), Encoded(ids=(), answer=())], "cpu")


def test_a_module_that_does_not_run_is_named(llama: nn.Module) -> None:
    llama.idle = nn.Linear(2, 2)
    try:
        with pytest.raises(ModelError, match="module idle did not run"):
            keys(llama, "idle", encoded(), "cpu")
    finally:
        del llama.idle


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 99),
    n=st.integers(0, 20),
    d=st.integers(1, 8),
    count=st.integers(0, 25),
)
def test_the_nearest_keys_are_those_of_the_largest_cosine(
    seed: int, n: int, d: int, count: int
) -> None:
    draw = torch.Generator().manual_seed(seed)
    query, many = torch.randn(d, generator=draw), torch.randn(n, d, generator=draw)
    found = nearest(query, many, count)
    a, b = query.double().numpy(), many.double().numpy()
    cosines = b @ a / np.linalg.norm(a) / np.linalg.norm(b, axis=1)
    assert [cosine for _, cosine in found] == pytest.approx(
        sorted(cosines, reverse=True)[:count], abs=1e-5
    )
    assert all(cosines[at] == pytest.approx(cosine, abs=1e-5) for at, cosine in found)
    assert len({at for at, _ in found}) == min(n, count)
    assert all(-1 <= cosine <= 1 for _, cosine in found)


def test_equal_keys_come_in_their_order_and_zeros_are_like_nothing() -> None:
    query = torch.tensor([3.0, 4.0])
    many = torch.stack([-query, torch.zeros(2), query * 2, query])
    found = nearest(query, many, 4)
    assert [at for at, _ in found] == [2, 3, 1, 0]
    assert [cosine for _, cosine in found] == pytest.approx([1, 1, 0, -1])
    assert nearest(torch.zeros(2), many, 1) == [(0, 0.0)]
