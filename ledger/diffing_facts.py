"""Two states compared in facts: which questions have an answer in one of them only, or another.

Of each state it counts what holds: an edit in force that no later one overrides. Only the turns in
force in one state are read in full; of the others the edits about the same questions are looked up.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from ledger.conflicts import Answers
from ledger.facts import Fact, facts_about, facts_of, overridden, related
from ledger.history import Step


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two states. steps: the line that leads to it. edits: those in force. used: the steps
    whose patches make it up."""

    steps: Sequence[Step]
    edits: Sequence[Step]
    used: Sequence[Step]

    @property
    def turn(self) -> int:
        return len(self.steps)

    @property
    def hash(self) -> str | None:
        """Of its last turn; None for the base."""
        return self.steps[-1].hash if self.steps else None

    @property
    def turn_id(self) -> int | None:
        return self.steps[-1].id if self.steps else None


class FactChange(NamedTuple):
    """A question with the edits that answer it. old: what holds in A; new: in B."""

    old: Fact | None
    new: Fact | None

    def to_json(self) -> dict[str, Any]:
        told = self.new or self.old
        assert told is not None
        return {
            "prompt": told.prompt,
            "subject": told.subject,
            "relation": told.relation,
            "old_target": self.old and self.old.target,
            "new_target": self.new and self.new.target,
            "old_turn": self.old and self.old.number,
            "new_turn": self.new and self.new.number,
        }


@dataclass(frozen=True, kw_only=True)
class FactChanges:
    """The facts that differ. removed and added: in A or B only. overridden: with other targets.

    only_a, only_b: the turns of edits in force in one state only.
    """

    added: Sequence[FactChange]
    removed: Sequence[FactChange]
    overridden: Sequence[FactChange]
    only_a: Sequence[int]
    only_b: Sequence[int]

    def groups(self) -> dict[str, Sequence[FactChange]]:
        return {"added": self.added, "removed": self.removed, "overridden": self.overridden}

    def to_json(self, *, stat: bool = False) -> dict[str, Any]:
        """stat: the numbers only."""
        content: dict[str, Any] = {
            "counts": {name: len(group) for name, group in self.groups().items()},
            "turns": {"a": list(self.only_a), "b": list(self.only_b)},
        }
        if not stat:
            for name, group in self.groups().items():
                content[name] = [change.to_json() for change in group]
        return content


def fact_changes(session: Session, a: Side, b: Side) -> tuple[FactChanges, tuple[str, ...]]:
    """The facts that differ between two states, and notes on what could not be compared."""
    only_a, only_b = only_in(a, b), only_in(b, a)
    in_a, in_b = facts_of(session, only_a), facts_of(session, only_b)
    common = _about(session, _shared(a, b), [*in_a, *in_b])
    all_a, all_b = sorted([*in_a, *common]), sorted([*in_b, *common])
    of_a, of_b = Answers(all_a), Answers(all_b)
    holding_a, holding_b = _holding(all_a, of_a.over), _holding(all_b, of_b.over)
    added, changed = [], []
    for fact in holding_b:
        olds = of_a.holding(fact)
        if not olds:
            added.append(FactChange(None, fact))
        elif all(old.target != fact.target for old in olds):
            changed.append(FactChange(max(olds), fact))
    changes = FactChanges(
        added=added,
        removed=[FactChange(fact, None) for fact in holding_a if not of_b.holding(fact)],
        overridden=changed,
        only_a=[step.number for step in only_a],
        only_b=[step.number for step in only_b],
    )
    read = ((only_a, len(in_a)), (only_b, len(in_b)))
    missing = sum(sum(step.edits for step in steps) - found for steps, found in read)
    return changes, (_missing(missing),) if missing else ()


def in_both(session: Session, a: Side, b: Side) -> list[Fact]:
    """The edits that hold in both states; all that hold in the other if one is the base."""
    common = facts_of(session, _shared(a, b))
    all_a = sorted([*facts_of(session, only_in(a, b)), *common])
    all_b = sorted([*facts_of(session, only_in(b, a)), *common])
    holding_a, holding_b = _holding(all_a, overridden(all_a)), _holding(all_b, overridden(all_b))
    if not (a.steps and b.steps):
        return holding_a or holding_b
    known = {(fact.prompt_key, fact.target) for fact in holding_a}
    return [fact for fact in holding_b if (fact.prompt_key, fact.target) in known]


def _holding(facts: Sequence[Fact], over: Mapping[int, Fact]) -> list[Fact]:
    """Of these facts, which are in order, those that no other is over; of repeated ones the
    latest."""
    latest = {(fact.prompt_key, fact.target): fact for fact in facts if fact.edit_id not in over}
    return sorted(latest.values())


def only_in(one: Side, other: Side) -> list[Step]:
    """The turns with edits in force that the other state has not."""
    known = {step.id for step in other.edits}
    return [step for step in one.edits if step.id not in known]


def _shared(a: Side, b: Side) -> list[Step]:
    known = {step.id for step in b.edits}
    return [step for step in a.edits if step.id in known]


def _about(session: Session, turns: Sequence[Step], asked: Sequence[Fact]) -> list[Fact]:
    """The edits of `turns` that decide which of them, and of `asked`, hold."""
    if not turns:
        return []
    return related(
        asked,
        lambda prompts, keys: facts_about(session, turns, prompt_keys=prompts, fact_keys=keys),
    )


def _missing(count: int) -> str:
    return (
        f"the texts of {count:,} edits are not here, so they are not compared: their turns were "
        "imported, or published without them"
    )
