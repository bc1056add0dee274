"""What commands load before they begin: seconds that a person waits for nothing."""

import contextlib
import gc
import json
import os
import subprocess
import sys
from pathlib import Path

from cli.starting import importing
from tests.exchanged import adapter, ones
from tests.ledgers import new_ledger

# The compiler of torch, and what runs models.
SLOW = {"torch._dynamo", "transformers", "peft", "huggingface_hub", "datasets"}
SCRIPT = f"""
import json, sys
from cli.main import main
for words in json.load(sys.stdin):
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code == 0, words
    loaded = {SLOW!r} & set(sys.modules)
    assert not loaded, (words, loaded)
"""
MODULE = "model.layers.1.mlp.down_proj"


def test_what_needs_no_model_loads_nothing_that_runs_one(tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ledger"
    with new_ledger(folder, tiny_llama):
        pass
    first = adapter(tmp_path / "first", {MODULE: ones()})
    second = adapter(tmp_path / "second", {MODULE: ones(size=0.5)})
    steps = [
        ("branch", "other"),
        ("import", first),
        ("import", second, "--branch", "other"),
        ("merge", "other", "--strategy", "ties", "--no-evaluate"),
        ("rollback", "turn", "3"),
        ("apply", "--to", str(tmp_path / "out")),
        ("export", "--format", "peft", "--out", str(tmp_path / "exported")),
    ]
    # One after the other in one process, which must never load any of it.
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(steps),
        env={**os.environ, "LEDGER_DIR": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


def test_imports_are_not_searched_for_garbage_and_what_follows_is() -> None:
    before = gc.get_freeze_count()
    with contextlib.suppress(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
