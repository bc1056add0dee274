"""Work that can be done anywhere: one job needs one state of the model, and gives a value.

A use case cuts its work into jobs, always in the same way; a crew does them, here in this process
or on the workers of `ledger.ray_crew`; the use case records what comes back. So the numbers do not
depend on who did the work, and only the driver writes into the database.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, runtime_checkable

from ledger import database, history
from ledger.models import load_model, load_tokenizer
from ledger.progress import Progress, silent
from ledger.states import open_state
from ledger.workspace import Ledger
from patches.live import LiveModel

Told = Callable[[int, int], None]
"""Gets what is done of a job, and of how much."""


def untold(_done: int, _of: int) -> None:
    """Nobody wants to know."""


class Job(Protocol):
    """One piece of work: a frozen dataclass of plain values, which travels to another process.

    at: row id of the turn after which the state is; None: the base. size: how much it is, for
    progress, e.g. in edits.
    """

    @property
    def at(self) -> int | None: ...

    @property
    def size(self) -> int: ...

    def run(self, live: LiveModel, tokenizer: Any) -> Any:
        """The result, plain values that travel back. `live` is at the state, and is left there."""
        ...


@runtime_checkable
class Telling(Protocol):
    """A job that can tell how far it is, while it is done in this process."""

    def run_telling(self, live: LiveModel, tokenizer: Any, told: Told) -> Any:
        """As `Job.run`."""
        ...


class Crew(Protocol):
    """Does jobs."""

    def run(
        self, jobs: Sequence[Job], *, phase: str, progress: Progress = silent
    ) -> Iterator[tuple[int, Any]]:
        """Place of each job with its result, as they get done, in any order.

        progress gets the phase and the sizes done and in all. A job's error comes out here.
        """
        ...


class SizedCrew(Crew, Protocol):
    """Does jobs, `size` of them at a time."""

    @property
    def size(self) -> int: ...


class Worker:
    """One model that goes from state to state, with jobs to do at each.

    keeps: keyframes that are due on the way are written into the ledger.
    """

    def __init__(
        self, ledger: Ledger, *, device: str, dtype: str | None, keeps: bool = True
    ) -> None:
        self._ledger = ledger
        self._keeps = keeps
        self._at: int | None = None
        self.live = LiveModel(
            load_model(ledger.checkpoint.folder, dtype=dtype, device=device), ledger.checkpoint
        )
        self.tokenizer = load_tokenizer(ledger.checkpoint.folder)

    def do(self, job: Job, told: Told | None = None) -> Any:
        """Bring the model to the job's state, and do it."""
        if job.at != self._at:
            self._go_to(job.at)
        if told is not None and isinstance(job, Telling):
            return job.run_telling(self.live, self.tokenizer, told)
        return job.run(self.live, self.tokenizer)

    def _go_to(self, turn: int | None) -> None:
        if turn is None:
            self.live.set_state(())
        else:
            with database.reading(self._ledger.engine) as session:
                steps = history.line_to(session, turn)
            used = history.patches_in_force(steps)
            state = open_state(self._ledger, steps, used, keeps=self._keeps)
            self.live.set_state(state.patches, state.memories)
        self._at = turn


class LocalCrew:
    """Does all jobs in this process, one after the other, state by state."""

    size = 1

    def __init__(self, ledger: Ledger, *, device: str, dtype: str | None) -> None:
        self._ledger = ledger
        self._device = device
        self._dtype = dtype
        self._worker: Worker | None = None

    def run(
        self, jobs: Sequence[Job], *, phase: str, progress: Progress = silent
    ) -> Iterator[tuple[int, Any]]:
        if not jobs:
            return
        if self._worker is None:
            progress("load", 0, 1)
            self._worker = Worker(self._ledger, device=self._device, dtype=self._dtype)
            progress("load", 1, 1)
        total, done = sum(job.size for job in jobs), 0
        progress(phase, done, total)
        for place in state_by_state(jobs):
            job = jobs[place]

            def told(part: int, of: int, before: int = done, size: int = job.size) -> None:
                progress(phase, before + size * part // of, total)

            result = self._worker.do(job, told)
            done += job.size
            progress(phase, done, total)
            yield place, result


def state_by_state(jobs: Sequence[Job]) -> list[int]:
    """Places of the jobs, those of one state together, states in the order of their first job."""
    first: dict[int | None, int] = {}
    for place, job in enumerate(jobs):
        first.setdefault(job.at, place)
    return sorted(range(len(jobs)), key=lambda place: (first[jobs[place].at], place))


def crew(
    ledger: Ledger, workers: str | None, *, device: str, dtype: str | None
) -> AbstractContextManager[SizedCrew]:
    """Who does the work. workers: None: this process; a number of processes on this machine, or the
    ``ray://`` address of a cluster; SettingError if it is neither."""
    if workers is None:
        return nullcontext(LocalCrew(ledger, device=device, dtype=dtype))
    from ledger.ray_crew import ray_crew

    return ray_crew(ledger, workers, device=device, dtype=dtype)
