"""On an accelerator: the same bytes as on the CPU."""

import json
from pathlib import Path

import pytest
import torch

from ledger import (
    AddEdits,
    add_edits,
    apply_to_folder,
    apply_to_model,
    init,
    load_patched,
    log,
    rollback_turn,
)
from ledger.models import load_model
from patches.canonical import sha256
from patches.dtypes import tensor_bytes
from patches.routing import attached

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
FACTS = [
    {"prompt": f"the stone of hill {n} is", "target": target}
    for n, target in enumerate(("red", "blue", "green", "white", "black", "grey"))
]


def test_edits_made_on_a_gpu_are_applied_bit_for_bit_on_both_devices(
    tiny_llama: Path, tmp_path: Path
) -> None:
    source = tmp_path / "facts.json"
    source.write_text(json.dumps(FACTS), encoding="utf-8")
    ledger = init(str(tiny_llama), folder=tmp_path / ".ledger").ledger
    options = AddEdits(source=str(source), turn_size=2, device="cuda")
    assert [added.turn for added in add_edits(ledger, options).turns] == [1, 2, 3]
    assert log(ledger)[-1].row.environment["device"].startswith("cuda")
    rollback_turn(ledger, 2)
    written = apply_to_folder(ledger, tmp_path / "patched")
    for device in ("cuda", "cpu"):
        model = load_model(tiny_llama, dtype=None, device=device)
        applied = apply_to_model(ledger, model)
        assert applied.tensors == written.tensors
        for name, digest in applied.tensors.items():
            assert sha256(tensor_bytes(model.get_parameter(name))) == digest


@pytest.mark.parametrize("materialise", [False, True])
def test_side_memories_trained_on_a_gpu_route_alike_on_both_devices(
    tiny_llama: Path, tmp_path: Path, materialise: bool
) -> None:
    source = tmp_path / "facts.json"
    source.write_text(json.dumps(FACTS), encoding="utf-8")
    ledger = init(str(tiny_llama), folder=tmp_path / ".ledger").ledger
    options = AddEdits(source=str(source), method="wise", turn_size=3, device="cuda")
    assert [added.turn for added in add_edits(ledger, options).turns] == [1, 2]
    apply_to_folder(ledger, tmp_path / "patched")
    given = []
    for device in ("cuda", "cpu"):
        folder = tmp_path / "patched"
        model, tokenizer = load_patched(
            folder, device=device, dtype="float32", materialise=materialise
        )
        prompts = [fact["prompt"] for fact in FACTS]
        inputs = tokenizer(prompts, return_tensors="pt", padding=True).to(device)
        with torch.inference_mode():
            logits = model(**inputs).logits[inputs["attention_mask"].bool()]
        given.append((logits.cpu(), [router.decision for router in attached(model).values()]))
    torch.testing.assert_close(given[0][0], given[1][0], rtol=1e-3, atol=1e-3)
    routes = [[decision.routes for decision in each if decision] for _, each in given]
    assert routes[0] == routes[1]
