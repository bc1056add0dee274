"""A delta as a product of two thin factors: UltraEdit's shifts, imported LoRA adapters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

from patches.errors import PatchError


@dataclass(frozen=True, kw_only=True, eq=False)
class LowRank:
    """Δ = Bᵀ A, with A of shape (n, d_in) and B of shape (n, d_out), each in its own dtype."""

    kind: ClassVar[str] = "low-rank"
    A: Tensor
    B: Tensor

    def __post_init__(self) -> None:
        if self.A.dim() != 2 or self.B.dim() != 2 or self.A.shape[0] != self.B.shape[0]:
            raise PatchError(
                f"low-rank factors must be (n, d_in) and (n, d_out), "
                f"not {tuple(self.A.shape)} and {tuple(self.B.shape)}"
            )
        if not (self.A.is_floating_point() and self.B.is_floating_point()):
            raise PatchError(
                f"low-rank factors hold fractions, not {self.A.dtype} and {self.B.dtype}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.B.shape[1], self.A.shape[1]

    @property
    def rank(self) -> int | None:
        return self.A.shape[0]

    def add_to(self, total: Tensor) -> None:
        # One product over the whole matrix, never in pieces of a changing size: the order of
        # summation, and so the last bit of the result, is the same wherever it is computed.
        a = self.A.to(device=total.device, dtype=torch.float64)
        b = self.B.to(device=total.device, dtype=torch.float64)
        total.addmm_(b.T, a)

    def tensors(self) -> dict[str, Tensor]:
        return {"A": self.A, "B": self.B}

    @classmethod
    def from_tensors(cls, parts: Mapping[str, Tensor]) -> Self:
        if set(parts) != {"A", "B"}:
            raise PatchError(f"a low-rank delta has the parts A and B, not {sorted(parts)}")
        return cls(A=parts["A"], B=parts["B"])
