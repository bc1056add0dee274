"""What commands load before they begin: seconds that a person waits for nothing."""

import contextlib
import gc
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
import sys
from cli.main import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert stop.code == 0
print(sorted({SLOW!r} & set(sys.modules)))
"""
MODULE = "model.layers.1.mlp.down_proj"


def loaded_by(ledger: Path, *words: str) -> str:
    """What of `SLOW` a command has loaded that ended well."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words],
        env={**os.environ, "LEDGER_DIR": str(ledger)},
        capture_output=True,
        text=True,
        check=True,
    )
    return ended.stdout.splitlines()[-1]


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
    for words in steps:
        assert loaded_by(folder, *words) == "[]", words


def test_imports_are_not_searched_for_garbage_and_what_follows_is() -> None:
    before = gc.get_freeze_count()
    with contextlib.suppress(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
