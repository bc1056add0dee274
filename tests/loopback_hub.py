"""A Hub on loopback, read and written with the real client, that fails when it is told to.

Repositories live in memory (`hub_repository`). Every request is a connection of its own, so that
none outlives the Hub. `Hub.create` commits the given files and nothing else; a repository that the
client creates begins as on the real Hub, with a commit of ``.gitattributes``.

Large files (huggingface_hub 2.4.0 with hf_xet 1.8.0). The client takes LFS only with
HF_HUB_DISABLE_XET=1, or for a file object instead of a path or bytes; no answer of a server makes
it fall back. By default it asks for a Xet token instead, without an LFS batch. The token names the
store, and hf_xet takes ``local://FOLDER`` for one: that is what this Hub answers, and where it
reads the files again when they are committed. So both ways work, but `Hub.fail` meets only what
passes over HTTP. Downloads are plain HTTP both ways, as no answer has a Xet hash.

The client's patience is not configurable. After 429, 5xx or a lost connection it tries five more
times, waiting 1, 2, 4, 8 and 8 seconds, at preupload, LFS batch, PUT, verify, and listings of trees
and commits; likewise a file's HEAD after 429 or 5xx, and its GET after 429. A GET that breaks off
is tried five more times after 1 second. Everything else it tries once, the commit too, except those
of `upload_folder` with Xet. So let a request fail once (`times`) unless giving up is what is
tested, or set ``base_wait_time`` in the defaults of ``http_backoff`` to 0, as the Hub's own tests
do. Only hf_xet listens to the environment.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.hub_endpoints import TOKEN, Answer, Content, Request, refusal, respond
from tests.hub_repository import Commit, Refused, Repository

__all__ = [
    "COMMIT",
    "TOKEN",
    "Commit",
    "Hub",
    "Repository",
    "Request",
    "run_against",
    "serve",
    "serve_hub",
    "talk_to",
]

COMMIT = "c0ffee" + "0" * 34  # the one commit of `serve`
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(kw_only=True)
class Rule:
    """Something that happens `times` times, to requests whose method and path are such."""

    method: str
    path: str
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    handled: bool = False
    after_bytes: int | None = None
    action: Callable[[], object] = lambda: None


class Hub(Content):
    """A Hub: what is on it, what was asked of it, and what a test says shall happen."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        super().__init__(endpoint, folder)
        self.requests: list[Request] = []  # in the order in which they came
        self.errors: list[BaseException] = []  # of the Hub itself; raised when it is closed
        self._failures: list[Rule] = []
        self._before: list[Rule] = []
        self._after: list[Rule] = []
        self._redirects: list[tuple[str, str]] = []

    def fail(
        self,
        method: str,
        path: str,
        *,
        status: int | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        drop: bool = False,
        handled: bool = False,
        after_bytes: int | None = None,
        times: int = 1,
    ) -> None:
        """Let the next `times` requests fail that have this method and path (regular expressions;
        the path is searched in the quoted one, with its query).

        With `status`, that is the answer, with `headers`. With `drop`, the connection is closed
        instead: before anything was done; with `handled` when all was done and only the answer is
        missing; with `after_bytes` in the middle of a download's or an upload's body.
        """
        if (status is not None) == drop:
            raise ValueError("a failure has either a status or a dropped connection")
        rule = Rule(method=method, path=path, status=status, headers=headers, times=times)
        rule.handled, rule.after_bytes = handled, after_bytes
        self._failures.append(rule)

    def before(self, method: str, path: str, action: Callable[[], object]) -> None:
        """Run `action` once, when such a request has come but nothing was done."""
        self._before.append(Rule(method=method, path=path, action=action))

    def after(self, method: str, path: str, action: Callable[[], object]) -> None:
        """Run `action` once, when such a request was handled but not answered."""
        self._after.append(Rule(method=method, path=path, action=action))

    def redirect(self, path: str, to: str) -> None:
        """From now on answer requests with such a path by sending them to the server `to`."""
        self._redirects.append((path, to))

    def failure_of(self, request: Request) -> Rule | None:
        """The failure that this request shall meet."""
        return self._take(self._failures, request)

    def handle(self, request: Request, body: bytes, failure: Rule | None) -> Answer | None:
        """Do what the request asks for; what to answer, if anything."""
        partly = failure is not None and failure.after_bytes is not None
        if failure is not None and failure.status is not None:
            return _failed(failure.status, failure.headers)
        if failure is not None and not partly and not failure.handled:
            return None
        if rule := self._take(self._before, request):
            rule.action()
        with self.lock:
            answer = self._redirected(request) or respond(self, request, body)
        if rule := self._take(self._after, request):
            rule.action()
        return answer if failure is None or partly else None

    def _redirected(self, request: Request) -> Answer | None:
        """As the real Hub sends to its storage: what the file is, is said with the redirect."""
        targets = [to for path, to in self._redirects if re.search(path, request.path)]
        if not targets:
            return None
        headers = {"Location": targets[0] + request.path}
        met = respond(self, request, b"") if request.method in ("GET", "HEAD") else Answer()
        if "X-Repo-Commit" in met.headers and "ETag" in met.headers:
            headers["X-Repo-Commit"] = met.headers["X-Repo-Commit"]
            headers["X-Linked-Etag"] = met.headers["ETag"]
            headers["X-Linked-Size"] = str(len(met.body))
        return Answer(status=302, headers=headers)

    def _take(self, rules: list[Rule], request: Request) -> Rule | None:
        with self.lock:
            for rule in rules:
                fits = re.fullmatch(rule.method, request.method)
                if rule.times and fits and re.search(rule.path, request.path):
                    rule.times -= 1
                    return rule
        return None


# What the real Hub says; for other statuses, that something went wrong on its side.
EXCUSES = {
    401: ("Invalid credentials in Authorization header", None),
    403: ("Forbidden: you must use a write token to upload to a repository.", None),
    404: ("Repository not found", "RepoNotFound"),
    412: ("A commit has happened since. Please refresh and try again.", None),
    413: ("Payload too large", None),
    429: ("We had to rate limit your IP.", None),
}


def _failed(status: int, headers: Mapping[str, str]) -> Answer:
    message, code = EXCUSES.get(status, ("Internal Error - We're working hard to fix this", None))
    answer = refusal(Refused(status, message, code))
    return Answer(status=status, body=answer.body, headers={**answer.headers, **headers})


class _Connection(BaseHTTPRequestHandler):
    """One request over one connection (HTTP/1.0)."""

    server: "_Server"
    timeout = 60  # for a client that stops in the middle of a body

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Keep the test's output free of requests."""

    def _handle(self) -> None:
        hub = self.server.hub
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers)
        hub.requests.append(request)
        failure = hub.failure_of(request)
        size = int(headers.get("content-length", 0))
        cut = failure.after_bytes if failure else None
        if cut is not None and self.command in ("POST", "PUT"):
            self.rfile.read(min(cut, size))
            return
        # All of it, whatever the answer: closed with something unread, a connection is reset.
        body = self.rfile.read(size)
        if len(body) < size:
            return  # the client is gone
        answer = hub.handle(request, body, failure)
        if answer is not None:
            request.status = answer.status
            self._send(answer, cut)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _send(self, answer: Answer, cut: int | None) -> None:
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body[:cut])


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # closing waits for the requests that are under way
    request_queue_size = 64
    hub: Hub

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.hub.errors.append(error)


def talk_to(patch: pytest.MonkeyPatch, endpoint: str, cache: Path) -> None:
    """Let the client in this process talk to that Hub, logged in; it has read its environment when
    it was imported. Changes filters of warnings: call it inside `warnings.catch_warnings`."""
    from huggingface_hub import constants, hf_api
    from huggingface_hub.utils._http import http_backoff

    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    patch.setattr(constants, "ENDPOINT", endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(hf_api.api, "endpoint", endpoint)
    patch.setattr(constants, "HF_HUB_CACHE", str(cache))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    patch.setenv("HF_TOKEN", TOKEN)
    # It would wait up to 23 seconds before it gives up.
    patch.setitem(http_backoff.__kwdefaults__ or {}, "base_wait_time", 0)
    # Of the client's own upload.
    warnings.filterwarnings("ignore", "Use 'content=<...>'", DeprecationWarning)


@contextmanager
def serve_hub(port: int = 0) -> Iterator[Hub]:
    """An empty Hub, until the end of the block; mistakes of its own are raised then.

    port: default, one that is free.
    """
    with tempfile.TemporaryDirectory(prefix="loopback-hub-") as folder:
        server = _Server(("127.0.0.1", port), _Connection)
        server.hub = hub = Hub(f"http://127.0.0.1:{server.server_port}", Path(folder))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
            server.server_close()
        if hub.errors:
            raise hub.errors[0]


@contextmanager
def serve(
    kind: str, repo: str, files: Mapping[str, bytes], card: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Serve `files` as the repository `repo` (kind ``models`` or ``datasets``); its address."""
    with serve_hub() as hub:
        hub.create(repo, kind=kind.removesuffix("s"), files=files, oid=COMMIT).card = card
        yield hub.endpoint


def run_against(
    endpoint: str,
    home: Path,
    arguments: list[str],
    *,
    folder: Path | None = None,
    token: str | None = None,
    xet: bool = False,
    timeout: float = 120,
) -> subprocess.CompletedProcess[str]:
    """Run Python with a clean Hub configuration: the client reads it when it is imported."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",  # else a request to find out who runs the client
        "HF_XET_CLIENT_RETRY_BASE_DELAY": "10ms",  # it would try for minutes
        **({} if xet else {"HF_HUB_DISABLE_XET": "1"}),
        **({"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}),
    }
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=folder,
        check=False,
    )
