"""What tuning found: the frontier, the choice, and how it does on rows that no trial saw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ledger.datasets import Dataset
from ledger.intervals import summary_intervals
from ledger.settings import MODULES
from ledger.tuning_halving import Rung, Tried
from ledger.tuning_objective import METRICS, Objective, Scores
from patches.editors.search_space import SPACES, patterns

_SHOWN = (*METRICS, "exact_match")


@dataclass(frozen=True, kw_only=True)
class Held:
    """One choice on the held-out rows. name: ``chosen``, or of a reference. intervals: metric →
    95 % interval over the edits, where there is one. failure: why there are no scores."""

    name: str
    values: dict[str, Any]
    scores: Scores
    intervals: Mapping[str, tuple[float, float]]
    earlier: float | None
    value: float
    failure: str | None

    @classmethod
    def of(cls, name: str, tried: Tried, method: str, objective: Objective, seed: int) -> "Held":
        found = summary_intervals(tried.outcomes, seed=seed) if tried.outcomes else {}
        return cls(
            name=name,
            values=settled(method, tried),
            scores=tried.scores,
            intervals={n: (i.low, i.high) for n, i in found.items() if n in _SHOWN},
            earlier=tried.earlier,
            value=objective.value(tried.scores),
            failure=tried.failure,
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "values": self.values,
            "objective": self.value,
            "scores": {
                metric: {
                    "value": self.scores.get(metric),
                    "interval": list(self.intervals[metric]) if metric in self.intervals else None,
                }
                for metric in _SHOWN
            },
            "earlier_turns": self.earlier,
            "failure": self.failure,
        }


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """The result. rungs: with how many trials each. trials, failed: of all rungs.

    frontier: on the deciding rung, best first by the objective. held_out: how the choice and the
    references do on `held_out_rung` of other rows, which decide nothing. current: the name of what
    counted before, which stays where no trial was better: then `found` is False.
    """

    method: str
    dataset: Dataset
    study: str
    prefer: str
    floor: float | None
    budget: float
    seconds: float
    seed: int
    rungs: list[tuple[Rung, int]]
    failed: int
    frontier: list[Tried]
    chosen: Tried
    held_out: list[Held]
    held_out_rung: Rung
    current: str
    found: bool
    skipped: int
    notes: tuple[str, ...]
    versions: dict[str, str]
    applied: bool = False

    @property
    def trials(self) -> int:
        return sum(count for _, count in self.rungs)

    @property
    def values(self) -> dict[str, Any]:
        """The settings to use: hyperparameter → value, with the modules."""
        return next(one.values for one in self.held_out if one.name == "chosen")

    @property
    def options(self) -> list[str]:
        """The settings as options of ``ledger add-edits``."""
        values = dict(self.values)
        words = [word for p in patterns(values.pop(MODULES, [])) for word in ("--modules", p)]
        return words + [word for n, v in values.items() for word in ("--set", f"{n}={v}")]

    @property
    def evidence(self) -> dict[str, Any]:
        """What `ledger.settings` keeps with the choice."""
        return {
            "data": self.dataset.uri,
            "sha256": self.dataset.sha256,
            "calibration_edits": self.rungs[-1][0].edits,
            "held_out_edits": self.held_out_rung.edits,
            "turns": self.held_out_rung.turns,
            "turn_size": self.held_out_rung.size,
            "prefer": self.prefer,
            "found": self.found,
            "held_out": [one.to_json() for one in self.held_out],
            "trials": self.trials,
            "seconds": round(self.seconds, 1),
            "seed": self.seed,
            "study": self.study,
            "versions": self.versions,
        }

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger tune --json``; fields are only ever added."""
        return {
            "method": self.method,
            "values": self.values,
            "options": self.options,
            "found": self.found,
            "applied": self.applied,
            "current": self.current,
            "floor": self.floor,
            "budget": self.budget,
            "rungs": [
                {"turns": rung.turns, "turn_size": rung.size, "trials": count}
                for rung, count in self.rungs
            ],
            "failed": self.failed,
            "skipped": self.skipped,
            "frontier": [self._point(one) for one in self.frontier],
            "notes": list(self.notes),
            **self.evidence,
        }

    def _point(self, tried: Tried) -> dict[str, Any]:
        objective = Objective(prefer=self.prefer, floor=self.floor)
        return {
            "name": tried.name,
            "chosen": tried is self.chosen,
            "values": settled(self.method, tried),
            "scores": {name: tried.scores.get(name) for name in METRICS},
            "objective": objective.value(tried.scores),
            "above_floor": objective.meets(tried.scores),
            "earlier_turns": tried.earlier,
        }


def settled(method: str, tried: Tried) -> dict[str, Any]:
    """Of the hyperparameters of a trial those that a search decides on, with the modules."""
    complete = tried.hyperparameters
    if not complete:
        return dict(tried.choice.values)
    return {MODULES: complete[MODULES], **SPACES[method].way_of(complete).settled(complete)}


def ranked(tried: Sequence[Tried], objective: Objective) -> list[Tried]:
    """Best first."""
    return sorted(tried, key=lambda one: objective.rank(one.scores), reverse=True)
