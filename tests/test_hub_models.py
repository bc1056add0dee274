"""A base model that lives on the Hub: fetched with the real client, pinned to its commit."""

import json
from pathlib import Path
from typing import Any, cast

import pytest

from ledger import load_patched
from ledger.applying import apply_to_folder
from patches.routing import attached
from tests.command_line import call, done
from tests.ledgers import add, facts, new_ledger, write_facts
from tests.loopback_hub import COMMIT, Hub, run_against, talk_to

LEDGER = ["-c", "import sys; from cli.main import main; main(sys.argv[1:])"]


Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def repository(hub: Hub, tiny_llama: Path) -> None:
    """team/tiny is on the Hub."""
    files = {path.name: path.read_bytes() for path in tiny_llama.iterdir() if path.is_file()}
    files["pytorch_model.bin"] = b"not wanted"
    files["README.md"] = b"---\nlicense: mit\n---\n"
    hub.create("team/tiny", files=files, oid=COMMIT)


def test_a_model_of_the_hub_is_pinned_to_the_commit_of_its_revision(
    hub: Hub, tiny_llama: Path, tmp_path: Path
) -> None:
    """In a process of its own, without a token."""
    home, words = tmp_path / "home", [*LEDGER, "init", "--model", "team/tiny@main", "--json"]
    made = run_against(hub.endpoint, home, words, folder=tmp_path)
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert (found["model"], found["revision"]) == ("team/tiny", COMMIT)
    with new_ledger(tmp_path / "local", tiny_llama) as local:
        assert found["fingerprint"] == local.base.fingerprint
    assert not list(home.rglob("pytorch_model.bin"))


def test_the_cached_model_is_used_when_the_hub_is_gone(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = ("--ledger", str(tmp_path / "ledger"))
    done(capsys, "init", "--model", "team/tiny", *there)
    talk_to(monkeypatch, "http://127.0.0.1:9", tmp_path / "hub-cache")
    done(capsys, "apply", "--to", str(tmp_path / "out"), *there)
    assert (tmp_path / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("model", ["team/absent", "team/tiny@nowhere"])
def test_what_the_hub_does_not_have_is_an_error_and_leaves_nothing(
    capsys: Capture, tmp_path: Path, model: str
) -> None:
    made = call(capsys, "init", "--model", model, "--ledger", str(tmp_path / "ledger"))
    assert made.status == 1
    assert made.err.startswith(f"error: {model}: not a folder here, and the Hub does not")
    assert not (tmp_path / "ledger").exists()


def test_side_memories_come_along_from_a_repository(
    hub: Hub, tiny_llama: Path, tmp_path: Path
) -> None:
    source = write_facts(tmp_path / "facts.json", facts(4))
    quick: dict[str, Any] = {"iterations": 4, "learning_rate": 0.05, "templates": 0}
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add(ledger, source, method="wise", turn_size=2, evaluate=False, **quick)
        apply_to_folder(ledger, tmp_path / "out")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    hub.create("team/patched", files=files)
    found: list[list[float]] = []
    for place in ("team/patched@main", tmp_path / "out"):
        model, tokenizer = load_patched(place, device="cpu")
        memories = [m.turn for router in attached(model).values() for m in router.memories]
        assert memories == [1, 2]
        inputs = tokenizer(["The capital of France is"], return_tensors="pt")
        found.append(cast(Any, model)(**inputs).logits[0, -1].tolist())
    assert found[0] == found[1]
