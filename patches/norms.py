"""Frobenius norms of weights and of their changes, in float64, in little memory."""

import math

import torch
from torch import Tensor

from patches.deltas import Delta, LowRank, Sparse
from patches.row_pieces import PIECE


def weight_norm(weight: Tensor) -> float:
    """‖W‖ of a tensor of any shape, 0 of an empty one."""
    flat = weight.reshape(-1)
    pieces = (flat[start : start + PIECE].double() for start in range(0, flat.numel(), PIECE))
    return math.hypot(*(float(torch.linalg.vector_norm(piece)) for piece in pieces))


def delta_norm(delta: Delta) -> float:
    """‖Δ‖. Of a product BᵀA of n rows it takes two (n, n) matrices, and the product is not formed:
    ‖BᵀA‖² = Σ (AAᵀ ∘ BBᵀ)."""
    if isinstance(delta, LowRank):
        a, b = delta.A.double(), delta.B.double()
        # Where all of it cancels, rounding may leave less than nothing.
        return math.sqrt(max(0.0, float(((a @ a.T) * (b @ b.T)).sum())))
    if isinstance(delta, Sparse):
        return weight_norm(delta.values)
    [whole] = delta.tensors().values()
    return weight_norm(whole)
