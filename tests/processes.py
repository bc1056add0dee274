"""Real processes that tests interrupt, kill and measure.

They are forked from a server process that has the libraries loaded already, and nothing else: one
starts in a fraction of a second, and inherits neither threads nor connections of the tests.
"""

import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection

_CONTEXT = multiprocessing.get_context("forkserver")
# What they would spend most of their time on. None of these starts a thread.
_CONTEXT.set_forkserver_preload(
    [
        *("cli.checking", "cli.combining", "cli.database", "cli.editing", "cli.evaluating"),
        *("cli.finding", "cli.log", "cli.main", "cli.reading", "cli.setting_up", "cli.sharing"),
        *("cli.squashing", "cli.states", "ledger.cleaning", "ledger.editing", "ledger.evaluating"),
        *("ledger.joining", "ledger.moving_database", "ledger.sharing.pulling", "tests.crashes"),
        *("sqlalchemy.dialects.postgresql", "sqlalchemy.dialects.sqlite"),
        *("transformers.models.auto.tokenization_auto", "transformers.models.llama.modeling_llama"),
    ]
)
_PATIENCE = 120.0
INTERRUPTED = 130

Report = Callable[[object], None]
"""How a process says how far it is, to who started it."""
Work = Callable[..., None]
"""What a process does: a function of a module, which is given `Report` and then its arguments."""


class Running:
    """A function at work in a process of its own."""

    def __init__(self, work: Work, *arguments: object) -> None:
        self._receiver, sender = _CONTEXT.Pipe(duplex=False)
        self._process = _CONTEXT.Process(target=_work, args=(sender, work, arguments))
        self._process.start()
        sender.close()
        assert self.message() == "started"

    def message(self) -> object:
        """The next thing that it reports; EOFError when it has ended."""
        if not self._receiver.poll(_PATIENCE):
            raise TimeoutError("the process says nothing")
        return self._receiver.recv()

    @property
    def is_alive(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.is_alive()

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.is_alive and self._process.pid is not None:
            os.kill(self._process.pid, number)

    def wait(self) -> int:
        """Its exit status: `INTERRUPTED` after Ctrl-C, negative after another signal."""
        self._process.join(_PATIENCE)
        status = self._process.exitcode
        assert status is not None, "the process does not end"
        self._receiver.close()
        return status


def finish(work: Work, *arguments: object) -> list[object]:
    """Let a process do its work; everything that it reported."""
    running = Running(work, *arguments)
    reports = []
    while True:
        try:
            reports.append(running.message())
        except EOFError:
            break
    assert running.wait() == 0
    return reports


def _work(sender: Connection, work: Work, arguments: tuple[object, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    sender.send("started")
    try:
        work(sender.send, *arguments)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
