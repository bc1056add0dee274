"""What a shift of weights must leave alone, as a metric on the space of keys.

A shift Δ moves what a module gives for a key k by Δk. With keys Pᵢ (nᵢ, d_in) to be protected with
weights wᵢ, the one of least cost tr(Δ C Δᵀ) is wanted, C = I + Σᵢ wᵢ PᵢᵀPᵢ: its rows are K C⁻¹, not
K, on which protected keys weigh little. With the keys of earlier turns as Pᵢ this is
MEMIT's normal equation (arXiv 2210.07229, equation 14) with the identity for its prior; AlphaEdit
(arXiv 2410.02355) is the limit of infinite weights.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

_ROWS, _GRAM = "keys/", "gram/"


@dataclass(frozen=True, kw_only=True, eq=False)
class Keys:
    """Keys of one module, of any number of turns, in bounded memory.

    rows: the keys themselves (n, d_in), as the model gave them, while n ≤ d_in.
    gram: else Σ kᵀk (d_in, d_in), float32; the identity in C covers its rounding.
    """

    rows: Tensor | None = None
    gram: Tensor | None = None

    @classmethod
    def of(cls, rows: Tensor) -> Self:
        return cls(rows=rows) if len(rows) <= rows.shape[1] else cls(gram=_gram(rows))

    def followed_by(self, later: "Keys") -> "Keys":
        """These keys, and then `later`."""
        if self.rows is not None and later.rows is not None:
            return Keys.of(torch.cat((self.rows, later.rows)))
        return Keys(gram=self.summed() + later.summed())

    def summed(self) -> Tensor:
        """Σ kᵀk (d_in, d_in), float32."""
        if self.gram is not None:
            return self.gram
        assert self.rows is not None
        return _gram(self.rows)

    def to(self, device: torch.device | str) -> "Keys":
        if self.rows is not None:
            return Keys(rows=self.rows.to(device))
        return Keys(gram=self.summed().to(device))

    def to_tensors(self, module: str) -> dict[str, Tensor]:
        """What an editor-state file stores of it."""
        if self.rows is not None:
            return {f"{_ROWS}{module}": self.rows}
        return {f"{_GRAM}{module}": self.summed()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "dict[str, Keys]":
        """By module, of everything that an editor-state file holds; the inverse of `to_tensors`."""
        found = {}
        for name, tensor in tensors.items():
            if name.startswith(_ROWS):
                found[name.removeprefix(_ROWS)] = cls(rows=tensor)
            elif name.startswith(_GRAM):
                found[name.removeprefix(_GRAM)] = cls(gram=tensor)
        return found


def _gram(rows: Tensor) -> Tensor:
    """Σ kᵀk, float32. Products of 16-bit numbers are exact in it, so these are summed in it."""
    exact = rows.to(torch.float32 if rows.element_size() == 2 else torch.float64)
    return (exact.T @ exact).to(torch.float32)


def protecting(keys: Tensor, protected: Sequence[tuple[float, Keys]]) -> Tensor | None:
    """K C⁻¹ for `keys` K (n, d_in), with C = I + Σ w PᵀP over the (w, P) given; float64.

    In whichever form is small: with the N rows P themselves K − KPᵀ(W⁻¹ + PPᵀ)⁻¹P (Woodbury), W
    their weights, or with C. None if C is not positive definite in float64.
    """
    exact = keys.to(torch.float64)
    used = [(weight, some) for weight, some in protected if weight]
    if not used:
        return exact
    rows = [(w**0.5, some.rows) for w, some in used if some.rows is not None]
    if len(rows) == len(used) and 2 * sum(len(some) for _, some in rows) <= keys.shape[1]:
        return _by_rows(exact, torch.cat([root * some.to(exact) for root, some in rows]))
    return _by_metric(exact, used)


def _by_rows(keys: Tensor, rows: Tensor) -> Tensor | None:
    inner = rows @ rows.T
    inner.diagonal().add_(1)
    factor, info = torch.linalg.cholesky_ex(inner)
    if info.item():
        return None
    return keys - torch.cholesky_solve(rows @ keys.T, factor).T @ rows


def _by_metric(keys: Tensor, used: Sequence[tuple[float, Keys]]) -> Tensor | None:
    metric = torch.eye(keys.shape[1], dtype=torch.float64, device=keys.device)
    for weight, some in used:
        metric.add_(some.summed().to(metric), alpha=weight)
    factor, info = torch.linalg.cholesky_ex(metric)
    return None if info.item() else torch.cholesky_solve(keys.T, factor).T
