"""The installed `ledger` command, timed as a user meets it."""

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

LEDGER = Path(sys.executable).with_name("ledger")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A command that has ended well. peak: bytes, the most that it held in memory."""

    output: str
    seconds: float
    peak: int


def ledger(*arguments: str, folder: Path) -> Ran:
    """Run the command on the ledger in `folder`; CalledProcessError if it fails."""
    command = [str(LEDGER), *arguments]
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "LEDGER_DIR": str(folder)}
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command, output)
    return Ran(output=output, seconds=time.perf_counter() - started, peak=_bytes(used))


def _bytes(used: resource.struct_rusage) -> int:
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
