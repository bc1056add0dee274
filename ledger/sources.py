"""Where the bytes of a dataset come from: a file on this machine, or the Hugging Face Hub.

The Hub's client and the `datasets` library are imported only when an address asks for them.
"""

import hashlib
import importlib.util
import io
import json
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar, cast
from urllib.parse import parse_qs, quote, unquote, urlencode

from ledger.hub import hub_reason
from patches.errors import DatasetError

HUB_PREFIX = "hf://"
_DATASET_PREFIX = "hf://datasets/"
_ADDRESS = re.compile(
    r"(?P<repo>[^/@?]+/[^/@?]+)"
    r"(?:@(?P<revision>refs/(?:pr|convert)/[^/?]+|[^/?]+))?"
    r"(?:/(?P<path>[^?]*))?"
    r"(?:\?(?P<query>.*))?"
)
_CHUNK = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class HubAddress:
    """An address like ``hf://datasets/owner/name@revision/path`` or ``...?config=c&split=s``.

    path: the file in the repository; None for the rows of a whole repository.
    """

    repo: str
    revision: str | None
    path: str | None
    config: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        """The address as text, which `parse_address` reads back."""
        text = _DATASET_PREFIX + self.repo
        if self.revision:
            text += "@" + quote(self.revision, safe="")
        if self.path:
            return f"{text}/{self.path}"
        query = {"config": self.config, "split": self.split}
        chosen = {key: value for key, value in query.items() if value}
        return text + ("?" + urlencode(chosen) if chosen else "")


@dataclass(frozen=True, kw_only=True)
class HubCommit:
    """The commit that a revision of a Hub repository stands for, and the licence on its card."""

    sha: str
    licence: str | None


class _HubFileLike(Protocol):
    """What is used of a file that the Hub's file system has opened."""

    def read(self, length: int) -> bytes: ...
    def seek(self, loc: int, whence: int) -> int: ...
    def tell(self) -> int: ...
    def close(self) -> None: ...


def parse_address(text: str) -> HubAddress:
    """Read an ``hf://datasets/...`` address. Raises DatasetError if it is not one."""
    rest = text.removeprefix(_DATASET_PREFIX)
    match = _ADDRESS.fullmatch(rest) if text.startswith(_DATASET_PREFIX) else None
    if match is None:
        raise DatasetError(
            f"{text} is no address of a dataset on the Hub. Write "
            "hf://datasets/OWNER/NAME[@REVISION]/PATH/FILE.json for a file, or "
            "hf://datasets/OWNER/NAME[@REVISION]?config=C&split=S for a whole repository."
        )
    revision, path = match["revision"], (match["path"] or "").strip("/")
    query = parse_qs(match["query"] or "")
    unknown = [key for key in query if path or key not in ("config", "split")]
    if unknown:
        raise DatasetError(
            f"{text}: does not understand {', '.join(unknown)}; only config and split can be "
            "chosen, and only for a whole repository."
        )
    return HubAddress(
        repo=match["repo"],
        revision=unquote(revision) if revision else None,
        path=path or None,
        config=query.get("config", [None])[0],
        split=query.get("split", [None])[0],
    )


def find_file(source: str) -> Path:
    """The absolute path of a file on this machine. Raises DatasetError if there is no such file."""
    if "://" in source:
        raise DatasetError(
            f"{source}: only files on this machine and hf://datasets/... addresses can be read. "
            "Download it first."
        )
    path = Path(source)
    try:
        path = path.expanduser()
        # A link keeps its own name: its ending says the format, that of its target may not.
        path = path.parent.resolve() / path.name
        mode = path.stat().st_mode
    except (OSError, ValueError, RuntimeError) as error:
        raise DatasetError(f"{path} cannot be read: {_reason(error)}.") from error
    if stat.S_ISDIR(mode):
        raise DatasetError(f"{path} is a folder; name one file of it.")
    if not stat.S_ISREG(mode):
        # A pipe gives its bytes once; they are needed for the digest and again for the rows.
        raise DatasetError(f"{path} is not a regular file; write its content to a file first.")
    return path


def open_bytes(uri: str) -> BinaryIO:
    """Open an absolute path or the ``hf://`` address of a file for buffered, seekable reading.

    Raises DatasetError if it cannot be opened; for a file on the Hub, failing reads raise it too.
    """
    if uri.startswith(HUB_PREFIX):
        return cast(BinaryIO, io.BufferedReader(_HubFile(parse_address(uri)), _CHUNK))
    try:
        return Path(uri).open("rb")
    except OSError as error:
        raise DatasetError(f"{uri} cannot be read: {_reason(error)}.") from error


def digest_bytes(stream: BinaryIO) -> str:
    """The SHA-256 of the bytes from the stream's position on, as 64 hex digits."""
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def digest_repository(address: HubAddress) -> str:
    """The SHA-256 that stands for the rows of a whole repository at a commit.

    There are no bytes of one file to digest, so this is the digest of what fixes the rows: the
    repository, the commit, the configuration and the split, as JSON with sorted keys.
    """
    identity = {
        "repo": address.repo,
        "commit": address.revision,
        "config": address.config,
        "split": address.split,
    }
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def resolve_commit(address: HubAddress) -> HubCommit:
    """Ask the Hub for the commit of an address. Raises DatasetError if it does not answer."""
    from huggingface_hub import HfApi

    info = _asking_hub(
        address, lambda: HfApi().dataset_info(address.repo, revision=address.revision)
    )
    if not info.sha:
        raise DatasetError(f"{address}: the Hub did not say which commit this is; try again.")
    card = info.card_data
    licence = card.get("license") if card is not None else None
    if isinstance(licence, list):
        licence = ", ".join(str(name) for name in licence)
    return HubCommit(sha=info.sha, licence=licence or None)


def require_datasets_library() -> None:
    """Raises DatasetError if the optional `datasets` library is not installed."""
    if importlib.util.find_spec("datasets") is None:
        raise DatasetError(
            "Reading a whole repository of the Hub needs the `datasets` library: "
            "pip install edit-ledger[datasets]. A single file of it can be read without: "
            "hf://datasets/OWNER/NAME/PATH/FILE.json."
        )


def stream_repository(address: HubAddress) -> Iterator[Mapping[str, object]]:
    """The rows of a split of a repository, one by one, through the `datasets` library.

    The address names the split. Raises DatasetError if the library is
    missing or the Hub fails.
    """
    require_datasets_library()
    import datasets

    def start() -> Iterator[Mapping[str, object]]:
        return iter(
            datasets.load_dataset(
                address.repo,
                name=address.config,
                split=address.split,
                revision=address.revision,
                streaming=True,
            )
        )

    rows = _asking_hub(address, start)
    while (row := _asking_hub(address, lambda: next(rows, None))) is not None:
        yield row


def _asking_hub(address: HubAddress, ask: Callable[[], T]) -> T:
    """The answer of the Hub's client, with whatever it raises turned into a DatasetError."""
    try:
        return ask()
    # The client raises its own errors, OSError, ValueError, and those of its HTTP library, which
    # is another one from version to version: no shorter list covers them.
    except Exception as error:
        raise DatasetError(
            f"{address} could not be read from the Hub: {hub_reason(error)}. Or download it and "
            "name the file."
        ) from error


class _HubFile(io.RawIOBase):
    """A file on the Hub as a raw stream, whose failures are DatasetErrors."""

    def __init__(self, address: HubAddress) -> None:
        from huggingface_hub import HfFileSystem

        super().__init__()
        self._address = address
        path = str(address).removeprefix(HUB_PREFIX)
        self._file: _HubFileLike = _asking_hub(
            address, lambda: cast(_HubFileLike, HfFileSystem().open(path, "rb"))
        )

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: object) -> int:
        view = memoryview(cast(bytearray, buffer)).cast("B")
        data = _asking_hub(self._address, lambda: self._file.read(len(view)))
        view[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return _asking_hub(self._address, lambda: self._file.seek(offset, whence))

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
