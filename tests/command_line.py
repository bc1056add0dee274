"""The `ledger` command, as tests call it: in this process, in one of its own, on a terminal."""

import contextlib
import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cli.main import main

LEDGER = Path(sys.executable).with_name("ledger")
_PATIENCE = 120.0


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a command ended, and what it wrote."""

    status: str | int | None
    out: str
    err: str

    def json(self) -> Any:
        """Standard output, which must be one JSON document and nothing else."""
        return json.loads(self.out)


def call(capsys: pytest.CaptureFixture[str], *words: str) -> Outcome:
    """Run the command line in this process."""
    capsys.readouterr()
    status: str | int | None = 0
    try:
        main(list(words))
    except SystemExit as stop:
        status = stop.code
    captured = capsys.readouterr()
    return Outcome(status=status, out=captured.out, err=captured.err)


def done(capsys: pytest.CaptureFixture[str], *words: str) -> Outcome:
    """Run a command that must end well, without a word on standard error."""
    outcome = call(capsys, *words)
    assert (outcome.status, outcome.err) == (0, ""), words
    return outcome


def process(*words: str, **environment: str) -> Outcome:
    """Run the installed command in a process of its own."""
    ended = subprocess.run(
        [str(LEDGER), *words],
        env=_environment(environment),
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    return Outcome(status=ended.returncode, out=ended.stdout, err=ended.stderr)


def on_terminal(*words: str, columns: int, output: Path | None = None, **environment: str) -> str:
    """What the installed command shows on a terminal of that width.

    output: the file that standard output goes to instead.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with contextlib.ExitStack() as files:
        running = subprocess.Popen(
            [str(LEDGER), *words],
            env=_environment({"TERM": "xterm", **environment}),
            stdin=theirs,
            stdout=theirs if output is None else files.enter_context(output.open("wb")),
            stderr=theirs,
        )
    os.close(theirs)
    shown = _read_all(ours)
    assert running.wait(_PATIENCE) == 0, shown
    return shown.replace("\r\n", "\n")


def _environment(changes: dict[str, str]) -> dict[str, str]:
    inherited = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    return {**inherited, "OMP_NUM_THREADS": "1", **changes}


def _read_all(terminal: int) -> str:
    pieces = []
    while select.select([terminal], [], [], _PATIENCE)[0]:
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # Linux says so when the other end is closed
            break
        if not piece:
            break
        pieces.append(piece)
    os.close(terminal)
    return b"".join(pieces).decode()
