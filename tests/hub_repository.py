"""What the loopback Hub keeps, in memory: repositories with commits, and the store of large files.

Commits are snapshots of `Blob`s, not git objects; only the ids that the client computes itself are
true ones: a regular file has its git blob id, a large file its SHA-256.
"""

import base64
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha1, sha256
from itertools import pairwise
from pathlib import Path
from threading import RLock
from typing import Any

from huggingface_hub import RepoCard

LARGEST_REGULAR_FILE = 10_000_000
Json = dict[str, Any]


class Refused(Exception):
    """The Hub does not do it: `status`, and in the client's terms the error code `code`."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers: str) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.headers = status, message, code, headers


@dataclass(frozen=True)
class Blob:
    """The content of one file, and whether it is stored as a large file (LFS)."""

    data: bytes
    lfs: bool

    @classmethod
    def of(cls, path: str, data: bytes) -> "Blob":
        """`data` stored the way in which the Hub would store it as `path`."""
        return cls(data, is_large(path, len(data)))

    @cached_property
    def sha256(self) -> str:
        return sha256(self.data).hexdigest()

    @cached_property
    def git_oid(self) -> str:
        """True for a regular file; for a large one of a pointer of our own, which nobody checks."""
        content = self._pointer if self.lfs else self.data
        return sha1(b"blob %d\0" % len(content) + content).hexdigest()

    @property
    def etag(self) -> str:
        """What identifies the content to the client, at preupload and in the download's ETag."""
        return self.sha256 if self.lfs else self.git_oid

    @property
    def _pointer(self) -> bytes:
        return f"oid sha256:{self.sha256}\nsize {len(self.data)}\n".encode()

    def entry(self, path: str) -> Json:
        """The file as ``tree`` and ``paths-info`` describe it."""
        entry = {"type": "file", "path": path, "oid": self.git_oid, "size": len(self.data)}
        return {**entry, "lfs": self._lfs("oid")} if self.lfs else entry

    def sibling(self, path: str) -> Json:
        """The file as ``?blobs=true`` describes it."""
        sibling = {"rfilename": path, "blobId": self.git_oid, "size": len(self.data)}
        return {**sibling, "lfs": self._lfs("sha256")} if self.lfs else sibling

    def _lfs(self, digest: str) -> Json:
        pointer = self._pointer
        return {digest: self.sha256, "size": len(self.data), "pointerSize": len(pointer)}


def is_large(path: str, size: int) -> bool:
    """Whether the Hub wants a file as LFS. An empty file never is: the client commits it itself."""
    return size > LARGEST_REGULAR_FILE or (path.endswith(".safetensors") and size > 0)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """A snapshot of all files, and where it comes from."""

    oid: str
    title: str
    description: str
    parent: str | None
    date: str
    blobs: Mapping[str, Blob]

    @property
    def files(self) -> dict[str, bytes]:
        return {path: blob.data for path, blob in self.blobs.items()}

    def entry(self) -> Json:
        """The commit as ``commits`` lists it."""
        message = {"title": self.title, "message": self.description}
        return {"id": self.oid, **message, "date": self.date, "authors": [{"user": "tester"}]}

    def tree(self) -> Iterator[Json]:
        """Every folder and file, as ``tree`` describes them."""
        folders = {p for path in self.blobs for p in _above(path)}
        for folder in sorted(folders):
            oid = sha1(f"{self.oid} {folder}".encode()).hexdigest()
            yield {"type": "directory", "path": folder, "oid": oid, "size": 0}
        for path, blob in sorted(self.blobs.items()):
            yield blob.entry(path)


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


class Repository:
    """One model, dataset or Space: its commits, branches and tags."""

    def __init__(
        self, name: str, kind: str, *, private: bool, lock: RLock, large: "LargeFiles"
    ) -> None:
        self.name, self.kind, self.private = name, kind, private
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.card: Mapping[str, object] | None = None  # instead of what README.md says
        self._commits: dict[str, Commit] = {}
        self.large = large
        self._lock = lock

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """The content of every file, of large ones too."""
        return self.find(revision).files

    def commits(self, revision: str = "main") -> list[Commit]:
        """The commit at `revision` and all before it, newest first."""
        found: list[Commit] = [self.find(revision)]
        while parent := found[-1].parent:
            found.append(self._commits[parent])
        return found

    def commit(
        self, changes: Mapping[str, bytes | None], title: str = "by hand", branch: str = "main"
    ) -> str:
        """Commit `changes` (None deletes) on top of `branch`, past the HTTP interface; its id."""
        with self._lock:
            blobs = {**self.head(branch).blobs}
            for path, data in changes.items():
                if data is None:
                    del blobs[path]
                else:
                    blobs[path] = Blob.of(path, data)
            return self.record(blobs, title, branch=branch).oid

    def record(
        self,
        blobs: Mapping[str, Blob],
        title: str,
        *,
        description: str = "",
        branch: str = "main",
        oid: str | None = None,
    ) -> Commit:
        """Make `blobs` the new head of `branch`, which need not exist yet."""
        parent = self.branches.get(branch)
        content = sorted((path, blob.etag) for path, blob in blobs.items())
        # With the count no two commits are the same, whatever is in them.
        what = f"{self.kind} {self.name} {len(self._commits)} {parent} {title} {content}"
        commit = Commit(
            oid=oid or sha1(what.encode()).hexdigest(),
            title=title,
            description=description,
            parent=parent,
            date=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
            blobs=dict(blobs),
        )
        for blob in blobs.values():
            if blob.lfs:
                self.large.put(blob.sha256, blob.data)
        self._commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit

    def head(self, branch: str) -> Commit:
        """The newest commit of `branch`."""
        if branch not in self.branches:
            raise Refused(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        return self._commits[self.branches[branch]]

    def find(self, revision: str) -> Commit:
        """The commit that `revision` names: a tag, a branch, or (the start of) a commit's id."""
        oid = self.tags.get(revision) or self.branches.get(revision)
        if oid is None and re.fullmatch("[0-9a-f]{7,40}", revision):
            begun = [known for known in self._commits if known.startswith(revision)]
            oid = begun[0] if len(begun) == 1 else None
        if oid is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self._commits[oid]

    def last_change(self, path: str, commit: Commit) -> Json:
        """The newest commit, from `commit` on, that changed the file or folder `path`."""
        history = self.commits(commit.oid)
        for newer, older in pairwise(history):
            if _below(path, newer) != _below(path, older):
                return newer.entry()
        return history[-1].entry()

    def information(
        self, commit: Commit, *, with_blobs: bool = False, expand: Iterable[str] = ()
    ) -> Json:
        """What ``repo_info`` answers; with `expand` no more than that, but for the name."""
        card = self.card if self.card is not None else card_of(commit)
        files = commit.blobs.items()
        everything = {
            "_id": sha1(self.name.encode()).hexdigest()[:24],
            "id": self.name,
            "author": self.name.split("/", maxsplit=1)[0],
            "sha": commit.oid,
            "lastModified": commit.date,
            "createdAt": self.commits()[-1].date,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": card.get("tags") or [],
            "library_name": card.get("library_name"),
            "pipeline_tag": card.get("pipeline_tag"),
            "cardData": card,
            "siblings": [b.sibling(p) if with_blobs else {"rfilename": p} for p, b in files],
        }
        wanted = {"_id", "id", *expand} if expand else everything.keys()
        return {key: value for key, value in everything.items() if key in wanted}

    def references(self) -> Json:
        """What ``refs`` answers."""
        return {
            "branches": [_reference("heads", *item) for item in self.branches.items()],
            "tags": [_reference("tags", *item) for item in self.tags.items()],
            "converts": [],
            "pullRequests": [],
        }


def _below(path: str, commit: Commit) -> dict[str, str]:
    return {p: b.etag for p, b in commit.blobs.items() if p == path or p.startswith(f"{path}/")}


def _reference(folder: str, name: str, oid: str) -> Json:
    return {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": oid}


def card_of(commit: Commit) -> Json:
    """The metadata at the head of README.md; none if it has none, or none that can be read."""
    readme = commit.files.get("README.md", b"").decode(errors="replace")
    try:
        return _metadata(readme)
    except ValueError:
        return {}


def card_problem(readme: str) -> tuple[str | None, str | None]:
    """The error and the warning that the Hub has for the metadata of a README.md."""
    try:
        return None, None if _metadata(readme) else "empty or missing yaml metadata in repo card"
    except ValueError as error:
        return str(error), None


def _metadata(readme: str) -> Json:
    if not readme.startswith("---"):
        return {}
    try:
        data: Any = RepoCard(readme, ignore_metadata_errors=True).data
        return dict(data.to_dict())
    except Exception as error:  # whatever the parser of YAML raises
        raise ValueError(str(error)) from None


def push(repository: Repository, branch: str, lines: list[Json]) -> Commit:
    """Do what the client's commit request says: a header, and one operation per line."""
    header, head = lines[0]["value"], repository.head(branch)
    if not head.oid.startswith(header.get("parentCommit") or ""):
        raise Refused(412, "A commit has happened since. Please refresh and try again.")
    blobs = {**head.blobs}
    for line in lines[1:]:
        _operate(blobs, line["key"], line["value"], repository.large)
    description = header.get("description") or ""
    return repository.record(blobs, header["summary"], description=description, branch=branch)


def _operate(blobs: dict[str, Blob], key: str, value: Json, large: "LargeFiles") -> None:
    path = value["path"]
    if key == "file":
        blobs[path] = Blob(base64.b64decode(value["content"]), lfs=False)
    elif key == "lfsFile":
        data = large.get(value["oid"])
        if data is None or value.get("size", len(data)) != len(data):
            problem = "an LFS pointer pointed to a file that does not exist"
            raise Refused(400, f"Your push was rejected because {problem}: {path}")
        blobs[path] = Blob(data, lfs=True)
    elif key in ("deletedFile", "deletedFolder"):
        below = f"{path.rstrip('/')}/"
        gone = [p for p in blobs if (p == path if key == "deletedFile" else p.startswith(below))]
        if not gone:
            raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for name in gone:
            del blobs[name]
    else:
        raise Refused(400, f"Unknown operation {key}")


# Run in a process of its own: no Rust threads in the tests' process, no logs in the user's home.
_UNPACK = """
import sys
from hf_xet import XetFileInfo, XetSession
store, *files = sys.argv[1:]
with XetSession().new_file_download_group(endpoint=store) as group:
    for name, size, path in zip(files[::3], files[1::3], files[2::3]):
        group.start_download_file(XetFileInfo(name, int(size)), path)
"""


class LargeFiles:
    """The content of all large files of a Hub, by SHA-256, however they came.

    Through Xet, the client itself writes chunks and shards (the tables of what is where) into a
    folder; they are put together by the same client when a commit asks for a file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._objects: dict[str, bytes] = {}
        self._stores: list[Path] = []

    def put(self, oid: str, data: bytes) -> None:
        """Keep `data`, whose SHA-256 is `oid`."""
        self._objects[oid] = data

    def get(self, oid: str) -> bytes | None:
        """The file with the SHA-256 `oid`, if there is one."""
        if oid not in self._objects:
            for store in self._stores:
                self._unpack(store)
        return self._objects.get(oid)

    def new_store(self) -> str:
        """The address of an empty Xet store. One per upload: a client locks the one it uses."""
        self._stores.append(self._folder / f"store-{len(self._stores)}")
        return f"local://{self._stores[-1]}"

    def _unpack(self, store: Path) -> None:
        shards = (store / "xet" / "xorbs" / "shards").glob("*.mdb")
        found = [file for shard in shards for file in _files_of_shard(shard.read_bytes())]
        missing = {file for file in found if file[0] not in self._objects}
        if not missing:
            return
        # The client may still hold the lock on its index; a copy is free.
        copy, out = self._folder / "copy", self._folder / "out"
        shutil.copytree(store, copy)
        arguments = [text for oid, name, size in missing for text in (name, size, str(out / oid))]
        subprocess.run(
            [sys.executable, "-c", _UNPACK, f"local://{copy}", *arguments],
            env={**os.environ, "HF_HOME": str(self._folder / "home")},
            check=True,
        )
        for oid, _, _ in missing:
            self._objects[oid] = (out / oid).read_bytes()
        shutil.rmtree(copy)
        shutil.rmtree(out)


def _files_of_shard(shard: bytes) -> Iterator[tuple[str, str, str]]:
    """SHA-256, Xet's own hash and size of every file that a Xet shard describes.

    After a header of 48 bytes follows, per file, a record of 48 (hash, flags, number of segments),
    one per segment (which has its size), as many with checks if bit 31 is set, and one with the
    SHA-256 if bit 30 is. A record of ones ends it.
    """
    at = 48
    while shard[at : at + 32] != b"\xff" * 32:
        name = _hash_at(shard, at)
        flags, segments = struct.unpack_from("<II", shard, at + 32)
        sizes = [struct.unpack_from("<36xI", shard, at + 48 * (i + 1))[0] for i in range(segments)]
        at += 48 * (1 + segments * (1 + (flags >> 31)))
        if flags >> 30 & 1:
            yield _hash_at(shard, at), name, str(sum(sizes))
            at += 48


def _hash_at(shard: bytes, at: int) -> str:
    """A hash as Xet writes it: four numbers of 64 bits, little-endian."""
    return "".join(f"{part:016x}" for part in struct.unpack_from("<4Q", shard, at))
