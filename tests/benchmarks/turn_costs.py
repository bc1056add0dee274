"""What a turn of UltraEdit costs besides the work on the model: its fixed time, and its bytes.

A turn is from the first row read until it is committed, as in `own_turn`. Model work is what the
editor needs for capture and solution, and bringing the weights on by the patch (the exact product
in float64, its sum with the base, the rounding); the rest is the fixed cost: reading and encoding
rows, selecting, the patch and the editor state as files, digests of the new weights, everything
that is recorded. The files are written while the weights are brought on, so that only what of it
takes longer is in it.
"""

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from unittest import mock

from sqlalchemy import event

from ledger.adding import Added, AddEdits
from ledger.datasets import open_dataset
from ledger.editing import add_edits
from ledger.initialising import init
from ledger.reporting import log
from ledger.workspace import Ledger, open_ledger
from patches.checkpoint import open_checkpoint
from patches.live import LiveModel
from tests.benchmarks.measurement import Measurement, seconds

TURN_SIZE = 100
_RUNS = 5
_FIXED = 0.05
_SMALLER = 1 / 3
_COMPACT = "0.01"
_MEGA = 1e6
_STEPS = ("published", "first-order")
# As many independent rows has a change: of more, no factors are small beside 576 × 1536.
_FEW_TOKENS = 140


def measure(model: Path, data: list[Path], scratch: Path) -> list[Measurement]:
    """data: files of rows, of each of which the first `TURN_SIZE` usable ones are edited."""
    fixed = [_turn(model, data[0], scratch / f"turn-{number}") for number in range(_RUNS)]
    return [*_fixed(fixed, data[0].name), *_sizes(model, data, scratch)]


@dataclass(frozen=True, kw_only=True)
class _Turn:
    """seconds: of the turn; model: of its work on the model. statements, synced: how many SQL
    statements, and how often a file or folder was synchronised by us."""

    added: Added
    seconds: float
    model: float
    statements: int
    synced: int


def _turn(model: Path, rows: Path, folder: Path, **settings: str) -> _Turn:
    """One turn in a ledger of its own; the model is loaded before the clock starts."""
    init(str(model), folder=folder).ledger.close()
    options = AddEdits(
        source=str(rows),
        turn_size=TURN_SIZE,
        limit=TURN_SIZE,
        settings={"step": "published", **settings},
        device="cpu",
        evaluate=False,
    )
    with open_ledger(folder) as ledger, _counted(ledger) as counts:
        run = add_edits(ledger, options)
        turns: list[Added] = []
        counts.clear()

        def turn() -> None:
            # `add_edits` has opened the source already, which is a part of the turn.
            open_dataset(str(rows))
            turns.extend(run.turns)

        took = seconds(turn)
    [added] = turns
    return _Turn(
        added=added,
        seconds=took,
        model=added.seconds["capture"] + added.seconds["solve"] + sum(counts["advance"]),
        statements=len(counts["statements"]),
        synced=len(counts["synced"]),
    )


class _Counts(dict[str, list[float]]):
    def __missing__(self, name: str) -> list[float]:
        return self.setdefault(name, [])


@contextmanager
def _counted(ledger: Ledger) -> Iterator[_Counts]:
    """Seconds of bringing the weights on, SQL statements, and synchronised files, inside."""
    counts = _Counts()

    def timed(name: str, action: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any) -> None:
            counts[name].append(seconds(lambda: action(*arguments)))

        return run

    def count(*_: object) -> None:
        counts["statements"].append(1)

    event.listen(ledger.engine, "before_cursor_execute", count)
    with (
        mock.patch.object(LiveModel, "advance", timed("advance", LiveModel.advance)),
        mock.patch.object(os, "fsync", timed("synced", os.fsync)),
    ):
        yield counts


def _fixed(turns: list[_Turn], rows: str) -> list[Measurement]:
    return [
        Measurement(
            what=f"fixed cost of a turn of {turns[0].added.edits} edits ({rows}), published step",
            value=statistics.median(turn.seconds - turn.model for turn in turns),
            unit="s",
            beside="the turn",
            other=statistics.median(turn.seconds for turn in turns),
            ceiling=_FIXED,
        ),
        Measurement(
            what="  of its model work, the weights brought on by the patch",
            value=statistics.median(turn.added.seconds["apply"] for turn in turns),
            unit="s",
        ),
        Measurement(what="  SQL statements", value=turns[0].statements, unit=""),
        Measurement(what="  files and folders synchronised", value=turns[0].synced, unit=""),
    ]


def _sizes(model: Path, data: list[Path], scratch: Path) -> Iterator[Measurement]:
    """Bytes of a patch beside those of the same change stored densely."""
    tensors = open_checkpoint(model).tensors
    for rows in data:
        for step, compact in product(_STEPS, ("0", _COMPACT)):
            folder = scratch / f"{rows.stem}-{step}-{compact}"
            added = _turn(model, rows, folder, step=step, compact=compact).added
            with open_ledger(folder) as ledger:
                [turn] = log(ledger)
            assert turn.patch is not None
            tokens = int(added.figures["tokens"])
            is_promised = tokens <= _FEW_TOKENS and compact != "0"
            yield Measurement(
                what=f"a patch of {added.edits} edits, {tokens} target tokens "
                f"({rows.name}, {step}, compact={compact})",
                value=added.patch_bytes / _MEGA,
                unit="MB",
                beside="dense, in the model's dtype",
                other=sum(tensors[name].size for name in turn.patch.changes) / _MEGA,
                ceiling=_SMALLER if is_promised else None,
            )
