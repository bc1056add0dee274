"""A folder in a store that fsspec knows: the one place where its errors become ours.

Its client is imported when it is first asked for something; it finds credentials and settings as it
always does: S3's in ``AWS_ACCESS_KEY_ID``, ``AWS_ENDPOINT_URL`` and the like, any client's in
fsspec's own files (``~/.config/fsspec``).
"""

import base64
import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from patches.errors import StoreError

# A store that does not answer for so long, beside the time in which the bytes would go through a
# thin line, does not answer at all.
_PATIENCE = 60.0
_BYTES_PER_SECOND = 100_000
_EXTRAS = {"s3": "edit-ledger[s3]", "s3a": "edit-ledger[s3]"}
_AGES = ("LastModified", "last_modified", "mtime", "updated", "created")


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """What a store says of a file. modified: seconds since 1970, now if it does not say. md5: what
    may be its MD5 in hexadecimal."""

    bytes: int
    modified: float
    md5: str | None

    @classmethod
    def told(cls, info: Mapping[str, Any]) -> Self:
        """From fsspec's info of a file, which is the client's own but for a few keys."""
        return cls(bytes=int(info["size"]), modified=_modified(info), md5=_md5(info))


@dataclass(frozen=True, kw_only=True)
class RemoteFolder:
    """Files under an address. Names are relative to it. Every method raises StoreError if the store
    does not answer, or refuses."""

    address: str

    def find(self, name: str) -> RemoteFile | None:
        """What the store says of a file, None if there is none."""
        with self._translated(f"find {name}"):
            try:
                return RemoteFile.told(self._call("info", name))
            except FileNotFoundError as error:
                if _no_place(error):
                    raise
                return None

    def read(self, name: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` of a file."""
        with self._translated(f"read {name}"):
            content: bytes = self._call("cat_file", name, start=start, end=end, size=end - start)
        return content

    def write(self, name: str, path: Path) -> None:
        """Make the content of the local file `path` that of a file."""
        size = path.stat().st_size
        with self._translated(f"write {size:,} bytes", "nothing was recorded"):
            self._make_parent(name)
            self._call("put_file", name, source=str(path), size=size)

    def try_writing(self, name: str) -> None:
        """Write a small file and remove it again, if the store lets one."""
        with self._translated("write to it"):
            self._make_parent(name)
            self._call("pipe_file", name, b"is this a place to write to?")
            # Who keeps everything may want just that.
            with contextlib.suppress(PermissionError):
                self._call("rm_file", name)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._translated(f"remove {name}"), contextlib.suppress(FileNotFoundError):
            self._call("rm_file", name)

    def files(self) -> dict[str, RemoteFile]:
        """Every file by its name."""
        with self._translated("list its files"):
            found = self._call("find", "", detail=True)
            root = self._opened[1]
            return {
                name.removeprefix(root).lstrip("/"): RemoteFile.told(info)
                for name, info in found.items()
            }

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        """The client, and what it calls the folder."""
        from fsspec.core import url_to_fs

        # Another instance may have been made in another environment.
        files, root = url_to_fs(self.address, skip_instance_cache=True)
        return files, str(root).rstrip("/")

    def _call(
        self, method: str, name: str, *arguments: Any, source: str = "", size: int = 0, **more: Any
    ) -> Any:
        """Ask the client, which must not answer from memory: others write to the store too.

        source: a local file, for the method that takes one first. size: bytes that have to go.
        """
        files, root = self._opened
        files.invalidate_cache()
        if files.async_impl:
            more["timeout"] = _PATIENCE + size / _BYTES_PER_SECOND
        target = f"{root}/{name}" if name else root
        before = (source,) if source else ()
        return getattr(files, method)(*before, target, *arguments, **more)

    def _make_parent(self, name: str) -> None:
        """Object stores have no folders, and S3's client would make a bucket instead."""
        if not self._opened[0].async_impl:
            self._call("makedirs", name.rpartition("/")[0], exist_ok=True)

    @contextmanager
    def _translated(self, what: str, outcome: str = "nothing was changed") -> Iterator[None]:
        try:
            yield
        except Exception as error:  # every client has errors of its own
            raise StoreError(
                f"patch store {self.address}: cannot {what}: {_reason(error)}. "
                f"{self._advice(error)}; {outcome}"
            ) from error

    def _advice(self, error: Exception) -> str:
        scheme = self.address.partition("://")[0]
        if isinstance(error, ImportError):
            package = _EXTRAS.get(scheme)
            how = f"pip install '{package}'" if package else "install the package that it names"
            return f"Its client is not installed: {how}"
        if isinstance(error, TimeoutError):
            return "Try again when it answers"
        if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
            return "Check the credentials that its client finds, and what they permit"
        if isinstance(error, FileNotFoundError):
            return "Make the place, or check its name"
        if isinstance(error, (ValueError, NotImplementedError)):
            return "Choose a store that fsspec can write to"
        return "Check that it can be reached, and run again"


def _modified(info: Mapping[str, Any]) -> float:
    for key in _AGES:
        found = info.get(key)
        if isinstance(found, datetime):
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        if isinstance(found, int | float):
            return float(found)
    return time.time()


def _md5(info: Mapping[str, Any]) -> str | None:
    """S3's ETag is one if the object came in one piece and its bucket has no key of its own."""
    if isinstance(info.get("md5Hash"), str):
        return base64.b64decode(info["md5Hash"]).hex()
    tag = info.get("ETag")
    return tag.strip('"') if isinstance(tag, str) else None


def _no_place(error: FileNotFoundError) -> bool:
    """Whether it is the bucket that is missing, and not a file in it."""
    response = getattr(error.__cause__, "response", None)
    return isinstance(response, dict) and response.get("Error", {}).get("Code") == "NoSuchBucket"


def _reason(error: Exception) -> str:
    """What a client says, in one line, without credentials that an address of its own may hold."""
    if isinstance(error, TimeoutError):
        return f"no answer in {_PATIENCE:.0f} s"
    said = str(error).strip().splitlines()
    return re.sub(r"://[^/\s@]*@", "://***@", said[0] if said else type(error).__name__)
