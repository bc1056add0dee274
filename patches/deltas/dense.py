"""A delta stored as the full matrix: changes of high rank, imported differences."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from patches.errors import PatchError
from patches.row_pieces import row_pieces


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense:
    """Δ itself, of shape (d_out, d_in)."""

    kind: ClassVar[str] = "dense"
    delta: Tensor

    def __post_init__(self) -> None:
        if self.delta.dim() != 2:
            raise PatchError(f"a dense delta is a matrix, not {tuple(self.delta.shape)}")
        if not self.delta.is_floating_point():
            raise PatchError(f"a dense delta holds fractions, not {self.delta.dtype}")

    @property
    def shape(self) -> tuple[int, int]:
        return self.delta.shape[0], self.delta.shape[1]

    @property
    def rank(self) -> int | None:
        return None

    def add_to(self, total: Tensor) -> None:
        for rows, part in self.by_rows(total.device):
            total[rows].add_(part)

    def by_rows(self, device: torch.device | str = "cpu") -> Iterator[tuple[slice, Tensor]]:
        """The delta in float64, a few rows at a time: which, and what they are."""
        for rows in row_pieces(self.shape, device, multiple=8):
            yield rows, self.delta[rows].to(device=device, dtype=torch.float64)

    def tensors(self) -> dict[str, Tensor]:
        return {"delta": self.delta}

    @classmethod
    def from_tensors(cls, parts: Mapping[str, Tensor]) -> Self:
        if set(parts) != {"delta"}:
            raise PatchError(f"a dense delta has the one part 'delta', not {sorted(parts)}")
        return cls(delta=parts["delta"])
