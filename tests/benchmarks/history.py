"""How fast a long history is read."""

import statistics
from pathlib import Path

from ledger.initialising import init
from ledger.recording import RecordedEdit, record_turn
from patches.edit import Edit
from tests import tiny_models
from tests.benchmarks.command import ledger as run
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.recording import small_turn

TURNS = 2_000
_RUNS = 5


def measure(scratch: Path) -> list[Measurement]:
    """Seconds of `ledger log` on a long history beside a short one."""
    model = tiny_models.build(scratch / "model")
    short, long = scratch / "short", scratch / "long"
    for folder, turns in ((short, 3), (long, TURNS)):
        _record(model, folder, turns)
    return [
        Measurement(
            what=f"ledger log of {TURNS:,} turns",
            value=_log(long),
            unit="s",
            beside="of 3 turns",
            other=_log(short),
        ),
        Measurement(
            what="ledger log --last 20 of them", value=_log(long, "--last", "20"), unit="s"
        ),
    ]


def _log(folder: Path, *options: str) -> float:
    return statistics.median(run("log", *options, folder=folder).seconds for _ in range(_RUNS))


def _record(model: Path, folder: Path, turns: int) -> None:
    with init(str(model), folder=folder).ledger as ledger:
        parent = None
        for number in range(turns):
            edit = Edit(prompt=f"The capital of country {number} is", target="Rome")
            edits = [RecordedEdit(edit=edit, row=number)]
            parent = record_turn(ledger, small_turn(ledger, edits, parent=parent))
