"""A crew for tests: between its two workers everything travels as bytes, as between processes."""

import pickle
from collections.abc import Iterator, Sequence
from typing import Any

from ledger.jobs import Job, Worker
from ledger.progress import Progress, silent
from ledger.workspace import Ledger


class Scattered:
    """Two workers that take turns, from the last job to the first. jobs: all that were done."""

    def __init__(self, ledger: Ledger) -> None:
        self._workers = [Worker(ledger, device="cpu", dtype=None) for _ in range(2)]
        self.jobs: list[Job] = []

    def run(
        self, jobs: Sequence[Job], *, phase: str, progress: Progress = silent
    ) -> Iterator[tuple[int, Any]]:
        self.jobs += jobs
        for place in reversed(range(len(jobs))):
            job: Job = pickle.loads(pickle.dumps(jobs[place]))
            result = self._workers[place % 2].do(job)
            progress(phase, len(jobs) - place, len(jobs))
            yield place, pickle.loads(pickle.dumps(result))
