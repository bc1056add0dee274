"""Trials of one study: looked up among the recorded ones, or given to a crew and recorded."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from ledger.jobs import Crew
from ledger.progress import Progress
from ledger.tuning_halving import Rung, Tried
from ledger.tuning_record import Recorded, Study
from ledger.tuning_rows import Split
from ledger.tuning_trial import BaseJob, Result, Rows, TrialJob
from patches.canonical import canonical_json, sha256
from patches.edit import Edit
from patches.editors.search_space import Choice
from patches.evaluation import Answered

PROBES = 4
"""Of an edit in trials so many rephrasings and locality prompts are scored; in the report, all."""


class Trials:
    """Makes trials on either side of the rows. names: references by their keys."""

    def __init__(
        self,
        study: Study,
        crew: Crew,
        split: Split,
        *,
        base: str,
        method: str,
        seed: int,
        names: Mapping[str, str],
        spent: Callable[[], float],
        progress: Progress,
        budget: float,
    ) -> None:
        """base: the base's fingerprint. spent, budget: seconds."""
        self._study = study
        self._crew = crew
        self._split = split
        self._base = base
        self._method = method
        self._seed = seed
        self._names = names
        self._spent = spent
        self._progress = progress
        self._budget = budget
        self._answers: dict[tuple[Rung, bool], list[Answered]] = {}

    def known(self, rung: Rung, choice: Choice) -> bool:
        """Whether a trial on the calibration rows is recorded."""
        return self._study.find(_key(rung, choice, False)) is not None

    def run(self, rung: Rung, some: Sequence[Choice], *, held_out: bool = False) -> Iterator[Tried]:
        """The trials of these choices: what is recorded at once, then the others as they end."""
        new = []
        for choice in some:
            known = self._study.find(_key(rung, choice, held_out))
            if known is None:
                new.append(choice)
            else:
                yield self._tried(choice, known)
        if new:
            yield from self._made(rung, new, held_out)

    def rows(self, rung: Rung, *, held_out: bool = False) -> Rows:
        """The first rows of a side, as the turns of a rung."""
        side = self._split.held_out if held_out else self._split.calibration
        return Rows(
            turns=_cut(side, rung),
            probes=None if held_out else PROBES,
            neutral=self._split.neutral,
        )

    def _made(self, rung: Rung, new: Sequence[Choice], held_out: bool) -> Iterator[Tried]:
        rows = self.rows(rung, held_out=held_out)
        answers = self._base_answers(rung, rows, held_out)
        jobs = [
            TrialJob(
                base=self._base,
                method=self._method,
                choice=choice,
                rows=rows,
                answers=answers,
                seed=self._seed,
            )
            for choice in new
        ]
        phase = "held-out rows" if held_out else f"trials on {rung.edits} edits"
        for place, result in self._crew.run(jobs, phase=phase, progress=self._timed(phase)):
            choice = new[place]
            yield self._tried(choice, self._record(rung, choice, result, held_out))

    def _base_answers(self, rung: Rung, rows: Rows, held_out: bool) -> list[Answered]:
        """What the base says to all that is asked about the rows; asked once."""
        if (rung, held_out) not in self._answers:
            phase, job = "evaluate base", BaseJob(rows=rows)
            [(_, found)] = self._crew.run([job], phase=phase, progress=self._timed(phase))
            self._answers[rung, held_out] = found
        return self._answers[rung, held_out]

    def _timed(self, timed: str) -> Progress:
        """Progress that shows the time, since it is time that ends a search."""

        def report(phase: str, done: int, total: int) -> None:
            if phase == timed:
                spent = min(self._spent(), self._budget)
                self._progress(phase, int(spent), max(int(self._budget), 1))
            else:
                self._progress(phase, done, total)

        return report

    def _record(self, rung: Rung, choice: Choice, result: Result, held_out: bool) -> Recorded:
        content = {
            "held_out": held_out,
            "turns": rung.turns,
            "turn_size": rung.size,
            "elapsed": round(self._spent(), 3),
            "hyperparameters": result.hyperparameters,
            "scores": result.scores,
            "earlier": result.earlier,
            "outcomes": result.outcomes if held_out else [],
        }
        return self._study.record(
            _key(rung, choice, held_out),
            choice.to_json(),
            content,
            failure=result.failure,
            seconds=result.seconds,
        )

    def _tried(self, choice: Choice, known: Recorded) -> Tried:
        return Tried(
            choice=choice,
            name=self._names.get(choice.key),
            hyperparameters=known.result["hyperparameters"],
            scores=known.result["scores"],
            earlier=known.result["earlier"],
            outcomes=known.result["outcomes"],
            failure=known.failure,
            seconds=known.seconds,
        )


def _key(rung: Rung, choice: Choice, held_out: bool) -> str:
    return sha256(canonical_json([held_out, rung.turns, rung.size, choice.key]))


def _cut(edits: Sequence[Edit], rung: Rung) -> tuple[tuple[Edit, ...], ...]:
    size = rung.size
    return tuple(tuple(edits[n * size : (n + 1) * size]) for n in range(rung.turns))
