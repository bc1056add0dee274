"""The suite `perplexity`: how well running text is predicted, by the base and by the state."""

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

PROTOCOL = {"name": "perplexity", "version": 1}
_METRIC = "perplexity"
# Beyond this, exp would overflow; the model has no idea of the text.
_HOPELESS = 100.0


def score(asked: OnText, crew: Crew, *, progress: Progress = silent) -> Scored:
    """exp of the mean −log P of all tokens alike, whichever window they are in."""
    cut = list(in_jobs(asked.windows))
    jobs = [AskLosses(at=at, windows=windows) for at in (None, asked.at) for windows in cut]
    found = done(crew, jobs, phase="read text", progress=progress)
    base, state = (
        [loss for one in half for loss in one.value]
        for half in (found[: len(cut)], found[len(cut) :])
    )
    return Scored(
        protocol={**PROTOCOL, **asked.protocol},
        n=len(state),
        base={_METRIC: _perplexity(math.fsum(base) / len(base))},
        state={_METRIC: _perplexity(math.fsum(state) / len(state))},
        outcomes=(),
        intervals=(_intervals(base, asked.seed), _intervals(state, asked.seed)),
        environment=found[-1].environment,
        seconds=sum(one.seconds for one in found),
    )


@dataclass(frozen=True, kw_only=True)
class AskLosses:
    """A job: −log P of every token of some windows, in a state, or in the base."""

    at: int | None
    windows: tuple[Encoded, ...]

    @property
    def size(self) -> int:
        return tokens_of(self.windows)

    def run(self, live: LiveModel, tokenizer: Any) -> Done[list[float]]:  # noqa: ARG002 (a job's signature)
        return timed(
            live,
            lambda: [
                loss
                for window in self.windows
                for loss in text_scores.losses(live.model, window, device=live.device)
            ],
        )


def _perplexity(nats: float) -> float:
    return math.exp(min(nats, _HOPELESS))


def _intervals(losses: Sequence[float], seed: int) -> dict[str, Interval]:
    means, weights = in_blocks(losses)
    found = mean_interval(means, weights=weights, seed=seed)
    if found is None:
        return {}
    return {_METRIC: Interval(_perplexity(found.low), _perplexity(found.high))}
