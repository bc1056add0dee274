"""The suite `portability`: what follows from the edits, where their dataset asks for it."""

from dataclasses import dataclass, replace
from typing import Any

from ledger.jobs import Crew
from ledger.progress import Progress, silent
from ledger.suites.asking import Done, OnEdits, Scored, beside, summed_up, timed
from patches import further_probes
from patches.edit import Edit
from patches.errors import HistoryError
from patches.evaluation import Scores
from patches.live import LiveModel

_KNOWN = (
    "personas and multi_hop (WikiBigEdit), reasoning, subject_aliasing and logical_generalization "
    "(KnowEdit), out_of_distribution (WISE's temporal set), or any in the field `further` of your "
    "own rows"
)


def score(asked: OnEdits, crew: Crew, *, progress: Progress = silent) -> Scored:
    """Accuracy by kind of probe, base and state, over the edits that have any.

    Raises HistoryError, with the kinds that there could be, if none has one.
    """
    has = [any(edit.further.values()) for edit in asked.edits]
    if not any(has):
        raise HistoryError(
            "none of these edits has further probes: their dataset brings only prompts, "
            f"rephrasings and locality, which --suite teacher-forced scores. Known kinds: {_KNOWN}"
        )
    probed = [edit for edit, there in zip(asked.edits, has, strict=True) if there]
    found = beside(
        crew,
        replace(asked, edits=probed),
        lambda at, edits: AskFurther(at=at, edits=edits),
        phase="evaluate",
        progress=progress,
    )
    scored = summed_up(
        found,
        protocol=dict(further_probes.PROTOCOL),
        metrics=further_probes.kinds(probed),
        seed=asked.seed,
    )
    each = iter(scored.outcomes)
    return replace(scored, outcomes=[next(each) if there else None for there in has])


@dataclass(frozen=True, kw_only=True)
class AskFurther:
    """A job: the scores of the further probes of some edits in a state, or in the base."""

    at: int | None
    edits: tuple[Edit, ...]

    @property
    def size(self) -> int:
        return len(self.edits)

    def run(self, live: LiveModel, tokenizer: Any) -> Done[list[Scores]]:
        return timed(
            live,
            lambda: further_probes.score(live.model, tokenizer, self.edits, device=live.device),
        )
