"""Run a program of this folder on a task, in a process of its own."""

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from tests.benchmarks.one_turn import Outcome, Task

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


class ComparisonError(Exception):
    """The two cannot be compared."""


def run(program: str, task: Task, threads: int, scratch: Path) -> Outcome:
    """What came of it; ComparisonError, with what the program said, if it fails."""
    with tempfile.TemporaryDirectory(dir=scratch) as own:
        told, result = Path(own) / "task.json", Path(own) / "result.json"
        replace(task, scratch=own).write(told)
        done = subprocess.run(
            [sys.executable, "-m", f"tests.benchmarks.{program}", str(told), str(result)],
            env={**os.environ, **dict.fromkeys(_THREADS, str(threads))},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ComparisonError(f"{program} has failed:\n{done.stderr[-2000:]}")
        return Outcome.read(result)
