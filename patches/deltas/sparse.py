"""A delta that is zero outside a mask: a WISE shard, a pruned merge."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from patches.errors import PatchError
from patches.row_pieces import row_pieces

_PARTS = {"mask", "shape", "values"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Sparse:
    """Δ at the places that a mask marks, zero elsewhere.

    shape: (d_out, d_in).
    mask: its d_out · d_in bits in row-major order, eight to a byte, the lowest bit first; uint8.
    values: (n,) for the n bits that are set, in their order.
    """

    kind: ClassVar[str] = "sparse"
    shape: tuple[int, int]
    mask: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        size = prod(self.shape)
        if self.mask.dtype != torch.uint8 or tuple(self.mask.shape) != ((size + 7) // 8,):
            raise PatchError(
                f"the mask of a {self.shape} delta has {(size + 7) // 8} bytes, "
                f"not {self.mask.dtype} {tuple(self.mask.shape)}"
            )
        packed = self.mask.cpu().numpy()
        marked = int(np.bitwise_count(packed).sum())
        if size % 8 and int(packed[-1]) >> size % 8:
            raise PatchError(f"the mask of a {self.shape} delta marks an entry beyond its end")
        if not self.values.is_floating_point() or tuple(self.values.shape) != (marked,):
            raise PatchError(
                f"the mask of a sparse delta marks {marked} entries, its values are "
                f"{self.values.dtype} {tuple(self.values.shape)}"
            )

    @classmethod
    def of(cls, matrix: Tensor, mask: Tensor) -> Self:
        """The entries of `matrix` (d_out, d_in) that `mask` (bool, same shape) marks."""
        packed = np.packbits(mask.cpu().numpy().reshape(-1), bitorder="little")
        values = torch.empty(int(mask.count_nonzero()), dtype=matrix.dtype)
        done = 0
        # In pieces, since an index of eight bytes and more is made for every entry.
        for rows in row_pieces(tuple(matrix.shape), matrix.device):
            part = matrix.detach()[rows][mask[rows]]
            values[done : done + len(part)] = part
            done += len(part)
        return cls(
            shape=(matrix.shape[0], matrix.shape[1]),
            mask=torch.from_numpy(packed),
            values=values,
        )

    @property
    def rank(self) -> int | None:
        return None

    def marked(self, device: torch.device | str = "cpu") -> Tensor:
        """(d_out, d_in), bool: where the mask is set."""
        bits = np.unpackbits(self.mask.cpu().numpy(), count=prod(self.shape), bitorder="little")
        return torch.from_numpy(bits).to(device).view(self.shape).bool()

    def dense(self, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """The whole matrix (d_out, d_in)."""
        whole = torch.zeros(self.shape, dtype=dtype, device=device)
        for rows, marked, values in self._pieces(whole.device):
            whole[rows].masked_scatter_(marked, values.to(device=device, dtype=dtype))
        return whole

    def add_to(self, total: Tensor) -> None:
        # Every entry is touched once, so the result does not depend on any order.
        for rows, part in self.by_rows(total.device):
            total[rows].add_(part)

    def by_rows(self, device: torch.device | str = "cpu") -> Iterator[tuple[slice, Tensor]]:
        """The delta in float64, a few rows at a time: which, and what they are."""
        for rows, marked, values in self._pieces(torch.device(device)):
            part = torch.zeros(marked.shape, dtype=torch.float64, device=device)
            yield rows, part.masked_scatter_(marked, values.to(device=device, dtype=torch.float64))

    def _pieces(self, device: torch.device) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """A few rows at a time: which, where the mask is set in them (bool), and their values."""
        packed = self.mask.cpu().numpy()
        width, done = self.shape[1], 0
        # The bits of eight rows are whole bytes.
        for rows in row_pieces(self.shape, device, multiple=8):
            size = (rows.stop - rows.start) * width
            part = packed[rows.start * width // 8 :][: (size + 7) // 8]
            bits = np.unpackbits(part, count=size, bitorder="little")
            count = int(np.count_nonzero(bits))
            marked = torch.from_numpy(bits).to(device).view(-1, width).bool()
            yield rows, marked, self.values[done : done + count]
            done += count

    def tensors(self) -> dict[str, Tensor]:
        return {"mask": self.mask, "shape": torch.tensor(self.shape), "values": self.values}

    @classmethod
    def from_tensors(cls, parts: Mapping[str, Tensor]) -> Self:
        if set(parts) != _PARTS:
            raise PatchError(
                f"a sparse delta has the parts {', '.join(sorted(_PARTS))}, not {sorted(parts)}"
            )
        shape = parts["shape"]
        if shape.dtype != torch.int64 or tuple(shape.shape) != (2,) or int(shape.min()) < 1:
            raise PatchError(f"a sparse delta is a matrix, not of the shape {shape.tolist()}")
        d_out, d_in = shape.tolist()
        return cls(shape=(d_out, d_in), mask=parts["mask"], values=parts["values"])
