"""Merging deltas of one weight matrix into one: pure functions, tensors in, a tensor out.

All take a stack of k deltas (k, d_out, d_in) in float32 and k weights, and give (d_out, d_in). With
T(Δ) the trimming of Δ to the share `density` of its largest entries, D(Δ) a random share of its
entries, and s the sign that weighs more at each entry over the weighted deltas:

    linear           Σ wᵢ Δᵢ                               task arithmetic, arXiv 2212.04089
    ties             Σ_agree wᵢ T(Δᵢ) / Σ_agree wᵢ         TIES, arXiv 2306.01708
    sign             Σ_agree wᵢ Δᵢ / Σ_agree wᵢ            TIES without trimming
    magnitude        Σ wᵢ T(Δᵢ)
    magnitude_norm   Σ wᵢ T(Δᵢ) / Σ wᵢ
    dare             Σ wᵢ D(Δᵢ) / density                  DARE, arXiv 2311.03099: what is left
                                                           makes up for what is dropped
    dare_linear      Σ wᵢ D(Δᵢ)                            as the released code of WISE has it: what
                                                           is dropped is not made up for
    dare_ties        Σ_agree wᵢ D(Δᵢ) / density            DARE, arXiv 2311.03099, with TIES' signs
    slerp            along the great circle from Δ₁ to Δ₂, by the share of w₂; straight where one
                     is zero or they have nearly one direction

Σ_agree runs over the deltas whose entry has the sign s. Trimming, dropping and the election of
signs give what `peft.utils.merge_utils` gives, bit for bit; importing that takes seconds.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patches.errors import PatchError, SettingError

_COLINEAR = 0.9995


@dataclass(frozen=True, kw_only=True)
class Merge:
    """How to merge. weights: one per delta, or None: 1/k each. seed: of what is dropped at random.

    density: the share of entries that is kept of each delta, where the method drops some.
    """

    method: str
    density: float = 0.53
    weights: tuple[float, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise SettingError(f"there is no merge {self.method!r}; there are {', '.join(METHODS)}")
        if not 0 < self.density <= 1:
            raise SettingError(f"density must be above 0 and at most 1, not {self.density}")
        if self.weights is not None and not all(0 < w < float("inf") for w in self.weights):
            raise SettingError(f"weights must be positive numbers, not {self.weights}")

    def to_json(self) -> dict[str, Any]:
        weights = None if self.weights is None else list(self.weights)
        return {**asdict(self), "weights": weights}


def merged(deltas: Tensor, how: Merge) -> Tensor:
    """The merge of `deltas` (k, d_out, d_in), float32: (d_out, d_in).

    Raises SettingError if the weights are not k, or the method does not take k deltas.
    """
    k = len(deltas)
    if how.weights is not None and len(how.weights) != k:
        raise SettingError(f"{len(how.weights)} weights are given for {k} deltas")
    weights = deltas.new_tensor(how.weights or [1 / k] * k).view(-1, 1, 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(how.seed)
        return METHODS[how.method](deltas, weights, how.density)


def merged_totals(ours: Tensor | None, theirs: Tensor | None, how: Merge) -> Tensor:
    """The merge of what two branches change of one matrix: (d_out, d_in), float32, on the CPU.

    ours, theirs: Σ Δ of each, (d_out, d_in), float64; None for no change, merged as a zero matrix.
    Weights, where given, are those of ours and theirs. Raises PatchError if neither changes the
    matrix or the shapes differ, and SettingError if the weights are not two.
    """
    known = [total for total in (ours, theirs) if total is not None]
    if not known or known[0].shape != known[-1].shape:
        shapes = " and ".join(str(tuple(total.shape)) for total in known) or "nothing"
        raise PatchError(f"two branches' changes of one matrix have one shape, not {shapes}")
    # On the CPU, whose random numbers are the same everywhere.
    deltas = torch.zeros((2, *known[0].shape), dtype=torch.float32)
    for delta, total in zip(deltas, (ours, theirs), strict=True):
        if total is not None:
            delta.copy_(total)
    return merged(deltas, how)


def linear(deltas: Tensor, weights: Tensor, _density: float) -> Tensor:
    return (deltas * weights).sum(0)


def ties(deltas: Tensor, weights: Tensor, density: float) -> Tensor:
    return sign(_trimmed(deltas, density), weights, density)


def sign(deltas: Tensor, weights: Tensor, _density: float) -> Tensor:
    agree = _agreeing(deltas * weights)
    shares = (weights * agree).sum(0)
    return (deltas * weights * agree).sum(0) / shares.masked_fill(shares == 0, 1)


def magnitude(deltas: Tensor, weights: Tensor, density: float) -> Tensor:
    return linear(_trimmed(deltas, density), weights, density)


def magnitude_norm(deltas: Tensor, weights: Tensor, density: float) -> Tensor:
    return magnitude(deltas, weights, density) / weights.sum(0)


def dare(deltas: Tensor, weights: Tensor, density: float) -> Tensor:
    return linear(_thinned(deltas, density, rescale=True), weights, density)


def dare_linear(deltas: Tensor, weights: Tensor, density: float) -> Tensor:
    return linear(_thinned(deltas, density, rescale=False), weights, density)


def dare_ties(deltas: Tensor, weights: Tensor, density: float) -> Tensor:
    weighted = _thinned(deltas, density, rescale=True) * weights
    return (weighted * _agreeing(weighted)).sum(0)


def slerp(deltas: Tensor, weights: Tensor, _density: float) -> Tensor:
    if len(deltas) != 2:
        raise SettingError(f"slerp merges two shards, not {len(deltas)}; use ties")
    first, second = deltas[0], deltas[1]
    share = (weights[1] / weights.sum(0)).item()
    cosine = torch.nn.functional.cosine_similarity(first.flatten(), second.flatten(), dim=0)
    # A zero has no direction, and so no angle to another.
    if cosine.abs() > _COLINEAR or not (first.any() and second.any()):
        return torch.lerp(first, second, share)
    angle = torch.arccos(cosine)
    ways = torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second
    return torch.div(ways, torch.sin(angle))


METHODS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    made.__name__: made
    for made in (ties, linear, sign, magnitude, magnitude_norm, dare, dare_linear, dare_ties, slerp)
}


def _trimmed(deltas: Tensor, density: float) -> Tensor:
    """Each delta with the largest entries only, zero elsewhere."""
    if density == 1:
        return deltas
    return torch.stack([delta * _largest(delta, density) for delta in deltas])


def _largest(delta: Tensor, density: float) -> Tensor:
    """Where the ⌊density · n⌋ entries of `delta` with the largest magnitudes are: bool, its shape.

    The limit is found by a partial sort of the bits, which are ordered as magnitudes are: many
    times faster than `torch.topk`. That one decides where entries are as large as the limit and not
    all of them can stay; zeros may, since they are zero either way.
    """
    size = delta.abs().view(torch.int32)
    count = int(density * delta.numel())
    if not count:
        return torch.zeros_like(delta, dtype=torch.bool)
    place = delta.numel() - count
    limit = int(np.partition(size.reshape(-1).cpu().numpy(), place)[place])
    keep = size >= limit
    if limit and int(keep.sum()) != count:
        keep = torch.zeros_like(keep)
        keep.view(-1)[torch.topk(delta.abs().reshape(-1), k=count).indices] = True
    return keep


def _thinned(deltas: Tensor, density: float, *, rescale: bool) -> Tensor:
    """Each delta with a random share of its entries, made up for if `rescale`."""
    if density == 1:
        return deltas
    return torch.stack([_dropped(delta, density, rescale=rescale) for delta in deltas])


def _dropped(delta: Tensor, density: float, *, rescale: bool) -> Tensor:
    left = delta * torch.bernoulli(torch.full_like(delta, density))
    return left / density if rescale else left


def _agreeing(weighted: Tensor) -> Tensor:
    """Where each of the weighted deltas has the sign that weighs more over all: bool."""
    elected = torch.where(weighted.sum(0) >= 0, 1, -1)
    return weighted.sign() == elected
