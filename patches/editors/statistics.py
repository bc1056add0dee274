"""Running statistics for lifelong normalisation (UltraEdit, arXiv 2505.14679, section 3).

`Moments` of two streams can be merged exactly (Chan, Golub and LeVeque 1983), so every turn stores
its own, and the statistics of any history are the merge over the turns in force.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

Variance = Literal["welford", "published"]

# Added to the deviation as the published code does, so that a constant feature divides by it.
_EPSILON = torch.finfo(torch.float32).eps

_PARTS = ("count", "mean", "squares", "excess")


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Moments of a stream of rows of width d; the three tensors are (d,), float64.

    count: rows seen. mean: their mean. squares: sum of squared deviations from the mean (Welford's
    M2). excess: Σ over batches of the batch's unbiased variance: what the published code has too
    much in its sum, since it adds b·var where Welford adds (b − 1)·var.
    """

    count: int
    mean: Tensor
    squares: Tensor
    excess: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        """Moments of one batch `rows` (b, d). One row has no variance and adds no excess."""
        exact = rows.to(torch.float64)
        mean = exact.mean(0)
        squares = (exact - mean).square().sum(0)
        excess = squares / (len(rows) - 1) if len(rows) > 1 else torch.zeros_like(squares)
        return cls(count=len(rows), mean=mean, squares=squares, excess=excess)

    def merge(self, later: "Moments") -> "Moments":
        """Moments of this stream followed by `later`, on its device."""
        later = later.to(self.mean.device)
        count = self.count + later.count
        step = later.mean - self.mean
        return Moments(
            count=count,
            mean=self.mean + step * (later.count / count),
            squares=self.squares
            + later.squares
            + step.square() * (self.count * later.count / count),
            excess=self.excess + later.excess,
        )

    def deviation(self, variance: Variance) -> Tensor:
        """Standard deviation (d,): ``welford`` is unbiased, ``published`` as the released code."""
        squares = self.squares + self.excess if variance == "published" else self.squares
        return (squares / max(self.count - 1, 1)).sqrt()

    def normalise(
        self, rows: Tensor, variance: Variance, *, columns: slice = slice(None)
    ) -> Tensor:
        """(rows − mean) / deviation, float64, for `rows` (n, d), on their device.

        columns: those of the stream that `rows` holds, if not all.
        """
        here = self.to(rows.device)
        scale = here.deviation(variance) + _EPSILON
        exact = rows.to(torch.float64, copy=True)
        return exact.sub_(here.mean[columns]).div_(scale[columns])

    def to(self, device: torch.device | str) -> "Moments":
        return Moments(
            count=self.count,
            mean=self.mean.to(device),
            squares=self.squares.to(device),
            excess=self.excess.to(device),
        )


Statistics = dict[str, Moments]
"""One accumulator per (d_in, d_out), shared by the modules of that shape; key e.g. ``1536x576``."""


def merged(earlier: Mapping[str, Moments], later: Mapping[str, Moments]) -> Statistics:
    """`earlier` followed by `later`, accumulator by accumulator."""
    result = dict(earlier)
    for key, moments in later.items():
        result[key] = result[key].merge(moments) if key in result else moments
    return result


def to_tensors(statistics: Mapping[str, Moments]) -> dict[str, Tensor]:
    """What an editor-state file stores."""
    tensors: dict[str, Tensor] = {}
    for key, moments in statistics.items():
        tensors[f"{key}/count"] = torch.tensor([moments.count], dtype=torch.int64)
        tensors[f"{key}/mean"] = moments.mean
        tensors[f"{key}/squares"] = moments.squares
        tensors[f"{key}/excess"] = moments.excess
    return tensors


def names(tensors: Mapping[str, object]) -> list[str]:
    """Those of the tensors in an editor-state file that are moments."""
    return [name for name in tensors if name.rpartition("/")[2] in _PARTS]


def from_tensors(tensors: Mapping[str, Tensor], device: torch.device | str = "cpu") -> Statistics:
    """The inverse of `to_tensors`."""
    keys = sorted({name.rpartition("/")[0] for name in tensors})
    return {
        key: Moments(
            count=int(tensors[f"{key}/count"].item()),
            mean=tensors[f"{key}/mean"].to(device),
            squares=tensors[f"{key}/squares"].to(device),
            excess=tensors[f"{key}/excess"].to(device),
        )
        for key in keys
    }
