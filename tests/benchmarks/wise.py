"""WISE: training beside an honest loop without a cache, and what routing costs at inference."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import ledger
from ledger.models import load_model, load_tokenizer
from patches.checkpoint import open_checkpoint
from patches.deltas import Sparse
from patches.edit import Edit, Probe
from patches.editors import Facts, Request
from patches.editors.defaults import select_modules
from patches.editors.wise_editor import WiseEditor
from patches.live import LiveModel
from patches.routing import attach, detach
from patches.side_memory import Activations, Routing, SideMemory
from patches.tokens import IGNORED, Batch, encode, encode_prompts, pad
from tests.benchmarks.measurement import Measurement

FACTS = Path(ledger.__file__).parent / "facts" / "world.json"
EDITS = 5
ITERATIONS = 10
TEMPLATES = 2
MODULE = "*layers.22.mlp.down_proj"  # of 30 layers
MEMORIES = 5
PROMPT, ANSWER = 64, 24
_RUNS = 5


def measure(model: Path) -> list[Measurement]:
    """In float32, since many processors are slow at 16 bits."""
    return [*_training(model), *_routing(model)]


def _facts(tokenizer: Any) -> Facts:
    rows = json.loads(FACTS.read_text(encoding="utf-8"))[:EDITS]
    edits = [
        Edit(
            prompt=row["prompt"],
            target=row["target"],
            locality=tuple(Probe(**probe) for probe in row["locality"][:1]),
        )
        for row in rows
    ]
    encoded = encode(tokenizer, [e.prompt for e in edits], [e.target for e in edits])
    return Facts(edits=edits, encoded=encoded)


def _training(folder: Path) -> list[Measurement]:
    """Seconds per edit at the same matrix, contexts and iterations; alternating."""
    tokenizer = load_tokenizer(folder)
    live = LiveModel(load_model(folder, dtype="float32", device="cpu"), open_checkpoint(folder))
    facts = _facts(tokenizer)
    request = Request(
        modules=select_modules(live.model, (MODULE,)),
        assignments={"iterations": str(ITERATIONS), "templates": str(TEMPLATES)},
    )
    settings = WiseEditor.prepare(live, tokenizer, request).hyperparameters
    editors = [
        WiseEditor.start(live, tokenizer, {**settings, "batch": batch}, []) for batch in (1, 100)
    ]
    ways: list[Callable[[], object]] = [
        lambda: _uncached(live, tokenizer, facts, settings),
        *(lambda editor=editor: editor.edit(facts) for editor in editors),
    ]
    took: list[list[float]] = [[] for _ in ways]
    for _ in range(_RUNS):
        for seconds, way in zip(took, ways, strict=True):
            started = time.perf_counter()
            way()
            seconds.append((time.perf_counter() - started) / EDITS)
    plain, alone, together = (statistics.median(seconds) for seconds in took)
    what = f"WISE at layer 22 of 30, {ITERATIONS} iterations, {TEMPLATES + 1} contexts"
    return [
        Measurement(
            what=f"{what}, {how}",
            value=1 / seconds,
            unit="edits/s",
            beside="whole forward and backward passes",
            other=1 / plain,
            limit=limit,
        )
        for how, seconds, limit in (
            ("one edit after the other", alone, None),
            ("together", together, 5.0),
        )
    ]


def _uncached(live: LiveModel, tokenizer: Any, facts: Facts, settings: dict[str, Any]) -> None:
    """The published procedure: per edit and iteration, everything through the whole model."""
    model = live.model
    [name] = settings["modules"]
    module = model.get_submodule(name)
    weight = model.get_parameter(f"{name}.weight")
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    side = nn.Parameter(weight.detach().clone())
    mask = torch.rand(weight.shape) < settings["mask_ratio"]
    optimiser = torch.optim.SGD([side], lr=1.0, weight_decay=1e-5)
    seen: list[Tensor] = []

    def hook(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        edited = functional.linear(inputs[0], side)
        seen[:] = [output, edited]
        return edited

    handle = module.register_forward_hook(hook)
    try:
        for edit in facts.edits:
            batch = _sequences(tokenizer, edit, settings["contexts"])
            for _ in range(settings["iterations"]):
                optimiser.zero_grad()
                torch.autograd.backward(_loss(model, batch, seen, settings))
                assert side.grad is not None
                side.grad *= mask
                optimiser.step()
    finally:
        handle.remove()


def _sequences(tokenizer: Any, edit: Edit, contexts: Sequence[str]) -> Batch:
    prompts = [edit.prompt, *(context + edit.prompt for context in contexts)]
    wanted = encode(tokenizer, prompts, [edit.target] * len(prompts))
    return pad([*wanted, *encode_prompts(tokenizer, [p.prompt for p in edit.locality])])


def _loss(model: nn.Module, batch: Batch, seen: list[Tensor], settings: dict[str, Any]) -> Tensor:
    logits = model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
    ).logits
    wanted = batch.labels != IGNORED
    loss: Tensor = functional.cross_entropy(logits[wanted], batch.labels[wanted])
    distances = ((seen[1] - seen[0]).norm(dim=-1) * batch.prompts).sum(-1) / batch.prompts.sum(-1)
    inside, outside = distances[:-1], distances[-1:]
    hinges = (
        functional.relu(outside - settings["alpha"]).mean()
        + functional.relu(settings["beta"] - inside).mean()
        + functional.relu(settings["gamma"] - inside + outside).mean()
    )
    return torch.add(loss, hinges, alpha=settings["activation_weight"])


def _routing(folder: Path) -> list[Measurement]:
    """Prefill and decode of one sequence with memories in force beside the model without."""
    model = load_model(folder, dtype="float32", device="cpu")
    memories = [_memory(model, turn) for turn in range(1, MEMORIES + 1)]
    took: dict[str, list[tuple[float, float]]] = {"none": [], "main": [], "side": []}
    for _ in range(_RUNS + 2):
        for way, threshold in (("none", None), ("main", 1e9), ("side", 1e-9)):
            detach(model)
            if threshold is not None:
                attach(model, [_with_threshold(memory, threshold) for memory in memories])
            _generate(model, 8, 2)  # the sparse matrices are made at first use
            took[way].append(_generate(model, PROMPT, ANSWER))
    detach(model)
    found = []
    for phase, limit in ((0, 1 / 1.10), (1, 1 / 1.05)):
        plain = statistics.median(seconds[phase] for seconds in took["none"])
        for way, where in (("main", "to the main weights"), ("side", "to a side memory")):
            routed = statistics.median(seconds[phase] for seconds in took[way])
            tokens = (PROMPT, ANSWER)[phase]
            found.append(
                Measurement(
                    what=f"{('prefill', 'decode')[phase]}, {MEMORIES} memories, {where}",
                    value=tokens / routed,
                    unit="tokens/s",
                    beside="without memories",
                    other=tokens / plain,
                    limit=round(limit, 3),
                )
            )
    return found


@torch.inference_mode()
def _generate(model: Any, prompt: int, answer: int) -> tuple[float, float]:
    """Seconds for reading a prompt of so many tokens, and for so many more tokens."""
    ids = torch.arange(100, 100 + prompt)[None]
    started = time.perf_counter()
    step = model(input_ids=ids, attention_mask=torch.ones_like(ids), logits_to_keep=1)
    read = time.perf_counter()
    for _ in range(answer):
        following = step.logits[:, -1:].argmax(-1)
        step = model(input_ids=following, past_key_values=step.past_key_values)
    return read - started, time.perf_counter() - read


def _memory(model: nn.Module, turn: int) -> SideMemory:
    tensor = "model.layers.24.mlp.down_proj.weight"
    weight = model.get_parameter(tensor)
    draw = torch.Generator().manual_seed(turn)
    mask = torch.rand(weight.shape, generator=draw) < 0.2
    return SideMemory(
        turn=turn,
        tensor=tensor,
        transposed=False,
        delta=Sparse.of(torch.randn(weight.shape, generator=draw) * 0.05, mask),
        routing=Routing(
            form="paper",
            activation=None,
            threshold=1.0,
            main="0" * 64,
            edits=Activations.of([]),
            others=Activations.of([]),
        ),
    )


def _with_threshold(memory: SideMemory, threshold: float) -> SideMemory:
    return replace(memory, routing=replace(memory.routing, threshold=threshold))
