"""How well SmolLM2 is edited by the published step of UltraEdit, and by the default one.

    python -m tests.benchmarks.quality FILE:FIRST-LAST … [--model FOLDER] [--set KEY=VALUE …]

FILE:FIRST-LAST: rows FIRST to LAST - 1 of a dataset, e.g. zsre.json:0-500. They are edited in turns
of 100 with all else by default, once with each step; the last state is scored on all of them, with
intervals of 95 %, and the two are compared edit by edit. `first turn` is the success of the first
hundred edits after the last turn. --set: hyperparameters for the default step, in place of its own.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ledger.intervals import paired, summary_intervals
from patches.evaluation import summary
from tests.benchmarks.command import ledger as run

TURN = 100
METHODS: Mapping[str, tuple[str, ...]] = {"published": ("--set", "step=published"), "default": ()}
METRICS = {
    "edit_success": "success",
    "generalization": "generalisation",
    "stability": "stability",
    "exact_match": "exact",
}
_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What one way of editing the rows came to. outcomes: scores of the state, edit by edit."""

    outcomes: list[dict[str, float | None]]
    seconds: float
    patch_bytes: int


def measure(
    rows: Path, first: int, last: int, given: Sequence[str], model: Path, folder: Path
) -> Scored:
    """Edit the rows with the options `given` in a ledger of their own, and score them all."""
    run("init", "--model", str(model), folder=folder)
    started = time.perf_counter()
    told = run(
        *("add-edits", str(rows), "--offset", str(first), "--limit", str(last - first)),
        *("--turn-size", str(TURN), "--no-evaluate", "--json", *given),
        folder=folder,
    ).output
    seconds = time.perf_counter() - started
    patch_bytes = sum(turn["patch_bytes"] for turn in json.loads(told)["turns"])
    told = run("evaluate", "--json", "--edits", folder=folder).output
    outcomes = [edit["state"] for edit in json.loads(told)["edits"]]
    return Scored(outcomes=outcomes, seconds=seconds, patch_bytes=patch_bytes)


def _row(name: str, method: str, scored: Scored) -> list[str]:
    means = summary(scored.outcomes)
    intervals = summary_intervals(scored.outcomes, seed=_SEED)
    shown = []
    for metric in METRICS:
        around = intervals.get(metric)
        width = "" if around is None else f" {around.low:.3f}–{around.high:.3f}"
        shown.append(f"{_number(means[metric])}{width}")
    kept = summary(scored.outcomes[:TURN])["edit_success"]
    edits = len(scored.outcomes)
    size = scored.patch_bytes / 1e6 / max(edits / TURN, 1)
    return [name, method, *shown, _number(kept), f"{edits / scored.seconds:.1f}", f"{size:.1f}"]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _against(name: str, published: Scored, ours: Scored) -> list[list[str]]:
    """The difference of the two, metric by metric, over the same edits."""
    rows = []
    for metric, shown in METRICS.items():
        pair = paired(
            [one[metric] for one in published.outcomes],
            [one[metric] for one in ours.outcomes],
            seed=_SEED,
        )
        around = pair.interval
        rows.append(
            [
                name,
                shown,
                f"{pair.difference:+.3f}",
                "" if around is None else f"{around.low:+.3f} to {around.high:+.3f}",
                *(str(n) for n in (pair.better, pair.worse, pair.same)),
                f"{pair.p_value:.2g}",
            ]
        )
    return rows


def _parsed(text: str) -> tuple[Path, int, int]:
    path, _, span = text.rpartition(":")
    first, _, last = span.partition("-")
    return Path(path).resolve(), int(first), int(last)


def main(arguments: list[str] | None = None) -> int:
    """Measure and print two tables: the scores, and the differences."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.quality")
    parser.add_argument("rows", nargs="+", type=_parsed, metavar="FILE:FIRST-LAST")
    parser.add_argument("--model", type=Path, default=Path(".demo/smollm2"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    own = [part for text in options.set for part in ("--set", text)]
    scores = Table("rows", "step", *METRICS.values(), "first turn", "edits/s", "MB/turn", box=None)
    columns = ("rows", "default over published", "by", "95 %", "better", "worse", "same", "p")
    differences = Table(*columns, box=None)
    for path, first, last in options.rows:
        name = f"{path.name} {first}–{last - 1}"
        found: dict[str, Any] = {}
        for method, given in METHODS.items():
            with tempfile.TemporaryDirectory(prefix="ledger-quality-") as scratch:
                found[method] = measure(
                    *(path, first, last, [*given, *(own if method == "default" else ())]),
                    *(options.model.resolve(), Path(scratch) / "ledger"),
                )
            scores.add_row(*_row(name, method, found[method]))
        for row in _against(name, found["published"], found["default"]):
            differences.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else 160, highlight=False)
    console.print(scores)
    console.print()
    console.print(differences)
    return 0


if __name__ == "__main__":
    sys.exit(main())
