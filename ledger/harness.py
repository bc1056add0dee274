"""Score a state with lm-evaluation-harness, beside the un-edited base, and record the scores.

The harness (arXiv 2405.14782; the optional library ``lm_eval``) brings tasks, prompts and metrics.
It is given the live model itself, with its side memories in their routers.
"""

import contextlib
import io
import os
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from ledger import database, environment, history
from ledger.harness_scores import SUITE, Figures, TaskScore, figures, protocol, task_scores
from ledger.harness_tasks import LIBRARY, Tasks, load_tasks, told
from ledger.history import Step
from ledger.models import load_tokenizer
from ledger.new_turn import NewEvaluation
from ledger.orm import TurnRow
from ledger.progress import Progress, silent
from ledger.recording import record_evaluation
from ledger.refs import Rev
from ledger.states import live_state
from ledger.wording import counted
from ledger.workspace import Ledger
from patches.errors import DatasetError, EditLedgerError, HistoryError, SettingError
from patches.live import LiveModel

# Where the standard error of a metric has no formula.
_RESAMPLES = 1000


@dataclass(frozen=True, kw_only=True)
class Harnessed:
    """Scores of the state at `turn` on tasks of the harness. n: examples of all of them."""

    turn: int
    n: int
    protocol: dict[str, Any]
    seed: int
    base: Figures
    state: Figures
    tasks: tuple[TaskScore, ...]
    notes: tuple[str, ...]
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger evaluate --lm-eval --json``; fields are only ever added."""
        return {
            "suite": SUITE,
            "scope": "text",
            **asdict(self),
            "tasks": [task.to_json() for task in self.tasks],
        }


def run(
    ledger: Ledger,
    tasks: Sequence[str],
    *,
    at: Rev | None = None,
    path: Path | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str = "auto",
    dtype: str | None = None,
    progress: Progress = silent,
) -> Harnessed:
    """Score the state after turn `at` (default: the head) on tasks of the harness, and record it.

    tasks: names of tasks, groups or tags, or YAML files. path: a folder with tasks of one's own,
    which go before the harness's; functions that they name run. limit: examples of each task, the
    first. SettingError if the harness is not installed, or a task is unknown or would run what the
    model writes; DatasetError if one cannot be loaded or run.
    """
    _check(tasks, path, limit)
    turns = _line(ledger, at)
    with _hushed():
        progress("load tasks", 0, 1)
        loaded = load_tasks(tasks, path)
        progress("load tasks", 1, 1)
        live = live_state(ledger, turns, device=device, dtype=dtype, progress=progress)
        tokenizer = load_tokenizer(ledger.checkpoint.folder)
        started = time.perf_counter()
        state = _ask(live, tokenizer, loaded, limit, seed, "run tasks", progress)
        with live.at_base():
            base = _ask(live, tokenizer, loaded, limit, seed, "run tasks, base", progress)
    new = NewEvaluation(
        protocol=protocol(state.results, limit),
        seed=seed,
        base=figures(base.results),
        state=figures(state.results),
        outcomes=(),
        environment=environment.describe(live.device, next(live.model.parameters()).dtype),
        seconds=time.perf_counter() - started,
    )
    n = sum(samples["effective"] for samples in state.results["n-samples"].values())
    _record(ledger, turns[-1], new, n)
    return Harnessed(
        turn=turns[-1].number,
        n=n,
        protocol=new.protocol,
        seed=seed,
        base=new.base,
        state=new.state,
        tasks=tuple(task_scores(base.results, state.results, seed=seed)),
        notes=_notes(state),
        seconds=new.seconds,
    )


def _check(tasks: Sequence[str], path: Path | None, limit: int | None) -> None:
    if not tasks or not all(tasks):
        raise SettingError("--lm-eval wants the names of tasks, with commas between them")
    if path is not None and not path.is_dir():
        raise SettingError(f"--lm-eval-path {path}: there is no such folder")
    if limit is not None and limit < 1:
        raise SettingError(f"--limit counts the examples of a task: at least 1, not {limit}")
    try:
        import_module(f"{LIBRARY}.models.huggingface")
    except ImportError as error:
        raise SettingError(
            f"--lm-eval needs lm-evaluation-harness ({error.name or LIBRARY} is not here): "
            "pip install 'edit-ledger[lm-eval]'"
        ) from None


def _line(ledger: Ledger, at: Rev | None) -> list[Step]:
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch, at)
    if not turns:
        raise HistoryError(
            "the ledger has no turns yet; add some with: ledger add-edits"
            if at is None
            else "turn 0 is the base, which is scored beside every other state"
        )
    return turns


def _record(ledger: Ledger, head: Step, new: NewEvaluation, n: int) -> None:
    with database.writing(ledger.engine) as session:
        turn = session.get_one(TurnRow, head.id)
        now = datetime.now(UTC)
        record_evaluation(session, turn, new, scope_turn=None, edits=(), now=now, text=n)


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The harness's own results. cut: requests that were too long for the model."""

    results: Mapping[str, Any]
    cut: int


def _ask(
    live: LiveModel,
    tokenizer: Any,
    loaded: Tasks,
    limit: int | None,
    seed: int,
    phase: str,
    progress: Progress,
) -> _Asked:
    """What comes out for the model as it is now."""
    from lm_eval.evaluator import evaluate

    from ledger.harness_model import HarnessModel

    model = HarnessModel(live.model, tokenizer, phase=phase, progress=progress)
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config("num_fewshot", 0)
        task.set_fewshot_seed(seed)
    _seed(seed)
    try:
        results = evaluate(model, loaded, limit=limit, bootstrap_iters=_RESAMPLES)
    except EditLedgerError:
        raise
    # As when they are loaded: tasks are programs.
    except Exception as error:
        names = ", ".join(loaded["tasks"])
        raise DatasetError(
            f"lm-evaluation-harness cannot run {names} on this model: {told(error)}"
        ) from error
    return _Asked(results=results, cut=model.cut)


def _seed(seed: int) -> None:
    """What the harness draws from, few-shot examples apart."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Inside, nothing that the harness prints is seen, nor are its bars; and it starts no processes
    for a bootstrap, which a process with threads must not fork."""
    name = "DISABLE_MULTIPROC"
    before = os.environ.get(name)
    os.environ[name] = "1"
    sink = io.StringIO()
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _notes(state: _Asked) -> tuple[str, ...]:
    if not state.cut:
        return ()
    return (
        f"{counted(state.cut, 'requests')} longer than the model reads at once lost the beginning",
    )
