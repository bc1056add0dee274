"""Delta kinds: the ways in which a patch stores the change of one weight matrix.

Each kind is one short module; `KINDS` lists them all. A delta is read in the (d_out, d_in)
layout of `torch.nn.Linear`; `patches.patch.Change` knows where a tensor stores the transpose.
"""

from collections.abc import Mapping
from typing import ClassVar, Protocol, Self

from torch import Tensor

from patches.deltas.dense import Dense
from patches.deltas.low_rank import LowRank
from patches.deltas.sparse import Sparse


class Delta(Protocol):
    """The change of one (d_out, d_in) weight matrix."""

    kind: ClassVar[str]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in)."""
        ...

    @property
    def rank(self) -> int | None:
        """An upper bound of the rank where the kind has one below min(d_out, d_in)."""
        ...

    def add_to(self, total: Tensor) -> None:
        """Add the delta to `total` (d_out, d_in), float64, in place, on the device of `total`."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """What the patch file stores, by part name."""
        ...

    @classmethod
    def from_tensors(cls, parts: Mapping[str, Tensor]) -> Self:
        """The inverse of `tensors`; PatchError if the parts do not fit together."""
        ...


KINDS: dict[str, type[Delta]] = {kind.kind: kind for kind in (LowRank, Dense, Sparse)}

__all__ = ["KINDS", "Delta", "Dense", "LowRank", "Sparse"]
