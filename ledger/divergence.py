"""Two lines of turns since they parted: what the other one has that this one has not.

A turn that was copied, by a merge or a cherry-pick, or replayed, tells of its source; turns that go
back to one source are one and the same here. So what has been merged before is known, also where
it was undone since, and only what came later is new.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import history
from ledger.history import Step, chunks
from ledger.merge_notes import notes_of_merges
from ledger.orm import TurnRow


class Repeat(NamedTuple):
    """A turn of theirs that is to be repeated here as turn `number`. replaces: numbers here."""

    source: Step
    number: int
    replaces: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """How two lines differ. fork: the number of the last turn that both have, 0 if none.

    undoes: turns of ours to be undone, since theirs has undone, or brought back, some that both
    have. brought_back: the turns of ours that this brings back. repeats: what is new, in the order
    of theirs. undone_here: turns of theirs that are here, but rolled back. left_out: merges of
    theirs that do not fit, and why; their turns stand for themselves.
    """

    ours: Sequence[Step]
    theirs: Sequence[Step]
    fork: int
    undoes: tuple[int, ...]
    brought_back: tuple[int, ...]
    repeats: tuple[Repeat, ...]
    undone_here: tuple[Step, ...]
    left_out: tuple[tuple[Step, str], ...]
    known_to_theirs: frozenset[int]
    """Turns of ours after the fork that theirs has too."""

    @property
    def is_merged(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.undoes or self.repeats)


def diverge(session: Session, ours: Sequence[Step], theirs: Sequence[Step]) -> Divergence:
    """Compare two lines. HistoryError if what theirs has undone cannot be undone here."""
    pairs = zip(ours, theirs, strict=False)
    fork = sum(1 for _ in takewhile(lambda pair: pair[0].id == pair[1].id, pairs))
    roots = origins(session, [*ours[fork:], *theirs[fork:]])
    here = _Here(ours, theirs, fork, roots)
    wanted = here.wanted(_last_merged(session, ours[fork:], theirs, fork))
    undoes = undoing(ours, wanted)
    active = active_with(ours, undoes)
    history.patches_among(ours, active)
    taken = {n for step in ours if step.number in active for n in step.replaces}
    repeats: dict[int, Repeat] = {}
    left_out = []
    number = len(ours) + (1 if undoes else 0)
    for step in here.new():
        replaces, problem = _parts(step, here.numbers, repeats, active, taken)
        if problem is not None:
            left_out.append((step, problem))
            continue
        number += 1
        repeats[step.number] = Repeat(step, number, replaces)
    roots_of_theirs = {roots[step.hash] for step in theirs[fork:]}
    return Divergence(
        ours=ours,
        theirs=theirs,
        fork=fork,
        undoes=undoes,
        brought_back=tuple(s.number for s in ours if s.number in active and not s.in_force),
        repeats=tuple(repeats.values()),
        undone_here=tuple(here.undone()),
        left_out=tuple(left_out),
        known_to_theirs=frozenset(
            step.number for step in ours[fork:] if roots[step.hash] in roots_of_theirs
        ),
    )


class _Here:
    """Which turns of theirs are here. numbers: of theirs → of ours."""

    def __init__(
        self, ours: Sequence[Step], theirs: Sequence[Step], fork: int, roots: Mapping[str, str]
    ) -> None:
        self._ours, self._theirs, self._fork = ours, theirs, fork
        by_root: dict[str, Step] = {}
        for step in ours[fork:]:
            known = by_root.get(roots[step.hash])
            if step.kind != "rollback" and not (known is not None and known.in_force):
                by_root[roots[step.hash]] = step
        self.numbers = {number: number for number in range(1, fork + 1)}
        for step in theirs[fork:]:
            if step.kind != "rollback" and roots[step.hash] in by_root:
                self.numbers[step.number] = by_root[roots[step.hash]].number

    def new(self) -> list[Step]:
        """What theirs has in force and ours has not, not even undone."""
        return [
            step
            for step in self._theirs[self._fork :]
            if step.in_force and step.kind != "rollback" and step.number not in self.numbers
        ]

    def undone(self) -> list[Step]:
        """Turns after the fork that theirs has in force and ours has undone."""
        return [
            step
            for step in self._theirs[self._fork :]
            if step.in_force
            and step.number in self.numbers
            and not self._ours[self.numbers[step.number] - 1].in_force
        ]

    def wanted(self, since: int) -> dict[int, bool]:
        """Turns of ours → whether they are to be in force, where theirs has undone them, or brought
        them back, after its turn `since`, and ours has left them as they were then."""
        then = history.active_turns({step.number: step.undoes for step in self._theirs[:since]})
        changed = {}
        for step in self._theirs[:since]:
            number = self.numbers.get(step.number)
            was = step.number in then
            if step.kind == "rollback" or number is None or was == step.in_force:
                continue
            if self._ours[number - 1].in_force == was:
                changed[number] = step.in_force
        return changed


def origins(session: Session, steps: Sequence[Step]) -> dict[str, str]:
    """Hash of each of `steps` → that of the turn that it goes back to, itself if it is no copy."""
    source = {step.hash: step.copied_from for step in steps}
    while unknown := sorted({found for found in source.values() if found} - set(source)):
        source |= dict.fromkeys(unknown)
        for some in chunks(unknown):
            query = select(TurnRow.hash, TurnRow.copied_from).where(TurnRow.hash.in_(some))
            source |= dict(session.execute(query).all())
    found = {}
    for step in steps:
        root = step.hash
        while (before := source[root]) is not None:
            root = before
        found[step.hash] = root
    return found


def undoing(line: Sequence[Step], wanted: Mapping[int, bool]) -> tuple[int, ...]:
    """What a rollback after `line` must undo so that the turns in `wanted` (number → in force or
    not) are as wanted, and all others but rollbacks as they are."""
    target = {
        step.number
        for step in line
        if step.kind != "rollback" and wanted.get(step.number, step.in_force)
    }
    rollbacks = [step for step in line if step.kind == "rollback"]
    undoes: set[int] = set()
    while True:
        active = active_with(line, undoes)
        missing = target - active
        more = {s.number for s in line if s.number in active and s.kind != "rollback"} - target
        more |= {s.number for s in rollbacks if s.number in active and missing & set(s.undoes)}
        if not more:
            return tuple(sorted(undoes))
        undoes |= more


def active_with(line: Sequence[Step], undoes: Collection[int]) -> set[int]:
    """The numbers of the turns of `line` in force once a rollback after it undoes `undoes`."""
    relation: dict[int, Collection[int]] = {step.number: step.undoes for step in line}
    relation[len(line) + 1] = undoes
    return history.active_turns(relation) - {len(line) + 1}


def _last_merged(session: Session, ours: Sequence[Step], theirs: Sequence[Step], fork: int) -> int:
    """The newest turn of theirs that a merge has brought here; at least the fork."""
    numbers = {step.hash: step.number for step in theirs}
    merged = [numbers.get(note.head, 0) for note in notes_of_merges(session, ours)]
    return max([fork, *merged])


def _parts(
    step: Step,
    numbers: Mapping[int, int],
    repeats: Mapping[int, Repeat],
    active: Collection[int],
    taken: Collection[int],
) -> tuple[tuple[int, ...], str | None]:
    """What the copy of a merge replaces here, or why it cannot be copied."""
    found = []
    for part in step.replaces:
        if part in repeats:
            found.append(repeats[part].number)
        elif part not in numbers:
            return (), f"turn {part}, a part of it, is left out"
        elif numbers[part] not in active:
            return (), f"turn {part}, a part of it, was rolled back here"
        elif numbers[part] in taken:
            return (), f"turn {part}, a part of it, is part of another merge here"
        else:
            found.append(numbers[part])
    return tuple(found), None
