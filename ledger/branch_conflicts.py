"""Facts that two branches have changed to different targets since they parted."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import history
from ledger.conflicts import Answers
from ledger.divergence import Divergence, active_with, diverge
from ledger.facts import Fact, facts_about, facts_of, in_force_about, related
from ledger.history import Step, chunks
from ledger.merge_notes import MergeNote, notes_of_merges
from ledger.orm import TurnRow


@dataclass(frozen=True, kw_only=True)
class BranchConflict:
    """A question with two answers: the fact that holds on each side.

    Turns are numbered as on the branch that is merged into, once it is; turn_of_theirs: as theirs
    counts.
    """

    ours: Fact
    theirs: Fact
    turn_of_theirs: int

    def winner(self, side: str) -> Fact:
        return self.ours if side == "ours" else self.theirs

    def to_json(self) -> dict[str, Any]:
        return {
            "prompt": self.ours.prompt,
            "subject": self.ours.subject,
            "ours": _told(self.ours, self.ours.number),
            "theirs": _told(self.theirs, self.turn_of_theirs),
        }


def _told(fact: Fact, turn: int) -> dict[str, Any]:
    return {"turn": turn, "row": fact.row, "prompt": fact.prompt, "target": fact.target}


def conflicts_between(session: Session, apart: Divergence) -> tuple[BranchConflict, ...]:
    """Questions that both sides have changed to different targets, each as its side tells it last.

    What one side has from the other was known to it, and is no conflict.
    """
    numbers = {repeat.number: repeat.source.number for repeat in apart.repeats}
    ours, theirs = _changed_here(apart), _coming(apart)
    asked = _asked_on_both(session, ours, theirs)
    told_here, told_there = (answers(session, turns, asked) for turns in (ours, theirs))
    held = {fact for one in asked for fact in told_here.holding(one)}
    return tuple(
        BranchConflict(
            ours=mine, theirs=other, turn_of_theirs=numbers.get(other.number, other.number)
        )
        for mine in _newest(held)
        for other in _newest(told_there.holding(mine))
        if other.target != mine.target
    )


def edits_without_texts(session: Session, apart: Divergence) -> int:
    """How many edits of ours were pulled without their texts, so that they cannot be compared."""
    if not apart.repeats:
        return 0
    ids = [step.id for step in _changed_here(apart) if step.edits]
    query = select(TurnRow.edits, TurnRow.withheld)
    return sum(
        edits
        for some in chunks(ids)
        for edits, withheld in session.execute(query.where(TurnRow.id.in_(some)))
        if withheld.get("edits")
    )


def _newest(facts: Iterable[Fact]) -> list[Fact]:
    """Of those with the same prompt and target the newest."""
    return sorted({(fact.prompt_key, fact.target): fact for fact in sorted(facts)}.values())


def answers(session: Session, turns: Sequence[Step], asked: Sequence[Fact]) -> Answers:
    """What `turns`, which are in force, tell about the questions of `asked`."""
    numbers = {turn.id: turn.number for turn in turns if turn.edits}

    def look_up(prompts: set[int], facts: set[int]) -> list[Fact]:
        return facts_about(session, numbers, prompt_keys=prompts, fact_keys=facts)

    return Answers(related(asked, look_up))


def unfinished(session: Session, line: Sequence[Step]) -> tuple[MergeNote, list[Fact]] | None:
    """The last merge of `line` with conflicts, and those facts that it has promised to edit again
    and has not, since it was interrupted; None if there is nothing left to do."""
    notes = [note for note in notes_of_merges(session, line) if note.winner]
    source = history.by_hash(session, notes[-1].head) if notes else None
    if source is None:
        return None
    note = notes[-1]
    before = line[note.first - 2].id if note.first > 1 else None
    apart = diverge(session, history.line_to(session, before), history.line_to(session, source.id))
    active = {step.number for step in line if step.in_force}
    pairs = [
        pair
        for pair in conflicts_between(session, apart)
        if {pair.ours.number, pair.theirs.number} <= active
    ]
    winners = winning(pairs, note.winner or "")
    later = [step for step in history.edits_in_force(line) if step.number > note.last]
    since = answers(session, later, winners)
    left = [fact for fact in winners if not since.about(fact)]
    return (note, left) if left else None


def winning(conflicts: Sequence[BranchConflict], side: str) -> list[Fact]:
    """The facts of that side, each once, in order."""
    return sorted({conflict.winner(side) for conflict in conflicts})


def _changed_here(apart: Divergence) -> list[Step]:
    """Turns of ours that bring facts since the fork, and stay, and are not from theirs."""
    then = history.active_turns({step.number: step.undoes for step in apart.ours[: apart.fork]})
    active = active_with(apart.ours, apart.undoes)
    not_ours = {*then, *apart.brought_back, *apart.known_to_theirs}
    return [
        step
        for step in apart.ours
        if step.kind in history.CHANGING and step.number in active and step.number not in not_ours
    ]


def _coming(apart: Divergence) -> list[Step]:
    """Turns that a merge brings here, or back, with the numbers that they have here then."""
    back = [apart.ours[number - 1] for number in apart.brought_back]
    new = [repeat.source._replace(number=repeat.number) for repeat in apart.repeats]
    return [step for step in (*back, *new) if step.kind in history.CHANGING]


def _asked_on_both(session: Session, ours: Sequence[Step], theirs: Sequence[Step]) -> list[Fact]:
    """Facts about the questions that both sides ask, of the side with more edits: the other one's
    are read through, and looked up in it."""
    fewer, more = sorted((ours, theirs), key=lambda steps: sum(step.edits for step in steps))
    return [
        fact
        for some in chunks(fewer)
        for fact in in_force_about(session, more, facts_of(session, some))
    ]
