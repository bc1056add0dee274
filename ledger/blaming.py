"""`ledger blame`: the edits that hit a prompt or subject, and what became of them. No torch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session, aliased

from ledger import database, history
from ledger.chain import prompt_key, subject_key, timestamp
from ledger.edit_states import overriding, state_of, with_edits_in_force
from ledger.facts import Fact, facts_about, facts_of
from ledger.history import IN_FORCE, Step, chunks
from ledger.orm import DatasetRow, EditRow, TurnRow
from ledger.refs import Rev
from ledger.workspace import Ledger
from patches.errors import SettingError

# Turns whose facts are in memory at a time, while all of them are told.
_TOGETHER = 20


@dataclass(frozen=True, kw_only=True)
class Blamed:
    """An edit that hits what was asked, on the branch.

    state: ``in_force``, ``overridden`` by an edit of the turn `overridden_by`, or ``rolled_back``
    by the turn `undone_by`. overrides: the turns of the edits that it overrides. dataset: its URI.
    hash: of the turn.
    """

    turn: int
    state: str
    target: str
    prompt: str
    subject: str | None
    relation: str | None
    row: int | None
    position: int
    dataset: str | None
    created_at: str
    author: str
    message: str
    overridden_by: int | None
    overrides: list[int]
    undone_by: int | None
    hash: str

    def to_json(self) -> dict[str, Any]:
        """One of the list that ``ledger blame --json`` prints; fields are only ever added."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Blame:
    """The edits that hit a text, oldest first.

    is_prompt: whether the text is the prompt of one of them. without_text: edits on the branch
    whose texts were not published, which can hit nothing here.
    """

    edits: tuple[Blamed, ...]
    is_prompt: bool
    without_text: int


@dataclass(frozen=True, kw_only=True)
class Held:
    """A fact in force, and the turn that it comes from."""

    turn: int
    target: str
    prompt: str
    subject: str | None
    relation: str | None
    row: int | None
    position: int
    created_at: str
    author: str
    hash: str

    def to_json(self) -> dict[str, Any]:
        """One of the list that ``ledger blame --all --json`` prints; fields are only ever added."""
        return {"state": IN_FORCE, **asdict(self)}


def blame(ledger: Ledger, text: str, *, at: Rev | None = None) -> Blame:
    """The edits on the branch that have this prompt (whatever the spaces between its words) or this
    subject, or tell the same of their subject as one with this prompt.

    at: as after this turn (default: the head). SettingError if the text is empty, or no text.
    """
    if not text.strip():
        raise SettingError("an empty text is no prompt or subject; give one of either")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise SettingError(f"{text!r} is not text in UTF-8, and no prompt or subject of an edit")
    key = prompt_key(text)
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch, at)
        facts = _hits(session, line, key, subject_key(text))
        edits = _blamed(session, line, facts)
        without = _without_text(session, line, ledger.base.ledger_id)
    asked = any(fact.prompt_key == key for fact in facts)
    return Blame(edits=edits, is_prompt=asked, without_text=without)


def blame_all(ledger: Ledger, *, at: Rev | None = None) -> Iterator[Held]:
    """Every fact in force after turn `at` (default: the head), one of each question: the one that
    holds. In order of turn and position; few are in memory at a time."""
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch, at)
        in_force = with_edits_in_force(line)
        steps = [step for step in line if step.id in in_force]
        for start in range(0, len(steps), _TOGETHER):
            some = steps[start : start + _TOGETHER]
            gone = _with_later(session, some, in_force)
            turns = _turns(session, (step.id for step in some))
            for fact in facts_of(session, some):
                if fact.edit_id not in gone:
                    yield _held(fact, turns[fact.turn_id])


class _Turn(NamedTuple):
    """What is told of a turn. uri: of its dataset. told_uri: the same as a publisher tells it."""

    hash: str
    created_at: str
    author: str
    message: str
    uri: str | None
    told_uri: str | None


def _hits(session: Session, line: Sequence[Step], prompt: int, subject: int | None) -> list[Fact]:
    turns = {step.id: step.number for step in line if step.edits}
    subjects = [] if subject is None else [subject]
    found = facts_about(session, turns, prompt_keys=[prompt], subject_keys=subjects)
    told = {fact.fact_key for fact in found if fact.prompt_key == prompt}
    same = facts_about(session, turns, fact_keys=[key for key in told if key is not None])
    return sorted({fact.edit_id: fact for fact in (*found, *same)}.values())


def _blamed(session: Session, line: Sequence[Step], facts: Sequence[Fact]) -> tuple[Blamed, ...]:
    pairs = overriding(session, with_edits_in_force(line), facts)
    later = {fact.edit_id: by.number for fact, by in pairs}
    earlier: dict[int, set[int]] = {}
    for fact, by in pairs:
        earlier.setdefault(by.edit_id, set()).add(fact.number)
    undone = {number: step.number for step in line if step.in_force for number in step.undoes}
    turns = _turns(session, {fact.turn_id for fact in facts})
    return tuple(
        Blamed(
            turn=fact.number,
            state=state_of(line[fact.number - 1], is_overridden=fact.edit_id in later),
            target=fact.target,
            prompt=fact.prompt,
            subject=fact.subject,
            relation=fact.relation,
            row=fact.row,
            position=fact.position,
            dataset=turns[fact.turn_id].uri or turns[fact.turn_id].told_uri,
            created_at=turns[fact.turn_id].created_at,
            author=turns[fact.turn_id].author,
            message=turns[fact.turn_id].message,
            overridden_by=later.get(fact.edit_id),
            overrides=sorted(earlier.get(fact.edit_id, ())),
            undone_by=undone.get(fact.number),
            hash=turns[fact.turn_id].hash,
        )
        for fact in facts
    )


def _turns(session: Session, ids: Iterable[int]) -> dict[int, _Turn]:
    query = select(
        TurnRow.id,
        TurnRow.hash,
        TurnRow.created_at,
        TurnRow.author,
        TurnRow.message,
        DatasetRow.uri,
        TurnRow.withheld["source"]["uri"].as_string(),
    ).outerjoin(DatasetRow, DatasetRow.id == TurnRow.dataset_id)
    return {
        row[0]: _Turn(row[1], timestamp(row[2]), *row[3:])
        for some in chunks(sorted(set(ids)))
        for row in session.execute(query.where(TurnRow.id.in_(some)))
    }


def _without_text(session: Session, line: Sequence[Step], ours: str) -> int:
    """How many edits of the line were pulled without their texts."""
    # Not with <>, for which there is no index.
    pulled = select(TurnRow.id, TurnRow.withheld).where(
        or_(TurnRow.origin < ours, TurnRow.origin > ours)
    )
    without = {turn for turn, withheld in session.execute(pulled) if withheld.get("edits")}
    return sum(step.edits for step in line if step.id in without)


def _with_later(session: Session, steps: Sequence[Step], in_force: dict[int, int]) -> set[int]:
    """Row ids of the edits of `steps` whose question a later edit in force is about too."""
    found = set()
    for key in ("prompt_key", "fact_key"):
        for edit, turn, position, other, place in session.execute(_same(key, steps)):
            if (in_force.get(other, 0), place) > (in_force[turn], position):
                found.add(edit)
    return found


def _same(key: str, steps: Sequence[Step]) -> Select[int, int, int, int, int]:
    """The edits of `steps`, and all others that have the same key."""
    edit, other = aliased(EditRow), aliased(EditRow)
    return (
        select(edit.id, edit.turn_id, edit.position, other.turn_id, other.position)
        .join(other, getattr(other, key) == getattr(edit, key))
        .where(edit.turn_id.in_([step.id for step in steps]), other.id != edit.id)
    )


def _held(fact: Fact, turn: _Turn) -> Held:
    return Held(
        turn=fact.number,
        target=fact.target,
        prompt=fact.prompt,
        subject=fact.subject,
        relation=fact.relation,
        row=fact.row,
        position=fact.position,
        created_at=turn.created_at,
        author=turn.author,
        hash=turn.hash,
    )
