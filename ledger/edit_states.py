"""What became of an edit: it holds, a later one overrides it, or its turn was rolled back."""

from collections.abc import Iterable, Mapping

from sqlalchemy.orm import Session

from ledger.facts import Fact, facts_about, overridden, related
from ledger.history import CHANGING, IN_FORCE, Step

OVERRIDDEN, ELSEWHERE = "overridden", "elsewhere"


def with_edits_in_force(line: Iterable[Step]) -> dict[int, int]:
    """Row id → number of the turns of a line whose edits are in force."""
    return {
        step.id: step.number
        for step in line
        if step.in_force and step.edits and step.kind in CHANGING
    }


def overriding(
    session: Session, in_force: Mapping[int, int], facts: Iterable[Fact]
) -> list[tuple[Fact, Fact]]:
    """Every edit about the questions of `facts` that is overridden, with the one that does it.

    in_force: row id → number of the turns in force.
    """
    asked = [fact for fact in facts if fact.turn_id in in_force]
    found = related(
        asked,
        lambda prompts, keys: facts_about(session, in_force, prompt_keys=prompts, fact_keys=keys),
    )
    later = overridden(found)
    return [(fact, later[fact.edit_id]) for fact in found if fact.edit_id in later]


def state_of(step: Step | None, *, is_overridden: bool) -> str:
    """The state of an edit of this turn; None: it is on no turn of the line."""
    if step is None:
        return ELSEWHERE
    return OVERRIDDEN if is_overridden and step.state == IN_FORCE else step.state
