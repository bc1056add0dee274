"""WISE on the real SmolLM2-135M: ten facts in a side memory, asked freely, routed, taken back."""

import hashlib
from pathlib import Path
from typing import Any, cast

import pytest

from ledger import load_patched
from tests.test_real import FACTS, MODEL, run, run_json

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODEL.is_dir(), reason=f"no model in {MODEL}; make it with: make model"),
]

EDITED, NEW, OLD = "The capital of Japan is", "Osaka", "Tokyo"
OTHER, KNOWN = "The capital of France is", "Paris"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ledger of two turns of five facts, each with a side memory."""
    folder = tmp_path_factory.mktemp("wise")
    run(folder, "init", "--model", str(MODEL.resolve()))
    words = ["--method", "wise", "--limit", "10", "--turn-size", "5", "--dtype", "float32"]
    run(folder, "add-edits", str(FACTS), *words, "--no-evaluate")
    return folder


def answers(model: Any, tokenizer: Any, *prompts: str) -> list[str]:
    """What the model says greedily, all prompts in one batch."""
    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left")
    tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)
    texts = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :])
    return [str(text).strip() for text in texts]


def test_edits_take_and_everything_else_stays(trained: Path) -> None:
    scores = run_json(trained, "evaluate", "--dtype", "float32", "--at", "2")
    state, base = scores["state"], scores["base"]
    assert base["edit_success"] < 0.3 < 0.9 < state["edit_success"]
    assert base["generated_match"] < 0.3 < 0.8 < state["generated_match"]
    assert state["generalization"] > base["generalization"] + 0.2
    assert state["routed_edits"] > 0.9
    assert state["stability"] > 0.6


def test_the_loaded_model_answers_edited_and_other_prompts_in_one_batch(trained: Path) -> None:
    run(trained, "apply", "--to", "patched")
    model, tokenizer = load_patched(trained / "patched", device="cpu", dtype="float32")
    edited, other = answers(model, tokenizer, EDITED, OTHER)
    assert edited.startswith(NEW)
    assert other.startswith(KNOWN)
    routed = run_json(trained, "route", EDITED, OTHER, "--dtype", "float32")
    assert [found["turns"] for found in routed] == [[1], []]
    assert run_json(trained, "verify", "--model", "patched")["ok"]


def test_undone_turns_leave_the_base_to_the_byte(trained: Path) -> None:
    undone = run_json(trained, "rollback", "turn", "1", "--to", "undone")
    assert undone["applied"]["memories"] == [2]
    model, tokenizer = load_patched(trained / "undone", device="cpu", dtype="float32")
    assert answers(model, tokenizer, EDITED)[0].startswith(OLD)
    run(trained, "rollback", "to", "0", "--to", "undone")
    for path in MODEL.iterdir():
        written = (trained / "undone" / path.name).read_bytes()
        assert hashlib.sha256(written).digest() == hashlib.sha256(path.read_bytes()).digest()
    run(trained, "rollback", "turn", str(len(run_json(trained, "log"))))
    run(trained, "rollback", "turn", "3")
    assert run_json(trained, "status")["in_force"] == [1, 2]


def test_merged_shards_answer_too_and_come_apart_again(trained: Path) -> None:
    words = ("merge-shards", "1..2", "--dtype", "float32", "--no-evaluate")
    merged = run_json(trained, *words)
    assert merged["merges"] == [1, 2]
    scores = run_json(trained, "evaluate", "--dtype", "float32")
    assert scores["state"]["edit_success"] > 0.5
    assert scores["state"]["routed_edits"] == 1
    undone = run_json(trained, "rollback", "turn", str(cast(int, merged["turn"])))
    assert undone["separated"] == [1, 2]
