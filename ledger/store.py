"""The patch store: files named by the SHA-256 of their bytes, written once and never changed."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from patches.canonical import sha256
from patches.errors import StoreError

_SUFFIX = ".safetensors"
_PIECE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Store:
    """A folder of blobs, ``ab/abcdef….safetensors``."""

    folder: Path

    def path(self, digest: str) -> Path:
        """Where the blob lies, whether it exists or not."""
        return self.folder / digest[:2] / f"{digest}{_SUFFIX}"

    def put(self, content: bytes) -> str:
        """Write a blob durably and return its digest; nothing is written if it is there already.

        The bytes go to a temporary file, are synchronised and then renamed, so that a blob under
        its name is always whole.
        """
        digest = sha256(content)
        path = self.path(digest)
        if path.exists() and _file_digest(path) == digest:
            return digest
        with self.arriving(f"{len(content):,} bytes") as temporary:
            temporary.write_bytes(content)
            self._keep(temporary, path)
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
        digest = _file_digest(temporary)
        if self.problem(digest) is not None:
            self._keep(temporary, self.path(digest))
        return digest

    def _keep(self, temporary: Path, path: Path) -> None:
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

    def problem(self, digest: str) -> str | None:
        """What is wrong with a blob, or None."""
        path = self.path(digest)
        try:
            found = _file_digest(path)
        except FileNotFoundError:
            return "the file is missing"
        except OSError as error:
            return f"the file cannot be read ({error.strerror})"
        return None if found == digest else f"the file is damaged (its SHA-256 is {found})"

    def digests(self) -> Iterator[str]:
        """Every blob in the store."""
        for path in sorted(self.folder.glob(f"??/*{_SUFFIX}")):
            yield path.name.removesuffix(_SUFFIX)


def _file_digest(path: Path) -> str:
    running = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            running.update(piece)
    return running.hexdigest()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
