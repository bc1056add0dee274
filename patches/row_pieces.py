"""Matrices a few rows at a time, so that temporary float64 copies stay small."""

from collections.abc import Iterator
from math import prod

import torch

# Elements: on a processor, what stays in the cache of a core; on an accelerator, enough to keep it
# busy. Bounds memory, and has no influence on the bits.
PIECE = 1 << 16
PIECE_ELSEWHERE = 1 << 22


def row_pieces(
    shape: tuple[int, ...], device: torch.device | str = "cpu", *, multiple: int = 1
) -> Iterator[slice]:
    """Rows of a matrix of this shape, in order; none of an empty one.

    multiple: of which the number of rows is one, but for the last piece.
    """
    if not prod(shape):
        return
    on_processor = torch.device(device).type == "cpu"
    size = PIECE * torch.get_num_threads() if on_processor else PIECE_ELSEWHERE
    rows = max(1, size // (shape[1] * multiple)) * multiple
    for first in range(0, shape[0], rows):
        yield slice(first, min(first + rows, shape[0]))
