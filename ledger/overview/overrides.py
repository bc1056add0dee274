"""Facts in conflict: edits in force that a later one answers otherwise."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from ledger.edit_states import overriding, with_edits_in_force
from ledger.facts import Fact, facts_about
from ledger.history import Step
from ledger.orm import EditRow


@dataclass(frozen=True, kw_only=True)
class Override:
    """An edit that does not hold, and the later one (`by_…`) that does in its place. hash, by_hash:
    of their turns. row, by_row: in their datasets."""

    turn: int
    hash: str
    row: int | None
    prompt: str
    subject: str | None
    target: str
    by_turn: int
    by_hash: str
    by_row: int | None
    by_prompt: str
    by_target: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """count: all edits that are overridden. edits: the newest of them. more: the others."""

    count: int
    edits: tuple[Override, ...]
    more: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def overrides(session: Session, line: Sequence[Step], *, most: int = 100) -> Overrides:
    """The edits in force on `line` that are overridden; at most `most` are listed, those that were
    overridden last first."""
    found = sorted(overridden_on(session, line), key=lambda pair: (pair[1], pair[0]), reverse=True)
    hashes = {step.number: step.hash for step in line}
    return Overrides(
        count=len(found),
        edits=tuple(_override(*pair, hashes) for pair in found[:most]),
        more=len(found[most:]),
    )


def overridden_on(session: Session, line: Sequence[Step]) -> list[tuple[Fact, Fact]]:
    """Every edit in force on `line` that is overridden, with the one that does it.

    Only edits whose question is answered in several ways are read; the database finds them.
    """
    in_force = with_edits_in_force(line)
    prompts, keys = (
        list(session.scalars(_answered_otherwise(column)))
        for column in (EditRow.prompt_key, EditRow.fact_key)
    )
    asked = facts_about(session, in_force, prompt_keys=prompts, fact_keys=keys)
    return overriding(session, in_force, asked)


def _answered_otherwise(column: Any) -> Select[Any]:
    """The keys in a column, of edits anywhere in the ledger, that have several targets."""
    # The index alone tells which come twice, so that few edits are looked at.
    twice = select(column).where(column.is_not(None)).group_by(column).having(func.count() > 1)
    targets = func.min(EditRow.target), func.max(EditRow.target)
    return select(column).where(column.in_(twice)).group_by(column).having(targets[0] != targets[1])


def _override(fact: Fact, by: Fact, hashes: Mapping[int, str]) -> Override:
    return Override(
        turn=fact.number,
        hash=hashes[fact.number],
        row=fact.row,
        prompt=fact.prompt,
        subject=fact.subject,
        target=fact.target,
        by_turn=by.number,
        by_hash=hashes[by.number],
        by_row=by.row,
        by_prompt=by.prompt,
        by_target=by.target,
    )
