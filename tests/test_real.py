"""The main job on the real SmolLM2-135M: 100 facts in, one turn out, everything back, exactly."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import torch

import ledger as ledger_package
from ledger.models import load_model, load_tokenizer
from patches.application import base_tensor
from patches.checkpoint import open_checkpoint, tensor_digests
from patches.dtypes import tensor_bytes
from patches.patch import PatchFile
from patches.rounding import round_to

MODEL = Path(os.environ.get("LEDGER_TEST_MODEL") or ".demo/smollm2")
FACTS = Path(ledger_package.__file__).parent / "facts" / "world.json"
TURNS = 5

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODEL.is_dir(), reason=f"no model in {MODEL}; make it with: make model"),
]


def run(folder: Path, *words: str, threads: int = 1) -> str:
    """What `ledger WORDS` prints, run in `folder` as a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "from cli.main import main; main()", *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_json(folder: Path, *words: str, threads: int = 1) -> Any:
    return json.loads(run(folder, *words, "--json", threads=threads))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger of five turns of twenty facts; tests only add rollbacks to it."""
    folder = tmp_path_factory.mktemp("real")
    run(folder, "init", "--model", str(MODEL.resolve()))
    # Ten times faster than bfloat16 on processors without units for it; digests are the same kind.
    edits = ("--limit", "100", "--turn-size", "20", "--no-evaluate", "--dtype", "float32")
    run(folder, "add-edits", str(FACTS), *edits)
    return folder


def test_edits_take_and_are_scored_beside_the_base(edited: Path) -> None:
    scores = run_json(edited, "evaluate", "--at", str(TURNS), "--dtype", "float32")
    assert (scores["turn"], scores["n"]) == (TURNS, 100)
    assert scores["base"]["edit_success"] < 0.3 < 0.55 < scores["state"]["edit_success"]
    assert scores["base"]["generalization"] + 0.1 < scores["state"]["generalization"]
    assert scores["base"]["stability"] == 1
    assert 0.4 < scores["state"]["stability"] < 1
    assert scores["base"]["preference"] < 0.4 < 0.7 < scores["state"]["preference"]


def test_the_log_tells_rank_and_bytes_of_every_patch(edited: Path) -> None:
    turns = run_json(edited, "log")[:TURNS]
    assert [turn["edits"] for turn in turns] == [20] * TURNS
    for turn in turns:
        assert len(turn["patch"]["rank"]) == 8
        assert all(20 <= rank < 120 for rank in turn["patch"]["rank"].values())
        assert 100_000 < turn["patch"]["bytes"] < 8 * 1536 * 576 * 2


def test_one_and_two_threads_write_the_recorded_tensors(edited: Path) -> None:
    recorded = run_json(edited, "show", str(TURNS))["tensors"]
    for threads in (1, 2):
        target = f"threads-{threads}"
        applied = run_json(edited, "apply", "--to", target, "--at", str(TURNS), threads=threads)
        assert applied["tensors"] == recorded
        on_disk = tensor_digests(open_checkpoint(edited / target), names=recorded)
        assert on_disk == recorded


def test_a_turn_is_taken_back_to_the_bit_and_then_everything(edited: Path) -> None:
    undone = run_json(edited, "rollback", "turn", "3", "--to", "patched")
    assert undone["in_force"] == [1, 2, 4, 5]
    patches = {
        turn["turn"]: PatchFile(blob_path(edited, turn["patch"]["digest"]))
        for turn in run_json(edited, "log")
        if turn["patch"]
    }
    base, written = open_checkpoint(MODEL), open_checkpoint(edited / "patched")
    for name in undone["applied"]["tensors"]:
        exact = torch.zeros(base.tensors[name].shape, dtype=torch.float64)
        for number in (1, 2, 4, 5):
            patches[number].delta(name).add_to(exact)
        expected = round_to(base_tensor(base, name).double() + exact, torch.bfloat16)
        assert tensor_bytes(expected) == bytes(written.read(name)), name
    verified = run_json(edited, "verify", "--model", "patched")
    assert verified["ok"]

    run(edited, "rollback", "to", "0", "--to", "patched")
    for path in MODEL.iterdir():
        assert digest(edited / "patched" / path.name) == digest(path), path.name

    run(edited, "rollback", "turn", str(TURNS + 2))
    assert run_json(edited, "status")["in_force"] == [1, 2, 4, 5]


def test_the_patched_model_says_the_new_answer(edited: Path) -> None:
    prompt, old, new = "The capital of Japan is", "Tokyo", "Osaka"
    run(edited, "apply", "--to", "asked", "--at", str(TURNS))
    assert old in generated(MODEL, prompt)
    answer = generated(edited / "asked", prompt)
    assert new in answer
    assert old not in answer


def generated(folder: Path, prompt: str) -> str:
    model = load_model(folder, dtype=None, device="cpu")
    tokenizer = load_tokenizer(folder)
    inputs = tokenizer(prompt, return_tensors="pt")
    tokens = cast(Any, model).generate(**inputs, max_new_tokens=6, do_sample=False)
    return str(tokenizer.decode(tokens[0][inputs["input_ids"].shape[1] :]))


def blob_path(folder: Path, name: str) -> Path:
    return folder / ".ledger" / "patches" / name[:2] / f"{name}.safetensors"
