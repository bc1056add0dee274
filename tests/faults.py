"""The `ledger` command in a process of its own that is killed, or refused something by the system,
at a point that a test chooses.

Points are where a process that dies could leave something half done: before every change of a file
or folder that Python asks for, before and after every fsync, before every statement that changes a
database, before every commit, and after it. The program has no hook for this: these are Python's
own audit events and SQLAlchemy's, listened to in these processes alone.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.loopback_hub import talk_to
from tests.processes import Report, Running

_OPENING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)
_WRITES = ("INSERT", "UPDATE", "DELETE", "CREATE", "DROP", "ALTER")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens at point number `at` (from 1; 0: nothing): the process is killed, or the system
    answers with this error, there and `times` - 1 times after it. Errors come at files only.

    clock: seconds by which the clock jumps back there. limit: bytes that a file may have at most.
    """

    at: int = 0
    error: int | None = None
    times: int = 1
    clock: float = 0.0
    limit: int | None = None


@dataclass(frozen=True, kw_only=True)
class Command:
    """words: of the command line. folder: where it runs, and whose files are looked at. endpoint:
    of the Hub that it talks to. environment: variables besides those that are there."""

    words: tuple[str, ...]
    folder: Path
    endpoint: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def start(self, fault: Fault = Fault()) -> Running:
        """The running process; `said` has what it prints."""
        return Running(_run, self, fault)

    @property
    def said(self) -> Path:
        """The file with its standard output and errors."""
        return self.folder.with_name(f"{self.folder.name}.said")

    def run(self, fault: Fault = Fault()) -> "Ended":
        """Let it run until it ends."""
        running = self.start(fault)
        points: object = []
        started = 0.0
        with contextlib.suppress(EOFError):
            assert running.message() == "ready"
            started = time.monotonic()
            points = running.message()
        seconds = time.monotonic() - started
        assert isinstance(points, list)
        return Ended(
            status=running.wait(), points=points, seconds=seconds, said=self.said.read_text()
        )


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended. points: that it has passed, unless it was killed. said: on standard
    output and errors."""

    status: int
    points: list[str]
    seconds: float
    said: str


def _run(report: Report, command: Command, fault: Fault) -> None:
    os.chdir(command.folder)
    os.environ.update({"COLUMNS": "200", **command.environment})
    said = os.open(command.said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(said, stream)
    if command.endpoint is not None:
        cache = command.folder.with_name(f"{command.folder.name}.hub-cache")
        talk_to(pytest.MonkeyPatch(), command.endpoint, cache)
    from cli.main import main

    points = _Points(command.folder, fault)
    points.listen()
    report("ready")
    try:
        main(list(command.words))
    finally:
        points.end()
        report(points.passed)


class _Points:
    def __init__(self, folder: Path, fault: Fault) -> None:
        self.passed: list[str] = []
        self._folder = str(folder)
        self._fault = fault
        self._listening = True

    def listen(self) -> None:
        from sqlalchemy import Engine, Pool, event

        if self._fault.limit is not None:
            _limit(self._fault.limit)
        sys.addaudithook(self._audit)
        _around_fsync(self._at)
        event.listen(Engine, "commit", lambda _: self._at("commit"))
        event.listen(Pool, "checkin", lambda *_: self._at("done"))
        event.listen(Engine, "before_cursor_execute", self._statement)

    def end(self) -> None:
        self._listening = False

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._listening:
            return
        if event == "open":
            path, _, flags = arguments
            if not isinstance(flags, int) or not flags & _OPENING:
                return
        elif event in _CHANGES:
            path = arguments[0]
        else:
            return
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if name.startswith(self._folder) or (name and not name.startswith("/")):
            self._at(f"{event} {Path(name).name}", name)

    def _statement(self, *arguments: Any) -> None:
        words = str(arguments[2]).split(maxsplit=3)
        if words and words[0].upper() in _WRITES:
            self._at(" ".join(words[:3]))

    def _at(self, name: str, path: str | None = None) -> None:
        if not self._listening:
            return
        self.passed.append(name)
        beyond = len(self.passed) - self._fault.at
        if not self._fault.at or beyond < 0:
            return
        if self._fault.error is not None:
            if beyond < self._fault.times and path is not None:
                raise OSError(self._fault.error, os.strerror(self._fault.error), path)
        elif beyond == 0 and self._fault.clock:
            _set_back(self._fault.clock)
        elif beyond == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _around_fsync(at: Callable[..., None]) -> None:
    fsync = os.fsync

    def watched(fd: Any) -> None:
        at("fsync", f"descriptor {fd}")
        fsync(fd)
        at("synced")

    os.fsync = watched


def _set_back(seconds: float) -> None:
    """The time of day jumps back; what measures durations goes on."""
    from datetime import UTC, datetime, tzinfo

    real = time.time
    time.time = lambda: real() - seconds

    class Earlier(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Earlier":
            return cls.fromtimestamp(time.time(), tz or UTC)

    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith(("ledger.", "cli.", "patches.")):
            for name, value in list(vars(module).items()):
                if value is datetime:
                    setattr(module, name, Earlier)


def _limit(size: int) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
