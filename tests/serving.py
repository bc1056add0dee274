"""`ledger serve` as people start it: the installed command, in a process of its own. And the same
pages served by a thread of this process, for those who look at pages alone."""

import json
import logging
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

from waitress import create_server, wasyncore

from ledger.page import listening
from ledger.page.app import create_app
from ledger.workspace import open_ledger
from tests.command_line import LEDGER

COMING = 202
"""The status of a page that is still being put together."""
_PATIENCE = 60.0
_LOGGERS = ("ledger.page", "waitress")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back. headers: with names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, kw_only=True)
class Site:
    """Something that a browser can go to. url: with a slash at its end."""

    url: str
    token: str

    def ask(self, path: str, *, method: str = "GET", **headers: str) -> Answer:
        """Ask without a browser, as who has the token, until the page is there; `path` as it is to
        stand in the request."""
        while True:
            answer = self._ask(path, method, headers)
            if answer.status != COMING:
                return answer
            time.sleep(0.1)

    def _ask(self, path: str, method: str, headers: dict[str, str]) -> Answer:
        given = {"Authorization": f"Bearer {self.token}", **headers}
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=_PATIENCE)
        try:
            connection.request(method, path, headers=given)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(status=answer.status, headers=found, body=answer.read())
        finally:
            connection.close()


@dataclass(frozen=True, kw_only=True)
class Served(Site):
    """A running server."""

    port: int
    process: subprocess.Popen[str]


def start(folder: Path, *options: str, **environment: str) -> Served:
    """Start it for the ledger in `folder`, at a free port; end it with `end`."""
    running = subprocess.Popen(
        [str(LEDGER), "serve", "--ledger", str(folder), "--port", "0", "--json", *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    line = running.stdout.readline()
    if not line:
        _, said = running.communicate(timeout=_PATIENCE)
        raise AssertionError(f"the server did not start: {said}")
    told = json.loads(line)
    return Served(**told, process=running)


def end(served: Served, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
    """Ask it to end: its exit status, and what it wrote to standard error."""
    served.process.send_signal(number)
    _, said = served.process.communicate(timeout=_PATIENCE)
    return served.process.returncode, said


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Served]:
    """A server until the end of the block, which must have had nothing to complain about."""
    served = start(folder, *options)
    try:
        yield served
    finally:
        status, said = end(served)
    assert not said, said
    assert status == 0


@contextmanager
def serving_here(folder: Path, *, port: int = 0, **options: Any) -> Iterator[Site]:
    """A server in a thread of this process until the end of the block, which must have had nothing
    to complain about. options: of `ledger.page.app.create_app`."""
    token, heard, channels = listening.checked_token(None), _Heard(), dict[int, Any]()
    with open_ledger(folder) as ledger, listening.listen("127.0.0.1", port) as at, heard:
        hosts = listening.names("127.0.0.1", at)
        app = create_app(ledger, token=token, hosts=hosts, **options)
        server = create_server(app, sockets=[at], ident="", map=channels)
        thread = Thread(target=server.run)
        thread.start()
        try:
            yield Site(url=listening.address("127.0.0.1", at), token=token)
        finally:
            # Its loop ends when nothing is left to listen to.
            server.trigger.pull_trigger(partial(wasyncore.close_all, channels))
            thread.join(_PATIENCE)
            server.task_dispatcher.shutdown()
    assert not heard.said, heard.said


class _Heard(logging.Handler):
    """What servers complain of while the block runs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))

    def __enter__(self) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).addHandler(self)

    def __exit__(self, *_: object) -> None:
        for name in _LOGGERS:
            logging.getLogger(name).removeHandler(self)
