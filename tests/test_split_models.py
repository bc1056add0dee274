"""A model that is placed layer by layer on several devices: the same numbers, nothing half loaded.

Without accelerators every device is the CPU; the hooks that carry what goes from one layer to the
next are the real ones.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import AlignDevicesHook
from torch import nn
from transformers import AutoModelForCausalLM

from ledger import AddEdits, add_edits, apply_to_folder, init
from ledger.models import SPLIT, check_whole, load_model, parse_device
from patches.canonical import sha256
from patches.checkpoint import open_checkpoint
from patches.dtypes import tensor_bytes
from patches.edit import Edit, Probe
from patches.editors import Editor, Facts, Request, Result
from patches.editors.ultraedit_editor import UltraEditEditor
from patches.editors.wise_editor import WiseEditor
from patches.errors import ModelError
from patches.evaluation import Answered, Questions, answer, answer_freely
from patches.keys import keys
from patches.live import LiveModel
from patches.patch import PatchFile, PatchHeader, encode_patch
from patches.tokens import encode
from tests.ledgers import facts, write_facts
from tests.tiny_models import FACTS, tokenizer

PARTS = (
    "model.embed_tokens",
    "model.layers.0",
    "model.layers.1",
    "model.layers.2",
    "model.norm",
    "model.rotary_emb",
    "lm_head",
)
DOWN = "model.layers.*.mlp.down_proj"
EDITS = tuple(
    Edit(prompt=prompt, target=target, locality=(Probe(prompt="It is", answer="a"),))
    for prompt, target in FACTS[:4]
)
HEAD = PatchHeader(base="0" * 64, method="any", hyperparameters={}, turn=1, parent=None)
Method = tuple[type[Editor], dict[str, str]]
METHODS: dict[str, Method] = {
    "published": (UltraEditEditor, {"learning_rate": "0.001", "retention": "1"}),
    "first-order": (UltraEditEditor, {"prompts": "0.1"}),
    "wise": (WiseEditor, {"iterations": "4", "learning_rate": "0.05", "templates": "1"}),
}


def opened(folder: Path, places: dict[str, int | str] | None = None) -> LiveModel:
    """On the CPU; places: part → device, with the hooks between them, the first of them the CPU."""
    model = load_model(folder, dtype="float32", device="cpu")
    if places is not None:
        dispatch_model(model, places, main_device="cpu", force_hooks=True)
    return LiveModel(model, open_checkpoint(folder))


def everywhere(device: int | str) -> dict[str, int | str]:
    return dict.fromkeys(PARTS, device)


def half(device: int | str) -> dict[str, int | str]:
    """The first half of the model on the CPU."""
    return {**everywhere(device), **dict.fromkeys(PARTS[:3], "cpu"), "model.rotary_emb": "cpu"}


def edited(live: LiveModel, method: Method) -> list[Result]:
    """Two turns, the second with what the first has left."""
    kind, assignments = method
    modules = ("model.layers.1.mlp.down_proj",) if kind is WiseEditor else (DOWN,)
    asked = Request(modules=modules, assignments=assignments)
    prepared = kind.prepare(live, tokenizer(), asked)
    editor = kind.start(live, tokenizer(), prepared.hyperparameters, [])
    results = []
    for some in (EDITS[:3], EDITS[3:]):
        encoded = encode(tokenizer(), [e.prompt for e in some], [e.target for e in some])
        results.append(editor.edit(Facts(edits=some, encoded=encoded)))
        editor.accept(results[-1])
    return results


def patch(result: Result, path: Path) -> PatchFile:
    path.write_bytes(encode_patch(HEAD, result.changes))
    return PatchFile(path)


def answers(live: LiveModel) -> list[Answered]:
    questions = Questions.of(EDITS, tokenizer(), None)
    given = answer(live.model, questions, device=live.device)
    return answer_freely(live.model, questions, EDITS, given, device=live.device)


@pytest.mark.parametrize("name", METHODS)
def test_a_placed_model_is_edited_set_and_asked_like_a_whole_one(
    name: str, tiny_llama: Path, tmp_path: Path
) -> None:
    whole, placed = opened(tiny_llama), opened(tiny_llama, everywhere("cpu"))
    assert any(
        isinstance(getattr(m, "_hf_hook", None), AlignDevicesHook) for m in placed.model.modules()
    )
    made = edited(whole, METHODS[name])
    again = edited(placed, METHODS[name])
    for one, other in zip(made, again, strict=True):
        assert encode_patch(HEAD, one.changes) == encode_patch(HEAD, other.changes)
    patches = [patch(result, tmp_path / f"{n}") for n, result in enumerate(made)]
    for live in (whole, placed):
        live.set_state(patches[:1])
        live.advance(patches[1])
    assert placed.digests() == whole.digests()
    assert answers(placed) == answers(whole)
    with placed.at_base(), whole.at_base():
        assert answers(placed) == answers(whole)
    placed.set_state(())
    asked = encode(tokenizer(), [FACTS[0][0]], [FACTS[0][1]])
    module = "model.layers.2.mlp.down_proj"
    taken = [keys(live.model, module, asked, live.device) for live in (placed, opened(tiny_llama))]
    assert torch.equal(*taken)


def test_split_over_no_accelerator_is_the_cpu(tiny_llama: Path) -> None:
    if torch.accelerator.is_available():
        pytest.skip("there are accelerators here")
    model = load_model(tiny_llama, dtype=None, device=SPLIT)
    assert {weight.device.type for weight in model.parameters()} == {"cpu"}
    assert parse_device(SPLIT) == torch.device("cpu")


def test_a_model_that_does_not_fit_is_refused_by_the_name_of_what_is_missing(
    tiny_llama: Path, tmp_path: Path
) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(
        tiny_llama,
        device_map={**everywhere("cpu"), "model.layers.2": "disk"},
        offload_folder=str(tmp_path),
    )
    with pytest.raises(ModelError, match=r"does not fit on .* the first model\.layers\.2\."):
        check_whole(model)


def test_a_live_model_is_where_its_tokens_go_in() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model.get_input_embeddings = lambda: nn.Embedding(3, 2, device="meta")  # type: ignore[assignment]
    assert LiveModel(model, None).device == torch.device("meta")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("name", METHODS)
def test_half_on_the_cpu_and_half_on_a_gpu_a_model_is_edited_and_set_to_the_same_bytes(
    name: str, tiny_llama: Path, tmp_path: Path
) -> None:
    whole, placed = opened(tiny_llama), opened(tiny_llama, half(0))
    assert {weight.device.type for weight in placed.model.parameters()} == {"cpu", "cuda"}
    assert placed.device.type == "cpu"
    patches = [
        patch(result, tmp_path / f"{n}") for n, result in enumerate(edited(placed, METHODS[name]))
    ]
    for live in (whole, placed):
        live.set_state(patches[:1])
        live.advance(patches[1])
    found, expected = answers(placed), answers(whole)
    assert [a.predicted for a in found] == [a.predicted for a in expected]


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="no two CUDA devices here")
def test_edits_made_over_two_gpus_are_applied_bit_for_bit(tiny_llama: Path, tmp_path: Path) -> None:
    source = write_facts(tmp_path / "facts.json", facts(6))
    with init(str(tiny_llama), folder=tmp_path / ".ledger").ledger as ledger:
        added = list(add_edits(ledger, AddEdits(source=source, turn_size=2, device=SPLIT)).turns)
        assert [one.turn for one in added] == [1, 2, 3]
        written = apply_to_folder(ledger, tmp_path / "patched")
        model = load_model(tmp_path / "patched", dtype=None, device=SPLIT)
        assert len({weight.device for weight in model.parameters()}) == 2
        for name, digest in written.tensors.items():
            assert sha256(tensor_bytes(model.get_parameter(name))) == digest
