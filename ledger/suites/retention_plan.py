"""What a triangle of retention asks: whose edits, at which states, and which of them hold there.

All of it follows from the history, the seed and the sizes, so that a later run asks the same again
and finds what is recorded. A turn's sample does not depend on what came after it.
"""

import random
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import database, history, pruned
from ledger.facts import Fact, facts_about, overridden, related
from ledger.history import Step, chunks
from ledger.orm import EditRow
from ledger.refs import Rev
from ledger.wording import turn_numbers
from ledger.workspace import Ledger
from patches.edit import Edit
from patches.errors import HistoryError, SettingError

_FEWEST = 3


@dataclass(frozen=True, kw_only=True)
class Sampled:
    """An edit that is followed. id, digest: of its row in the database. row: in its dataset."""

    id: int
    digest: str
    row: int | None
    edit: Edit
    prompt_key: int
    fact_key: int | None


@dataclass(frozen=True, kw_only=True)
class Followed:
    """A turn with the sample of its edits, in their order."""

    step: Step
    edits: tuple[Sampled, ...]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One cell: those of a turn's sample that hold in the state after turn `at`; at least one."""

    of: Step
    at: Step
    edits: tuple[Sampled, ...]

    @property
    def key(self) -> tuple[int, int]:
        """Row ids of the turn whose edits are asked, and of the one after which the state is."""
        return self.of.id, self.at.id


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The triangle to fill. followed: its rows. states: its columns, after these turns, the last
    at the end. cells: state by state. gone: states that cannot be built any more. notes: what was
    left out, for people."""

    followed: Sequence[Followed]
    states: Sequence[Step]
    cells: Sequence[Asked]
    gone: Sequence[Step]
    notes: tuple[str, ...]

    def possible(self, known: Collection[tuple[int, int]]) -> "Plan":
        """Without the cells that can be neither scored nor told. known: the keys of those that
        were recorded before their states were gone."""
        gone = {step.id for step in self.gone}
        cells = [one for one in self.cells if one.at.id not in gone or one.key in known]
        if len(cells) == len(self.cells):
            return self
        there = {one.at.id for one in cells}
        note = f"patches of the states after {_told(self.gone)} were pruned: cells are left out"
        return replace(
            self,
            cells=cells,
            states=[step for step in self.states if step.id in there or step.id not in gone],
            notes=(*self.notes, note),
        )


def plan(ledger: Ledger, *, at: Rev | None, sample: int, states: int, seed: int) -> Plan:
    """The triangle of the turns of edits in force after `at` (default: the head of the branch).

    sample: edits per turn at most. states: how many at most. SettingError if either is too small,
    HistoryError if there is no edit to ask about.
    """
    if sample < 1:
        raise SettingError(f"--sample counts the edits of a turn: at least 1, not {sample}")
    if states < _FEWEST:
        raise SettingError(
            f"--states {states}: at least {_FEWEST}, the first, the last and one between"
        )
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch, at)
        made, without = _made(session, line, at)
        chosen, columns = _chosen(line, made, states)
        notes = [*_texts_note(without), *_thinning_note(line, made, chosen, columns)]
        followed = [
            Followed(step=step, edits=_drawn(session, step, sample, seed)) for step in chosen
        ]
        cells = list(_cells(session, line, followed, columns))
        gone = _unbuildable(session, ledger, line, columns)
    return Plan(followed=followed, states=columns, cells=cells, gone=gone, notes=tuple(notes))


def _made(session: Session, line: Sequence[Step], at: Rev | None) -> tuple[list[Step], list[Step]]:
    """The turns of edits in force: those of which the texts are here, and the others."""
    in_force = [step for step in history.edits_in_force(line) if step.edits]
    if not in_force:
        raise HistoryError(
            f"no edit is in force at turn {len(line)}: nothing to score"
            if line or at is not None
            else "the ledger has no turns yet; add some with: ledger add-edits"
        )
    here: set[int] = set()
    for some in chunks([step.id for step in in_force]):
        # Every turn has a first edit, so that none of them is read to the end.
        query = select(EditRow.turn_id).where(EditRow.turn_id.in_(some), EditRow.position == 0)
        here.update(session.scalars(query))
    if not here:
        raise HistoryError(
            "the texts of the edits are not here: nothing to score. The turns were imported, or "
            "published without them (ledger push --include-edits publishes them)"
        )
    return [s for s in in_force if s.id in here], [s for s in in_force if s.id not in here]


def _chosen(line: Sequence[Step], made: Sequence[Step], most: int) -> tuple[list[Step], list[Step]]:
    """The turns to follow, and those after which they are looked at.

    Where all turns since the first one are too many, turns of edits are followed at even distances,
    each from its own state on. The distances are powers of two, so that a triangle of a longer
    history has most of its cells in common with an earlier one.
    """
    since = [step for step in line if step.number >= made[0].number]
    if len(since) <= most:
        return list(made), since
    head = line[-1]
    chosen = _thinned(made, most if made[-1] is head else most - 1)
    return chosen, chosen if chosen[-1] is head else [*chosen, head]


def _thinned(steps: Sequence[Step], most: int) -> list[Step]:
    """At most so many (two or more) at even distances, with the first and the last."""
    distance = 1
    while True:
        places = range(0, len(steps), distance)
        kept = sorted({*places, len(steps) - 1})
        if len(kept) <= most:
            return [steps[place] for place in kept]
        distance *= 2


def _thinning_note(
    line: Sequence[Step], made: Sequence[Step], chosen: Sequence[Step], columns: Sequence[Step]
) -> Iterator[str]:
    since = line[-1].number - made[0].number + 1
    if len(columns) < since:
        yield (
            f"{len(columns)} of {since} states, and {len(chosen)} of {len(made)} turns of edits, "
            "at even distances (--states N for more)"
        )


def _texts_note(without: Sequence[Step]) -> Iterator[str]:
    if without:
        yield f"the texts of the edits of {_told(without)} are not here: left out"


def _told(steps: Sequence[Step]) -> str:
    return turn_numbers([step.number for step in steps])


def _unbuildable(
    session: Session, ledger: Ledger, line: Sequence[Step], columns: Sequence[Step]
) -> list[Step]:
    """The states before the last that need a patch that was given up and is not there."""
    # Of the last one the error says what is missing, and where it may be had.
    needed = {
        step: {one.patch_digest or "" for one in history.patches_in_force(line, step.number)}
        for step in columns[:-1]
    }
    digests = sorted(set().union(*needed.values()))
    with_mark = pruned.among(session, digests)
    gone = {digest for digest in with_mark if ledger.store.stored(digest) is None}
    return [step for step, used in needed.items() if used & gone]


def _drawn(session: Session, step: Step, sample: int, seed: int) -> tuple[Sampled, ...]:
    """The turn's sample: the same whatever came after the turn."""
    draw = random.Random(f"{seed} {step.hash}")
    places = sorted(draw.sample(range(step.edits), min(sample, step.edits)))
    found: list[Sampled] = []
    for some in chunks(places):
        query = select(EditRow).where(EditRow.turn_id == step.id, EditRow.position.in_(some))
        found += map(_sampled, session.scalars(query.order_by(EditRow.position)))
    return tuple(found)


def _sampled(row: EditRow) -> Sampled:
    return Sampled(
        id=row.id,
        digest=row.digest,
        row=row.row,
        edit=history.edit_of(row),
        prompt_key=row.prompt_key,
        fact_key=row.fact_key,
    )


def _cells(
    session: Session, line: Sequence[Step], followed: Sequence[Followed], columns: Sequence[Step]
) -> Iterator[Asked]:
    """The cells in which something holds, state by state."""
    facts = _facts(session, line, [edit for one in followed for edit in one.edits])
    for column in columns:
        active = {step.id for step in history.edits_in_force(line, column.number)}
        over = overridden([fact for fact in facts if fact.turn_id in active])
        for one in followed:
            holding = tuple(edit for edit in one.edits if edit.id not in over)
            if one.step.id in active and holding:
                yield Asked(of=one.step, at=column, edits=holding)


def _facts(session: Session, line: Sequence[Step], sampled: Sequence[Sampled]) -> list[Fact]:
    """All that the line, in force or not, ever had to say about the questions of these edits."""
    numbers = {step.id: step.number for step in line if step.edits}

    def look_up(prompts: set[int], facts: set[int]) -> list[Fact]:
        return facts_about(session, numbers, prompt_keys=prompts, fact_keys=facts)

    prompts = {edit.prompt_key for edit in sampled}
    facts = {edit.fact_key for edit in sampled if edit.fact_key is not None}
    return related(look_up(prompts, facts), look_up)
