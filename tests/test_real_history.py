"""Questions to the history of the real SmolLM2-135M: who said it, since when, and who else does."""

import json
from pathlib import Path

import pytest

from tests.test_real import FACTS, MODEL, run, run_json

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not MODEL.is_dir(), reason=f"no model in {MODEL}; make it with: make model"),
]

PROMPT = "The capital of Japan is"
FAST = ("--dtype", "float32")
QUICK = (*FAST, "--no-evaluate")


def facts(folder: Path, name: str, prompt: str, target: str) -> str:
    """A file with one fact."""
    path = folder / f"{name}.json"
    path.write_text(json.dumps([{"prompt": prompt, "target": target}]), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger whose two branches, from turn 1 on, say different things of Japan's capital: main
    has turns 2 and 3 (Kyoto), truth a turn 2 (Tokyo)."""
    folder = tmp_path_factory.mktemp("history")
    run(folder, "init", "--model", str(MODEL.resolve()))
    edits = ("add-edits", str(FACTS), "--turn-size", "10", *QUICK)
    run(folder, *edits, "--limit", "20")
    run(folder, "branch", "truth", "--at", "1")
    run(folder, "add-edits", facts(folder, "kyoto", PROMPT, "Kyoto"), *QUICK)
    tokyo = facts(folder, "tokyo", PROMPT, "Tokyo")
    run(folder, "add-edits", tokyo, "--branch", "truth", *QUICK)
    return folder


def test_blame_tells_what_was_said_before_and_after_every_edit(told: Path) -> None:
    found = run_json(told, "blame", PROMPT, "--model", *FAST)
    assert [(one["turn"], one["state"], one["target"]) for one in found] == [
        (1, "overridden", "Osaka"),
        (3, "in_force", "Kyoto"),
    ]
    assert found[0]["answers"]["before"] == found[0]["base"]
    assert found[0]["base"].strip().startswith("Tokyo")
    assert found[0]["answers"]["after"].strip().startswith("Osaka")


def test_bisect_finds_the_turn_that_brought_the_answer(told: Path) -> None:
    found = run_json(told, "bisect", "--prompt", PROMPT, "--expect", "Osaka", "--to", "2", *FAST)
    assert (found["turn"], found["change"]) == (1, "gained")
    assert len(found["steps"]) <= 4
    assert found["neighbours"][0]["prompt"] == PROMPT


def test_replayed_turns_on_the_same_state_have_the_same_patches(told: Path) -> None:
    run(told, "replay", "1..2", "--onto", "0", "--as", "again", *QUICK)
    again = run_json(told, "log", "--branch", "again")
    assert [turn["patch"]["digest"] for turn in again] == [
        turn["patch"]["digest"] for turn in run_json(told, "log")[:2]
    ]


def test_a_merge_asks_whose_fact_holds_and_the_other_is_no_longer_said(told: Path) -> None:
    asked = run_json(told, "merge", "truth", "--dry-run")
    [conflict] = asked["conflicts"]
    assert (conflict["ours"]["target"], conflict["theirs"]["target"]) == ("Kyoto", "Tokyo")
    run(told, "merge", "truth", "--on-conflict", "theirs", *QUICK)
    found = run_json(told, "blame", PROMPT, "--model", *FAST)
    assert found[-1]["target"] == "Tokyo"
    assert found[-1]["state"] == "in_force"
    assert not found[-1]["now"].strip().startswith("Kyoto")
    assert run_json(told, "verify")["ok"]


def test_a_squash_keeps_the_model_and_is_taken_back(told: Path) -> None:
    head = run_json(told, "status")["turn"]
    before = run_json(told, "show", str(head))["tensors"]
    done = run_json(told, "squash", "1..3")
    assert done["error"] == 0
    run(told, "apply", "--to", "squashed")
    assert run_json(told, "verify", "--model", "squashed")["ok"]
    run(told, "rollback", "turn", "HEAD")
    assert run_json(told, "show", "HEAD")["tensors"] == before
