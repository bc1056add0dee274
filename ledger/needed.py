"""Which files of the patch store are needed: by the states of branches and tags, by their history.

A turn's patch is needed as long as the turn stands for itself at the head of some branch or tag
that has gone through it; a rolled-back turn does, since it may be brought back. It no longer does
where a squash, or another merge, has taken its place. A side memory needs the main weight beside
which it was trained, and so the patches that were in force then, whatever became of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import history
from ledger.history import Lines, Step
from ledger.orm import EntryRow, RefRow


@dataclass(frozen=True, kw_only=True)
class Unneeded:
    """Digests of files that could go. squashed: patches whose place merges have taken everywhere.

    unreachable: patches and editor states of turns that no branch or tag leads to.
    """

    squashed: frozenset[str]
    unreachable: frozenset[str]


def heads(session: Session, lines: Lines) -> dict[str, list[Step]]:
    """Every branch and tag that is not empty → the turns that led to it."""
    refs = select(RefRow).where(RefRow.turn_id.is_not(None)).order_by(RefRow.name)
    by_turn: dict[int | None, list[Step]] = {}
    found = {}
    for ref in session.scalars(refs):
        if ref.turn_id not in by_turn:
            by_turn[ref.turn_id] = lines.to(ref.turn_id)
        found[ref.name] = by_turn[ref.turn_id]
    return found


def needs(lines: Lines, line: Sequence[Step]) -> dict[str, int]:
    """The patches that the state after the last turn of `line` is made from → the turns' numbers.

    A patch that is needed for the main weight beside a memory goes by the memory's turn.
    """
    found: dict[str, int] = {}
    for step in history.patches_in_force(line):
        assert step.patch_digest is not None
        found.setdefault(step.patch_digest, step.number)
        for digest in _beside(lines, line, step):
            found.setdefault(digest, step.number)
    return found


def unneeded(session: Session, lines: Lines, *, left_before: datetime) -> Unneeded:
    """What no branch or tag needs.

    Turns that a branch or tag has led to until after `left_before` count as if one still did.
    """
    led_to = list(heads(session, lines).values())
    reached = {step.id for line in led_to for step in line}
    led_to += _left(session, lines, reached, left_before)
    standing: set[int] = set()
    kept: set[str] = set()
    for line in {line[-1].id: line for line in led_to}.values():
        reached |= {step.id for step in line}
        replaced = {number for step in line if step.in_force for number in step.replaces}
        for step in line:
            if step.number not in replaced and step.id not in standing:
                standing.add(step.id)
                kept |= _beside(lines, line, step)
    kept |= {digest for turn in standing if (digest := lines.patch(turn))}
    kept |= {digest for turn in reached if (digest := lines.editor_state(turn))}
    squashed = {digest for turn in reached - standing if (digest := lines.patch(turn))} - kept
    others = lines.ids() - reached
    unreachable = {lines.patch(turn) for turn in others}
    unreachable |= {lines.editor_state(turn) for turn in others}
    return Unneeded(
        squashed=frozenset(squashed),
        unreachable=frozenset(d for d in unreachable if d and d not in kept | squashed),
    )


def _left(
    session: Session, lines: Lines, reached: set[int], left_before: datetime
) -> list[list[Step]]:
    """The lines of turns that nothing leads to, but something has until after `left_before`."""
    query = select(EntryRow.from_turn_id).where(EntryRow.created_at > left_before)
    left = set(session.scalars(query)) - reached - {None}
    return [lines.to(turn_id) for turn_id in sorted(left, key=lambda found: found or 0)]


def trained_on(
    turns: Sequence[Step], step: Step, line_to: Callable[[str], Sequence[Step] | None]
) -> Sequence[Step]:
    """The line that led to the turn in which the side memories of `step`, one of `turns`, were
    trained; of a copied turn, that of its source.

    line_to: gives the line to the turn with a hash, None if it is not here.
    """
    turns = turns[: step.number]
    while turns[-1].copied_from is not None:
        source = line_to(turns[-1].copied_from)
        if source is None or source[-1].patch_digest != step.patch_digest:
            break
        turns = source
    return turns


def _beside(lines: Lines, line: Sequence[Step], step: Step) -> set[str]:
    """The patches that make up the main weight beside which the memories of `step` stand."""
    if not step.has_memory:
        return set()

    def line_to(digest: str) -> list[Step] | None:
        found = lines.with_hash(digest)
        return None if found is None else lines.to(found)

    then = history.patches_in_force(trained_on(line, step, line_to))
    return {one.patch_digest for one in then if one.patch_digest}
