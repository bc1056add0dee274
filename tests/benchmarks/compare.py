"""A turn of edits, and its scores, by this program beside checkouts of the published code.

    python -m tests.benchmarks.compare --data FILE [--reference FOLDER] [--wise-reference FOLDER]
        [--rows N] [--wise-rows N] [--wise-module NAME] [--runs N] [--threads N …] [--json]

FOLDER: a checkout of github XiaojieGu/UltraEdit, of zjunlp/EasyEdit for WISE. FILE: rows in any
layout that `ledger add-edits` knows, for WISE with locality prompts. Both programs get the same
model, rows and hyperparameters, on the CPU, without scores, each turn in a process of its own with
nothing but the model loaded; the two alternate, so that a slower moment of the machine meets both.
Scores are taken apart: see `compare_scores`. KIND: ultraedit, scores or wise; default: all.
Figures are medians. The exit status is 1 if a promise is not kept. Let nothing else run meanwhile.

The docstrings of `published_turn` and `published_wise_turn` say what of them is theirs, and the
latter, which hyperparameters are.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ledger.datasets import open_dataset, read_rows
from ledger.models import quieten
from patches.edit import Edit
from patches.editors.ultraedit import UltraEditSettings
from patches.errors import EditLedgerError
from tests.benchmarks.apart import ComparisonError, run
from tests.benchmarks.compare_scores import Scoring, scoring
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.one_turn import Outcome, Task
from tests.benchmarks.table import tell

_OURS = "own_turn"
_KINDS = ("ultraedit", "scores", "wise")
_ROWS, _WISE_ROWS, _RUNS = 100, 10, 5
_FASTER, _SMALLER = 3.0, 1 / 3  # beside the published code
_WISE_FASTER, _WISE_SMALLER = 4.0, 1 / 2
_ALIKE = 0.05  # what two shifts may differ by: each program rounds to bfloat16 on its own way
# Of SmolLM2's 30 layers the one that the promise is about.
_WISE_MODULE = "*layers.22.mlp.down_proj"
_TEMPLATES = 2  # texts put before the prompts of WISE
_MEGA = 1e6


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The same turn by two programs, run by run.

    other: the module that runs the published code. faster: promised of one thread. smaller: the
    share of its memory that is promised.
    """

    name: str
    task: Task
    other: str
    faster: float
    smaller: float | None = None

    def measure(self, threads: int, *, runs: int, scratch: Path) -> list[Measurement]:
        """Speed, memory and bytes; ComparisonError if the two have not done the same."""
        ours, published, differences = [], [], []
        task = self.task
        for number in range(1, runs + 1):
            print(f"{self.name}, {threads} threads, run {number} …", file=sys.stderr, flush=True)
            ours.append(run(_OURS, task, threads, scratch))
            task = replace(task, hyperparameters=ours[-1].hyperparameters)
            published.append(run(self.other, task, threads, scratch))
            differences += _differences(ours[-1], published[-1])
        figures = list(_figures(self, threads, ours, published))
        if differences:
            what = "  norms of the shifts differ by at most"
            figures.append(Measurement(what=what, value=max(differences) * 100, unit="%"))
        return figures


def _differences(ours: Outcome, published: Outcome) -> list[float]:
    """Of the shifts of each module whose norm is known, by their norms, as shares.

    ComparisonError if one is so large that the two have not done the same.
    """
    found = []
    for name, norm in published.norms.items():
        found.append(abs(ours.norms[name] - norm) / norm)
        # So that what is no number is refused too.
        if not found[-1] <= _ALIKE:
            raise ComparisonError(
                f"{name}: the published code shifts it by {norm:.4g}, this program by "
                f"{ours.norms[name]:.4g}, so that they have not done the same"
            )
    return found


def _figures(
    pair: Pair, threads: int, ours: list[Outcome], published: list[Outcome]
) -> Iterator[Measurement]:
    def beside(
        what: str, unit: str, figure: Callable[[Outcome], float], **promise: Any
    ) -> Measurement:
        value, other = (statistics.median(map(figure, made)) for made in (ours, published))
        return Measurement(
            what=what, value=value, unit=unit, beside="published", other=other, **promise
        )

    edits = pair.task.edits
    thread = "1 thread" if threads == 1 else f"{threads} threads"
    speed = beside(
        f"{pair.name}, a turn of {edits} edits, {thread}",
        "edits/s",
        lambda made: edits / made.seconds,
        limit=pair.faster if threads == 1 else None,
    )
    passes = published[0].passes
    iterations = pair.task.edits * ours[0].hyperparameters.get("iterations", 0)
    yield (
        speed
        if passes is None
        else replace(speed, beside=f"published, {passes} of {iterations} passes")
    )
    yield beside(
        "  and what it leaves written",
        "edits/s",
        lambda made: edits / (made.seconds + made.keeping),
    )
    yield beside(
        "  peak memory beyond the loaded model",
        "MB",
        lambda made: (made.peak - made.loaded) / _MEGA,
        ceiling=pair.smaller,
    )
    yield beside("  peak memory of the process", "MB", lambda made: made.peak / _MEGA)
    yield beside("  left on disk", "MB", lambda made: made.left / _MEGA)


def write_rows(data: Path, count: int, file: Path, *, locality: bool) -> None:
    """The first usable rows of `data` with different prompts, in a form that both can read.

    locality: only rows with a locality prompt. ComparisonError if there are fewer than `count`.
    """
    rows: dict[str, dict[str, str]] = {}
    for row in read_rows(open_dataset(str(data))):
        edit = row.edit
        if len(rows) < count and edit is not None and (edit.locality or not locality):
            rows.setdefault(edit.prompt, _row(edit))
    if len(rows) < count:
        raise ComparisonError(f"{data} has {len(rows)} usable rows, not {count}")
    file.write_text(json.dumps(list(rows.values())), encoding="utf-8")


def _row(edit: Edit) -> dict[str, str]:
    near = edit.locality[0] if edit.locality else None
    return {
        "src": edit.prompt,
        "ans": edit.target,
        "loc": near.prompt if near else "",
        "loc_ans": (near.answer or "") if near else "",
    }


def _ultraedit(options: argparse.Namespace, scratch: Path) -> Pair:
    batch = UltraEditSettings.batch_size
    if options.rows % batch:
        raise ComparisonError(
            f"--rows {options.rows}: the published code needs whole batches of {batch} rows"
        )
    rows = scratch / "ultraedit.json"
    write_rows(options.data, options.rows, rows, locality=False)
    task = Task(
        method="ultraedit",
        model=str(options.model.resolve()),
        rows=str(rows),
        edits=options.rows,
        dtype="bfloat16",
        settings={"step": "published"},
        reference=_checkout(options.reference, "editor/ultraedit.py", "XiaojieGu/UltraEdit"),
    )
    return Pair(
        name="UltraEdit", task=task, other="published_turn", faster=_FASTER, smaller=_SMALLER
    )


def _wise(options: argparse.Namespace, scratch: Path) -> Pair:
    rows = scratch / "wise.json"
    write_rows(options.data, options.wise_rows, rows, locality=True)
    task = Task(
        method="wise",
        model=str(options.model.resolve()),
        rows=str(rows),
        edits=options.wise_rows,
        dtype="float32",
        modules=[options.wise_module],
        settings={"templates": str(_TEMPLATES)},
        reference=_checkout(
            options.wise_reference, "easyeditor/models/wise/WISE.py", "zjunlp/EasyEdit"
        ),
    )
    return Pair(
        name=f"WISE at {options.wise_module}",
        task=task,
        other="published_wise_turn",
        faster=_WISE_FASTER,
        smaller=_WISE_SMALLER,
    )


def _pairs(options: argparse.Namespace, scratch: Path) -> Iterator[Pair | Scoring]:
    if options.reference and "ultraedit" in options.only:
        yield _ultraedit(options, scratch)
    if options.reference and "scores" in options.only:
        yield _scores(options, scratch)
    if options.wise_reference and "wise" in options.only:
        yield _wise(options, scratch)


def _scores(options: argparse.Namespace, scratch: Path) -> Scoring:
    checkout = _checkout(options.reference, "editor/base.py", "XiaojieGu/UltraEdit")
    return scoring(options.model.resolve(), options.data, options.rows, checkout, scratch)


def _checkout(folder: Path, holds: str, repository: str) -> str:
    if not (folder / holds).is_file():
        raise ComparisonError(
            f"{folder}: no checkout of github {repository}, which has a file {holds}"
        )
    return str(folder.resolve())


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compare")
    parser.add_argument("--data", type=Path, required=True, metavar="FILE")
    parser.add_argument("--reference", type=Path, metavar="FOLDER")
    parser.add_argument("--wise-reference", type=Path, metavar="FOLDER")
    model = os.environ.get("LEDGER_TEST_MODEL") or ".demo/smollm2"
    parser.add_argument("--model", type=Path, default=Path(model))
    parser.add_argument("--rows", type=int, default=_ROWS)
    parser.add_argument("--wise-rows", type=int, default=_WISE_ROWS)
    parser.add_argument("--wise-module", default=_WISE_MODULE, metavar="NAME")
    parser.add_argument("--runs", type=int, default=_RUNS)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--only", nargs="+", choices=_KINDS, default=_KINDS)
    parser.add_argument("--json", action="store_true", dest="as_json")
    options = parser.parse_args(arguments)
    if options.reference is None and options.wise_reference is None:
        parser.error(
            "name a checkout: --reference FOLDER (make bench-compare REFERENCE=FOLDER) for "
            "UltraEdit, --wise-reference FOLDER (WISE_REFERENCE=FOLDER) for WISE"
        )
    return options


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    options = _options(arguments)
    quieten()
    figures: list[Measurement] = []
    try:
        with tempfile.TemporaryDirectory(prefix="ledger-compare-") as folder:
            scratch = Path(folder)
            for pair in _pairs(options, scratch):
                for threads in options.threads:
                    figures += pair.measure(threads, runs=options.runs, scratch=scratch)
    except (ComparisonError, EditLedgerError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return tell(figures, as_json=options.as_json)


if __name__ == "__main__":
    sys.exit(main())
