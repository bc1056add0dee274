"""A base model that lives on the Hub: fetched with the real client, pinned to its commit."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

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


def _folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder
