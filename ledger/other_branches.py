"""What other branches hold against new edits: answers of their own to the same questions."""

from collections.abc import Sequence

from ledger import database, history
from ledger.facts import Fact, facts_about, overridden, related
from ledger.history import Step
from ledger.refs import branches, head_id
from ledger.workspace import Ledger

_SHOWN = 3


class OtherBranches:
    """The turns in force at the heads of other branches that a line has not gone through.

    What both have gone through is no conflict: a merge takes the newer edit. The branches are read
    once, where there are any.
    """

    def __init__(self, ledger: Ledger, line: Sequence[Step]) -> None:
        self._ledger = ledger
        # By hash, so that turns which are repeated here, or there, count as gone through.
        self._known = {digest for step in line for digest in (step.hash, step.copied_from)}
        self._branches: dict[str, dict[int, int]] | None = None

    def notes(self, facts: Sequence[Fact]) -> list[str]:
        """A sentence for each of the `facts` that a branch has in force otherwise; few of them."""
        if self._branches is None:
            self._branches = self._read()
        notes = [
            note for name, turns in self._branches.items() for note in self._of(name, turns, facts)
        ]
        more = len(notes) - _SHOWN
        return notes[:_SHOWN] + ([f"… and {more} more facts of other branches"] if more > 0 else [])

    def _read(self) -> dict[str, dict[int, int]]:
        """Branch → row id of a turn → its number."""
        found = {}
        with database.reading(self._ledger.engine) as session:
            for name in branches(session):
                if name == self._ledger.branch:
                    continue
                line = history.line_to(session, head_id(session, name))
                turns = {
                    step.id: step.number
                    for step in history.edits_in_force(line)
                    if self._known.isdisjoint({step.hash, step.copied_from or step.hash})
                }
                if turns:
                    found[name] = turns
        return found

    def _of(self, name: str, turns: dict[int, int], facts: Sequence[Fact]) -> list[str]:
        with database.reading(self._ledger.engine) as session:
            theirs = related(
                facts,
                lambda prompts, keys: facts_about(
                    session, turns, prompt_keys=prompts, fact_keys=keys
                ),
            )
        over = overridden(theirs)
        return [
            f"branch {name} has {fact.prompt!r} as {fact.target!r} in force, since its turn "
            f"{fact.number}; a merge would have to choose"
            for fact in theirs
            if fact.edit_id not in over
            and any(mine.asks_the_same(fact) and mine.target != fact.target for mine in facts)
        ]
