"""The suite `general`: how far the state's predictions on neutral text are from the base's.

What an edit does to everything else shows here before it shows in perplexity: text that has become
more probable in one place and less in another cancels out there.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ledger.intervals import Interval, mean_interval
from ledger.jobs import Crew
from ledger.progress import Progress, silent
from ledger.suites.asking import Done, OnText, Scored, done, timed
from ledger.suites.running_text import in_blocks, in_jobs, tokens_of
from patches import text_scores
from patches.live import LiveModel
from patches.tokens import Encoded

PROTOCOL = {"name": "general", "version": 1}
METRICS = ("kl_divergence", "same_top")
# What the base is beside itself.
_NOTHING = {"kl_divergence": 0.0, "same_top": 1.0}


def score(asked: OnText, crew: Crew, *, progress: Progress = silent) -> Scored:
    """Mean KL(base ‖ state) per token in nats, and the share of tokens with the same choice."""
    jobs = [AskDrift(at=asked.at, windows=windows) for windows in in_jobs(asked.windows)]
    found = done(crew, jobs, phase="read text", progress=progress)
    values = {metric: [value for one in found for value in one.value[metric]] for metric in METRICS}
    return Scored(
        protocol={**PROTOCOL, **asked.protocol},
        n=len(values[METRICS[0]]),
        base=dict(_NOTHING),
        state={metric: math.fsum(some) / len(some) for metric, some in values.items()},
        outcomes=(),
        intervals=({}, _intervals(values, asked.seed)),
        environment=found[-1].environment,
        seconds=sum(one.seconds for one in found),
    )


@dataclass(frozen=True, kw_only=True)
class AskDrift:
    """A job: per token of some windows, the METRICS of a state against the base. Distributions do
    not travel, so the same model gives both."""

    at: int
    windows: tuple[Encoded, ...]

    @property
    def size(self) -> int:
        return tokens_of(self.windows)

    def run(self, live: LiveModel, tokenizer: Any) -> Done[dict[str, list[float]]]:  # noqa: ARG002 (a job's signature)
        return timed(live, lambda: _drift(live, self.windows))


def _drift(live: LiveModel, windows: Sequence[Encoded]) -> dict[str, list[float]]:
    states = [text_scores.logits(live.model, one, device=live.device) for one in windows]
    divergences: list[float] = []
    same: list[float] = []
    with live.at_base():
        for window, state in zip(windows, states, strict=True):
            base = text_scores.logits(live.model, window, device=live.device)
            some, tops = text_scores.drift(base, state)
            divergences += some
            same += map(float, tops)
    return {"kl_divergence": divergences, "same_top": same}


def _intervals(values: dict[str, list[float]], seed: int) -> dict[str, Interval]:
    found = {}
    for metric, some in values.items():
        means, weights = in_blocks(some)
        interval = mean_interval(means, weights=weights, seed=seed)
        if interval is not None:
            found[metric] = interval
    return found
