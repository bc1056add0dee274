"""Datasets on the Hub: read through the real client, from a server on this machine."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ledger.datasets import open_dataset
from ledger.sources import parse_address
from patches.errors import DatasetError

COMMIT = "c0ffee" + "0" * 34
FACTS = [{"prompt": f"The capital of land {i} is", "target": f"city {i}"} for i in range(3)]
FILES = {
    "README.md": b"---\nlicense: cc-by-4.0\n---\nFacts.\n",
    "data/train.json": json.dumps(FACTS).encode(),
}
# Prints what a reader gets, or the error's text.
READ = """
import sys
from ledger.datasets import open_dataset, read_rows
from patches.errors import DatasetError
try:
    dataset = open_dataset(sys.argv[1])
    print(dataset)
    for row in read_rows(dataset, offset=1):
        print(row.number, row.edit.prompt, "->", row.edit.target)
except DatasetError as error:
    print("DatasetError:", error)
"""


class Hub(BaseHTTPRequestHandler):
    """The part of the Hub's interface that reading a public dataset needs, for ``team/facts``."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Keep the test's output free of requests."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        repo = "/api/datasets/team/facts"
        if path in (repo, f"{repo}/revision/main", f"{repo}/revision/{COMMIT}"):
            self.answer_json(self.repository())
        elif path.startswith(f"{repo}/tree/{COMMIT}"):
            self.answer_json(self.entries(path.removeprefix(f"{repo}/tree/{COMMIT}").strip("/")))
        elif path.startswith(f"/datasets/team/facts/resolve/{COMMIT}/"):
            self.answer_file(path.split(f"{COMMIT}/", 1)[1])
        else:
            self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        wanted = json.loads(body).get("paths", [])
        self.answer_json([entry for entry in self.entries("") if entry["path"] in wanted])

    def repository(self) -> dict[str, object]:
        return {
            "id": "team/facts",
            "sha": COMMIT,
            "private": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "cardData": {"license": "cc-by-4.0"},
            "siblings": [{"rfilename": name} for name in FILES],
        }

    def entries(self, under: str) -> list[dict[str, object]]:
        """Every file and folder below `under`, as the tree endpoint lists them."""
        files: list[dict[str, object]] = [
            {"type": "file", "oid": sha1(data).hexdigest(), "size": len(data), "path": name}
            for name, data in FILES.items()
        ]
        folder: dict[str, object] = {"type": "directory", "oid": "0" * 40, "size": 0}
        entries = [*files, {**folder, "path": "data"}]
        return [e for e in entries if str(e["path"]).startswith(under) and e["path"] != under]

    def answer_file(self, name: str) -> None:
        data = FILES.get(name)
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


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def read_in_new_process(source: str, endpoint: str, home: Path) -> str:
    """What READ prints. The client takes its settings when it is imported, hence the process."""
    settings = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    }
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-c", READ, source],
        env={**environment, **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_file_on_the_hub_is_read_at_a_pinned_commit(endpoint: str, tmp_path: Path) -> None:
    source = "hf://datasets/team/facts@main/data/train.json"
    described, *rows = read_in_new_process(source, endpoint, tmp_path).splitlines()
    digest = sha256(FILES["data/train.json"]).hexdigest()
    assert f"uri='hf://datasets/team/facts@{COMMIT}/data/train.json'" in described
    assert f"revision='{COMMIT}', sha256='{digest}', format='json'" in described
    assert "licence='cc-by-4.0'" in described
    assert rows == [
        "1 The capital of land 1 is -> city 1",
        "2 The capital of land 2 is -> city 2",
    ]


def test_a_whole_repository_is_streamed_at_a_pinned_commit(endpoint: str, tmp_path: Path) -> None:
    described, *rows = read_in_new_process(
        "hf://datasets/team/facts", endpoint, tmp_path
    ).splitlines()
    assert f"uri='hf://datasets/team/facts@{COMMIT}?split=train'" in described
    assert "format='hub', layout='canonical'" in described
    assert rows == [
        "1 The capital of land 1 is -> city 1",
        "2 The capital of land 2 is -> city 2",
    ]


@pytest.mark.parametrize(
    "source",
    [
        "hf://datasets/team/absent/data/train.json",
        "hf://datasets/team/facts/data/absent.json",
        "hf://datasets/team/facts?split=absent",
    ],
)
def test_what_the_hub_does_not_have_is_an_error_that_names_it(
    endpoint: str, tmp_path: Path, source: str
) -> None:
    printed = read_in_new_process(source, endpoint, tmp_path)
    assert printed.startswith("DatasetError: hf://datasets/team/")
    assert "absent" in printed
    assert "could not be read from the Hub" in printed


def test_a_hub_out_of_reach_is_an_error_that_says_so(tmp_path: Path) -> None:
    # Port 9 (discard) has no listener.
    printed = read_in_new_process("hf://datasets/team/facts/a.json", "http://127.0.0.1:9", tmp_path)
    assert printed.startswith("DatasetError: hf://datasets/team/facts/a.json could not be read")
    assert "the network" in printed


def test_a_repository_without_the_datasets_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DatasetError, match=r"pip install edit-ledger\[datasets\]"):
        open_dataset("hf://datasets/team/facts")


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/team/facts",
        "hf://datasets/team/facts@v1.0",
        "hf://datasets/team/facts@refs%2Fpr%2F3/a/b.jsonl",
        "hf://datasets/team/facts@v1?config=en&split=test%5B%3A10%25%5D",
    ],
)
def test_addresses_are_written_as_they_were_read(text: str) -> None:
    assert str(parse_address(text)) == text


def test_special_revisions_may_be_written_with_slashes() -> None:
    address = parse_address("hf://datasets/team/facts@refs/convert/parquet/default/0.parquet")
    assert (address.revision, address.path) == ("refs/convert/parquet", "default/0.parquet")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hf://team/facts/a.json", "no address of a dataset"),
        ("hf://datasets/facts", "no address of a dataset"),
        ("hf://datasets/team/facts?splitt=test", "does not understand splitt"),
        ("hf://datasets/team/facts/a.json?split=test", "does not understand split"),
    ],
)
def test_malformed_addresses_are_refused(text: str, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset(text)
