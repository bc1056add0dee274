"""How much of what goes to the Hub is there.

The client tells that to its own bars of progress alone, one and more for each file. They stay away;
what would move them is counted here: what is read of a file that is sent as LFS, and for Xet the
reports to what would draw its bars. A client that has none of these says nothing meanwhile.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, BinaryIO

from huggingface_hub import CommitOperationAdd, constants
from huggingface_hub.utils.tqdm import (
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)

Told = Callable[[int], None]
_REPORTER = "XetUploadProgressReporter"


@contextmanager
def counting(told: Told) -> Iterator[None]:
    """Inside, the client draws no bars. told: gets the bytes that are there by now of all that Xet
    sends; what goes as LFS is counted by `Addition`."""
    were_disabled = are_progress_bars_disabled()
    xet = _xet()
    drawn = getattr(xet, _REPORTER, None)
    if drawn is not None and find_spec("hf_xet") and not constants.HF_HUB_DISABLE_XET:
        # Else it would report nothing.
        enable_progress_bars()
        setattr(xet, _REPORTER, lambda *_, **__: _Reporter(told))
    else:
        disable_progress_bars()
    try:
        yield
    finally:
        (disable_progress_bars if were_disabled else enable_progress_bars)()
        if drawn is not None:
            setattr(xet, _REPORTER, drawn)


def _xet() -> ModuleType | None:
    """The part of the client that draws bars for Xet, where a release has it: it is not public."""
    try:
        return import_module("huggingface_hub.utils._xet_progress_reporting")
    except ImportError:
        return None


class _Reporter:
    """Takes the place of what draws bars for a transfer by Xet."""

    def __init__(self, told: Told) -> None:
        self._told = told

    def update_progress(self, whole: Any, _files: Any) -> None:
        self._told(int(getattr(whole, "total_bytes_completed", 0)))

    def close(self) -> None:
        """There is nothing to close."""


class Read:
    """The bytes that have been read of all files together. Several are read at a time."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._bytes = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes += count
            self._told(self._bytes)


@dataclass
class Addition(CommitOperationAdd):
    """A file to commit. read: counts what is sent of it as LFS."""

    read: Read | None = None

    @contextmanager
    def as_file(self, with_tqdm: bool = False) -> Iterator[BinaryIO]:
        """with_tqdm: says that it is read to be sent."""
        with super().as_file() as file:
            if with_tqdm and self.read is not None:
                _count(file, self.read)
            yield file


def _count(file: Any, read: Read) -> None:
    """Have `file` tell what is read of it; the client looks at its kind, which must stay."""
    plain = file.read

    def counted(size: int | None = -1) -> bytes:
        piece: bytes = plain(size)
        read.add(len(piece))
        return piece

    file.read = counted
