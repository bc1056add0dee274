"""A crew of processes, on this machine or on a cluster, through Ray (``edit-ledger[ray]``).

Every worker opens the ledger by its folder, holds one model, and builds states from the patch store
there: on a cluster, folder, database and base model must be found under the same names on every
machine, e.g. on a shared filesystem. Workers only read; what they find out, the driver records. One
that dies costs the job that it was at: another worker does that again.
"""

import logging
import math
import os
import secrets
import signal
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ledger.jobs import Job, Worker, state_by_state
from ledger.models import SPLIT
from ledger.progress import Progress, silent
from ledger.workspace import Ledger, open_ledger
from patches.errors import EditLedgerError, SettingError, WorkerError

_CLUSTER = "ray://"
# Bytes for what is sent to and fro; Ray would take a third of the memory.
_STORE = 256 * 2**20
# Of a cluster without accelerators, one worker gets so many processors.
_PROCESSORS = 4
# A job that takes its worker along so often is not tried again.
_DEATHS = 3
# Of a cluster that does not answer at once; seconds between.
_CALLS, _PAUSE = 3, 2.0


@contextmanager
def ray_crew(
    ledger: Ledger, workers: str, *, device: str, dtype: str | None
) -> Iterator["RayCrew"]:
    """Workers for the time of the context.

    workers: a number of processes on this machine, which share its processors and accelerators; or
    the address ``ray://host:port`` of a cluster that runs: one worker per accelerator, or per four
    processors if it has none. SettingError if it is neither, Ray is not installed, or nothing
    answers there. device: as `ledger.models.load_model` takes it, of what each worker has to
    itself.
    """
    count = _count(workers)
    ray = _imported()
    # Ray's sockets take short paths only; its logs of this command go with it.
    with tempfile.TemporaryDirectory(dir="/tmp", ignore_cleanup_errors=True) as scratch:
        crew = None
        try:
            with _uninterrupted():
                _connect(ray, workers, count, scratch)
            team = _local_team(ray, count, device) if count else _cluster_team(ray, device)
            crew = RayCrew(ray, ledger, team, device=device, dtype=dtype)
            yield crew
        finally:
            with _uninterrupted():
                if crew is not None:
                    crew.dismiss()
                ray.shutdown()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C counts at the end: Ray leaves processes behind if it is stopped while it starts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _frame: asked.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


def _count(workers: str) -> int | None:
    """The number of processes, or None for the address of a cluster."""
    if workers.startswith(_CLUSTER) and len(workers) > len(_CLUSTER):
        return None
    if workers.isdecimal() and int(workers) > 0:
        return int(workers)
    raise SettingError(
        f"--workers {workers}: give a number of processes, or the address of a Ray cluster like "
        "ray://host:10001"
    )


def _imported() -> Any:
    # Before Ray is imported: it would report its use otherwise.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A worker that asks for no accelerator is to see them all, as in this process.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # Its workers would give way to every other process.
    os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import ray
            from ray._private import worker
    except ImportError as error:
        raise SettingError("--workers needs Ray: pip install 'edit-ledger[ray]'") from error
    # It has no public way to keep a dead worker's obituary out of the command's output.
    worker._worker_logs_enabled = False
    return ray


def _connect(ray: Any, workers: str, count: int | None, scratch: str) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # Announcements of changes in Ray itself.
        warnings.simplefilter("ignore")
        try:
            if count is None:
                _call(ray, workers)
            else:
                # Ray would leave one in the user's home, for all that they do with it later.
                os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex())
                ray.init(
                    "local",  # whatever cluster RAY_ADDRESS names
                    num_cpus=count,
                    include_dashboard=False,
                    object_store_memory=_STORE,
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    _temp_dir=scratch,
                )
        except Exception as error:  # Ray raises many kinds
            # The last line: a cluster may answer with a traceback.
            reason = [type(error).__name__, *str(error).strip().splitlines()][-1]
            what = "no cluster answers there" if count is None else "Ray does not start"
            raise SettingError(f"--workers {workers}: {what} ({reason})") from error


def _call(ray: Any, address: str) -> None:
    """A cluster that has just begun, or is very busy, may not take the first call."""
    for left in reversed(range(_CALLS)):
        try:
            ray.init(address, logging_level=logging.ERROR)
            return
        except ConnectionError:
            if not left:
                raise
            time.sleep(_PAUSE)


@dataclass(frozen=True, kw_only=True)
class _Team:
    """How many workers, the threads of each, and what each takes of the cluster."""

    size: int
    threads: int
    resources: dict[str, float]


def _local_team(ray: Any, count: int, device: str) -> _Team:
    """Each with its share of the processors, and of the accelerators where none is named."""
    resources: dict[str, float] = {"num_cpus": 1}
    accelerators = int(ray.cluster_resources().get("GPU", 0))
    if accelerators and device in ("auto", "cuda"):
        # Whole workers to an accelerator, or the last one would find no room.
        resources["num_gpus"] = 1 / math.ceil(count / accelerators)
    threads = max((os.cpu_count() or 1) // count, 1)
    return _Team(size=count, threads=threads, resources=resources)


def _cluster_team(ray: Any, device: str) -> _Team:
    """One worker per accelerator, or per machine that has some if a model is split over them; or
    per `_PROCESSORS`."""
    found = ray.cluster_resources()
    processors = int(found.get("CPU", 1))
    per_machine = [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
    accelerators = [count for count in per_machine if count]
    if device != "cpu" and accelerators:
        each = min(accelerators) if device == SPLIT else 1
        size = len(accelerators) if device == SPLIT else sum(accelerators)
        threads = max(processors // size, 1)
        return _Team(size=size, threads=threads, resources={"num_gpus": each})
    threads = max(min(_PROCESSORS, processors), 1)
    size = max(processors // threads, 1)
    return _Team(size=size, threads=threads, resources={"num_cpus": threads})


def _environment(ledger: Ledger) -> dict[str, str]:
    """What a worker needs to reach the database, passwords too: given to it as an argument, since
    Ray writes down the environments that it makes, and not the arguments."""
    url = ledger.url
    if url.get_backend_name() == "sqlite":
        url = url.set(database=str(Path(url.database or "").resolve()))
    # Those are what PostgreSQL's client reads.
    found = {name: value for name, value in os.environ.items() if name.startswith("PG")}
    return {**found, "LEDGER_DATABASE": url.render_as_string(hide_password=False)}


class _Process:
    """What runs in a worker's process: one model, and the job at hand."""

    def __init__(
        self,
        folder: str,
        environment: dict[str, str],
        threads: int,
        device: str,
        dtype: str | None,
    ) -> None:
        import torch

        os.environ.update(environment)
        torch.set_num_threads(threads)
        self._made = (folder, device, dtype)
        self._worker: Worker | None = None

    def started(self) -> tuple[None, None]:
        """Answers as soon as the process is there."""
        return None, None

    def do(self, job: Job) -> tuple[Any, Exception | None]:
        """The result, or the error of the job itself."""
        try:
            if self._worker is None:
                folder, device, dtype = self._made
                ledger = open_ledger(Path(folder))
                self._worker = Worker(ledger, device=device, dtype=dtype, keeps=False)
            return self._worker.do(job), None
        except EditLedgerError as error:
            return None, error


@dataclass(kw_only=True)
class _Work:
    """Jobs that are still to be done: of each worker its own, in order. deaths: by place of the
    job; None: of workers that had none yet."""

    jobs: Sequence[Job]
    queues: list[deque[int]]
    deaths: dict[int | None, int] = field(default_factory=dict)

    def next_for(self, worker: int) -> int | None:
        """Its own next one, or the last of the one who has most left."""
        if self.queues[worker]:
            return self.queues[worker].popleft()
        longest = max(self.queues, key=len)
        return longest.pop() if longest else None

    def name(self, place: int) -> str:
        """A job, for people."""
        return f"{type(self.jobs[place]).__name__} {place + 1} of {len(self.jobs)}"


class _DiedError(Exception):
    """A worker has died over a job; the text says how."""


class RayCrew:
    """Workers that do jobs, each with a model of its own."""

    def __init__(
        self, ray: Any, ledger: Ledger, team: _Team, *, device: str, dtype: str | None
    ) -> None:
        self.size = team.size
        self._ray = ray
        folder, environment = str(ledger.folder.resolve()), _environment(ledger)
        self._arguments = (folder, environment, team.threads, device, dtype)
        self._process = ray.remote(**team.resources)(_Process)
        self._workers: dict[int, Any] = {}
        # What is waited for: reference → worker, and the place of its job; None: its start.
        self._waiting: dict[Any, tuple[int, int | None]] = {}
        for worker in range(team.size):
            self._start(worker)

    def run(
        self, jobs: Sequence[Job], *, phase: str, progress: Progress = silent
    ) -> Iterator[tuple[int, Any]]:
        """Each worker is given a job at a time, first those of a span of states of its own, once it
        has started: a cluster may have no room for it yet. Closed early, what is at work is given
        up."""
        work = _Work(jobs=jobs, queues=_spans(jobs, self.size))
        total, done, left = sum(job.size for job in jobs), 0, len(jobs)
        progress(phase, done, total)
        try:
            while left:
                self._hand_out(work)
                (reference,), _ = self._ray.wait([*self._waiting], num_returns=1)
                worker, place = self._waiting.pop(reference)
                try:
                    result = self._result(reference)
                except _DiedError as death:
                    self._bury(worker, place, work, str(death))
                    continue
                if place is None:
                    continue
                # Nobody is idle while the result is recorded.
                self._hand_out(work)
                done, left = done + jobs[place].size, left - 1
                progress(phase, done, total)
                yield place, result
        except ConnectionError as error:
            if self._is_there():
                raise
            raise WorkerError(
                f"the cluster has gone away ({error}); what was recorded stays: run again"
            ) from error
        finally:
            for worker, place in [*self._waiting.values()]:
                if place is not None and self._is_there():
                    self._replace(worker)

    def dismiss(self) -> None:
        """The workers end."""
        for process in self._workers.values():
            if self._is_there():
                self._ray.kill(process)

    def _is_there(self) -> bool:
        """Whether Ray is connected; asked for anything else, it would start one of its own here."""
        return bool(self._ray.is_initialized())

    def _hand_out(self, work: _Work) -> None:
        """A job to everyone who waits for none."""
        idle = {*self._workers} - {worker for worker, _ in self._waiting.values()}
        for worker in sorted(idle):
            place = work.next_for(worker)
            if place is not None:
                reference = self._workers[worker].do.remote(work.jobs[place])
                self._waiting[reference] = (worker, place)

    def _result(self, reference: Any) -> Any:
        """The job's error is raised as it would come out of this process, and `_DiedError` if the
        worker has died over it."""
        try:
            result, error = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as mistake:
            raise (mistake.cause or mistake) from None
        except self._ray.exceptions.RayError as death:
            raise _DiedError(next(iter(str(death).splitlines()), type(death).__name__)) from None
        if error is not None:
            raise error
        return result

    def _bury(self, worker: int, place: int | None, work: _Work, reason: str) -> None:
        """A new worker comes, and the job goes back to the front."""
        deaths = work.deaths[place] = work.deaths.get(place, 0) + 1
        if deaths >= _DEATHS:
            what = "at their start" if place is None else f"over {work.name(place)}"
            raise WorkerError(
                f"{deaths} workers in a row have died {what} ({reason.strip()}). Is there enough "
                "memory? Use fewer workers, or none, to see more"
            )
        self._replace(worker)
        if place is not None:
            work.queues[worker].appendleft(place)

    def _replace(self, worker: int) -> None:
        self._ray.kill(self._workers[worker])
        self._waiting = {
            reference: what for reference, what in self._waiting.items() if what[0] != worker
        }
        self._start(worker)

    def _start(self, worker: int) -> None:
        process = self._process.remote(*self._arguments)
        self._workers[worker] = process
        self._waiting[process.started.remote()] = (worker, None)


def _spans(jobs: Sequence[Job], workers: int) -> list[deque[int]]:
    """Places of the jobs, state by state, cut into spans of about the same size."""
    total = sum(job.size for job in jobs) or 1
    spans: list[deque[int]] = [deque() for _ in range(workers)]
    before = 0
    for place in state_by_state(jobs):
        spans[min(before * workers // total, workers - 1)].append(place)
        before += jobs[place].size
    return spans
