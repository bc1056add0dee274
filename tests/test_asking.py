"""Prompts run as one row give what one prompt at a time gives, and run no more than they must."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from patches import asking
from patches.asking import PROCESSOR, Limits, Told, ask, batches
from patches.shared_layers import SharedLayers, layers_of, shared_layers
from patches.tokens import Encoded, encode
from tests.tiny_models import FAMILIES, VOCABULARY, build, load, tokenizer

PROMPTS = (
    ("The capital of France is", "Rome"),
    ("The capital of France is", "Paris"),
    ("The capital of Japan is", "Tokyo"),
    ("The river that flows through Vienna is", "the Danube"),
    ("It is", "a book"),
    ("The", "capital of France is Paris"),
)
WHOLE = Limits(tokens=10_000, logits=1 << 30, labels=3)
UNPACKABLE = ("gptj",)


def asked() -> list[Encoded]:
    return encode(tokenizer(), [p for p, _ in PROMPTS], [a for _, a in PROMPTS])


@torch.inference_mode()
def plainly(model: nn.Module, one: Encoded) -> Told:
    """All logits of one prompt with its answer, without padding."""
    logits = model(input_ids=torch.tensor([one.ids])).logits[0, one.first :]
    losses = torch.nn.functional.cross_entropy(
        logits, torch.tensor(one.answer), reduction="none"
    ).tolist()
    return Told(predicted=tuple(logits.argmax(-1).tolist()), losses=tuple(losses), routed=None)


def compare(found: Sequence[Told], expected: Sequence[Told]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.predicted == other.predicted
        assert one.losses == pytest.approx(other.losses, abs=1e-5)
        assert one.routed is other.routed


def model_of(folder: Path, family: str = "llama") -> Any:
    return load(build(folder, family, dtype=torch.float32))


@pytest.fixture(autouse=True)
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the tiny vocabulary has several, the last one ragged."""
    monkeypatch.setattr(asking, "_PIECE", 96)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_asked_together_are_answered_as_one_at_a_time(tmp_path: Path, family: str) -> None:
    model = model_of(tmp_path, family)
    assert asking.packs(model) is (family not in UNPACKABLE)
    found = ask(model, asked(), device="cpu")
    compare(found, [plainly(model, one) for one in asked()])
    # Nothing is left behind in the model.
    compare([plainly(model, one) for one in asked()], found)


def test_what_prompts_begin_with_in_common_runs_once(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    run: list[int] = []
    model.get_input_embeddings().register_forward_hook(
        lambda _module, inputs, _output: run.append(inputs[0].numel())
    )
    ask(model, asked(), device="cpu")
    starts = {one.ids[:end] for one in asked() for end in range(1, len(one.ids) + 1)}
    assert run == [len(starts)]


def test_the_last_layer_computes_where_answers_are_due_only(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    sizes: list[int] = []
    layers = layers_of(model)
    for layer in layers:
        layer.get_submodule("mlp.down_proj").register_forward_pre_hook(
            lambda _module, inputs: sizes.append(inputs[0].shape[1])
        )
    ask(model, asked(), device="cpu")
    places = {one.ids[: end + 1] for one in asked() for end in range(one.first, len(one.ids))}
    assert len(sizes) == len(layers)
    assert sizes[-1] == len(places) < min(sizes[:-1])


@pytest.mark.parametrize("family", ["llama", *UNPACKABLE])
@pytest.mark.parametrize(
    "limit",
    [
        WHOLE,
        WHOLE._replace(tokens=1),
        WHOLE._replace(tokens=20),
        WHOLE._replace(logits=4 * VOCABULARY),
    ],
)
def test_batches_hold_every_prompt_once_and_no_more_than_the_limits(
    tmp_path: Path, family: str, limit: Limits
) -> None:
    model = model_of(tmp_path, family)
    encoded = asked()
    cut = batches(model, encoded, limit)
    assert sorted(i for batch in cut for i in batch) == list(range(len(encoded)))
    for batch in (batch for batch in cut if len(batch) > 1):
        some = [encoded[i] for i in batch]
        begun = {one.ids[:end] for one in some for end in range(1, len(one.ids) + 1)}
        padded = max(len(one.ids) for one in some) * len(some)
        assert (padded if family in UNPACKABLE else len(begun)) <= limit.tokens
        assert sum(len(one.answer) for one in some) * VOCABULARY <= limit.logits
    assert len(cut) == (1 if limit is WHOLE else len(cut))
    assert batches(model, [], PROCESSOR) == []


def changed(model: nn.Module, name: str) -> None:
    with torch.no_grad():
        model.get_parameter(name).mul_(1.5)


@pytest.mark.parametrize("family", [one for one in FAMILIES if one not in UNPACKABLE])
def test_layers_below_the_changed_one_run_once_and_the_answers_are_the_same(
    tmp_path: Path, family: str
) -> None:
    model = model_of(tmp_path, family)
    layers = layers_of(model)
    name = next(
        f"{part}.weight"
        for part, module in model.named_modules()
        if module in list(layers[2].modules()) and part.endswith(("down_proj", "mlp.c_proj"))
    )
    shared = shared_layers(model, [name])
    assert shared is not None
    ran: list[int] = []
    for at, layer in enumerate(layers):
        # A layer that does not compute does not call what is in it.
        inner = next(iter(layer.children()))
        inner.register_forward_pre_hook(lambda *_given, at=at: ran.append(at))
    with shared.running(0):
        base = ask(model, asked(), device="cpu")
    assert set(ran) == {0, 1, 2}
    changed(model, name)
    ran.clear()
    with shared.running(0):
        state = ask(model, asked(), device="cpu")
    assert set(ran) == {2}
    assert state == ask(model, asked(), device="cpu")
    assert state != base
    # It is used up: a third time everything is computed.
    ran.clear()
    with shared.running(0):
        assert ask(model, asked(), device="cpu") == state
    assert set(ran) == {0, 1, 2}


def test_runs_are_told_apart_by_their_numbers(tmp_path: Path) -> None:
    model = model_of(tmp_path)
    shared = SharedLayers(layers_of(model)[:2])
    parts = asked()[:2], asked()[2:]
    expected = [ask(model, some, device="cpu") for some in parts]
    for _ in range(2):
        for number, some in enumerate(parts):
            with shared.running(number):
                assert ask(model, some, device="cpu") == expected[number]


@pytest.mark.parametrize(
    "names",
    [
        ["model.embed_tokens.weight"],
        ["model.norm.weight", "model.layers.2.mlp.up_proj.weight"],
        ["model.layers.0.mlp.up_proj.weight", "model.layers.2.mlp.up_proj.weight"],
    ],
)
def test_nothing_is_shared_where_the_first_layer_or_something_beside_the_layers_is_changed(
    tmp_path: Path, names: list[str]
) -> None:
    assert shared_layers(model_of(tmp_path), names) is None


def test_nothing_is_shared_in_an_architecture_that_is_not_known(tmp_path: Path) -> None:
    model = model_of(tmp_path, "gptj")
    assert shared_layers(model, ["transformer.h.2.mlp.fc_in.weight"]) is None


@pytest.mark.parametrize("bias", [False, True])
def test_a_head_in_pieces_reads_what_all_its_logits_say(bias: bool) -> None:
    draw = torch.Generator().manual_seed(3)
    head = nn.Linear(8, 500, bias=bias)
    hidden = torch.randn(30, 8, generator=draw)
    places, labels = (torch.randint(n, (70,), generator=draw) for n in (30, 500))
    with torch.no_grad():
        # Equal ones in several pieces: the first is the prediction.
        head.weight[400:] = head.weight[100:200]
        if bias:
            head.bias[400:] = head.bias[100:200]
        tops, losses = asking.read_hidden(head, hidden, places, labels)
        expected, right = asking.read_logits(head(hidden), places, labels)
    assert torch.equal(tops, expected)
    assert tops.max() < 400
    torch.testing.assert_close(losses, right)
