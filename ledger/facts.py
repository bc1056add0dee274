"""Facts of a line of turns, and which of them a later one overrides.

Two edits are about the same question if their prompts are the same (normalised), or their subjects
and relations are. Of edits in force about one question with different targets, the latest holds.
Everything is looked up by the keys of `ledger.chain`, so that it takes the same time in a ledger of
millions of edits.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import InstrumentedAttribute, Session

from ledger.history import Step, chunks
from ledger.orm import EditRow


class Fact(NamedTuple):
    """An edit of a turn. edit_id, turn_id: of the rows. number: of the turn on the line."""

    number: int
    position: int
    edit_id: int
    turn_id: int
    row: int | None
    prompt: str
    target: str
    subject: str | None
    relation: str | None
    prompt_key: int
    fact_key: int | None

    def asks_the_same(self, other: "Fact") -> bool:
        """Whether both are about one question."""
        return self.prompt_key == other.prompt_key or (
            self.fact_key is not None and self.fact_key == other.fact_key
        )


_Key = InstrumentedAttribute[int] | InstrumentedAttribute[int | None]


Turns = Iterable[Step] | Mapping[int, int]
"""The steps whose edits count, or the row id of each → its number."""


def facts_about(
    session: Session,
    turns: Turns,
    *,
    prompt_keys: Iterable[int] = (),
    fact_keys: Iterable[int] = (),
    subject_keys: Iterable[int] = (),
) -> list[Fact]:
    """The edits of `turns` that have one of these keys, in order of turn and position."""
    numbers = turns if isinstance(turns, Mapping) else {turn.id: turn.number for turn in turns}
    asked: tuple[tuple[_Key, Iterable[int]], ...] = (
        (EditRow.prompt_key, prompt_keys),
        (EditRow.fact_key, fact_keys),
        (EditRow.subject_key, subject_keys),
    )
    found: dict[int, Fact] = {}
    for column, keys in asked:
        for some in chunks(sorted(set(keys))):
            for row in session.execute(_COLUMNS.where(column.in_(some))):
                if row.turn_id in numbers:
                    found[row.id] = _fact(numbers[row.turn_id], row)
    return sorted(found.values())


def facts_of(session: Session, turns: Sequence[Step]) -> list[Fact]:
    """All edits of `turns`, in order of turn and position."""
    numbers = {turn.id: turn.number for turn in turns}
    found = [
        _fact(numbers[row.turn_id], row)
        for some in chunks(sorted(numbers))
        for row in session.execute(_COLUMNS.where(EditRow.turn_id.in_(some)))
    ]
    return sorted(found)


def overridden(facts: Sequence[Fact]) -> dict[int, Fact]:
    """Row id of an edit → the next later one of `facts`, which are in force and in order, about the
    same question with another target."""
    by_prompt: dict[int, Fact] = {}
    by_fact: dict[int, Fact] = {}
    found: dict[int, Fact] = {}
    for fact in reversed(facts):
        later = [by_prompt.get(fact.prompt_key)]
        if fact.fact_key is not None:
            later.append(by_fact.get(fact.fact_key))
        others = [one for one in later if one is not None and one.target != fact.target]
        repeated = [found[one.edit_id] for one in later if one and one.edit_id in found]
        if others or repeated:
            found[fact.edit_id] = min([*others, *repeated])
        by_prompt[fact.prompt_key] = fact
        if fact.fact_key is not None:
            by_fact[fact.fact_key] = fact
    return found


def related(
    facts: Iterable[Fact], look_up: Callable[[set[int], set[int]], Iterable[Fact]]
) -> list[Fact]:
    """What `look_up` (prompt keys, fact keys) finds about the questions of `facts`, about those of
    what it finds, and so on: all that `overridden` must see to be right about them; in order."""
    found: dict[int, Fact] = {}
    prompts: set[int] = set()
    keys: set[int] = set()
    wanted = list(facts)
    while wanted:
        new_prompts = {fact.prompt_key for fact in wanted} - prompts
        new_keys = {fact.fact_key for fact in wanted if fact.fact_key is not None} - keys
        prompts |= new_prompts
        keys |= new_keys
        wanted = [f for f in look_up(new_prompts, new_keys) if f.edit_id not in found]
        found |= {fact.edit_id: fact for fact in wanted}
    return sorted(found.values())


def in_force_about(session: Session, turns: Turns, facts: Sequence[Fact]) -> list[Fact]:
    """The edits of `turns`, which are in force, about the questions of `facts`."""
    return facts_about(
        session,
        turns,
        prompt_keys=[fact.prompt_key for fact in facts],
        fact_keys=[fact.fact_key for fact in facts if fact.fact_key is not None],
    )


_COLUMNS = select(
    EditRow.id,
    EditRow.turn_id,
    EditRow.position,
    EditRow.row,
    EditRow.prompt,
    EditRow.target,
    EditRow.subject,
    EditRow.relation,
    EditRow.prompt_key,
    EditRow.fact_key,
)


def _fact(number: int, row: Any) -> Fact:
    return Fact(
        number=number,
        position=row.position,
        edit_id=row.id,
        turn_id=row.turn_id,
        row=row.row,
        prompt=row.prompt,
        target=row.target,
        subject=row.subject,
        relation=row.relation,
        prompt_key=row.prompt_key,
        fact_key=row.fact_key,
    )
