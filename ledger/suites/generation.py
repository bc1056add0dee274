"""The suite `generation`: does the model give the answer by itself?"""

from dataclasses import dataclass
from typing import Any

from ledger.jobs import Crew
from ledger.progress import Progress, silent
from ledger.suites.asking import Done, OnEdits, Scored, beside, summed_up, timed
from patches import free_answers
from patches.edit import Edit
from patches.live import LiveModel


def score(asked: OnEdits, crew: Crew, *, progress: Progress = silent) -> Scored:
    """The metrics of `patches.free_answers`, base and state."""
    found = beside(
        crew,
        asked,
        lambda at, edits: AskFreely(at=at, edits=edits),
        phase="generate",
        progress=progress,
    )
    return summed_up(
        found,
        protocol=dict(free_answers.PROTOCOL),
        metrics=free_answers.METRICS,
        seed=asked.seed,
    )


@dataclass(frozen=True, kw_only=True)
class AskFreely:
    """A job: what is generated for the prompts of some edits in a state, or in the base."""

    at: int | None
    edits: tuple[Edit, ...]

    @property
    def size(self) -> int:
        return len(self.edits)

    def run(self, live: LiveModel, tokenizer: Any) -> Done[list[dict[str, Any]]]:
        return timed(
            live,
            lambda: free_answers.score(live.model, tokenizer, self.edits, device=live.device),
        )
