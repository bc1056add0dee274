"""A TIES merge of two changes of a model, by this program and by mergekit.

    python -m tests.benchmarks.compare_mergekit --mergekit VENV [--model FOLDER] [--runs N]
        [--threads N …] [--json]

VENV: a virtual environment with mergekit 0.1.5. Both changes are those of `low_rank_change`: rank
120, of eight matrices. Seconds and memory are those of whole processes, the programs alternate, and
figures are medians.

What is compared, as a user types it:

* Here `ledger merge other --strategy ties --no-evaluate` in a ledger in which each branch has one
  change, then `ledger apply --to FOLDER`, a new one: from two patches to a checkpoint.
* There `mergekit-yaml CONFIG FOLDER` with both changed models as checkpoints; that they must be
  written before is not counted. Density, weights and dtype are the same, the rest is as it comes.

The two must change every matrix by the same length within 5 %, or the comparison is refused. They
do not give the same bytes: mergekit merges differences of rounded weights, and rounds them again.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patches.merging import Merge
from tests.benchmarks import low_rank_change
from tests.benchmarks.command import Ran, run
from tests.benchmarks.command import ledger as run_ledger
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.whole_commands import Failed, options_for, report, threads_of

_FASTER, _SMALLER = 3.0, 0.5  # promised beside mergekit
_ALIKE = 0.05
_MEGA = 1e6
_DENSITY, _WEIGHT = Merge(method="ties").density, 0.5


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """ledger: with one change on each of two branches. changed: the models with either. modules:
    what is changed."""

    model: Path
    ledger: Path
    changed: tuple[Path, Path]
    modules: tuple[str, ...]


def prepare(model: Path, scratch: Path) -> Prepared:
    """Draw two changes, record each on a branch, and write both models."""
    folder = scratch / "ledger"
    run_ledger("init", "--model", str(model), folder=folder)
    run_ledger("branch", "other", folder=folder)
    written = []
    for seed, branch in enumerate(("main", "other"), start=1):
        change = low_rank_change.drawn(model, seed=seed)
        adapter, target = scratch / f"adapter-{seed}", scratch / f"changed-{seed}"
        low_rank_change.write_adapter(change, adapter)
        run_ledger("switch", branch, folder=folder)
        run_ledger("import", str(adapter), folder=folder)
        run_ledger("apply", "--to", str(target), folder=folder)
        (target / "ledger.json").unlink()
        written.append(target)
    run_ledger("switch", "main", folder=folder)
    return Prepared(
        model=model, ledger=folder, changed=(written[0], written[1]), modules=tuple(change)
    )


def own(prepared: Prepared, scratch: Path) -> tuple[list[Ran], Path]:
    """The commands, and the folder that they have written."""
    folder, target = scratch / "ledger", scratch / "written"
    shutil.copytree(prepared.ledger, folder)
    options = ("--strategy", "ties", "--density", str(_DENSITY), "--no-evaluate")
    merged = run_ledger("merge", "other", *options, folder=folder)
    return [merged, run_ledger("apply", "--to", str(target), folder=folder)], target


def theirs(venv: Path, prepared: Prepared, scratch: Path) -> tuple[list[Ran], Path]:
    """Likewise by mergekit. Failed, with what it says, if it fails."""
    told, target = scratch / "config.yml", scratch / "written"
    parameters = {"density": _DENSITY, "weight": _WEIGHT}
    config = {
        "merge_method": "ties",
        "base_model": str(prepared.model),
        "models": [{"model": str(one), "parameters": parameters} for one in prepared.changed],
        "parameters": {"normalize": True},
        "dtype": "bfloat16",
    }
    # JSON is YAML.
    told.write_text(json.dumps(config), encoding="utf-8")
    program = venv.resolve() / "bin" / "mergekit-yaml"
    try:
        done = run([str(program), str(told), str(target)], environment={"HF_HUB_OFFLINE": "1"})
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        raise Failed(f"{program} has failed:\n{reason[-2000:]}") from error
    return [done], target


def measure(
    venv: Path, model: Path, threads: int, *, runs: int, scratch: Path
) -> list[Measurement]:
    """Alternating, each in a folder of its own."""
    prepared = prepare(model, scratch)
    ours: list[list[Ran]] = []
    published: list[list[Ran]] = []
    differences = []
    for number in range(1, runs + 1):
        print(f"mergekit, {threads_of(threads)}, run {number} …", file=sys.stderr, flush=True)
        with (
            tempfile.TemporaryDirectory(dir=scratch) as one,
            tempfile.TemporaryDirectory(dir=scratch) as other,
        ):
            commands, written = own(prepared, Path(one))
            ours.append(commands)
            commands, merged = theirs(venv, prepared, Path(other))
            published.append(commands)
            differences.append(_difference(prepared, written, merged))
    return _figures(threads, ours, published, max(differences))


def _difference(prepared: Prepared, written: Path, merged: Path) -> float:
    """The largest, as a share, between the lengths of two changes of one matrix; Failed if it is so
    large that the two have not done the same."""
    ours, theirs = (
        low_rank_change.norms(prepared.model, folder, prepared.modules)
        for folder in (written, merged)
    )
    largest = max(abs(ours[name] - norm) / norm for name, norm in theirs.items())
    # So that what is no number is refused too.
    if not largest <= _ALIKE:
        raise Failed(f"the two merges differ by {largest:.0%}, so that they have not done the same")
    return largest


def _figures(
    threads: int, ours: list[list[Ran]], theirs: list[list[Ran]], difference: float
) -> list[Measurement]:
    def figure(
        what: str, unit: str, of: Callable[[list[Ran]], float], **promise: Any
    ) -> Measurement:
        value, other = (statistics.median(map(of, made)) for made in (ours, theirs))
        return Measurement(
            what=what, value=value, unit=unit, beside="mergekit", other=other, **promise
        )

    return [
        figure(
            f"TIES merge of two changes, written, {threads_of(threads)}",
            "per minute",
            lambda ran: 60 / sum(one.seconds for one in ran),
            limit=_FASTER if threads == 1 else None,
        ),
        figure("  merge it", "s", lambda ran: ran[0].seconds),
        figure("  merge and write it", "s", lambda ran: sum(one.seconds for one in ran)),
        figure(
            "  peak memory of a process",
            "MB",
            lambda ran: max(one.peak for one in ran) / _MEGA,
            ceiling=_SMALLER,
        ),
        Measurement(
            what="  lengths of the changes differ by at most", value=difference * 100, unit="%"
        ),
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compare_mergekit")
    parser.add_argument("--mergekit", type=Path, required=True, metavar="VENV")
    options = options_for(parser, arguments)
    return report(
        options,
        lambda threads, scratch: measure(
            options.mergekit, options.model, threads, runs=options.runs, scratch=scratch
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
