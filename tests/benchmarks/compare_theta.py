"""Recording a low-rank change of a model and checking it out, by this program and by git-theta.

    python -m tests.benchmarks.compare_theta --theta VENV [--model FOLDER] [--runs N]
        [--threads N …] [--json]

VENV: a virtual environment with git-theta 0.2.0. git-lfs is in its `bin` or on the PATH, as git is.
The change is that of `low_rank_change`: rank 120, of eight matrices. Seconds are those of whole
processes, the programs alternate, and figures are medians.

What is compared, as a user types it:

* Here `ledger import ADAPTER --to FOLDER`, a new one, in a ledger that was made before; and the
  same by two commands, `ledger import ADAPTER` and `ledger apply --to FOLDER`. All for the model,
  and for a float32 copy of it.
* There, in a repository in which the model is committed, `git add` and `git commit` of the changed
  model, then `git checkout` of its file, which is not there. For a float32 copy, with a header as
  transformers writes it: git-theta reads safetensors by numpy, which has no bfloat16.
* There too, `git theta add --update-type low-rank --update-data FILE` of the same factors, and
  `git commit`, in place of adding the changed model.

Bytes are those that `.ledger` and `.git` have grown by. Left out is what is done once for a model:
`ledger init`, and there the first commit.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks import low_rank_change
from tests.benchmarks.command import ledger as run_ledger
from tests.benchmarks.command import run
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.one_turn import size
from tests.benchmarks.whole_commands import Failed, options_for, report, threads_of

_FASTER, _SMALLER = 10.0, 0.5  # promised beside git-theta's figures for the changed model
_WEIGHTS = "model.safetensors"
_MEGA = 1e6
_ADD = ("git", "add", _WEIGHTS)
_ADD_FACTORS = ("git", "theta", "add", "--update-type", "low-rank", "--update-data")


@dataclass(frozen=True, kw_only=True)
class Took:
    """record, check_out: seconds of the commands. both: of those that do both. grown: bytes. peak:
    likewise, of the largest process. differing: tensors whose bytes are not those of the changed
    model. same_file: those of the file are."""

    record: float
    check_out: float
    both: float
    grown: int
    peak: int
    differing: int
    same_file: bool


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """Folders of models, and the change in the forms that both take. update: a file for git-theta.

    exact: what `single` with the change is. changed: the same as `model` changed, in float32.
    """

    model: Path
    single: Path
    exact: Path
    changed: Path
    own: Path
    adapter: Path
    update: Path


def prepare(model: Path, scratch: Path) -> Prepared:
    """Draw the change, and write what both programs start from."""
    change = low_rank_change.drawn(model, seed=1)
    made = Prepared(
        model=model,
        single=scratch / "float32",
        exact=scratch / "float32-exact",
        changed=scratch / "float32-changed",
        own=scratch / "changed",
        adapter=scratch / "adapter",
        update=scratch / "update.safetensors",
    )
    single = torch.float32
    low_rank_change.write_adapter(change, made.adapter)
    low_rank_change.write_update(change, made.update)
    low_rank_change.write_model(model, made.single, dtype=single)
    low_rank_change.write_model(model, made.exact, change=change, rounded=single, dtype=single)
    low_rank_change.write_model(model, made.changed, change=change, dtype=single)
    low_rank_change.write_model(model, made.own, change=change)
    return made


def own(model: Path, adapter: Path, changed: Path, scratch: Path) -> Took:
    """This program; `changed` is what must come out."""
    folder, target = scratch / "ledger", scratch / "written"
    run_ledger("init", "--model", str(model), folder=folder)
    before = size(folder)
    copy = shutil.copytree(folder, scratch / "copy")
    recorded = run_ledger("import", str(adapter), folder=folder)
    grown = size(folder) - before
    written = run_ledger("apply", "--to", str(target), folder=folder)
    shutil.rmtree(target)
    at_once = run_ledger("import", str(adapter), "--to", str(target), folder=copy)
    return Took(
        record=recorded.seconds,
        check_out=written.seconds,
        both=at_once.seconds,
        grown=grown,
        peak=max(recorded.peak, written.peak, at_once.peak),
        differing=low_rank_change.differing(target, changed),
        same_file=_same_file(target / _WEIGHTS, changed / _WEIGHTS),
    )


@dataclass(frozen=True, kw_only=True)
class Theta:
    """git-theta in a virtual environment, with settings of its own. repository: the model alone is
    committed in it."""

    environment: dict[str, str]
    repository: Path

    @classmethod
    def start(cls, venv: Path, prepared: Prepared, scratch: Path) -> "Theta":
        """Commit the float32 copy of the model. Failed if something that is needed is missing."""
        theta = cls(environment=_environment(venv, scratch), repository=scratch / "repository")
        theta.repository.mkdir()
        for command in (("git", "lfs", "install"), ("git-theta", "install"), ("git", "init", "-q")):
            theta.run(*command, within=theta.repository)
        shutil.copy(prepared.single / _WEIGHTS, theta.repository)
        # A copy of the folder is to count as unchanged.
        theta.run("git", "config", "core.checkStat", "minimal", within=theta.repository)
        theta.run("git", "config", "core.trustctime", "false", within=theta.repository)
        theta.run("git", "theta", "track", _WEIGHTS, within=theta.repository)
        theta.run(*_ADD, within=theta.repository)
        theta.run("git", "commit", "-q", "-m", "base", within=theta.repository)
        return theta

    def run(self, *command: str, within: Path) -> tuple[float, int]:
        """Seconds and peak of a command; Failed, with what it says, if it fails."""
        try:
            done = run(command, environment=self.environment, within=within)
        except (subprocess.CalledProcessError, FileNotFoundError) as error:
            told = getattr(error, "stderr", None) or str(error)
            raise Failed(f"{' '.join(command)} has failed:\n{told[-2000:]}") from error
        return done.seconds, done.peak

    def take(self, changed: Path, scratch: Path, *, update: Path | None = None) -> Took:
        """Record the change, and check it out. update: its factors, to be added in place of the
        changed weights."""
        folder = scratch / "repository"
        shutil.copytree(self.repository, folder, symlinks=True)
        before = size(folder / ".git")
        if update is None:
            shutil.copy(changed / _WEIGHTS, folder)
            add: tuple[str, ...] = _ADD
        else:
            add = (*_ADD_FACTORS, str(update), _WEIGHTS)
        took = [self.run(*add, within=folder)]
        took.append(self.run("git", "commit", "-q", "-m", "changed", within=folder))
        grown = size(folder / ".git") - before
        (folder / _WEIGHTS).unlink()
        back = self.run("git", "checkout", "-q", "HEAD", "--", _WEIGHTS, within=folder)
        record = sum(seconds for seconds, _ in took)
        return Took(
            record=record,
            check_out=back[0],
            both=record + back[0],
            grown=grown,
            peak=max(peak for _, peak in (*took, back)),
            differing=low_rank_change.differing(folder, changed),
            same_file=_same_file(folder / _WEIGHTS, changed / _WEIGHTS),
        )


def _environment(venv: Path, scratch: Path) -> dict[str, str]:
    home = scratch / "home"
    home.mkdir()
    path = f"{venv.resolve() / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}"
    for program in ("git-theta", "git-lfs"):
        if shutil.which(program, path=path) is None:
            raise Failed(f"{program} is neither in {venv / 'bin'} nor on the PATH: install it")
    who = {
        f"GIT_{role}_{part}": "benchmark"
        for role in ("AUTHOR", "COMMITTER")
        for part in ("NAME", "EMAIL")
    }
    return {
        **who,
        "PATH": path,
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_THETA_CHECKPOINT_TYPE": "safetensors",
    }


def _same_file(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def measure(
    venv: Path, model: Path, threads: int, *, runs: int, scratch: Path
) -> list[Measurement]:
    """Alternating, each in a folder of its own."""
    prepared = prepare(model, scratch)
    theta = Theta.start(venv, prepared, scratch)
    ways: dict[str, Callable[[Path], Took]] = {
        "own": lambda folder: own(model, prepared.adapter, prepared.own, folder),
        "theirs": lambda folder: theta.take(prepared.changed, folder),
        "own, float32": lambda folder: own(
            prepared.single, prepared.adapter, prepared.exact, folder
        ),
        "their factors": lambda folder: theta.take(prepared.exact, folder, update=prepared.update),
    }
    made: dict[str, list[Took]] = {name: [] for name in ways}
    for number in range(1, runs + 1):
        print(f"git-theta, {threads_of(threads)}, run {number} …", file=sys.stderr, flush=True)
        for name, way in ways.items():
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                made[name].append(way(Path(folder)))
    first = [*_figures("", threads, made["own"], made["theirs"], _DENSE, promised=True)]
    second = _figures(
        " of a float32 copy", threads, made["own, float32"], made["their factors"], _FACTORS,
        promised=False,
    )  # fmt: skip
    return [*first, *second]


_DENSE = "git-theta, the changed model"
_FACTORS = "git-theta, the factors"


def _figures(
    which: str,
    threads: int,
    ours: list[Took],
    theirs: list[Took],
    beside: str,
    *,
    promised: bool,
) -> Iterator[Measurement]:
    def figure(what: str, unit: str, of: Callable[[Took], float], **promise: Any) -> Measurement:
        value, other = (statistics.median(map(of, made)) for made in (ours, theirs))
        return Measurement(what=what, value=value, unit=unit, beside=beside, other=other, **promise)

    faster = _FASTER if promised and threads == 1 else None
    yield figure(
        f"record and write a change{which}, {threads_of(threads)}",
        "per minute",
        lambda took: 60 / took.both,
        limit=faster,
    )
    yield figure("  the same", "s", lambda took: took.both)
    yield figure("  by two commands", "s", lambda took: took.record + took.check_out)
    yield figure("    record it", "s", lambda took: took.record)
    yield figure("    write the changed model", "s", lambda took: took.check_out)
    yield figure("  peak memory of a process", "MB", lambda took: took.peak / _MEGA)
    yield figure(
        "  left on disk",
        "MB",
        lambda took: took.grown / _MEGA,
        ceiling=_SMALLER if promised else None,
    )
    for made, who in ((ours, "here"), (theirs, "git-theta")):
        tensors, files = max(t.differing for t in made), sum(not t.same_file for t in made)
        if made is ours and (tensors or files):
            raise Failed(f"{tensors} tensors were written with other bytes than the change gives")
        yield Measurement(what=f"  tensors with other bytes, {who}", value=tensors, unit="")
        yield Measurement(
            what=f"  files with other bytes, {who}", value=files, unit=f"of {len(made)}"
        )


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.compare_theta")
    parser.add_argument("--theta", type=Path, required=True, metavar="VENV")
    options = options_for(parser, arguments)
    return report(
        options,
        lambda threads, scratch: measure(
            options.theta, options.model, threads, runs=options.runs, scratch=scratch
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
