"""`ledger import` and `export`, as people and programs see them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ledger.reporting import log
from ledger.workspace import Ledger
from patches.adapter import CONFIG_FILE, WEIGHTS_FILE, encode_adapter
from patches.deltas import LowRank
from tests.command_line import call, done
from tests.ledgers import contents, facts, files, new_ledger, write_facts

Capture = pytest.CaptureFixture[str]
DOWN = "model.layers.1.mlp.down_proj"


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        monkeypatch.setenv("LEDGER_DIR", str(ledger.folder))
        monkeypatch.chdir(tmp_path)
        yield ledger


@pytest.fixture
def adapter(tmp_path: Path) -> str:
    folder = tmp_path / "adapter"
    folder.mkdir()
    delta = LowRank(A=torch.ones(2, 48), B=torch.full((2, 32), 0.25))
    for name, content in encode_adapter(
        {DOWN: delta}, base_model="owner/name", revision=None, conv1d=False, metadata={}
    ).items():
        (folder / name).write_bytes(content)
    return str(folder)


@pytest.fixture
def edited(tmp_path: Path, tiny_llama: Path) -> str:
    """The base with another norm, and a matrix that is changed by something of rank 1."""
    folder = tmp_path / "edited"
    folder.mkdir()
    for path in tiny_llama.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tiny_llama / "model.safetensors")
    tensors["model.norm.weight"] += 0.5
    tensors[f"{DOWN}.weight"] += torch.linspace(0.5, 1, 48).bfloat16()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.mark.usefixtures("ledger")
def test_a_session_with_an_adapter(adapter: str, tmp_path: Path, capsys: Capture) -> None:
    told = done(capsys, "import", adapter, "-m", "From the tuning of May").out
    assert f"turn 1 is the adapter {adapter}: 1 tensor of rank 2, patch " in told
    assert ", exact\n" in told
    assert "note: the adapter names owner/name as its base, this ledger's is tiny-llama" in told
    line = done(capsys, "log").out.splitlines()[1]
    assert line.split()[:5] == ["1", "in", "force", "lora", "-"]
    assert line.endswith("From the tuning of May")
    shown = done(capsys, "show", "1").out
    assert "1 (import, in force)" in shown
    assert f"lora source {Path(adapter).name}, config_sha256 " in shown
    assert f"modules   {DOWN}" in shown
    assert "1 tensor, rank 2)" in shown
    assert "0 of edits, 0 rollbacks, 1 import" in done(capsys, "status").out
    assert "all as recorded" in done(capsys, "verify").out
    back = done(capsys, "rollback", "turn", "1").out
    assert "turn 2 rolls back turn 1; in force: none" in back
    again = done(capsys, "rollback", "turn", "2", "--to", str(tmp_path / "out")).out
    assert "which brings back turn 1; in force: 1" in again
    exported = done(capsys, "export", "--format", "peft", "--out", "exported").out
    assert exported.startswith("exported: the adapter of turn 1 (")
    assert f"1 tensor of rank 2, exact; {CONFIG_FILE} " in exported
    name = WEIGHTS_FILE
    before, after = (load_file(folder / name) for folder in (Path(adapter), Path("exported")))
    assert all(torch.equal(before[key], after[key]) for key in {*before, *after})


@pytest.mark.usefixtures("ledger")
def test_a_session_with_a_difference(edited: str, tmp_path: Path, capsys: Capture) -> None:
    told = done(capsys, "import", "--edited", edited).out
    assert f"turn 1 is the difference of {edited}: 2 tensors, patch " in told
    shown = done(capsys, "show", "1").out
    assert f"difference edited {Path(edited).name}, edited_fingerprint " in shown
    out = tmp_path / "out"
    done(capsys, "apply", "--to", str(out))
    assert files(out)["model.safetensors"] == files(Path(edited))["model.safetensors"]
    assert "all as recorded" in done(capsys, "verify", "--model", str(out)).out
    done(capsys, "rollback", "turn", "1")
    told = done(capsys, "import", "--edited", edited, "--max-error", "0.05").out
    assert ": 2 tensors of rank 1, patch " in told
    assert " at the most\n" in told
    assert "errors" in done(capsys, "show", "3").out
    told = done(capsys, "export", "--format", "safetensors", "--out", "sums").out
    assert "sums: the changes of turn 3 (" in told
    assert "2 tensors; delta.safetensors " in told
    assert set(load_file("sums/delta.safetensors")) == {"model.norm.weight", f"{DOWN}.weight"}


def test_an_import_writes_the_model_too_where_it_is_told_to(
    ledger: Ledger, adapter: str, edited: str, tmp_path: Path, capsys: Capture
) -> None:
    told = done(capsys, "import", "--edited", edited, "--to", "out").out
    assert "out: the model at turn 1, with turn 1 in force (" in told
    assert "ledger apply" not in told
    assert files(Path("out"))["model.safetensors"] == files(Path(edited))["model.safetensors"]
    found = done(capsys, "import", adapter, "--to", "out", "--link", "--json").json()
    assert (found["turn"], found["applied"]["turn"], found["applied"]["in_force"]) == (2, 2, [1, 2])
    assert "all as recorded" in done(capsys, "verify", "--model", "out").out
    before = contents(ledger)
    outcome = call(capsys, "import", adapter, "--to", str(tmp_path))
    assert outcome.status == 1
    assert "so no ledger wrote it" in outcome.err
    assert contents(ledger) == before


@pytest.mark.usefixtures("ledger")
def test_json_has_the_promised_keys(adapter: str, edited: str, capsys: Capture) -> None:
    keys = {"turn", "method", "source", "ranks", "errors", "patch_bytes", "notes", "seconds"}
    keys.add("applied")
    found = done(capsys, "import", adapter, "--json").json()
    assert set(found) == keys
    assert (found["turn"], found["ranks"]) == (1, {f"{DOWN}.weight": 2})
    done(capsys, "rollback", "turn", "1")
    found = done(capsys, "import", "--edited", edited, "--max-error", "0.05", "--json").json()
    assert set(found) == keys
    assert found["ranks"] == {f"{DOWN}.weight": 1, "model.norm.weight": None}
    assert found["errors"]["model.norm.weight"] == 0
    done(capsys, "rollback", "turn", "3")
    done(capsys, "rollback", "turn", "2")
    keys = {"folder", "format", "turn", "hash", "in_force", "files", "tensors", "ranks", "errors"}
    for form in ("peft", "safetensors"):
        found = done(capsys, "export", "--format", form, "--out", form, "--json").json()
        assert set(found) == {*keys, "notes"}
        assert (found["format"], found["turn"], found["in_force"]) == (form, 5, [1])
        assert found["files"] == {path.name: path.stat().st_size for path in Path(form).iterdir()}
        assert found["tensors"] == [f"{DOWN}.weight"]
    assert found["ranks"] == {}


def test_an_adapter_of_edits_is_smaller_with_an_error(
    ledger: Ledger, tmp_path: Path, capsys: Capture
) -> None:
    source = write_facts(tmp_path / "facts.json", facts(3))
    done(capsys, "add-edits", source, "--no-evaluate")
    ranks = []
    for out, options in (
        ("whole", ()),
        ("close", ("--max-error", "0.2")),
        ("small", ("--rank", "1", "--base-model", "owner/name@main")),
    ):
        words = ("export", "--format", "peft", "--out", out, "--at", "1", *options)
        ranks.append(done(capsys, *words, "--json").json()["ranks"].popitem()[1])
    assert ranks[0] > ranks[1] >= ranks[2] == 1
    assert json.loads(Path("small", CONFIG_FILE).read_text())["revision"] == "main"
    assert len(log(ledger)) == 1


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("import",), 2, "give an adapter, or a changed checkpoint with --edited"),
        (("import", "ADAPTER", "--edited", "EDITED"), 2, "give an adapter, or a changed"),
        (("import", "ADAPTER", "--base", "EDITED"), 2, "--base and --max-error go with --edited"),
        (("import", "ADAPTER", "--max-error", "0.1"), 2, "--base and --max-error go with"),
        (("import", "--edited", "EDITED", "--max-error", "1"), 2, "'--max-error': 1.0 is not in"),
        (("import", "nowhere"), 1, "nowhere: no such folder, and not a Hub id like owner/name"),
        (("import", "--edited", "nowhere"), 1, "nowhere: no such folder"),
        (("import", "EDITED"), 1, "adapter_config.json: no such file; give the folder of a PEFT"),
        (("import", "--edited", "ADAPTER"), 1, "no config.json in it"),
        (("export", "--out", "x"), 2, "Missing option '--format'"),
        (("export", "--format", "peft"), 2, "Missing option '--out'"),
        (("export", "--format", "gguf", "--out", "x"), 2, "'gguf' is not one of"),
        (("export", "--format", "peft", "--out", "x"), 1, "nothing changes the weights at turn 0"),
        (("export", "--format", "peft", "--out", "x", "--rank", "0"), 2, "0 is not in the range"),
        (("export", "--format", "safetensors", "--out", "x", "--rank", "2"), 2, "are for --format"),
        (("export", "--format", "peft", "--out", "ADAPTER"), 1, "holds files; choose a new or"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_is_wrong(
    ledger: Ledger,
    adapter: str,
    edited: str,
    capsys: Capture,
    words: tuple[str, ...],
    status: int,
    reason: str,
) -> None:
    before = contents(ledger)
    named = {"ADAPTER": adapter, "EDITED": edited}
    outcome = call(capsys, *(named.get(word, word) for word in words))
    assert (outcome.status, outcome.out) == (status, "")
    assert reason in outcome.err
    assert outcome.err.count("\n") == 1
    assert contents(ledger) == before
    assert not Path("x").exists()


def test_the_commands_import_no_torch_until_they_run() -> None:
    code = "import sys, cli.exchange; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
