"""Writing a patch that is too large for memory: its tensors come one by one, in any order.

A canonical file has all descriptions before the first byte of a tensor, so the tensors wait in a
spool file until the last one has come.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Self

import torch

from patches.canonical_tensors import safetensors_head
from patches.dtypes import tensor_view
from patches.patch import (
    Change,
    ChangeInfo,
    PatchHeader,
    describe,
    patch_metadata,
)

_PIECE = 1 << 20


def write_patch(
    path: Path, header: PatchHeader, changes: Iterable[tuple[str, Change]]
) -> dict[str, ChangeInfo]:
    """Write the patch of `changes`, by tensor, one of which is in memory at a time; what its header
    says of each."""
    with PatchWriter(path.parent) as writer:
        for name, change in changes:
            writer.add(name, change)
        with path.open("wb") as file:
            writer.write(header, file)
    return writer.changes


@dataclass(frozen=True, kw_only=True)
class _Waiting:
    """A tensor in the spool file, from `start` on."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    size: int


class PatchWriter:
    """Takes changes one by one and writes the bytes that `encode_patch` would give for all.

    A context manager: the spool file, in `folder`, has no name and is gone when it ends, or with
    the process.
    """

    def __init__(self, folder: Path) -> None:
        self.changes: dict[str, ChangeInfo] = {}
        self._folder = folder
        self._waiting: dict[str, _Waiting] = {}

    def __enter__(self) -> Self:
        self._spool: IO[bytes] = TemporaryFile(dir=self._folder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._spool.close()

    def add(self, name: str, change: Change) -> None:
        """Take the change of tensor `name`, which need not be kept any longer."""
        self.changes[name] = describe(change)
        for part, tensor in change.delta.tensors().items():
            data = tensor_view(tensor)
            self._waiting[f"{name}/{part}"] = _Waiting(
                dtype=tensor.dtype,
                shape=tuple(tensor.shape),
                start=self._spool.tell(),
                size=data.nbytes,
            )
            self._spool.write(data)

    def write(self, header: PatchHeader, file: IO[bytes]) -> None:
        """Write the patch of everything taken so far."""
        parts = {name: (one.dtype, one.shape) for name, one in self._waiting.items()}
        head, order = safetensors_head(parts, patch_metadata(header, self.changes))
        file.write(head)
        for name in order:
            one = self._waiting[name]
            self._spool.seek(one.start)
            left = one.size
            while left:
                piece = self._spool.read(min(left, _PIECE))
                file.write(piece)
                left -= len(piece)
