"""Run a command from a process that is small itself, and write what the command took.

    python -I -S launch.py RESULT COMMAND…

The peak that the system counts of a process begins with what the one held that started it: run by
a benchmark that has a model in memory, every command would seem to have one too. RESULT gets JSON:
status, seconds, and peak in units of ru_maxrss, that of the largest of the command's processes.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path


def main(result: str, command: list[str]) -> None:
    """Run it, and write `result`."""
    started = time.perf_counter()
    with subprocess.Popen(command) as process:
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
    took = {"status": process.returncode, "seconds": seconds, "peak": used.ru_maxrss}
    Path(result).write_text(json.dumps(took), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
