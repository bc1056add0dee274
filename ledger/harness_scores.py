"""What lm-evaluation-harness says about a state and its base, as scores to keep and to compare."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from numbers import Real
from typing import Any, NamedTuple

from ledger.harness_tasks import LIBRARY
from ledger.intervals import Paired, paired
from patches.canonical import canonical_json, sha256

SUITE = "lm-eval"
_STDERR = "_stderr"
# Of a task's configuration: where its data lie, and what the harness adds.
_WHEREABOUTS = ("dataset_path", "dataset_name", "dataset_kwargs", "metadata")

Figures = dict[str, float | None]
"""``task/metric``, or ``task/metric,filter`` → value; with ``_stderr`` → its standard error."""
Results = Mapping[str, Any]
"""As the harness gives them."""


@dataclass(frozen=True, kw_only=True)
class TaskScore:
    """One metric of a task, or of a group of them, with standard errors where they are known.

    n: examples. higher_is_better: None where the task does not say. paired: the state against the
    base, example by example, of metrics that are means; there better means larger.
    """

    task: str
    metric: str
    n: int | None
    higher_is_better: bool | None
    base: float | None
    base_stderr: float | None
    state: float | None
    state_stderr: float | None
    paired: Paired | None

    def to_json(self) -> dict[str, Any]:
        content = asdict(self)
        if self.paired is not None and self.paired.interval is not None:
            content["paired"]["interval"] = self.paired.interval.to_json()
        return content


def protocol(results: Results, limit: int | None) -> dict[str, Any]:
    """What was asked, and how. Of each task its version, and digests of how its answers are scored
    and of its examples, prompts and answers: two evaluations are comparable where these agree."""
    return {
        "suite": SUITE,
        "version": version(LIBRARY),
        "tasks": {
            name: {
                "version": results["versions"].get(name),
                "num_fewshot": results["n-shot"].get(name),
                "config": _config_digest(config),
                "examples": _examples_digest(results["samples"][name]),
                "n": results["n-samples"][name]["effective"],
            }
            for name, config in results["configs"].items()
        },
        "limit": limit,
    }


def _config_digest(config: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in config.items() if name not in _WHEREABOUTS}
    text = json.dumps(kept, sort_keys=True, default=lambda value: type(value).__name__)
    return sha256(text.encode())


def _examples_digest(samples: Sequence[Mapping[str, Any]]) -> str:
    hashes = [[one[of] for of in ("doc_hash", "prompt_hash", "target_hash")] for one in samples]
    return sha256(canonical_json(hashes))


class _Metric(NamedTuple):
    """One that the harness reports. key: as it calls it."""

    task: str
    key: str
    name: str
    chosen: str

    @property
    def label(self) -> str:
        """Its name, with the filter of answers if it has one."""
        return self.name if self.chosen == "none" else f"{self.name},{self.chosen}"

    @property
    def stderr_key(self) -> str:
        return f"{self.name}{_STDERR},{self.chosen}"


def _metrics(results: Results) -> Iterator[_Metric]:
    for task, found in results["results"].items():
        for key in found:
            name, comma, chosen = key.partition(",")
            if comma and not name.endswith(_STDERR):
                yield _Metric(task=task, key=key, name=name, chosen=chosen)


def figures(results: Results) -> Figures:
    """All scores by name."""
    found: Figures = {}
    for metric in _metrics(results):
        values = results["results"][metric.task]
        name = f"{metric.task}/{metric.label}"
        found[name] = _number(values[metric.key])
        found[name + _STDERR] = _number(values.get(metric.stderr_key))
    return found


def task_scores(base: Results, state: Results, *, seed: int) -> Iterator[TaskScore]:
    """The scores of both, in the harness's order."""
    before, after = figures(base), figures(state)
    for metric in _metrics(state):
        name = f"{metric.task}/{metric.label}"
        directions = state["higher_is_better"].get(metric.task, {})
        a, b = _values(base, metric), _values(state, metric)
        yield TaskScore(
            task=metric.task,
            metric=metric.label,
            n=state["results"][metric.task].get("sample_len"),
            higher_is_better=directions.get(metric.name),
            base=before[name],
            base_stderr=before[name + _STDERR],
            state=after[name],
            state_stderr=after[name + _STDERR],
            paired=None if a is None or b is None else paired(a, b, seed=seed),
        )


def _values(results: Results, metric: _Metric) -> list[float] | None:
    """The value of each example, if it is their mean that the harness reports."""
    rows = [
        _number(one.get(metric.name))
        for one in results["samples"].get(metric.task, ())
        if one["filter"] == metric.chosen
    ]
    known = [value for value in rows if value is not None]
    reported = _number(results["results"][metric.task][metric.key])
    if not known or len(known) < len(rows) or reported is None:
        return None
    mean = math.fsum(known) / len(known)
    return known if math.isclose(mean, reported, rel_tol=1e-6, abs_tol=1e-9) else None


def _number(value: object) -> float | None:
    known = isinstance(value, Real) and math.isfinite(value)
    return float(value) if known else None  # type: ignore[arg-type]  # a Real is one
