"""Conflicts: new edits that answer a question otherwise than what holds, and what becomes of them.

Two edits are about one question as `ledger.facts` says. A new edit overrides those that hold with
another target, is skipped, or stops the run; with the target that holds, it is a duplicate.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ledger import database
from ledger.chain import fact_key, prompt_key
from ledger.facts import Fact, facts_about, overridden, related
from ledger.history import Step
from ledger.wording import counted, turn_numbers
from ledger.workspace import Ledger
from patches.edit import Edit
from patches.errors import HistoryError

OVERRIDE, SKIP, ABORT = "override", "skip", "abort"
POLICIES = (OVERRIDE, SKIP, ABORT)


@dataclass(frozen=True, kw_only=True)
class Conflict:
    """A new edit, and one of another target that holds: of `turn`, from `old_row` of its dataset.

    row: of the new edit; None, as `old_row`, where it comes from no dataset.
    """

    row: int | None
    prompt: str
    target: str
    turn: int
    old_row: int | None
    old_target: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def older(self) -> str:
        """The older edit, as one says it before its target."""
        return f"turn {self.turn}" + ("" if self.old_row is None else f" (row {self.old_row})")

    @property
    def reason(self) -> str:
        """Why the new edit is skipped."""
        return f"{self.older} has it as {self.old_target!r} (--on-conflict {SKIP})"

    @property
    def recorded_reason(self) -> str:
        """The same without the target: what a turn records is published with it, also where the
        texts of edits are kept back."""
        return f"{self.older} has it otherwise (--on-conflict {SKIP})"


def question(edit: Edit, *, row: int | None, edit_id: int) -> Fact:
    """An edit that is not recorded yet, and has no place. edit_id: negative, of no recorded one."""
    return Fact(
        number=0,
        position=0,
        edit_id=edit_id,
        turn_id=0,
        row=row,
        # The prompt is known by its key; a dry run keeps every row of a file.
        prompt="",
        target=edit.target,
        subject=None,
        relation=None,
        prompt_key=prompt_key(edit.prompt),
        fact_key=fact_key(edit.subject, edit.relation),
    )


class Answers:
    """The facts in force about some questions, and which of them hold; newer ones can be added.

    over: row id of a fact → the one that overrides it.
    """

    def __init__(self, facts: Sequence[Fact]) -> None:
        """facts: in order, closed under `ledger.facts.related`."""
        self.over = overridden(facts)
        self._by_prompt: dict[int, list[Fact]] = {}
        self._by_fact: dict[int, list[Fact]] = {}
        for fact in facts:
            self._index(fact)

    def about(self, asked: Fact) -> list[Fact]:
        """All that is in force about the question of `asked`, in order."""
        return self.with_keys(
            [asked.prompt_key], [] if asked.fact_key is None else [asked.fact_key]
        )

    def with_keys(self, prompts: Iterable[int], facts: Iterable[int]) -> list[Fact]:
        """All with one of these keys, in order."""
        found = [fact for key in prompts for fact in self._by_prompt.get(key, ())]
        found += [fact for key in facts for fact in self._by_fact.get(key, ())]
        return sorted({fact.edit_id: fact for fact in found}.values())

    def holding(self, asked: Fact) -> list[Fact]:
        """Those of them that nothing overrides."""
        return [fact for fact in self.about(asked) if fact.edit_id not in self.over]

    def add(self, fact: Fact) -> None:
        """A fact that is newer than all others; it overrides those with another target."""
        leaving = [older for older in self.holding(fact) if older.target != fact.target]
        while leaving:
            older = leaving.pop()
            self.over[older.edit_id] = fact
            # What says the same, and came before it, goes with it.
            leaving += [
                same for same in self.holding(older) if same < older and same.target == older.target
            ]
        self._index(fact)

    def _index(self, fact: Fact) -> None:
        self._by_prompt.setdefault(fact.prompt_key, []).append(fact)
        if fact.fact_key is not None:
            self._by_fact.setdefault(fact.fact_key, []).append(fact)


class Standing:
    """What is in force on a line of turns. It grows with the line, and a look-up costs the same
    however long the line is."""

    def __init__(self, ledger: Ledger, in_force: Iterable[Step]) -> None:
        self._ledger = ledger
        self._numbers = {step.id: step.number for step in in_force if step.edits}
        self._planned = Answers(())

    def grow(self, turn_id: int, number: int) -> None:
        """A turn was recorded on the line."""
        self._numbers[turn_id] = number

    def plan(self, facts: Iterable[Fact]) -> None:
        """A turn with these facts would be recorded on the line."""
        for fact in facts:
            self._planned.add(fact)

    def answers(self, asked: Iterable[Fact]) -> Answers:
        """What is in force about these questions."""
        wanted = list(asked)
        with database.reading(self._ledger.engine) as session:

            def look_up(prompts: set[int], facts: set[int]) -> list[Fact]:
                recorded = facts_about(session, self._numbers, prompt_keys=prompts, fact_keys=facts)
                return recorded + self._planned.with_keys(prompts, facts)

            return Answers(related(wanted, look_up))


def refuse(conflicts: Sequence[Conflict], *, first: int) -> None:
    """Raise the HistoryError of ``--on-conflict abort``, if there are any.

    first: the number of the first turn of the run, all of which are not recorded yet.
    """
    if not conflicts:
        return
    one, others = conflicts[0], len(conflicts) - 1
    row = "an edit" if one.row is None else f"row {one.row}"
    older = one.older if one.turn < first else f"row {one.old_row} of the same source"
    more = f" {counted(others, 'more conflicts')} (--dry-run lists them)." if others else ""
    raise HistoryError(
        f"{row} has {one.prompt!r} as {one.target!r}, {older} as {one.old_target!r}: nothing was "
        f"recorded (--on-conflict {ABORT}).{more} Leave the row out, or choose --on-conflict "
        f"{OVERRIDE} or {SKIP}"
    )


def conflict_notes(overrides: Sequence[Conflict], on_conflict: str) -> list[str]:
    """What a turn records of its conflicts: how many, with which turns; no texts of edits."""
    notes = []
    if overrides:
        rows = len({(conflict.row, conflict.prompt) for conflict in overrides})
        turns = turn_numbers({conflict.turn for conflict in overrides})
        verb = "overrides" if rows == 1 else "override"
        facts = counted(len(overrides), "facts")
        notes.append(f"{counted(rows, 'edits')} {verb} {facts} of {turns}")
    if on_conflict != OVERRIDE:
        notes.append(f"edits that conflict with facts in force: {on_conflict}")
    return notes
