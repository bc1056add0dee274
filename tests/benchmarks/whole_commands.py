"""What the comparisons of whole commands with other programs have in common."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.measurement import Measurement
from tests.benchmarks.table import tell

_RUNS = 5
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS")


class Failed(Exception):
    """One of the two could not do it, or they have not done the same."""


def threads_of(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def options_for(parser: argparse.ArgumentParser, arguments: list[str] | None) -> argparse.Namespace:
    """What `arguments` say, with the options that all comparisons have: model, runs, threads,
    as_json."""
    model = os.environ.get("LEDGER_TEST_MODEL") or ".demo/smollm2"
    parser.add_argument("--model", type=Path, default=Path(model))
    parser.add_argument("--runs", type=int, default=_RUNS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    options.model = options.model.resolve()
    return options


def report(options: argparse.Namespace, measure: Callable[[int, Path], list[Measurement]]) -> int:
    """Print what `measure` finds for each number of threads, in a folder of its own; the exit
    status: 1 if a promise is not kept, or it has failed."""
    figures: list[Measurement] = []
    try:
        for threads in options.threads:
            os.environ.update(dict.fromkeys(_THREADS, str(threads)))
            with tempfile.TemporaryDirectory(prefix="ledger-compare-") as folder:
                figures += measure(threads, Path(folder))
    except Failed as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return tell(figures, as_json=options.as_json)
