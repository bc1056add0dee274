"""A packed run gives what a padded one gives, for every architecture that is said to."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from patches.label_losses import head_is_last, label_losses, output_head
from patches.modules import editable_modules
from patches.packed import PACKABLE, pack, packable, tree
from patches.packed_attention import Kept, ReachedError, attending
from patches.packed_tracing import parts, trace_part, traceable
from patches.tokens import Encoded, pad
from patches.tracing import Trace, trace

VOCABULARY = 96
_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OTHERWISE: dict[str, dict[str, Any]] = {
    # A window shorter than the sequences, and caps so low that they show.
    "gemma2": {
        "sliding_window": 4,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 5.0,
        "final_logit_softcapping": 2.0,
    },
    "gemma3_text": {"sliding_window": 4, "query_pre_attn_scalar": 8},
    "mistral": {"sliding_window": 4},
    "granite": {"logits_scaling": 3.0, "attention_multiplier": 0.2},
    "mixtral": {"num_local_experts": 3},
    "gpt2": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "gpt_neox": {"rotary_pct": 0.5},
}
_LENGTHS = ((9, 3), (9, 3), (2, 1), (12, 1), (1, 4), (25, 2), (9, 2))
"""Of prompt and answer; the first ones begin alike."""


def build(family: str) -> nn.Module:
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, **{**_SIZES, **_OTHERWISE.get(family, {})})
    model: nn.Module = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def edits() -> list[Encoded]:
    draw = torch.Generator().manual_seed(2)

    def some(count: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (count,), generator=draw).tolist()

    shared = some(30)
    found = []
    for number, (prompt, answer) in enumerate(_LENGTHS):
        common = min(prompt, number + 2)
        told = some(answer)
        ids = (*shared[:common], *some(prompt - common), *told[:-1])
        found.append(Encoded(ids=ids, answer=tuple(told)))
    return [*found, found[0]]


@pytest.fixture(scope="module", params=sorted(PACKABLE))
def model(request: pytest.FixtureRequest) -> nn.Module:
    return build(request.param)


def inner_modules(model: nn.Module) -> dict[str, nn.Module]:
    head = output_head(model)
    return {name: found for name, found in editable_modules(model).items() if found is not head}


def padded(model: nn.Module, modules: dict[str, nn.Module], weights: Sequence[float]) -> Trace:
    """Sequence by sequence, each loss with its weight."""
    traces = []
    for one, weight in zip(edits(), weights, strict=True):
        seen = trace(model, modules, pad([one]), summed=True, others=True)
        scaled = {name: some * weight for name, some in seen.gradients.items()}
        traces.append((seen, scaled))

    def cat(pick: Any) -> dict[str, Tensor]:
        return {name: torch.cat([pick(one)[name] for one in traces]) for name in modules}

    return Trace(
        keys=cat(lambda one: one[0].keys),
        gradients=cat(lambda one: one[1]),
        sizes=cat(lambda one: one[0].sizes),
        losses=torch.cat([seen.losses for seen, _ in traces]),
        others=cat(lambda one: one[0].others),
    )


def test_keys_gradients_and_losses_are_those_of_each_sequence_alone(model: nn.Module) -> None:
    modules = inner_modules(model)
    found = edits()
    weights = [1.0, 0.5, 2.0, 1.0, 0.25, 1.0, 3.0, 1.0]
    expected = padded(model, modules, weights)
    [part] = parts(found, 10_000, "cpu")
    if not traceable(model, modules):
        assert not head_is_last(model)
        return
    own = torch.tensor(weights)[torch.tensor(part.indices)]
    lengths = torch.tensor([len(found[i].answer) for i in part.indices])
    seen = trace_part(model, modules, part, own.repeat_interleave(lengths), others=True)
    rows = _rows([len(one.answer) for one in found], part.indices)
    before = _rows([one.first for one in found], part.indices)
    torch.testing.assert_close(seen.losses, expected.losses[rows], rtol=1e-4, atol=1e-5)
    for name in modules:
        _close(seen.keys[name], expected.keys[name][rows])
        _close(seen.gradients[name], expected.gradients[name][rows])
        _close(seen.sizes[name], expected.sizes[name][rows])
        _close(seen.others[name], expected.others[name][before])


def _close(found: Tensor, expected: Tensor) -> None:
    scale = float(expected.abs().max())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * max(scale, 1e-3))


def _rows(lengths: Sequence[int], order: Sequence[int]) -> Tensor:
    starts = [sum(lengths[:i]) for i in range(len(lengths))]
    return torch.tensor([r for i in order for r in range(starts[i], starts[i] + lengths[i])])


def test_hidden_states_of_a_tree_are_those_of_each_sequence_alone(model: nn.Module) -> None:
    decoder = model.get_decoder()  # type: ignore[operator]
    sequences = [one.ids for one in edits()]
    row, nodes = tree(sequences)
    assert len(row) < sum(map(len, sequences))
    with torch.no_grad(), attending(model, row) as given:
        found = decoder(**given).last_hidden_state[0]
        for ids, path in zip(sequences, nodes, strict=True):
            alone = found[list(path)]
            assert alone.shape == (len(ids), 32)
    for ids, path in zip(sequences, nodes, strict=True):
        with torch.no_grad():
            expected = decoder(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0]
        _close(found[list(path)], expected)


def attentions(model: nn.Module) -> list[Any]:
    configs: list[Any] = [getattr(module, "config", None) for module in model.modules()]
    return [config._attn_implementation for config in configs if config is not None]


def test_every_attention_is_as_before_afterwards(model: nn.Module) -> None:
    ids = torch.tensor([edits()[3].ids])
    before = attentions(model)
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        packed = pack([(3, 4, 5)], [2])
        assert packed.beginnings is not None
        run = attending(model, packed.beginnings, keep=Kept(), to_the_end=False)
        with pytest.raises(ReachedError), run as given:
            model(**given)
        assert torch.equal(model(input_ids=ids).logits, expected)
    assert attentions(model) == before


def test_an_architecture_that_nobody_has_tested_is_not_packed() -> None:
    config = AutoConfig.for_model("gptj", n_embd=32, n_layer=1, n_head=2, rotary_dim=8)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    assert not packable(model)
    assert not traceable(model, {})


def test_parts_hold_every_sequence_once_and_are_about_as_large_as_asked_for() -> None:
    found = edits()
    longest = max(len(one.ids) for one in found)
    several = list(parts(found, 20, "cpu"))
    assert sorted(i for part in several for i in part.indices) == list(range(len(found)))
    assert len(several) > 2
    for part in several:
        assert sum(len(found[i].ids) for i in part.indices) <= 20 + longest
        assert len(part.pack.rest) == len(part.labels)


@pytest.mark.parametrize("bias", [False, True])
def test_losses_in_pieces_are_those_of_all_logits(bias: bool) -> None:
    torch.manual_seed(0)
    head = nn.Linear(16, 20_000, bias=bias)
    hidden = torch.randn(300, 16, requires_grad=True)
    labels, weights = torch.randint(0, 20_000, (300,)), torch.rand(300)
    expected = nn.functional.cross_entropy(head(hidden), labels, reduction="none")
    torch.autograd.backward((expected * weights).sum())
    losses, gradient = label_losses(head, hidden.detach(), labels, weights)
    assert gradient is not None
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient, hidden.grad, rtol=1e-4, atol=1e-6)
    assert label_losses(head, hidden.detach(), labels)[1] is None


def test_a_window_and_caps_matter_in_these_models() -> None:
    """Else the tests above would say nothing of them."""
    for family, name, other in (
        ("gemma2", "sliding_window", 64),
        ("gemma2", "attn_logit_softcapping", 500.0),
        ("mistral", "sliding_window", 64),
    ):
        ids = torch.tensor([edits()[5].ids])
        one = build(family)
        with torch.no_grad():
            first = one(input_ids=ids).logits
        kept = _OTHERWISE[family]
        _OTHERWISE[family] = {**kept, name: other}
        try:
            with torch.no_grad():
                assert not torch.allclose(build(family)(input_ids=ids).logits, first)
        finally:
            _OTHERWISE[family] = kept
