"""Routers: which sequence goes where, that nothing else changes, and that they leave no trace."""

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache

from patches import routing
from patches.deltas import Sparse
from patches.errors import ModelError, PatchError
from patches.modules import editable_modules
from patches.routing import MAIN, Router, attach, attached, bypassed, deciding_on, detach
from patches.side_memory import Activations, Routing, SideMemory
from tests.tiny_models import FAMILIES, build, load, tokenizer

NAME = "model.layers.1.mlp.down_proj"
TENSOR = f"{NAME}.weight"
OTHER = "model.layers.0.mlp.down_proj.weight"
PROMPTS = ("The capital of France is", "He plays the", "Who was the author of the book?")
NEVER, ALWAYS = 1e9, 1e-9


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("routing"), dtype=torch.float32)


@pytest.fixture
def model(folder: Path) -> nn.Module:
    return load(folder)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    yield
    torch.compiler.reset()


def memory(
    model: nn.Module,
    *,
    turn: int = 1,
    threshold: float = ALWAYS,
    tensor: str = TENSOR,
    seed: int = 0,
    main: Tensor | None = None,
    form: str = "paper",
    scale: float = 0.3,
) -> SideMemory:
    """A random memory beside `tensor`, whose activations any threshold can be compared with."""
    weight = dict(model.named_parameters())[tensor]
    transposed = tensor.endswith(("c_proj.weight", "c_fc.weight"))
    shape = tuple(weight.shape[::-1] if transposed else weight.shape)
    draw = torch.Generator().manual_seed(seed)
    matrix = torch.randn(shape, generator=draw) * scale
    return SideMemory(
        turn=turn,
        tensor=tensor,
        transposed=transposed,
        delta=Sparse.of(matrix, torch.rand(shape, generator=draw) < 0.3),
        routing=Routing(
            form=form,
            activation="silu" if form == "published" else None,
            threshold=threshold,
            main="0" * 64,
            edits=Activations.of([]),
            others=Activations.of([]),
        ),
        main=main,
    )


def padded(*prompts: str, left: bool = False) -> dict[str, Tensor]:
    ids = [tokenizer()(prompt)["input_ids"] for prompt in prompts]
    width = max(map(len, ids))
    rows, masks = [], []
    for row in ids:
        fill, real = [2] * (width - len(row)), [1] * len(row)
        none = [0] * len(fill)
        rows.append(fill + row if left else row + fill)
        masks.append(none + real if left else real + none)
    return {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(masks)}


@torch.inference_mode()
def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    found: Tensor = model(**inputs, use_cache=False).logits
    return found


def side_model(folder: Path, *memories: SideMemory) -> nn.Module:
    """A plain model whose weights are W′ of these memories, one per tensor."""
    model = load(folder)
    for one in memories:
        weight = dict(model.named_parameters())[one.tensor]
        delta = one.delta.dense(dtype=torch.float32)
        start = weight.data if one.main is None else one.main
        weight.data = start + (delta.T if one.transposed else delta)
    return model


def decided(model: nn.Module, tensor: str = TENSOR) -> routing.Decision:
    decision = attached(model)[tensor].decision
    assert decision is not None
    return decision


@torch.inference_mode()
def activation(model: nn.Module, one: SideMemory, prompt: str) -> float:
    """Mean over the prompt's tokens of ‖A(x) Δ‖, one prompt at a time."""
    seen: list[Tensor] = []
    weight = dict(model.named_parameters())[one.tensor]
    module = next(m for m in editable_modules(model).values() if m.weight is weight)
    handle = module.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with bypassed(model):
        logits(model, padded(prompt))
    handle.remove()
    change = seen[0][0] @ one.delta.dense(dtype=torch.float32).T
    return float(change.norm(dim=-1).mean())


def test_a_prompt_below_every_threshold_gets_the_bits_of_the_model_without_a_router(
    model: nn.Module,
) -> None:
    inputs = padded(*PROMPTS)
    plain = logits(model, inputs)
    attach(model, [memory(model, threshold=NEVER), memory(model, turn=2, threshold=NEVER, seed=1)])
    assert torch.equal(logits(model, inputs), plain)
    assert decided(model).routes == [MAIN] * 3


@pytest.mark.parametrize("materialise", [False, True])
def test_a_prompt_above_the_threshold_gets_what_the_side_weight_gives(
    model: nn.Module, folder: Path, materialise: bool
) -> None:
    one = memory(model)
    inputs = padded(*PROMPTS)
    expected = logits(side_model(folder, one), inputs)
    plain = logits(model, inputs)
    attach(model, [one], materialise=materialise)
    found = logits(model, inputs)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-4)
    assert (found[real] - plain[real]).abs().max() > 0.1
    assert decided(model).routes == [0, 0, 0]


@pytest.mark.parametrize("left", [False, True])
def test_activations_are_means_over_the_real_tokens_wherever_the_padding_is(
    model: nn.Module, left: bool
) -> None:
    memories = [memory(model), memory(model, turn=2, seed=1)]
    alone = [[activation(model, one, prompt) for one in memories] for prompt in PROMPTS]
    attach(model, memories)
    logits(model, padded(*PROMPTS, left=left))
    for row, expected in zip(decided(model).activations, alone, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("left", [False, True])
def test_sequences_of_one_batch_go_different_ways_and_each_gets_its_own(
    model: nn.Module, folder: Path, left: bool
) -> None:
    found = [activation(model, memory(model), prompt) for prompt in PROMPTS]
    order = sorted(range(3), key=lambda i: found[i])
    between = (found[order[0]] + found[order[1]]) / 2
    one = memory(model, threshold=between)
    plain = logits(model, padded(*PROMPTS, left=left))
    attach(model, [one])
    mixed = logits(model, padded(*PROMPTS, left=left))
    assert decided(model).routes == [MAIN if i == order[0] else 0 for i in range(3)]
    real = padded(*PROMPTS, left=left)["attention_mask"].bool()
    assert torch.equal(mixed[order[0]][real[order[0]]], plain[order[0]][real[order[0]]])
    side = side_model(folder, one)
    for row in order[1:]:
        expected = logits(side, padded(PROMPTS[row]))[0]
        torch.testing.assert_close(mixed[row][real[row]], expected, rtol=1e-3, atol=1e-3)


def test_the_memory_that_exceeds_its_own_threshold_most_wins(model: nn.Module) -> None:
    weak, strong = memory(model, scale=0.1), memory(model, turn=2, seed=1, scale=0.5)
    at = [activation(model, one, PROMPTS[0]) for one in (weak, strong)]
    assert at[0] < at[1]
    eager = memory(model, scale=0.1, threshold=at[0] / 3)
    reluctant = memory(model, turn=2, seed=1, scale=0.5, threshold=at[1] / 2)
    attach(model, [eager, reluctant])
    logits(model, padded(PROMPTS[0]))
    assert decided(model).routes == [0]


def test_an_answer_in_the_same_pass_does_not_decide(model: nn.Module) -> None:
    prompt, whole = padded(PROMPTS[0]), padded(f"{PROMPTS[0]} Michel Rocard and the Danube 1984")
    attach(model, [memory(model)])
    logits(model, prompt)
    alone = decided(model).activations
    logits(model, whole)
    assert decided(model).activations[0] != pytest.approx(alone[0])
    tokens = torch.arange(whole["input_ids"].shape[1]) < prompt["input_ids"].shape[1]
    with deciding_on(model, tokens[None]):
        logits(model, whole)
    assert decided(model).activations[0] == pytest.approx(alone[0], rel=1e-5)


@pytest.mark.parametrize("given_mask", [True, False])
def test_generation_holds_the_route_of_the_prompt(
    model: nn.Module, folder: Path, given_mask: bool
) -> None:
    one = memory(model)
    inputs = padded(PROMPTS[0])
    if not given_mask:
        del inputs["attention_mask"]
    expected = cast(Any, side_model(folder, one)).generate(**inputs, **GREEDY)
    plain = cast(Any, model).generate(**inputs, **GREEDY)
    attach(model, [one])
    router = attached(model)[TENSOR]
    decisions = count_decisions(router)
    assert torch.equal(cast(Any, model).generate(**inputs, **GREEDY), expected)
    assert not torch.equal(expected, plain)
    assert len(decisions) == 1


GREEDY: dict[str, Any] = {
    "max_new_tokens": 12,
    "do_sample": False,
    "pad_token_id": 2,
    "eos_token_id": None,
}


def count_decisions(router: Router) -> list[int]:
    """Grows by one whenever the router decides."""
    calls: list[int] = []
    decide = router._decide

    def counted(*arguments: Any) -> list[int]:
        calls.append(1)
        return decide(*arguments)

    router.__dict__["_decide"] = counted
    return calls


def test_a_batch_that_goes_different_ways_generates_what_each_prompt_generates_alone(
    model: nn.Module,
) -> None:
    found = [activation(model, memory(model), prompt) for prompt in PROMPTS]
    between = sum(sorted(found)[:2]) / 2
    attach(model, [memory(model, threshold=between)])
    alone = []
    for prompt in PROMPTS:
        inputs = padded(prompt)
        given = cast(Any, model).generate(**inputs, **GREEDY)
        alone.append(given[0, inputs["input_ids"].shape[1] :].tolist())
    inputs = padded(*PROMPTS, left=True)
    together = cast(Any, model).generate(**inputs, **GREEDY)
    assert together[:, inputs["input_ids"].shape[1] :].tolist() == alone


def test_two_generations_that_take_turns_keep_their_own_routes(model: nn.Module) -> None:
    low, high = sorted(PROMPTS, key=lambda p: activation(model, memory(model), p))[:2]
    between = sum(activation(model, memory(model), p) for p in (low, high)) / 2
    attach(model, [memory(model, threshold=between)])
    caches = {prompt: DynamicCache() for prompt in (low, high)}
    taken: dict[str, list[list[int]]] = {low: [], high: []}
    with torch.inference_mode():
        for prompt in (low, high):
            model(**padded(prompt), past_key_values=caches[prompt])
        for _ in range(2):
            for prompt in (low, high):
                result = model(input_ids=torch.tensor([[9]]), past_key_values=caches[prompt])
                taken[prompt].append(result.logits[0, -1].tolist())
    for prompt, expected in ((low, [MAIN]), (high, [0])):
        session = attached(model)[TENSOR].session
        assert session._by_cache[caches[prompt]] == {TENSOR: expected}


def test_a_cache_goes_on_only_with_the_sequences_that_it_was_made_for(model: nn.Module) -> None:
    attach(model, [memory(model)])
    cache = DynamicCache()
    model(**padded(PROMPTS[0]), past_key_values=cache)
    with pytest.raises(ModelError, match="3 sequences go on from a cache whose prompts were 1"):
        model(input_ids=torch.tensor([[9], [9], [9]]), past_key_values=cache)


def test_beams_of_one_prompt_take_its_route(model: nn.Module, folder: Path) -> None:
    one = memory(model)
    expected = cast(Any, side_model(folder, one)).generate(
        **padded(PROMPTS[0]), **GREEDY, num_beams=3
    )
    attach(model, [one])
    found = cast(Any, model).generate(**padded(PROMPTS[0]), **GREEDY, num_beams=3)
    assert torch.equal(found, expected)


def test_detaching_leaves_the_very_modules_and_no_hook(model: nn.Module) -> None:
    before = dict(model.named_modules())
    names = [name for name, _ in model.named_parameters()]
    plain = logits(model, padded(*PROMPTS))
    attach(model, [memory(model), memory(model, tensor=OTHER)])
    assert isinstance(model.get_submodule(NAME), Router)
    assert [name for name, _ in model.named_parameters()] == names
    assert set(model.state_dict()) == set(names)
    detach(model)
    after = dict(model.named_modules())
    assert list(after) == list(before)
    assert all(after[name] is module for name, module in before.items())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert torch.equal(logits(model, padded(*PROMPTS)), plain)


def test_routers_in_two_layers_decide_for_themselves(model: nn.Module, folder: Path) -> None:
    first = memory(model, tensor=OTHER, seed=5)
    both = side_model(folder, first, memory(model))
    one = side_model(folder, first)
    inputs = padded(*PROMPTS)
    real = inputs["attention_mask"].bool()
    attach(model, [memory(model, threshold=NEVER), first])
    torch.testing.assert_close(
        logits(model, inputs)[real], logits(one, inputs)[real], rtol=1e-4, atol=1e-4
    )
    assert decided(model).routes == [MAIN] * 3
    assert decided(model, OTHER).routes == [0] * 3
    attach(model, [memory(model), first])
    torch.testing.assert_close(
        logits(model, inputs)[real], logits(both, inputs)[real], rtol=1e-4, atol=1e-4
    )


def test_a_memory_of_another_main_weight_brings_it_along(model: nn.Module, folder: Path) -> None:
    then = dict(model.named_parameters())[TENSOR].data + 0.05
    one = memory(model, main=then)
    expected = logits(side_model(folder, one), padded(*PROMPTS))
    attach(model, [one])
    real = padded(*PROMPTS)["attention_mask"].bool()
    found = logits(model, padded(*PROMPTS))
    torch.testing.assert_close(found[real], expected[real], rtol=1e-4, atol=1e-4)


def test_the_published_form_compares_what_the_activation_function_gives(model: nn.Module) -> None:
    one = memory(model, form="published")
    prompt = padded(PROMPTS[0])
    seen: list[Tensor] = []
    module = model.get_submodule(NAME)
    handle = module.register_forward_hook(lambda _m, inputs, output: seen.extend([*inputs, output]))
    logits(model, prompt)
    handle.remove()
    change = seen[0] @ one.delta.dense(dtype=torch.float32).T
    silu = nn.functional.silu
    expected = (silu(seen[1] + change) - silu(seen[1])).norm(dim=-1).mean()
    attach(model, [one])
    logits(model, prompt)
    assert decided(model).activations[0] == pytest.approx([expected.item()], rel=1e-4)


def test_bypassed_is_the_model_without_routers(model: nn.Module) -> None:
    plain = logits(model, padded(*PROMPTS))
    attach(model, [memory(model)])
    with bypassed(model):
        assert torch.equal(logits(model, padded(*PROMPTS)), plain)
        assert attached(model)[TENSOR].decision is None
    assert not torch.equal(logits(model, padded(*PROMPTS)), plain)


def test_moving_and_casting_the_model_reaches_the_module_inside(model: nn.Module) -> None:
    attach(model, [memory(model)])
    inputs = padded(*PROMPTS)
    before = logits(model, inputs)
    model.to(torch.float64)
    router = attached(model)[TENSOR]
    assert router.weight is router.module.weight
    assert router.module.weight.dtype == torch.float64
    real = inputs["attention_mask"].bool()
    found = logits(model, inputs)
    torch.testing.assert_close(found[real].float(), before[real], rtol=1e-4, atol=1e-4)


def test_a_copy_of_the_model_has_routers_of_its_own(model: nn.Module) -> None:
    attach(model, [memory(model)])
    expected = logits(model, padded(*PROMPTS))
    copied = copy.deepcopy(model)
    detach(model)
    assert torch.equal(logits(copied, padded(*PROMPTS)), expected)


def test_a_model_in_bfloat16_is_routed(tmp_path: Path) -> None:
    half = load(build(tmp_path / "half"))
    attach(half, [memory(half, scale=0.5)])
    found = logits(half, padded(*PROMPTS))
    assert found.dtype == torch.bfloat16
    assert decided(half).routes == [0, 0, 0]
    with bypassed(half):
        assert not torch.equal(logits(half, padded(*PROMPTS)), found)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_architecture_is_routed_and_left_as_it_was(family: str, tmp_path: Path) -> None:
    folder = build(tmp_path, family, dtype=torch.float32)
    model = load(folder)
    names = [n for n in editable_modules(model) if ".1." in n and "mlp" in n]
    tensor = f"{names[-1]}.weight"
    one = memory(model, tensor=tensor)
    inputs = padded(*PROMPTS)
    real = inputs["attention_mask"].bool()
    plain = logits(model, inputs)
    expected = logits(side_model(folder, one), inputs)
    attach(model, [one])
    torch.testing.assert_close(logits(model, inputs)[real], expected[real], rtol=1e-3, atol=1e-3)
    given = cast(Any, model).generate(**padded(PROMPTS[0]), **GREEDY)
    assert torch.equal(
        given, cast(Any, side_model(folder, one)).generate(**padded(PROMPTS[0]), **GREEDY)
    )
    detach(model)
    assert torch.equal(logits(model, inputs), plain)


@pytest.mark.usefixtures("fresh_compiler")
def test_a_compiled_model_is_refused_with_what_to_do(model: nn.Module) -> None:
    compiled = cast(nn.Module, torch.compile(model, backend="eager"))
    with pytest.raises(ModelError, match=r"compiled.*apply the state first and compile then"):
        attach(compiled, [memory(model)])
    model.compile(backend="eager")
    with pytest.raises(ModelError, match="compiled"):
        attach(model, [memory(model)])


@pytest.mark.usefixtures("fresh_compiler")
def test_a_model_that_is_compiled_after_routing_still_routes(tmp_path: Path) -> None:
    model = load(build(tmp_path, dtype=torch.float32, num_hidden_layers=1))
    attach(model, [memory(model, tensor=OTHER)])
    expected = logits(model, padded(*PROMPTS))
    compiled = cast(nn.Module, torch.compile(model, backend="eager"))
    torch.testing.assert_close(logits(compiled, padded(*PROMPTS)), expected)
    assert decided(model, OTHER).routes == [0, 0, 0]


def test_an_offloaded_matrix_is_refused_and_the_model_left_alone(model: nn.Module) -> None:
    one = memory(model)
    module = cast(nn.Linear, model.get_submodule(NAME))
    module.weight = nn.Parameter(module.weight.to("meta"))
    with pytest.raises(ModelError, match="offloaded; load the model onto devices"):
        attach(model, [one])
    assert model.get_submodule(NAME) is module


def test_a_model_placed_by_a_device_map_is_routed(model: nn.Module, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    placed: nn.Module = AutoModelForCausalLM.from_pretrained(folder, device_map={"": "cpu"})
    attach(model, [memory(model)])
    attach(placed, [memory(placed)])
    assert torch.equal(logits(placed, padded(*PROMPTS)), logits(model, padded(*PROMPTS)))


def test_a_memory_of_another_shape_is_refused(model: nn.Module) -> None:
    one = memory(model)
    wrong = SideMemory(
        turn=1,
        tensor=TENSOR,
        transposed=False,
        delta=Sparse.of(torch.ones(4, 4), torch.ones(4, 4, dtype=torch.bool)),
        routing=one.routing,
    )
    with pytest.raises(PatchError, match=r"turn 1 is \(4, 4\).*trained on this model"):
        attach(model, [wrong])
    assert attached(model) == {}


def test_a_mask_that_cannot_tell_padding_is_refused(model: nn.Module) -> None:
    attach(model, [memory(model)])
    ids = padded(PROMPTS[0])["input_ids"]
    with pytest.raises(ModelError, match="an attention mask of two dimensions"):
        model(input_ids=ids, attention_mask=torch.ones(1, 1, ids.shape[1], ids.shape[1]))
