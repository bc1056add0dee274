"""A base model that lives on the Hub: fetched with the real client, pinned to its commit."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from ledger import load_patched
from ledger.applying import apply_to_folder
from tests.ledgers import add, facts, new_ledger, write_facts
from tests.loopback_hub import COMMIT, run_against, serve

LEDGER = ["-c", "import sys; from cli.main import main; main(sys.argv[1:])"]


@pytest.fixture
def hub(tiny_llama: Path) -> Iterator[str]:
    files = {path.name: path.read_bytes() for path in tiny_llama.iterdir() if path.is_file()}
    files["pytorch_model.bin"] = b"not wanted"
    files["README.md"] = b"---\nlicense: mit\n---\n"
    with serve("models", "team/tiny", files) as address:
        yield address


def test_a_model_of_the_hub_is_pinned_to_the_commit_of_its_revision(
    hub: str, tiny_llama: Path, tmp_path: Path
) -> None:
    local = run_against(
        hub,
        tmp_path / "home",
        [*LEDGER, "init", "--model", str(tiny_llama), "--json"],
        folder=_folder(tmp_path, "local"),
    )
    made = run_against(
        hub,
        tmp_path / "home",
        [*LEDGER, "init", "--model", "team/tiny@main", "--json"],
        folder=_folder(tmp_path, "hub"),
    )
    assert made.returncode == 0, made.stderr
    found = json.loads(made.stdout)
    assert (found["model"], found["revision"]) == ("team/tiny", COMMIT)
    assert found["fingerprint"] == json.loads(local.stdout)["fingerprint"]
    assert not list((tmp_path / "home").rglob("pytorch_model.bin"))


def test_the_cached_model_is_used_when_the_hub_is_gone(hub: str, tmp_path: Path) -> None:
    folder = _folder(tmp_path, "hub")
    home = tmp_path / "home"
    made = run_against(hub, home, [*LEDGER, "init", "--model", "team/tiny"], folder=folder)
    assert made.returncode == 0, made.stderr
    nowhere = "http://127.0.0.1:9"
    applied = run_against(nowhere, home, [*LEDGER, "apply", "--to", "out"], folder=folder)
    assert applied.returncode == 0, applied.stderr
    assert (folder / "out" / "model.safetensors").is_file()


@pytest.mark.parametrize("model", ["team/absent", "team/tiny@nowhere"])
def test_what_the_hub_does_not_have_is_an_error_and_leaves_nothing(
    hub: str, tmp_path: Path, model: str
) -> None:
    folder = _folder(tmp_path, "hub")
    made = run_against(hub, tmp_path / "home", [*LEDGER, "init", "--model", model], folder=folder)
    assert made.returncode == 1
    assert made.stderr.startswith(f"error: {model}: not a folder here, and the Hub does not")
    assert not list(folder.iterdir())


LOAD = """
import json
from ledger import load_patched
from patches.routing import attached

model, tokenizer = load_patched("team/patched@main", device="cpu")
inputs = tokenizer(["The capital of France is"], return_tensors="pt")
found = {
    "logits": model(**inputs).logits[0, -1].tolist(),
    "turns": [m.turn for router in attached(model).values() for m in router.memories],
}
print(json.dumps(found))
"""


def test_side_memories_come_along_from_a_repository(tiny_llama: Path, tmp_path: Path) -> None:
    source = write_facts(tmp_path / "facts.json", facts(4))
    quick: dict[str, Any] = {"iterations": 4, "learning_rate": 0.05, "templates": 0}
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add(ledger, source, method="wise", turn_size=2, evaluate=False, **quick)
        apply_to_folder(ledger, tmp_path / "out")
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    there = _folder(tmp_path, "there")
    with serve("models", "team/patched", files) as address:
        got = run_against(address, tmp_path / "home", ["-c", LOAD], folder=there)
    assert got.returncode == 0, got.stderr
    found = json.loads(got.stdout)
    assert found["turns"] == [1, 2]
    model, tokenizer = load_patched(tmp_path / "out", device="cpu")
    inputs = tokenizer(["The capital of France is"], return_tensors="pt")
    assert found["logits"] == cast(Any, model)(**inputs).logits[0, -1].tolist()


def _folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder
