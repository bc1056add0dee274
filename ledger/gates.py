"""Gates: what a turn of edits must score to be in force.

    edit_success>=.6,stability>=.55

A gate is looked at when a turn has been scored. A turn that fails is recorded all the same, with
its scores, together with the rollback that takes it out of force.
"""

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from patches.edit import Edit
from patches.errors import SettingError

RETENTION = "retention"
"""Mean edit success of the earlier edits that are scored again after the turn."""
FIGURE = "gate"
"""Where a turn's figures tell of the gate that it was held to."""

_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_AGAINST = {">=": "<", "<=": ">", ">": "<=", "<": ">="}
_CONDITION = re.compile(r"\s*([a-z_]+)\s*(>=|<=|>|<)\s*(\S+)\s*")
_PROBES: Mapping[str, tuple[str, Callable[[Edit], bool]]] = {
    "generalization": ("rephrasings", lambda edit: bool(edit.rephrasings)),
    "locality": ("locality prompts", lambda edit: bool(edit.locality)),
    "stability": ("locality prompts", lambda edit: bool(edit.locality)),
    "preference": ("an old answer", lambda edit: edit.old_target is not None),
    "out_of_distribution": (
        "probes out of distribution",
        lambda edit: bool(edit.further.get("out_of_distribution")),
    ),
    "routed_rephrasings": ("rephrasings", lambda edit: bool(edit.rephrasings)),
    "routed_locality": ("locality prompts", lambda edit: bool(edit.locality)),
}
"""What an edit must have for a score, as one says it; the others need the edit alone."""
_OF_MEMORIES = ("generated_match", "routed_edits", "routed_rephrasings", "routed_locality")


@dataclass(frozen=True, kw_only=True)
class Condition:
    """metric, operator, and the number that it is compared with."""

    metric: str
    operator: str
    limit: float

    def __str__(self) -> str:
        return f"{self.metric}{self.operator}{_written(self.limit)}"

    def failure(self, scores: Mapping[str, float | None]) -> str | None:
        """Why the scores do not meet it; None if they do."""
        value = scores.get(self.metric)
        if value is None:
            return f"{self.metric} could not be scored: no edit of the turn has what it takes"
        if _OPERATORS[self.operator](value, self.limit):
            return None
        shown = f"{value:.3g}"
        if _OPERATORS[self.operator](float(shown), self.limit):
            shown = repr(value)  # Rounded, it would look as if it were met.
        return f"{self.metric} {shown} {_AGAINST[self.operator]} {_written(self.limit)}"


@dataclass(frozen=True, kw_only=True)
class Gate:
    """All conditions must be met."""

    conditions: tuple[Condition, ...]

    def __str__(self) -> str:
        return ",".join(map(str, self.conditions))

    @property
    def metrics(self) -> list[str]:
        return [condition.metric for condition in self.conditions]

    @classmethod
    def parse(cls, text: str) -> "Gate":
        """Read ``metric>=number,…``; SettingError for anything else, with what there is."""
        return cls(conditions=tuple(_condition(part) for part in text.split(",")))

    def check(self, edits: Iterable[Edit], *, memories: bool) -> None:
        """SettingError if a score that is asked for can come out of none of these edits.

        edits: read as far as needed. memories: whether there will be side memories in the state.
        """
        for metric in self.metrics:
            if metric in _OF_MEMORIES and not memories:
                raise SettingError(
                    f"--gate asks for {metric}, which only states with side memories have "
                    f"(--method wise); leave {metric} out of --gate"
                )
        waiting = [metric for metric in self.metrics if metric in _PROBES]
        remaining = iter(edits)
        while waiting and (edit := next(remaining, None)) is not None:
            waiting = [metric for metric in waiting if not _PROBES[metric][1](edit)]
        if waiting:
            raise SettingError(
                f"--gate asks for {waiting[0]}, and no edit has {_PROBES[waiting[0]][0]}; leave "
                f"{waiting[0]} out of --gate"
            )

    def judge(self, scores: Mapping[str, float | None], retention: float | None) -> "Verdict":
        """scores: means of the state on the turn's edits. retention: of the earlier ones, if any
        was scored; before there are earlier edits, none can be forgotten."""
        asked = [c for c in self.conditions if c.metric != RETENTION or retention is not None]
        told = {**scores, RETENTION: retention}
        failed = [failure for c in asked if (failure := c.failure(told)) is not None]
        return Verdict(gate=str(self), failed=tuple(failed))


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a gate says of a turn. failed: a sentence for each condition that is not met."""

    gate: str
    failed: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.failed

    def to_json(self) -> dict[str, Any]:
        """As the turn records it, and as JSON output tells it."""
        return {"text": self.gate, "passed": self.passed, "failed": list(self.failed)}


def was_rejected(figures: Mapping[str, Any]) -> bool:
    """Whether a turn with these figures had failed its gate when it was recorded."""
    told = figures.get(FIGURE)
    return isinstance(told, dict) and told.get("passed") is False


def verdict_line(verdict: Mapping[str, Any]) -> str:
    """What a turn has recorded of its gate, for people."""
    said = "passed" if verdict["passed"] else f"failed, {'; '.join(verdict['failed'])}"
    return f"{verdict['text']}: {said}"


def _written(number: float) -> str:
    """As short as it can be read back."""
    short = f"{number:g}"
    return short if float(short) == number else repr(number)


def _condition(text: str) -> Condition:
    found = _CONDITION.fullmatch(text)
    if found is None:
        raise SettingError(
            f"--gate: {text.strip()!r} is not METRIC>=NUMBER; write it like "
            "edit_success>=.6,stability>=.55"
        )
    # Here and not above: reading commands ask for `was_rejected`, and torch takes long to load.
    from patches.evaluation import METRICS

    metric, sign, number = found.groups()
    if metric not in (*METRICS, RETENTION):
        raise SettingError(
            f"--gate: there is no score {metric!r}; there are {', '.join((*METRICS, RETENTION))}"
        )
    try:
        limit = float(number)
    except ValueError:
        limit = float("nan")
    if not math.isfinite(limit):
        raise SettingError(f"--gate: {number!r} in {text.strip()!r} is not a number")
    return Condition(metric=metric, operator=sign, limit=limit)
