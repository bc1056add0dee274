"""Where a ledger's patches lie: in a folder, or in any store that fsspec knows.

What every store can do is `PatchStore`; `Store` and `RemoteStore` are the two kinds. Both lay blobs
out alike, so that one can be copied to the other with the tools of its keeper.
"""

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from ledger.remote_store import RemoteStore
from ledger.store import Store, Stored
from patches.canonical import Piece
from patches.errors import StoreError

CACHE = "cache"
_HERE = ("file", "local")
_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


class PatchStore(Protocol):
    """Whole files under their digests. StoreError where a store does not answer.

    A blob has an address in the store, and a path on this machine, which is the same of a folder.
    """

    @property
    def address(self) -> str:
        """Of the store, as people are shown it and ``config.json`` holds it."""

    @property
    def folder(self) -> Path:
        """Where its files, or copies of them, lie on this machine."""

    def prepare(self) -> None:
        """Make the store, or see that it can be written to."""

    def where(self, digest: str) -> str:
        """The blob's address, whether it exists or not."""

    def path(self, digest: str) -> Path:
        """Where a blob that was put or opened lies on this machine."""

    def put(self, *content: Piece) -> str:
        """Write a blob, given in pieces, durably and return its digest; if it is there already, it
        counts as young again. Under its name it is whole or absent."""

    def arriving(self, what: str = "a patch") -> AbstractContextManager[Path]:
        """Inside, the path of a file to be written and then given to `keep`."""

    def keep(self, temporary: Path) -> str:
        """Make a finished file from `arriving` a blob, durably; its digest."""

    def open(self, digest: str) -> Path:
        """The path of a blob whose bytes have been checked; StoreError if missing or damaged."""

    def checked(self, digest: str) -> Path | None:
        """The same; None if it is missing or damaged."""

    def problem(self, digest: str) -> str | None:
        """What is wrong with the bytes that the store itself holds of a blob, or None."""

    def stored(self, digest: str) -> Stored | None:
        """The blob as it lies in the store, unchecked; None if it does not."""

    def beginning(self, digest: str, count: int) -> bytes:
        """The first `count` bytes that the store holds of a blob, unchecked."""

    def listed(self) -> Mapping[str, Stored]:
        """Every blob in the store by its digest, in their order."""

    def remove(self, digest: str) -> None:
        """Remove a blob, if it is there."""

    def copies(self) -> Mapping[str, Path]:
        """Copies of blobs on this machine, which can go at any time, by digest."""


def store_address(given: str) -> str:
    """A store as ``config.json`` holds it: a folder by its full path, others by their address.

    StoreError if the address holds a password or options, which would be stored and shown.
    """
    found = _SCHEME.match(given)
    if found is None:
        return str(Path(given).expanduser().resolve())
    scheme, rest = found[1].lower(), given[found.end() :]
    if scheme in _HERE:
        return str(Path(rest).resolve())
    user, _, place = rest.rpartition("@")
    if ":" in user or "?" in rest or "#" in rest:
        shown = re.split("[?#]", place)[0]
        raise StoreError(
            f"patch store {scheme}://{shown}: its address holds a password or options, which would "
            "be written down; give it without, and them as its client takes them: in the "
            "environment, its own files, or those of fsspec"
        )
    if "::" in rest or not rest.strip("/"):
        raise StoreError(f"patch store {given}: no place to keep files at; write SCHEME://PLACE/…")
    return f"{scheme}://{rest.rstrip('/')}"


def store_at(folder: Path, address: str) -> PatchStore:
    """The store that ``config.json`` in the ledger's `folder` names: relative paths are relative to
    it, and copies of what lies elsewhere are kept in it."""
    if _SCHEME.match(address) is None:
        return Store(folder=(folder / Path(address).expanduser()).resolve())
    checked = store_address(address)
    if _SCHEME.match(checked) is None:
        return Store(folder=Path(checked))
    return RemoteStore(address=checked, cache=Store(folder=folder / CACHE))
