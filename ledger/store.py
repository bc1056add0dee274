"""The patch store: files named by the SHA-256 of their bytes, written once and never changed."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from patches.canonical import Piece
from patches.errors import StoreError

_SUFFIX = ".safetensors"
_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A file as it lies in a store. name: its path, or address. modified: seconds since 1970."""

    name: str
    bytes: int
    modified: float

    @classmethod
    def at(cls, path: Path) -> Self | None:
        """What lies at `path`, None if nothing does."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        return cls(name=str(path), bytes=found.st_size, modified=found.st_mtime)


def blob_name(digest: str) -> str:
    """The name of a blob in every store, with ``/``."""
    return f"{digest[:2]}/{digest}{_SUFFIX}"


@dataclass(frozen=True, kw_only=True)
class Store:
    """A folder of blobs, ``ab/abcdef….safetensors``: a `ledger.stores.PatchStore`."""

    folder: Path

    @property
    def address(self) -> str:
        """What people are shown."""
        return str(self.folder)

    def path(self, digest: str) -> Path:
        """Where the blob lies, whether it exists or not."""
        return self.folder / blob_name(digest)

    def where(self, digest: str) -> str:
        """The same, for people."""
        return str(self.path(digest))

    def prepare(self) -> None:
        """Make the folder."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def put(self, *content: Piece) -> str:
        """Write a blob, given in pieces, durably and return its digest; nothing is written if it is
        there already.

        The bytes go to a temporary file, are synchronised and then renamed, so that a blob under
        its name is always whole.
        """
        running = hashlib.sha256()
        for piece in content:
            running.update(piece)
        digest = running.hexdigest()
        path = self.path(digest)
        if path.exists() and file_digest(path) == digest:
            _renew(path)
            return digest
        size = sum(len(piece) for piece in content)
        with self.arriving(f"{size:,} bytes") as temporary:
            with temporary.open("wb") as file:
                file.writelines(content)
            self.place(temporary, digest)
        return digest

    @contextmanager
    def arriving(self, what: str = "a patch") -> Iterator[Path]:
        """Inside, the path of a file to be written, for what is too large for `put`, and then given
        to `keep`. If it was not, it is gone afterwards.

        What the system says against writing it becomes a StoreError.
        """
        temporary = self.folder / f".writing-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            yield temporary
        except OSError as error:
            raise StoreError(
                f"patch store {self.folder}: cannot write {what} "
                f"({error.strerror}); free or mount it and run again, nothing was recorded"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def keep(self, temporary: Path) -> str:
        """Make a finished file from `arriving` a blob, durably; its digest."""
        digest = file_digest(temporary)
        if self.problem(digest) is None:
            _renew(self.path(digest))
        else:
            self.place(temporary, digest)
        return digest

    def place(self, temporary: Path, digest: str) -> None:
        """The same with a file that is known to have this digest."""
        path = self.path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
        _sync_folder(self.folder)

    def open(self, digest: str) -> Path:
        """The path of a blob whose bytes have been checked; StoreError if missing or damaged."""
        path = self.path(digest)
        problem = self.problem(digest)
        if problem is not None:
            raise StoreError(
                f"{path}: {problem}; restore it from a backup or from where it was pushed"
            )
        return path

    def checked(self, digest: str) -> Path | None:
        """The path of a blob whose bytes have been checked; None if it is missing or damaged."""
        return self.path(digest) if self.problem(digest) is None else None

    def problem(self, digest: str) -> str | None:
        """What is wrong with a blob, or None."""
        path = self.path(digest)
        try:
            found = file_digest(path)
        except FileNotFoundError:
            return "the file is missing"
        except OSError as error:
            return f"the file cannot be read ({error.strerror})"
        return None if found == digest else f"the file is damaged (its SHA-256 is {found})"

    def stored(self, digest: str) -> Stored | None:
        """The blob as it lies there, unchecked; None if it does not."""
        return Stored.at(self.path(digest))

    def beginning(self, digest: str, count: int) -> bytes:
        """The first `count` bytes of a blob that is there, unchecked."""
        with self.path(digest).open("rb") as file:
            return file.read(count)

    def digests(self) -> Iterator[str]:
        """Every blob in the store."""
        for path in sorted(self.folder.glob(f"??/*{_SUFFIX}")):
            yield path.name.removesuffix(_SUFFIX)

    def listed(self) -> dict[str, Stored]:
        """Every blob in the store by its digest, in their order."""
        found = ((digest, self.stored(digest)) for digest in self.digests())
        return {digest: stored for digest, stored in found if stored is not None}

    def remove(self, digest: str) -> None:
        """Remove a blob, if it is there."""
        self.path(digest).unlink(missing_ok=True)

    def copies(self) -> dict[str, Path]:
        """Copies of blobs on this machine, by digest: of a store that is here already, none."""
        return {}


def file_digest(path: Path) -> str:
    """SHA-256 of a file, a piece at a time."""
    running = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            running.update(piece)
    return running.hexdigest()


def _renew(path: Path) -> None:
    """Have a blob count as young again: it may have been garbage, and soon is not."""
    with contextlib.suppress(OSError):
        os.utime(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
