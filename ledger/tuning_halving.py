"""Successive halving against the clock (arXiv 1603.06560, section 3, with one bracket).

Many settings are tried on few rows, the best third of them on three times as many, and so on. Every
rung gets the same share of the time. References are tried on every rung, first, so that whatever is
chosen has been seen beside them.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from math import ceil, fsum
from typing import Any

from ledger.tuning_objective import Objective, Scores
from patches.editors.search_space import Choice

FACTOR = 3
# Even of the smallest rung; below that, scores say nothing.
_FEWEST = 4


@dataclass(frozen=True, kw_only=True)
class Rung:
    """So many turns of so many edits."""

    turns: int
    size: int

    @property
    def edits(self) -> int:
        return self.turns * self.size


@dataclass(frozen=True, kw_only=True)
class Tried:
    """A choice after its trial. name: of a reference. failure: why there are no scores.

    scores, earlier, outcomes: as in `ledger.tuning_trial.Result`.
    """

    choice: Choice
    name: str | None
    hyperparameters: dict[str, Any]
    scores: Scores
    earlier: float | None
    outcomes: Sequence[Scores]
    failure: str | None
    seconds: float


Run = Callable[[Rung, Sequence[Choice]], Iterator[Tried]]
"""Tries choices on a rung, in any order; what is known comes first."""


def ladder(turns: int, size: int, *, smallest: int) -> list[Rung]:
    """The rungs, smallest first; the last has `turns` turns of `size` edits.

    Each has about a third of the edits of the next: first fewer turns, down to two, since what
    happens to earlier turns is to show, then smaller ones. Those below `smallest` edits are left
    out, but for one.
    """
    rungs = [Rung(turns=turns, size=size)]
    while True:
        wanted = rungs[-1].edits / FACTOR
        fewer = min(rungs[-1].turns, max(ceil(wanted / size), 2))
        rung = Rung(turns=fewer, size=ceil(wanted / fewer))
        too_small = rung.edits < (smallest if len(rungs) > 1 else _FEWEST)
        if too_small or rung.edits >= rungs[-1].edits:
            return rungs[::-1]
        rungs.append(rung)


class Halving:
    """One search. `rungs_done` grows with it: what was tried on each rung."""

    def __init__(
        self,
        *,
        objective: Objective,
        run: Run,
        known: Callable[[Rung, Choice], bool],
        spent: Callable[[], float],
        until: float,
        built_in: Collection[str],
    ) -> None:
        """known: whether a trial would be found among the recorded ones. spent, until: seconds.

        built_in: names of the references that set the floor of the objective.
        """
        self._objective = objective
        self._run = run
        self._known = known
        self._spent = spent
        self._until = until
        self._built_in = built_in
        self.rungs_done: list[list[Tried]] = []

    def search(
        self, rungs: Sequence[Rung], references: Sequence[Choice], others: Iterable[Choice]
    ) -> Iterator[tuple[int, Tried]]:
        """Try `others`, as many as there is time for, beside the references: number of the rung
        from 0, and what was tried on it, as it comes. The first reference is tried in any case."""
        for number, rung in enumerate(rungs):
            if number and not self._is_worth_it(rung, rungs[number - 1], references):
                return
            self.rungs_done.append([])
            deadline = self._until * (number + 1) / len(rungs)
            for tried in self._rung(rung, references, others, deadline):
                self.rungs_done[number].append(tried)
                yield number, tried
            others = self._survivors()

    def _rung(
        self,
        rung: Rung,
        references: Sequence[Choice],
        others: Iterable[Choice],
        deadline: float,
    ) -> Iterator[Tried]:
        first, *further = references
        yield from self._run(rung, [first])
        for some, until in ((further, self._until), (list(others), deadline)):
            recorded = [choice for choice in some if self._known(rung, choice)]
            new = [choice for choice in some if not self._known(rung, choice)]
            yield from self._run(rung, recorded)
            if new and self._has_time(until):
                yield from self._while_there_is_time(self._run(rung, new), until)

    def _while_there_is_time(self, trials: Iterator[Tried], until: float) -> Iterator[Tried]:
        for tried in trials:
            yield tried
            if not self._has_time(until):
                return

    def _has_time(self, until: float) -> bool:
        """Whether one more trial on this rung would end before that."""
        return self._spent() + _cost(self.rungs_done[-1]) <= until

    def _is_worth_it(self, rung: Rung, before: Rung, references: Sequence[Choice]) -> bool:
        """Whether there is time for the references and at least one other, or it is known."""
        if not self._survivors():
            return False
        missing = [choice for choice in references if not self._known(rung, choice)]
        cost = _cost(self.rungs_done[-1]) * rung.edits / before.edits
        return not missing or self._spent() + cost * (len(missing) + 1) <= self._until

    def _survivors(self) -> list[Choice]:
        """The best third of the last rung, best first, without the references."""
        done = self.rungs_done[-1]
        rank = self.objective.rank
        alive = [one for one in done if one.name is None and one.failure is None]
        alive.sort(key=lambda one: rank(one.scores), reverse=True)
        return [one.choice for one in islice(alive, ceil(len(alive) / FACTOR))]

    @property
    def objective(self) -> Objective:
        """With the floor that the built-in settings set on the deciding rung."""
        return self._objective.beside(o.scores for o in self.deciding if o.name in self._built_in)

    @property
    def deciding(self) -> list[Tried]:
        """What was tried on the last rung that is more than references."""
        for done in reversed(self.rungs_done):
            if any(one.name is None for one in done):
                return done
        return self.rungs_done[0]

    def best(self) -> Tried:
        """The choice, which may be a reference."""
        alive = [one for one in self.deciding if one.failure is None]
        return max(alive, key=lambda one: self.objective.rank(one.scores))


def _cost(done: Sequence[Tried]) -> float:
    """Seconds that a trial on a rung takes."""
    return fsum(one.seconds for one in done) / len(done) if done else 0.0
