"""What applying costs, and that neither threads nor a model's size change what is written."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ledger.applying import apply_to_folder
from ledger.reporting import log
from ledger.workspace import open_ledger
from tests.ledgers import add, facts, files, new_ledger, write_facts
from tests.processes import Report, finish
from tests.tiny_models import build


def apply_in_process(report: Report, folder: Path, to: Path, threads: int) -> None:
    torch.set_num_threads(threads)
    with open_ledger(folder) as ledger:
        report(apply_to_folder(ledger, to).tensors)


def apply_measured(report: Report, folder: Path, to: Path) -> None:
    """Report how many bytes the process has grown by at most."""
    with open_ledger(folder) as ledger:
        resident = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        apply_to_folder(ledger, to)
        report(memory("VmHWM") - resident)


def memory(field: str) -> int:
    """Bytes, as the system counts them for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def open_names(path: Path) -> list[str]:
    with safe_open(path, framework="pt") as file:
        return list(file.keys())


def test_one_and_two_threads_write_the_same_bytes(tmp_path: Path) -> None:
    # Wide enough for torch to share the work out.
    wide = build(tmp_path / "wide", hidden_size=256, intermediate_size=512, seed=3)
    one, two = tmp_path / "one", tmp_path / "two"
    with new_ledger(tmp_path / "ledger", wide) as ledger:
        source = write_facts(tmp_path / "facts.json", facts(12))
        add(ledger, source, modules=("*mlp*",), learning_rate=0.01, evaluate=False)
        recorded = log(ledger)[-1].row.tensors
        assert len(recorded) == 9
        assert finish(apply_in_process, ledger.folder, one, 1) == [recorded]
        assert finish(apply_in_process, ledger.folder, two, 2) == [recorded]
    assert files(one) == files(two)


def test_apply_needs_memory_for_an_edited_tensor_and_not_for_the_model(tmp_path: Path) -> None:
    model, big = tmp_path / "model", 300_000_000
    build(model)
    (model / "model.safetensors").rename(model / "small.safetensors")
    save_file(
        {"big.weight": torch.zeros(big // 2, dtype=torch.bfloat16)}, model / "big.safetensors"
    )
    names = open_names(model / "small.safetensors")
    placed = {**dict.fromkeys(names, "small.safetensors"), "big.weight": "big.safetensors"}
    (model / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": placed})
    )
    with new_ledger(tmp_path / "ledger", model) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(3)), evaluate=False)
        [grown] = finish(apply_measured, ledger.folder, tmp_path / "out")
    assert (tmp_path / "out" / "big.safetensors").stat().st_size > big
    assert isinstance(grown, int)
    assert 0 < grown < 40_000_000
