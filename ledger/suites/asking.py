"""What suites are asked and what they answer, and the way of both through a crew.

Edits go into jobs in the same parts whoever does the jobs, since what is in a batch together shows
in the last bits of 16-bit numbers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ledger import environment
from ledger.intervals import Interval, summary_intervals
from ledger.jobs import Crew, Job
from ledger.progress import Progress
from patches.edit import Edit
from patches.evaluation import mean
from patches.live import LiveModel
from patches.tokens import Encoded

TOGETHER = 100
"""Edits in one job."""

T = TypeVar("T")
Outcome = tuple[dict[str, Any], dict[str, Any]]
"""Scores of one edit, of the base and of the state."""


@dataclass(frozen=True, kw_only=True)
class OnEdits:
    """A suite is asked for the scores of a state on edits. at: row id of the turn after which the
    state is. memories: whether it has side memories. seed: of the intervals."""

    at: int
    edits: Sequence[Edit]
    memories: bool
    seed: int


@dataclass(frozen=True, kw_only=True)
class OnText:
    """A suite is asked for the scores of a state on windows of text. protocol: which these are."""

    at: int
    windows: Sequence[Encoded]
    protocol: dict[str, Any]
    seed: int


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a suite found. n: edits, or tokens of text. outcomes: per edit in their order, None for
    one that the suite has nothing to ask; none at all for text. intervals: metric → 95 % interval,
    of the base and of the state. environment: where the state was scored."""

    protocol: dict[str, Any]
    n: int
    base: dict[str, Any]
    state: dict[str, Any]
    outcomes: Sequence[Outcome | None]
    intervals: tuple[dict[str, Interval], dict[str, Interval]]
    environment: dict[str, Any]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Done(Generic[T]):
    """What came of a job, where it was done, and how many seconds it took."""

    value: T
    environment: dict[str, Any]
    seconds: float


def timed(live: LiveModel, work: Callable[[], T]) -> Done[T]:
    """The work done, on this live model."""
    started = time.perf_counter()
    value = work()
    return Done(
        value=value,
        environment=environment.describe(live.device, next(live.model.parameters()).dtype),
        seconds=time.perf_counter() - started,
    )


def parts(edits: Sequence[Edit]) -> Iterator[tuple[Edit, ...]]:
    """The edits cut into jobs."""
    for start in range(0, len(edits), TOGETHER):
        yield tuple(edits[start : start + TOGETHER])


def done(crew: Crew, jobs: Sequence[Job], *, phase: str, progress: Progress) -> list[Done[Any]]:
    """What came of the jobs, in their order."""
    found = dict(crew.run(jobs, phase=phase, progress=progress))
    return [found[place] for place in range(len(jobs))]


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Outcomes of each edit where base and state are asked apart; where, and in what time."""

    outcomes: Sequence[Outcome]
    environment: dict[str, Any]
    seconds: float


def beside(
    crew: Crew,
    asked: OnEdits,
    job: Callable[[int | None, tuple[Edit, ...]], Job],
    *,
    phase: str,
    progress: Progress,
) -> Beside:
    """Ask the base and the state. job: makes the one for a state (None: the base) and some edits,
    whose value is the scores of each of these."""
    cut = list(parts(asked.edits))
    jobs = [job(at, edits) for at in (None, asked.at) for edits in cut]
    found = done(crew, jobs, phase=phase, progress=progress)
    base, state = (
        [scores for one in half for scores in one.value]
        for half in (found[: len(cut)], found[len(cut) :])
    )
    return Beside(
        outcomes=list(zip(base, state, strict=True)),
        environment=found[-1].environment,
        seconds=sum(one.seconds for one in found),
    )


def summed_up(
    found: Beside, *, protocol: dict[str, Any], metrics: Sequence[str], seed: int
) -> Scored:
    """The scores of all edits: the mean of each of the metrics over those that have it."""
    base, state = (
        [{metric: outcome[side].get(metric) for metric in metrics} for outcome in found.outcomes]
        for side in (0, 1)
    )
    return Scored(
        protocol=protocol,
        n=len(found.outcomes),
        base={metric: mean(row[metric] for row in base) for metric in metrics},
        state={metric: mean(row[metric] for row in state) for metric in metrics},
        outcomes=found.outcomes,
        intervals=(summary_intervals(base, seed=seed), summary_intervals(state, seed=seed)),
        environment=found.environment,
        seconds=found.seconds,
    )
