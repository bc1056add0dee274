"""Σ Δ of every changed tensor, float64, from turn to turn.

The sums take four times the bytes of bfloat16 weights and are wanted one at a time, so those on the
CPU wait in a file without a name, which is gone with the process.
"""

import tempfile
import weakref
from collections.abc import Iterator, Mapping
from typing import IO

import torch
from torch import Tensor


class Totals(Mapping[str, Tensor]):
    """A sum (d_out, d_in) by the name of its tensor. What is looked up may be changed: on the CPU
    it is a copy, and elsewhere the sum itself, so `put` it back."""

    def __init__(self) -> None:
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._held: dict[str, Tensor] = {}
        self._places: dict[str, int] = {}
        self._file: IO[bytes] | None = None

    def put(self, name: str, total: Tensor) -> None:
        """Keep this sum, in place of an earlier one of this name and shape."""
        self._shapes[name] = tuple(total.shape)
        if total.device.type != "cpu" or not self._write(name, total.contiguous()):
            self._held[name] = total

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [*self._shapes.values()]

    def __getitem__(self, name: str) -> Tensor:
        if name in self._held:
            return self._held[name]
        total = torch.empty(self._shapes[name], dtype=torch.float64)
        assert self._file is not None
        self._file.seek(self._places[name])
        self._file.readinto(_bytes(total))  # type: ignore[attr-defined]  # of an unbuffered file
        return total

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def _write(self, name: str, total: Tensor) -> bool:
        """False where there is no room for temporary files: memory has to do then."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="ledger-sums-")  # noqa: SIM115
                weakref.finalize(self, self._file.close)
            self._file.seek(self._places.setdefault(name, _end(self._file)))
            self._file.write(_bytes(total))
            self._file.flush()
        except OSError:
            return False
        self._held.pop(name, None)
        return True


def _end(file: IO[bytes]) -> int:
    return file.seek(0, 2)


def _bytes(total: Tensor) -> memoryview:
    return total.numpy().data.cast("B")
