"""How fast a state is written to disk, and reached in a model that is already in memory."""

import os
import shutil
import statistics
import subprocess
from functools import partial
from pathlib import Path

from ledger.applying import apply_to_folder, apply_to_model
from ledger.models import load_model
from ledger.workspace import open_ledger
from tests.benchmarks.command import ledger as run
from tests.benchmarks.measurement import Measurement, median_seconds, seconds

_RUNS = 3


def measure(model: Path, folder: Path, scratch: Path) -> list[Measurement]:
    """folder: a ledger with three turns on `model`."""
    return [*_write(model, folder, scratch), _undo(folder, scratch)]


def _write(model: Path, folder: Path, scratch: Path) -> list[Measurement]:
    """Alternating with the copy, so that a slower moment of the machine meets both."""
    written, copied, commands = [], [], []
    with open_ledger(folder) as ledger:
        for number in range(_RUNS):
            target = scratch / f"applied-{number}"
            written.append(seconds(partial(apply_to_folder, ledger, target)))
            shutil.rmtree(target)
            copied.append(_copy(model, scratch / f"copied-{number}"))
            commands.append(run("apply", "--to", str(target), folder=folder).seconds)
            shutil.rmtree(target)
    return [
        Measurement(
            what=what,
            value=statistics.median(took),
            unit="s",
            beside="cp -r of the base, with fsync",
            other=statistics.median(copied),
        )
        for what, took in (
            ("apply to a new folder, 3 turns (library)", written),
            ("apply to a new folder, 3 turns (command)", commands),
        )
    ]


def _copy(model: Path, to: Path) -> float:
    def copy() -> None:
        subprocess.run(["cp", "-rL", str(model), str(to)], check=True)
        for file in to.iterdir():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    took = seconds(copy)
    shutil.rmtree(to)
    return took


def _undo(folder: Path, scratch: Path) -> Measurement:
    """From three turns to two and back, by turns, in one model."""
    target = scratch / "loaded"
    with open_ledger(folder) as ledger:
        apply_to_folder(ledger, target)
        model = load_model(target, dtype=None, device="cpu")
        took = [seconds(partial(apply_to_model, ledger, model, at=at)) for at in (2, 3) * _RUNS]
    return Measurement(
        what="undo a turn in a live model, digests checked",
        value=statistics.median(took),
        unit="s",
        beside="mapping the written checkpoint into a new model",
        other=median_seconds(lambda: load_model(target, dtype=None, device="cpu"), runs=_RUNS),
    )
