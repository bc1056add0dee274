"""How well WISE edits SmolLM2 on ZsRE: 10, 50 and 100 edits in shards of 10, scored at the end.

    python -m tests.benchmarks.wise_table ZSRE_JSON [--model FOLDER]

ZSRE_JSON: rows of ZsRE's evaluation set as EasyEdit publishes them. Its rows 0 to 99 are edited;
the prompts that must stay outside are the locality prompts of its last hundred rows, so that those
of the edited rows are never trained on. Everything else is as by default, in float32. The defaults
were chosen on rows 200 to 239.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks.command import ledger as run

EDITS, HELD_OUT = 100, 100
# Edits → reliability, generalisation, locality, greedy exact match that must be reached.
WANTED = {
    10: (0.85, 0.72, 0.99, 0.60),
    50: (0.78, 0.62, 0.99, 0.45),
    100: (0.68, 0.50, 0.99, 0.0),
}
_SCORES = ("edit_success", "generalization", "stability", "generated_match")
_SHARD = 10


def measure(rows: Path, model: Path, scratch: Path) -> dict[int, list[float]]:
    """Number of edits → the four scores of the state after that many."""
    outside = [row["loc"] + "?" for row in json.loads(rows.read_text())[-HELD_OUT:]]
    sentences = scratch / "outside.txt"
    sentences.write_text("\n".join(outside), encoding="utf-8")
    folder = scratch / "ledger"
    run("init", "--model", str(model), folder=folder)
    run(
        *("add-edits", str(rows), "--method", "wise", "--limit", str(EDITS)),
        *("--locality", str(sentences), "--set", "out_of_scope=pool"),
        *("--dtype", "float32", "--no-evaluate"),
        folder=folder,
    )
    found = {}
    for edits in WANTED:
        at = str(edits // _SHARD)
        told = run("evaluate", "--at", at, "--dtype", "float32", "--json", folder=folder).output
        state: dict[str, Any] = json.loads(told)["state"]
        found[edits] = [state[score] for score in _SCORES]
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit status is 1 if a score is below what it must be."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.wise_table")
    parser.add_argument("rows", type=Path, metavar="ZSRE_JSON")
    parser.add_argument("--model", type=Path, default=Path(".demo/smollm2"))
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="ledger-wise-") as scratch:
        found = measure(options.rows.resolve(), options.model.resolve(), Path(scratch))
    table = Table("edits", "shards", "rel", "gen", "loc", "greedy", box=None, pad_edge=False)
    for edits, scores in found.items():
        shown = (f"{score:.3f}" for score in scores)
        table.add_row(str(edits), str(edits // _SHARD), *shown)
    Console().print(table)
    reached = all(
        score >= wanted
        for edits, scores in found.items()
        for score, wanted in zip(scores, WANTED[edits], strict=True)
    )
    return 0 if reached else 1


if __name__ == "__main__":
    sys.exit(main())
