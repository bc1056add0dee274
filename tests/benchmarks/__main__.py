"""Run all benchmarks and print one table, or JSON.

    python -m tests.benchmarks [--json] [--only NAME] [--data FILE …] [--reference FOLDER]

Needs the demo's model: LEDGER_TEST_MODEL, or .demo/smollm2 (`make model`). Threads are those of
OMP_NUM_THREADS. FILE: rows for the group `turn`, in any layout that `ledger add-edits` knows, in
place of the demo's facts. FOLDER: a checkout of github XiaojieGu/UltraEdit for the group `solve`.
The exit status is 1 if a promise is not kept.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

from ledger.models import quieten
from tests.benchmarks import (
    editing,
    history,
    large,
    recording,
    scale,
    solving,
    states,
    turn_costs,
    wise,
)
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.table import tell

_NAMES = ("editing", "wise", "recording", "history", "scale", "turn", "solve")
# Takes minutes and gigabytes of the disk, so only when it is asked for.
_EXTRA = ("large",)


def _measure(
    name: str, model: Path, scratch: Path, options: argparse.Namespace
) -> list[Measurement]:
    """The figures of one group; `scratch` is its own folder."""
    scratch.mkdir()
    if name == "turn":
        return turn_costs.measure(model, options.data or [editing.FACTS], scratch)
    if name == "solve":
        return solving.measure(options.reference)
    if name == "recording":
        return recording.measure(scratch)
    if name == "history":
        return history.measure(scratch)
    if name == "large":
        return large.measure(scratch)
    if name == "scale":
        return scale.measure(scratch)
    if name == "wise":
        return wise.measure(model)
    edited, folder = editing.measure(model, scratch)
    return [*edited, *states.measure(model, folder, scratch)]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks")
    parser.add_argument("--json", action="store_true", dest="as_json")
    parser.add_argument("--only", choices=(*_NAMES, *_EXTRA), action="append")
    parser.add_argument("--data", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--reference", type=Path, metavar="FOLDER")
    options = parser.parse_args(arguments)
    model = Path(os.environ.get("LEDGER_TEST_MODEL") or ".demo/smollm2").resolve()
    if not (model / "model.safetensors").is_file():
        print(f"error: no model in {model}; run: make model", file=sys.stderr)
        return 1
    quieten()
    figures: list[Measurement] = []
    with tempfile.TemporaryDirectory(prefix="ledger-benchmarks-") as scratch:
        for name in options.only or _NAMES:
            print(f"measuring {name} …", file=sys.stderr, flush=True)
            figures += _measure(name, model, Path(scratch) / name, options)
    return tell(figures, as_json=options.as_json)


if __name__ == "__main__":
    sys.exit(main())
