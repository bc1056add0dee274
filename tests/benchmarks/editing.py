"""How fast `ledger add-edits` edits a real model, how much memory it takes, and what it stores."""

import json
import statistics
from pathlib import Path
from typing import Any

import ledger
from patches.checkpoint import open_checkpoint
from tests.benchmarks.command import Ran
from tests.benchmarks.command import ledger as run
from tests.benchmarks.measurement import Measurement

FACTS = Path(ledger.__file__).parent / "facts" / "world.json"
TURN_SIZE = 40
_RUNS = 5
_MEGA = 1e6


def measure(model: Path, scratch: Path) -> tuple[list[Measurement], Path]:
    """The figures, and the folder of a ledger with the three turns that were made."""
    published = ("--set", "step=published")
    runs = [_edit(model, scratch / f"edited-{number}", *published) for number in range(_RUNS)]
    folder = scratch / f"edited-{_RUNS - 1}"
    default = [_edit(model, scratch / f"default-{number}") for number in range(_RUNS)]
    beside = Measurement(
        what="the same by the default step",
        value=_rate(default),
        unit="edits/s",
        beside="the published step",
        other=_rate(runs),
    )
    return [*_speed(runs, model), beside, _size(model, folder)], folder


def _edit(model: Path, folder: Path, *given: str) -> Ran:
    run("init", "--model", str(model), folder=folder)
    arguments = ["--turn-size", str(TURN_SIZE), "--no-evaluate", "--json", *given]
    return run("add-edits", str(FACTS), *arguments, folder=folder)


def _rate(runs: list[Ran]) -> float:
    """Edits per second, without the start."""
    turns = [json.loads(done.output)["turns"] for done in runs]
    edits: int = sum(turn["edits"] for turn in turns[0])
    return edits / statistics.median(_total(each, "total") for each in turns)


def _speed(runs: list[Ran], model: Path) -> list[Measurement]:
    turns = [json.loads(done.output)["turns"] for done in runs]
    edits = sum(turn["edits"] for turn in turns[0])
    phases = sorted(set(turns[0][0]["seconds"]) - {"total", "evaluate"})
    checkpoint = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    return [
        Measurement(
            what=f"add-edits, published step, {edits} edits, {len(turns[0])} turns, no scores",
            value=_rate(runs),
            unit="edits/s",
            beside="with start of the program and loading",
            other=edits / statistics.median(done.seconds for done in runs),
        ),
        *(
            Measurement(
                what=f"  {phase}, per turn of {TURN_SIZE}",
                value=statistics.median(_total(each, phase) / len(each) for each in turns),
                unit="s",
            )
            for phase in phases
        ),
        Measurement(
            what="  peak memory",
            value=statistics.median(done.peak for done in runs) / _MEGA,
            unit="MB",
            beside="the model's file",
            other=checkpoint / _MEGA,
        ),
    ]


def _total(turns: list[dict[str, Any]], phase: str) -> float:
    seconds: list[float] = [turn["seconds"][phase] for turn in turns]
    return sum(seconds)


def _size(model: Path, folder: Path) -> Measurement:
    """Bytes of a patch beside those of the same change stored densely."""
    turns = json.loads(run("log", "--json", folder=folder).output)
    tensors = open_checkpoint(model).tensors
    return Measurement(
        what=f"a patch of {TURN_SIZE} edits (mean)",
        value=statistics.fmean(turn["patch"]["bytes"] for turn in turns) / _MEGA,
        unit="MB",
        beside="dense, in the model's dtype",
        other=sum(tensors[name].size for name in turns[0]["patch"]["rank"]) / _MEGA,
    )
