"""A patch store elsewhere: an address that fsspec knows, and copies of its blobs on this machine.

What is written goes to the copies first, then to the store, and counts once the store is seen to
hold it. What is read is fetched once; the copy is checked whenever it is used, and fetched again if
it is damaged. The copies can be deleted at any time.
"""

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ledger.remote_folder import RemoteFile, RemoteFolder
from ledger.store import Store, Stored, blob_name
from patches.canonical import Piece
from patches.errors import StoreError

_PIECE = 16 << 20
_BLOB = re.compile(r"([0-9a-f]{2})/(\1[0-9a-f]{62})\.safetensors")
# Far below the age from which on a blob that no turn refers to is garbage.
_YOUNG_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class RemoteStore:
    """Blobs at ``ADDRESS/ab/abcdef….safetensors``: a `ledger.stores.PatchStore`.

    address: ``scheme://…``, without credentials, which the client finds where it always does.
    cache: where the copies lie.
    """

    address: str
    cache: Store

    @cached_property
    def _remote(self) -> RemoteFolder:
        return RemoteFolder(address=self.address)

    @property
    def folder(self) -> Path:
        """Where the copies lie."""
        return self.cache.folder

    def path(self, digest: str) -> Path:
        """Where the copy lies, whether it exists or not."""
        return self.cache.path(digest)

    def where(self, digest: str) -> str:
        """The address of the blob, for people."""
        return f"{self.address}/{blob_name(digest)}"

    def prepare(self) -> None:
        """See that the store can be written to; StoreError if not."""
        self._remote.try_writing(f".writing-{secrets.token_hex(8)}")

    def put(self, *content: Piece) -> str:
        """Write a blob, given in pieces, and return its digest; nothing is written if it is there
        already, and not about to be taken for garbage."""
        digest = self.cache.put(*content)
        self._upload(digest)
        return digest

    def arriving(self, what: str = "a patch") -> AbstractContextManager[Path]:
        """Inside, the path of a file on this machine to be written and then given to `keep`."""
        return self.cache.arriving(what)

    def keep(self, temporary: Path) -> str:
        """Make a finished file from `arriving` a blob; its digest."""
        digest = self.cache.keep(temporary)
        self._upload(digest)
        return digest

    def open(self, digest: str) -> Path:
        """The path of a copy whose bytes have been checked; StoreError if the blob is missing or
        damaged."""
        problem = self._bring(digest)
        if problem is not None:
            raise StoreError(
                f"{self.where(digest)}: {problem}; restore it from a backup or from where it was "
                "pushed"
            )
        return self.path(digest)

    def checked(self, digest: str) -> Path | None:
        """The path of a copy whose bytes have been checked; None if the blob is missing or
        damaged."""
        return self.path(digest) if self._bring(digest) is None else None

    def problem(self, digest: str) -> str | None:
        """What is wrong with the blob in the store, whatever the copy is like, or None."""
        return self._receive(digest, lambda _: None)

    def stored(self, digest: str) -> Stored | None:
        """The blob as it lies in the store, unchecked; None if it does not."""
        found = self._remote.find(blob_name(digest))
        return None if found is None else self._stored(digest, found)

    def beginning(self, digest: str, count: int) -> bytes:
        """The first `count` bytes of a blob that is in the store, unchecked."""
        return self._remote.read(blob_name(digest), 0, count)

    def listed(self) -> dict[str, Stored]:
        """Every blob in the store by its digest, in their order."""
        found = sorted(self._remote.files().items())
        blobs = ((_BLOB.fullmatch(name), file) for name, file in found)
        return {blob[2]: self._stored(blob[2], file) for blob, file in blobs if blob is not None}

    def remove(self, digest: str) -> None:
        """Remove a blob and its copy, if they are there."""
        self._remote.remove(blob_name(digest))
        self.cache.remove(digest)

    def copies(self) -> dict[str, Path]:
        """The copies on this machine, by digest."""
        return {digest: self.cache.path(digest) for digest in self.cache.digests()}

    def _stored(self, digest: str, file: RemoteFile) -> Stored:
        return Stored(name=self.where(digest), bytes=file.bytes, modified=file.modified)

    def _bring(self, digest: str) -> str | None:
        """Have a whole copy of the blob; what is wrong with the blob, if that is not to be had."""
        if self.cache.problem(digest) is None:
            return None
        with self.cache.arriving(f"a copy of {self.where(digest)}") as temporary:
            with temporary.open("wb") as file:
                problem = self._receive(digest, file.write)
            if problem is None:
                self.cache.place(temporary, digest)
        return problem

    def _receive(self, digest: str, take: Callable[[bytes], object]) -> str | None:
        """Hand the store's bytes of a blob to `take`; what is wrong with them, or None."""
        name = blob_name(digest)
        file = self._remote.find(name)
        if file is None:
            return "the object is missing"
        running = hashlib.sha256()
        for start in range(0, file.bytes, _PIECE):
            piece = self._remote.read(name, start, min(start + _PIECE, file.bytes))
            running.update(piece)
            take(piece)
        found = running.hexdigest()
        return None if found == digest else f"the object is damaged (its SHA-256 is {found})"

    def _upload(self, digest: str) -> None:
        """Have the store hold what the copy on this machine, which is whole, holds."""
        found = self.stored(digest)
        young = found is not None and found.modified > time.time() - _YOUNG_SECONDS
        if young and self.problem(digest) is None:
            return
        self._remote.write(blob_name(digest), self.path(digest))
        problem = self._unconfirmed(digest)
        if problem is not None:
            raise StoreError(
                f"{self.where(digest)}: it was written, but {problem}; run again, nothing was "
                "recorded"
            )

    def _unconfirmed(self, digest: str) -> str | None:
        """What keeps a blob that was just written from being relied on. It is only read back where
        the store does not say what it has received."""
        found = self._remote.find(blob_name(digest))
        if found is None:
            return "the object is missing"
        with self.path(digest).open("rb") as file:
            # Against accidents on the way, not against attackers.
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False))
        return None if found.md5 == md5.hexdigest() else self.problem(digest)
