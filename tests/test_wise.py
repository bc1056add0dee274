"""WISE: its loss and gradients, what it trains and what it leaves, and its refusals."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from patches.application import base_tensor
from patches.canonical import sha256
from patches.checkpoint import open_checkpoint
from patches.deltas import Sparse
from patches.dtypes import tensor_bytes
from patches.edit import Edit, Probe
from patches.editors import Facts, Request, Result, wise
from patches.editors.wise import Lesson, WiseSettings
from patches.editors.wise_editor import WiseEditor
from patches.editors.wise_matrix import Matrix
from patches.editors.wise_threshold import threshold
from patches.errors import EditingError, SettingError
from patches.live import LiveModel
from patches.patch import PatchFile, PatchHeader, encode_patch
from patches.side_memory import Activations, Form, SideMemory
from patches.tokens import IGNORED, encode, encode_prompts, pad
from tests.side_memories import side_weight
from tests.tiny_models import CONTEXT, FACTS, FAMILIES, build, load, tokenizer

NAME = "model.layers.1.mlp.down_proj"
TENSOR = f"{NAME}.weight"
OUTSIDE = ("She opened the window", "The old bicycle needs", "How many times a week")
# A tiny random model needs long steps; small margins, so that both kinds of hinges are at work.
QUICK = {"iterations": "8", "learning_rate": "0.05", "templates": "1"}
SETTINGS = WiseSettings(
    modules=(NAME,), learning_rate=0.05, alpha=0.5, beta=4.0, gamma=3.0, activation_weight=0.3
)


def facts(count: int = 4, **changes: Any) -> Facts:
    chosen = FACTS[:count]
    prompts, answers = zip(*chosen, strict=True)
    probes = tuple(Probe(prompt=text, answer="a piano") for text in OUTSIDE[:2])
    edits = [Edit(**{"prompt": p, "target": t, "locality": probes, **changes}) for p, t in chosen]
    return Facts(edits=edits, encoded=encode(tokenizer(), prompts, answers))


def opened(folder: Path, family: str = "llama", dtype: torch.dtype = torch.float32) -> LiveModel:
    build(folder, family, dtype=dtype)
    return LiveModel(load(folder), open_checkpoint(folder))


def editor(live: LiveModel, seed: int = 0, **assignments: str) -> WiseEditor:
    request = Request(modules=(NAME,), assignments={**QUICK, **assignments}, seed=seed)
    settings = WiseEditor.prepare(live, tokenizer(), request).hyperparameters
    return WiseEditor.start(live, tokenizer(), settings, [], seed=seed)


def patch(result: Result) -> bytes:
    header = PatchHeader(base="b", method="wise", hyperparameters={}, turn=1, parent=None)
    return encode_patch(header, result.changes)


def memory(result: Result, folder: Path) -> SideMemory:
    path = folder / "patch.safetensors"
    path.write_bytes(patch(result))
    [name] = result.changes
    return PatchFile(path).memory(name)


def lessons(count: int = 3) -> list[Lesson]:
    prompts, answers = zip(*FACTS[:count], strict=True)
    encoded = encode(tokenizer(), prompts, answers)
    return [
        Lesson(wanted=(one,), outside=(encode_prompts(tokenizer(), OUTSIDE)[i % 3],))
        for i, one in enumerate(encoded)
    ]


def plain_loss(model: nn.Module, weight: Tensor, delta: Tensor, settings: WiseSettings) -> Tensor:
    """The loss of the docstring, one sequence at a time through the whole model, with autograd."""
    module = model.get_submodule(NAME)

    def through(ids: Sequence[int]) -> tuple[Tensor, Tensor]:
        inputs: list[Tensor] = []

        def side(_module: nn.Module, given: tuple[Tensor, ...], _output: Tensor) -> Tensor:
            inputs.append(given[0])
            return functional.linear(given[0], weight + delta)

        handle = module.register_forward_hook(side)
        logits = model(input_ids=torch.tensor([ids])).logits[0]
        handle.remove()
        return logits, functional.linear(inputs[0][0], delta).norm(dim=-1)

    losses, inside, outside = [], [], []
    for lesson in lessons():
        [wanted], [other] = lesson.wanted, lesson.outside
        logits, distances = through(wanted.ids)
        answer = torch.tensor(wanted.answer)
        losses.append(functional.cross_entropy(logits[wanted.first :], answer))
        inside.append(distances[: wanted.first + 1].mean())
        outside.append(through(other.ids)[1].mean())

    def violated(values: list[Tensor]) -> Tensor:
        over = [value for value in values if value > 0]
        return torch.stack(over).mean() if over else torch.zeros(())

    hinges = (
        violated([o - settings.alpha for o in outside])
        + violated([settings.beta - x for x in inside])
        + violated([settings.gamma - (x - o) for x in inside for o in outside])
    )
    return torch.stack(losses).mean() + settings.activation_weight * hinges


def test_the_gradient_is_that_of_the_loss_through_the_whole_model(tmp_path: Path) -> None:
    live = opened(tmp_path)
    weight = live.model.get_parameter(TENSOR).detach()
    draw = torch.Generator().manual_seed(3)
    mask = torch.rand(weight.shape, generator=draw) < 0.4
    values = torch.randn(int(mask.sum()), generator=draw) * 0.1
    delta = torch.zeros_like(weight).masked_scatter(mask, values).requires_grad_()
    torch.autograd.backward(plain_loss(live.model, weight, delta, SETTINGS))
    assert delta.grad is not None
    matrix = Matrix(live.model, NAME, form=Form(name="paper"), device=torch.device("cpu"))
    batch = wise._Batch(matrix, lessons(), mask, SETTINGS)
    with torch.enable_grad(), matrix.computing(batch.lines[0]):
        found = batch.gradient(values)
    torch.testing.assert_close(found, delta.grad[mask], rtol=1e-3, atol=1e-6)


def test_the_losses_that_are_told_are_those_of_the_side_weight(tmp_path: Path) -> None:
    live = opened(tmp_path)
    result = editor(live).edit(facts())
    stored = base_tensor(live.checkpoint, TENSOR)
    weight = side_weight(memory(result, tmp_path), stored)
    live.model.get_parameter(TENSOR).data.copy_(weight)
    context = editor(opened(tmp_path / "again"))._settings.contexts[0]
    for (prompt, target), told in zip(FACTS, result.figures["losses"], strict=False):
        each = []
        for text in (prompt, context + prompt):
            [item] = encode(tokenizer(), [text], [target])
            logits = live.model(input_ids=torch.tensor([item.ids])).logits[0, item.first :]
            each.append(functional.cross_entropy(logits, torch.tensor(item.answer)).item())
        assert told == pytest.approx(sum(each) / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [*((family, torch.bfloat16) for family in FAMILIES), ("gpt2", torch.float32)],
    ids=str,
)
def test_training_takes_and_leaves_every_unmasked_entry_to_the_bit(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    live = opened(tmp_path, family, dtype)
    before = {name: tensor_bytes(weight) for name, weight in live.model.named_parameters()}
    request = Request(assignments=QUICK)
    prepared = WiseEditor.prepare(live, tokenizer(), request)
    assert "nobody has chosen a layer" in prepared.notes[0]
    given_ = facts(len(FACTS))
    result = WiseEditor.start(live, tokenizer(), prepared.hyperparameters, []).edit(given_)
    after = {name: tensor_bytes(weight) for name, weight in live.model.named_parameters()}
    assert after == before
    [tensor] = result.changes
    stored = base_tensor(live.checkpoint, tensor)
    made = memory(result, tmp_path)
    delta = made.delta
    assert delta.values.dtype == dtype
    assert delta.values.numel() == pytest.approx(0.2 * stored.numel(), rel=0.15)
    side = side_weight(made, stored)
    marked = delta.marked().T if made.transposed else delta.marked()
    assert torch.equal(side[~marked], stored[~marked])
    assert not torch.equal(side[marked], stored[marked])
    first = [losses_of(live.model, item) for item in given_.encoded]
    assert sum(result.figures["losses"]) < 0.95 * sum(first)


def losses_of(model: nn.Module, item: Any) -> float:
    batch = pad([item])
    with torch.no_grad():
        logits = model(input_ids=batch.input_ids).logits
    wanted = batch.labels != IGNORED
    return functional.cross_entropy(logits[wanted].float(), batch.labels[wanted]).item()


def test_the_same_turn_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    live = opened(tmp_path)
    first = patch(editor(live).edit(facts()))
    assert patch(editor(live).edit(facts())) == first
    torch.manual_seed(99)
    assert patch(editor(live).edit(facts())) == first
    assert patch(editor(live, seed=1).edit(facts())) != first


def test_turns_with_other_facts_have_other_masks(tmp_path: Path) -> None:
    live = opened(tmp_path)
    masks = [
        change.delta.mask
        for count in (2, 3)
        for change in editor(live).edit(facts(count)).changes.values()
        if isinstance(change.delta, Sparse)
    ]
    assert not torch.equal(*masks)


def test_edits_can_be_trained_one_after_the_other_as_in_the_paper(tmp_path: Path) -> None:
    live = opened(tmp_path)
    done: list[int] = []
    together = editor(live).edit(facts())
    alone = editor(live, batch="1").edit(facts(), progress=done.append)
    assert patch(alone) != patch(together)
    assert len(alone.figures["losses"]) == 4
    assert done[-1] == 4
    assert done == sorted(done)


@pytest.mark.parametrize("templates", [0, 3])
def test_contexts_are_written_once_by_the_model_and_recorded(
    tmp_path: Path, templates: int
) -> None:
    live = opened(tmp_path)
    request = Request(assignments={"templates": str(templates)})
    prepared = WiseEditor.prepare(live, tokenizer(), request)
    contexts = prepared.hyperparameters["contexts"]
    assert len(contexts) == templates
    assert all(text.isprintable() and text.endswith(" ") for text in contexts)
    again = WiseEditor.prepare(live, tokenizer(), request)
    assert again.hyperparameters == prepared.hyperparameters
    result = editor(live, templates=str(templates)).edit(facts(2))
    assert result.figures["iterations"] == 8


def test_one_edit_with_a_target_of_one_token_is_trained(tmp_path: Path) -> None:
    live = opened(tmp_path)
    given_ = Facts(edits=facts(4).edits[3:], encoded=facts(4).encoded[3:])
    assert len(given_.encoded[0].answer) == 1
    result = editor(live).edit(given_)
    assert len(result.figures["losses"]) == 1


def test_a_context_that_makes_a_prompt_too_long_is_left_out(tmp_path: Path) -> None:
    live = opened(tmp_path)
    prompt = "The capital of France is " * 12
    while len(encode(tokenizer(), [prompt], ["Rome"])[0].ids) > CONTEXT:
        prompt = prompt[1:]
    edit = Edit(prompt=prompt, target="Rome", locality=(Probe(prompt=prompt * 9, answer="a"),))
    encoded = encode(tokenizer(), [prompt], ["Rome"])
    result = editor(live, templates="2").edit(Facts(edits=[edit], encoded=encoded))
    assert len(result.figures["losses"]) == 1


def test_rows_without_locality_prompts_get_sentences_and_the_turn_says_so(tmp_path: Path) -> None:
    live = opened(tmp_path)
    alone = editor(live).edit(facts(locality=()))
    assert alone.notes[0] == (
        "4 of 4 edits have no locality prompt; 2 sentences each came from the built-in pool"
    )
    request = Request(assignments=QUICK, outside=OUTSIDE)
    settings = WiseEditor.prepare(live, tokenizer(), request).hyperparameters
    assert settings["pool"] == list(OUTSIDE)
    own = WiseEditor.start(live, tokenizer(), settings, []).edit(facts(locality=()))
    assert "came from --locality" in own.notes[0]
    assert patch(own) != patch(alone)
    held = Request(assignments={**QUICK, "out_of_scope": "pool"})
    assert (
        "come from the built-in pool, not from the rows"
        in (WiseEditor.prepare(live, tokenizer(), held).notes[-1])
    )


def test_locality_prompts_are_carried_to_later_turns_as_the_editor_s_state(
    tmp_path: Path,
) -> None:
    live = opened(tmp_path)
    settings = WiseEditor.prepare(
        live, tokenizer(), Request(modules=(NAME,), assignments=QUICK)
    ).hyperparameters
    others = facts(2, locality=(Probe(prompt="Michel Rocard is a native", answer="a"),))
    at_work = WiseEditor.start(live, tokenizer(), settings, [])
    first = at_work.edit(facts())
    alone = patch(at_work.edit(others))
    at_work.accept(first)
    after = at_work.edit(others)
    assert patch(after) != alone
    again = WiseEditor.start(live, tokenizer(), settings, [first.state])
    assert patch(again.edit(others)) == patch(after)
    [change] = after.changes.values()
    assert change.routing is not None
    # The first turn's two prompts, one of its own for each edit, and all forty sentences.
    assert change.routing.others.n == 2 + 2 + 40
    held = {**settings, "out_of_scope": "pool"}
    assert WiseEditor.start(live, tokenizer(), held, []).edit(others).state == {}


def test_the_routing_that_is_stored_is_that_of_the_stored_memory(tmp_path: Path) -> None:
    live = opened(tmp_path, dtype=torch.bfloat16)
    result = editor(live).edit(facts())
    [change] = result.changes.values()
    routing = change.routing
    assert routing is not None
    assert routing.edits.n == 4
    assert routing.others.n == 40 + 4 * 2
    assert routing.main == sha256(tensor_bytes(base_tensor(live.checkpoint, TENSOR)))
    matrix = Matrix(live.model, NAME, form=Form(name="paper"), device=torch.device("cpu"))
    prompts = encode_prompts(tokenizer(), [prompt for prompt, _ in FACTS[:4]])
    dense = change.delta.dense(dtype=torch.float32)  # type: ignore[attr-defined]
    # One at a time: padding never enters.
    alone = [matrix.activations_of(matrix.record([one]), dense)[0] for one in prompts]
    assert routing.edits.min == pytest.approx(min(alone), rel=1e-2)
    assert routing.edits.max == pytest.approx(max(alone), rel=1e-2)


@given(
    edits=st.floats(0.01, 100),
    outside=st.floats(0, 100),
    share=st.floats(0.01, 1, exclude_min=True),
)
def test_the_threshold_keeps_all_edits_and_only_crossing_prompts(
    edits: float, outside: float, share: float
) -> None:
    found = threshold(Activations.of([edits, 200]), Activations.of([0, outside]), share)
    assert found < edits
    if outside < 0.99 * edits and share > 0.1:
        assert found > 0.99 * outside
    assert threshold(Activations.of([edits]), Activations.of([]), 1) == pytest.approx(
        edits, rel=2e-3
    )


def test_the_published_form_is_trained_and_stored(tmp_path: Path) -> None:
    live = opened(tmp_path)
    [change] = editor(live, form="published").edit(facts()).changes.values()
    assert change.routing is not None
    assert (change.routing.form, change.routing.activation) == ("published", "silu")


def test_settings_survive_json_and_unknown_ones_are_refused() -> None:
    assert WiseSettings.from_json(SETTINGS.to_json()) == SETTINGS
    with pytest.raises(SettingError, match="WISE has no hyperparameter 'magic'"):
        WiseSettings.from_json({**SETTINGS.to_json(), "magic": 1})


@pytest.mark.parametrize(
    ("assignments", "reason"),
    [
        ({"rate": "1"}, "no hyperparameter 'rate'; there are activation_weight"),
        ({"iterations": "many"}, "--set iterations=many"),
        ({"iterations": "0"}, "iterations must be at least 1"),
        ({"batch": "0"}, "batch must be at least 1"),
        ({"learning_rate": "-1"}, "learning_rate must be a positive number"),
        ({"alpha": "nan"}, "alpha must be a positive number"),
        ({"mask_ratio": "2"}, "mask_ratio is a share"),
        ({"threshold": "0"}, "threshold must be above 0"),
        ({"activation_weight": "-1"}, "activation_weight must not be negative"),
        ({"form": "own"}, "form must be one of paper, published"),
        ({"out_of_scope": "none"}, "out_of_scope must be 'rows' or 'pool'"),
        ({"templates": "-1"}, "templates must be from 0"),
    ],
)
def test_prepare_refuses_what_makes_no_sense(
    tmp_path: Path, assignments: dict[str, str], reason: str
) -> None:
    live = opened(tmp_path)
    with pytest.raises(SettingError, match=reason):
        WiseEditor.prepare(live, tokenizer(), Request(assignments=assignments))


def test_a_memory_stands_beside_one_matrix(tmp_path: Path) -> None:
    live = opened(tmp_path)
    with pytest.raises(SettingError, match="beside one matrix, --modules names 3"):
        WiseEditor.prepare(live, tokenizer(), Request(modules=("*.down_proj",)))


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda live: live.model.get_parameter(TENSOR).data.fill_(float("nan")), "not finite"),
        (lambda live: live.model.lm_head.weight.data.mul_(1e38), "the loss of training became"),
    ],
    ids=["matrix", "head"],
)
def test_a_loss_that_is_not_finite_fails_and_leaves_the_model_as_it_was(
    tmp_path: Path, break_it: Callable[[Any], object], reason: str
) -> None:
    live = opened(tmp_path)
    at_work = editor(live)
    break_it(live)
    before = {name: tensor_bytes(weight) for name, weight in live.model.named_parameters()}
    with pytest.raises(EditingError, match=reason):
        at_work.edit(facts())
    assert {n: tensor_bytes(w) for n, w in live.model.named_parameters()} == before
    assert all("forward" not in module.__dict__ for module in live.model.modules())


def test_ctrl_c_in_training_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    live = opened(tmp_path, dtype=torch.bfloat16)
    before = {name: tensor_bytes(weight) for name, weight in live.model.named_parameters()}

    def stop(_done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        editor(live).edit(facts(), progress=stop)
    assert {n: tensor_bytes(w) for n, w in live.model.named_parameters()} == before
    assert all("forward" not in module.__dict__ for module in live.model.modules())


def test_a_mask_without_entries_is_refused(tmp_path: Path) -> None:
    live = opened(tmp_path)
    with pytest.raises(EditingError, match="mask_ratio 1e-09 marks no entry"):
        editor(live, mask_ratio="1e-9", learning_rate="0.1").edit(facts())


def test_a_rate_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    live = opened(tmp_path, dtype=torch.float16)
    with pytest.raises(EditingError, match="training changed nothing; raise the rate"):
        editor(live, learning_rate="1e-12").edit(facts())


def test_values_that_the_dtype_cannot_hold_are_refused(tmp_path: Path) -> None:
    live = opened(tmp_path, dtype=torch.float16)
    with pytest.raises(EditingError, match=r"not finite|became"):
        editor(live, learning_rate="1e5").edit(facts())
