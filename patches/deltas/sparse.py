"""A delta that is zero outside a mask: a WISE shard, a pruned merge."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from patches.errors import PatchError

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
        return cls(
            shape=(matrix.shape[0], matrix.shape[1]),
            mask=torch.from_numpy(packed),
            values=matrix.detach()[mask].cpu(),
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
        values = self.values.to(device=device, dtype=dtype)
        return whole.masked_scatter_(self.marked(device), values)

    def add_to(self, total: Tensor) -> None:
        # Every entry is touched once, so the result does not depend on any order.
        total.add_(self.dense(dtype=torch.float64, device=total.device))

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
