"""Whole commands, `ledger` among them, timed as a user meets them."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LEDGER = Path(sys.executable).with_name("ledger")
_LAUNCH = Path(__file__).with_name("launch.py")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command that has ended well. peak: bytes, the most that it held in memory."""

    output: str
    seconds: float
    peak: int


def ledger(*arguments: str, folder: Path) -> Ran:
    """Run the command on the ledger in `folder`; CalledProcessError if it fails."""
    return run([str(LEDGER), *arguments], environment={"LEDGER_DIR": str(folder)})


def run(
    command: Sequence[str], *, environment: Mapping[str, str], within: Path | None = None
) -> Ran:
    """Run a command with these variables beside ours; CalledProcessError if it fails.

    within: the folder that it runs in. The peak is that of the largest of its processes.
    """
    variables = {**os.environ, **environment}
    if (program := shutil.which(command[0], path=variables.get("PATH"))) is None:
        raise FileNotFoundError(f"{command[0]}: no such program")
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(_LAUNCH), str(result), program, *command[1:]],
            capture_output=True,
            text=True,
            cwd=within,
            env=variables,
            check=True,
        )
        took = json.loads(result.read_text(encoding="utf-8"))
    if took["status"]:
        raise subprocess.CalledProcessError(took["status"], command, done.stdout, done.stderr)
    peak = took["peak"] * (1 if sys.platform == "darwin" else 1024)
    return Ran(output=done.stdout, seconds=took["seconds"], peak=peak)
