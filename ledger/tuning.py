"""Tune: search settings of a method for the model at hand, on some rows of a dataset, and report
how the choice does on others.

Trials edit the base, not what the ledger has in force, and record nothing in its history. Each is
kept in the table of trials as soon as it is done, so that the same call goes on where it stopped.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from ledger import environment, settings
from ledger.datasets import Dataset, open_dataset
from ledger.jobs import Crew, crew
from ledger.models import empty_model
from ledger.progress import Progress, silent
from ledger.settings import MODULES
from ledger.tuning_halving import Halving, Rung, Tried, ladder
from ledger.tuning_objective import PREFERENCES, Objective, frontier
from ledger.tuning_record import Study
from ledger.tuning_report import Held, Tuned, ranked
from ledger.tuning_rows import Split, split_rows
from ledger.tuning_trials import PROBES, Trials
from ledger.workspace import Ledger
from patches.editors import EDITORS
from patches.editors.search_space import DEFAULT, SPACES, Choice, choices
from patches.errors import EditingError, SettingError

IN_FORCE, CHOSEN = "in force", "chosen"
# Of the budget, so much is kept for the report.
_RESERVE = 0.2
# Edits per turn of the report, unless there are fewer.
_LEAST = 10
_MOST_TRIALS = 400
# The smallest rung has at least this share of a method's usual turn.
_SMALLEST = 0.6


@dataclass(frozen=True, kw_only=True)
class Tune:
    """What to search, with what, and for how long.

    source: as for add-edits. budget: seconds. turns, turn_size: of the largest rung. trials: on the
    first rung at the most, references left out. apply: let the choice count from now on.
    """

    source: str
    method: str = "ultraedit"
    budget: float = 1200.0
    turns: int = 2
    turn_size: int | None = None
    trials: int | None = None
    prefer: str = "balance"
    mapping: dict[str, str] = field(default_factory=dict)
    offset: int = 0
    limit: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str | None = None
    workers: str | None = None
    apply: bool = False

    def __post_init__(self) -> None:
        if self.method not in SPACES:
            raise SettingError(f"--method is one of {', '.join(SPACES)}, not {self.method!r}")
        if not 0 < self.budget < float("inf"):
            raise SettingError(f"--budget must be a positive time, not {self.budget} seconds")
        if self.turns < 1:
            raise SettingError(f"--turns must be at least 1, not {self.turns}")
        if self.turn_size is not None and self.turn_size < 2:
            raise SettingError(f"--turn-size must be at least 2, not {self.turn_size}")
        if self.trials is not None and self.trials < 0:
            raise SettingError(f"--trials counts trials, so give 0 or more, not {self.trials}")
        if self.prefer not in PREFERENCES:
            raise SettingError(f"--prefer is one of {', '.join(PREFERENCES)}, not {self.prefer!r}")

    @property
    def most(self) -> int:
        """Edits per turn of the largest rung."""
        return self.turn_size or EDITORS[self.method].turn_size


@dataclass(frozen=True, kw_only=True)
class Told:
    """How far a search is: trial `number` of rung `rung` of `rungs` (from 1). best: the greatest
    value of the objective so far on this rung. left: seconds."""

    rung: int
    rungs: int
    number: int
    tried: Tried
    value: float
    best: float
    left: float


def tune(
    ledger: Ledger,
    options: Tune,
    *,
    tell: Callable[[Told], None] = lambda _told: None,
    progress: Progress = silent,
    now: Callable[[], float] = time.monotonic,
) -> Tuned:
    """Search, and report; the ledger's settings change only if the options say apply.

    DatasetError if there are too few rows, EditingError if the method cannot edit with its own
    defaults.
    """
    started = now()
    dataset = open_dataset(options.source, mapping=options.mapping or None)
    split = split_rows(
        ledger,
        dataset,
        offset=options.offset,
        limit=options.limit,
        most=options.turns * options.most,
        turns=options.turns,
    )
    study = Study(ledger, _in_common(ledger, options, split))
    before = study.elapsed
    with crew(ledger, options.workers, device=options.device, dtype=options.dtype) as workers:
        search = _Search(
            ledger,
            options,
            split,
            study,
            workers,
            spent=lambda: before + now() - started,
            tell=tell,
            progress=progress,
        )
        found = search.run(dataset)
    if not options.apply:
        return found
    settings.choose(ledger, options.method, found.values, found.evidence)
    return replace(found, applied=True)


def _in_common(ledger: Ledger, options: Tune, split: Split) -> dict[str, Any]:
    """What all trials of a study have in common: for another of these, all is tried anew."""
    space = SPACES[options.method]
    return {
        "base": ledger.base.fingerprint,
        "rows": split.digest,
        "method": options.method,
        "seed": options.seed,
        "device": options.device,
        "dtype": options.dtype,
        "probes": PROBES,
        "space": repr((space.ways, space.one_matrix)),
        "versions": environment.versions(),
    }


class _Search:
    """One study: what is tried, decided, and reported."""

    def __init__(
        self,
        ledger: Ledger,
        options: Tune,
        split: Split,
        study: Study,
        workers: Crew,
        *,
        spent: Callable[[], float],
        tell: Callable[[Told], None],
        progress: Progress,
    ) -> None:
        self._ledger = ledger
        self._options = options
        self._split = split
        self._study = study.digest
        self._spent = spent
        self._tell = tell
        self._references, self._current = _references(ledger, options.method)
        size = min(options.most, min(len(split.calibration), len(split.held_out)) // options.turns)
        smallest = int(_SMALLEST * EDITORS[options.method].turn_size)
        self._rungs = ladder(options.turns, size, smallest=smallest)
        self._trials = Trials(
            study,
            workers,
            split,
            base=ledger.base.fingerprint,
            method=options.method,
            seed=options.seed,
            names={choice.key: name for name, choice in self._references.items()},
            spent=spent,
            progress=progress,
            budget=options.budget,
        )

    def run(self, dataset: Dataset) -> Tuned:
        halving = self._halved()
        best = halving.best()
        rung = self._report_rung(halving, best)
        held = self._held_out(rung, best)
        built_in = SPACES[self._options.method].references
        objective = halving.objective.beside(held[name].scores for name in built_in)
        return Tuned(
            **self._told_of(halving),
            dataset=dataset,
            chosen=best,
            held_out=[
                Held.of(name, tried, self._options.method, objective, self._options.seed)
                for name, tried in held.items()
            ],
            held_out_rung=rung,
            found=best.name != self._current,
            seconds=self._spent(),
            notes=self._notes(best),
        )

    def _told_of(self, halving: Halving) -> dict[str, Any]:
        """What `Tuned` says of the search."""
        options, objective = self._options, halving.objective
        done = [one for one in halving.deciding if one.failure is None]
        best = [done[place] for place in frontier([one.scores for one in done])]
        return {
            "method": options.method,
            "study": self._study,
            "prefer": options.prefer,
            "floor": objective.floor,
            "budget": options.budget,
            "seed": options.seed,
            "rungs": [(self._rungs[n], len(some)) for n, some in enumerate(halving.rungs_done)],
            "failed": sum(bool(one.failure) for some in halving.rungs_done for one in some),
            "frontier": ranked(best, objective),
            "current": self._current,
            "skipped": self._split.skipped,
            "versions": environment.versions(),
        }

    def _halved(self) -> Halving:
        """The search, with word of every trial."""
        options = self._options
        halving = Halving(
            objective=Objective(prefer=options.prefer),
            run=self._trials.run,
            known=self._trials.known,
            spent=self._spent,
            until=options.budget * (1 - _RESERVE),
            built_in=SPACES[options.method].references,
        )
        model = empty_model(self._ledger.checkpoint.folder)
        others = islice(
            choices(SPACES[options.method], model, seed=options.seed),
            _MOST_TRIALS if options.trials is None else options.trials,
        )
        references = list(self._references.values())
        for number, tried in halving.search(self._rungs, references, others):
            if tried.failure is not None and tried.name == DEFAULT and number == 0:
                raise EditingError(
                    f"{options.method} cannot edit with its defaults: {tried.failure}"
                )
            self._tell(self._told(halving, number, tried))
        return halving

    def _told(self, halving: Halving, number: int, tried: Tried) -> Told:
        done, objective = halving.rungs_done[number], halving.objective
        return Told(
            rung=number + 1,
            rungs=len(self._rungs),
            number=len(done),
            tried=tried,
            value=objective.value(tried.scores),
            best=max(objective.value(one.scores) for one in done),
            left=max(self._options.budget - self._spent(), 0.0),
        )

    def _report_rung(self, halving: Halving, best: Tried) -> Rung:
        """As many held-out rows as the reserve of time is enough for, at least a few."""
        largest, default = self._rungs[-1], halving.deciding[0]
        decided = self._rungs[halving.rungs_done.index(halving.deciding)]
        rate = default.seconds / self._trials.rows(decided).effort
        per_edit = self._trials.rows(largest, held_out=True).effort / largest.edits
        compared = len({one.key for one in (*self._references.values(), best.choice)})
        edits = int(_RESERVE * self._options.budget / (rate * per_edit * compared))
        size = max(edits // largest.turns, min(_LEAST, largest.size))
        return Rung(turns=largest.turns, size=min(size, largest.size))

    def _held_out(self, rung: Rung, best: Tried) -> dict[str, Tried]:
        """By name, the choice and the references on rows that no trial saw."""
        some = {choice.key: choice for choice in (*self._references.values(), best.choice)}
        tried = self._trials.run(rung, list(some.values()), held_out=True)
        found = {one.choice.key: one for one in tried}
        names = {CHOSEN: best.choice, **self._references}
        return {name: found[choice.key] for name, choice in names.items()}

    def _notes(self, best: Tried) -> tuple[str, ...]:
        notes = []
        if self._split.neutral:
            notes.append(
                "the rows have no locality prompts: stability is measured on built-in sentences"
            )
        if best.name == self._current:
            notes.append(f"nothing that was tried is better than what counts now ({best.name})")
        return tuple(notes)


def _references(ledger: Ledger, method: str) -> tuple[Mapping[str, Choice], str]:
    """By name, what is always tried too; and the name of what counts in the ledger now."""
    known = dict(SPACES[method].references)
    counting = settings.chosen(ledger, method)
    if counting is None or not counting.values:
        return known, DEFAULT
    values = dict(counting.values)
    choice = Choice(modules=tuple(values.pop(MODULES, ())), values=values)
    for name, one in known.items():
        if one.key == choice.key:
            return known, name
    return {**known, IN_FORCE: choice}, IN_FORCE
