"""A Hub on loopback: one public repository, read with the real client."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

COMMIT = "c0ffee" + "0" * 34


class Hub(BaseHTTPRequestHandler):
    """The part of the Hub's interface that reading one public repository needs."""

    # Set by `serve` on a class of its own.
    kind: ClassVar[str]
    repo: ClassVar[str]
    files: ClassVar[Mapping[str, bytes]]
    card: ClassVar[dict[str, str]]

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Keep the test's output free of requests."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        repo = f"/api/{self.kind}/{self.repo}"
        files = f"/{self.repo}" if self.kind == "models" else f"/{self.kind}/{self.repo}"
        if path in (repo, f"{repo}/revision/main", f"{repo}/revision/{COMMIT}"):
            self.answer_json(self.repository())
        elif path.startswith(f"{repo}/tree/{COMMIT}"):
            self.answer_json(self.entries(path.removeprefix(f"{repo}/tree/{COMMIT}").strip("/")))
        elif path.startswith(f"{files}/resolve/{COMMIT}/"):
            self.answer_file(path.split(f"{COMMIT}/", 1)[1])
        else:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        wanted = json.loads(body).get("paths", [])
        self.answer_json([entry for entry in self.entries("") if entry["path"] in wanted])

    def repository(self) -> dict[str, object]:
        return {
            "id": self.repo,
            "sha": COMMIT,
            "private": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "cardData": self.card,
            "siblings": [{"rfilename": name} for name in self.files],
        }

    def entries(self, under: str) -> list[dict[str, object]]:
        """Every file and folder below `under`, as the tree endpoint lists them."""
        files: list[dict[str, object]] = [
            {"type": "file", "oid": sha1(data).hexdigest(), "size": len(data), "path": name}
            for name, data in self.files.items()
        ]
        folder: dict[str, object] = {"type": "directory", "oid": "0" * 40, "size": 0}
        above = {name.rpartition("/")[0] for name in self.files} - {""}
        entries = [*files, *({**folder, "path": path} for path in sorted(above))]
        return [e for e in entries if str(e["path"]).startswith(under) and e["path"] != under]

    def answer_file(self, name: str) -> None:
        data = self.files.get(name)
        if data is None:
            self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{sha1(data).hexdigest()}"'}
        start, end, status = 0, len(data), 200
        if wanted := self.headers.get("Range"):
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end, status = int(first), min(int(last or end) + 1, end), 206
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(data)}"
        self.answer(status, data[start:end], headers)

    def answer_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve(
    kind: str, repo: str, files: Mapping[str, bytes], card: dict[str, str] | None = None
) -> Iterator[str]:
    """Serve `files` as the repository `repo` (kind ``models`` or ``datasets``); its address."""
    content = {"kind": kind, "repo": repo, "files": files, "card": card or {}}
    handler = type("Served", (Hub,), content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def run_against(
    endpoint: str, home: Path, arguments: list[str], *, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run Python with a clean Hub configuration: the client reads it when it is imported."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    }
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, *arguments],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        check=False,
    )
