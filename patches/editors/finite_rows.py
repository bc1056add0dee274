"""Numbers that are not finite, traced back to the edit that they come from.

What a model gives for one prompt can be NaN or infinite, most often in float16. No shift can be
solved from it, and a mean over the turn would hide where it came from; so every batch is looked at
as it is traced. A row of zeros is no error: its share of the shift is zero.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import chain, repeat

import torch
from torch import Tensor

from patches.errors import EditingError
from patches.finite import is_finite
from patches.tokens import Encoded
from patches.tracing import Trace

Told = Callable[[int], str]
"""The edit with this index, for people."""


def numbered(index: int) -> str:
    """How an edit is told where nothing but its place is known."""
    return f"edit {index + 1} of the turn"


def check_trace(
    seen: Trace, encoded: Sequence[Encoded], indices: Sequence[int], told: Told = numbered
) -> None:
    """EditingError, with the module and the edit, if something traced is not finite.

    encoded: the sequences in the order of the rows. indices: each one's index, for `told`. Keys are
    looked at first: they are of one sequence alone, where one loss makes the mean of all NaN.
    """

    def whose(row: int, rows: int) -> str:
        return told(indices[owners(encoded, rows)[row]])

    check_rows("inputs", seen.keys, whose)
    check_rows("losses", dict.fromkeys([*seen.keys][:1], seen.losses), whose)
    check_rows("gradients", seen.gradients, whose)
    check_rows("inputs", seen.others, lambda _row, _rows: "the rest of a prompt")


def check_rows(what: str, parts: Mapping[str, Tensor], whose: Callable[[int, int], str]) -> None:
    """EditingError for the first part, by module, with a row that is not finite.

    whose: of a row, and the number of rows, who to name.
    """
    for name, rows in parts.items():
        if is_finite(rows):
            continue
        broken = ~torch.isfinite(rows.reshape(len(rows), -1)).all(-1)
        row = int(broken.nonzero()[0])
        raise EditingError(
            f"module {name}: {whose(row, len(rows))} gives {what} that are not finite; the edited "
            "model is broken, or needs --dtype float32"
        )


def owners(encoded: Sequence[Encoded], rows: int) -> list[int]:
    """For each of so many rows of these sequences, the place of its sequence.

    Rows are those of the target tokens, if there are as many, or of all tokens.
    """
    for lengths in ([len(one.answer) for one in encoded], [len(one.ids) for one in encoded]):
        if sum(lengths) == rows:
            return list(chain.from_iterable(map(repeat, range(len(encoded)), lengths)))
    raise ValueError(f"{rows} rows are not those of these sequences")
