"""On an accelerator: the same bytes as on the CPU."""

import json
from pathlib import Path

import pytest
import torch

from ledger import AddEdits, add_edits, apply_to_folder, apply_to_model, init, log, rollback_turn
from ledger.models import load_model
from patches.canonical import sha256
from patches.dtypes import tensor_bytes

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
