"""`ledger search`: edits whose prompt, target or subject has some words. Imports no torch."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import SequenceMatcher
from functools import cached_property
from itertools import islice
from typing import Any

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from ledger import database, full_text, history
from ledger.chain import prompt_key
from ledger.edit_states import overriding, state_of, with_edits_in_force
from ledger.facts import Fact, facts_about
from ledger.history import IN_FORCE, Step, chunks
from ledger.orm import EditRow, TurnRow
from ledger.refs import Rev
from ledger.search_terms import MOST_WORDS, Term, Terms, parse, words_of
from ledger.workspace import Ledger
from patches.errors import SettingError

# Edits between two stretches of a line that are no more than so many turns apart are looked at too:
# it costs less than to ask once more.
_APART = 500
# Of a text that no edit has: so many of its words are looked for, and letters of a word.
_LONGEST, _BEGINNINGS = 5, (4, 2)
_CANDIDATES, _ALIKE, _COMPARED = 50, 0.5, 300


@dataclass(frozen=True, kw_only=True)
class Hit:
    """An edit that has what is searched for.

    turn: its number. branch: where it was recorded. hash: of the turn. state: ``in_force``,
    ``overridden`` (by the turn `overridden_by`), ``rolled_back``, or ``elsewhere``: not on the
    branch at hand.
    """

    turn: int
    branch: str
    hash: str
    state: str
    row: int | None
    position: int
    prompt: str
    target: str
    subject: str | None
    relation: str | None
    overridden_by: int | None

    def to_json(self) -> dict[str, Any]:
        """One of the list that ``ledger search --json`` prints; fields are only ever added."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Found:
    """The newest hits, newest first. more: whether there are others."""

    terms: Terms
    hits: tuple[Hit, ...]
    more: bool


def search(
    ledger: Ledger,
    text: str,
    *,
    limit: int = 20,
    in_force: bool = False,
    everywhere: bool = False,
    line: Sequence[Step] | None = None,
) -> Found:
    """The newest edits on the branch, or of all turns (`everywhere`), that have what `text` says.

    in_force: only those that hold. line: the turns of the branch, if they are known. SettingError
    if `text` asks for nothing, see `ledger.search_terms`.
    """
    terms = parse(text)
    if terms.count > MOST_WORDS:
        raise SettingError(f"more than {MOST_WORDS} words to search for; give those that matter")
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch) if line is None else line
        looking = _Search(session, ledger, line)
        hits: list[Hit] = []
        for hit in looking.hits(terms, everywhere=everywhere):
            if in_force and hit.state != IN_FORCE:
                continue
            hits.append(hit)
            if len(hits) > limit:
                break
    return Found(terms=terms, hits=tuple(hits[:limit]), more=len(hits) > limit)


@dataclass(frozen=True, kw_only=True)
class Near:
    """An edit that is like a text. likeness: of its prompt or subject, from 0 to 1.

    is_same: whether it has that prompt, whatever the spaces between its words.
    """

    hit: Hit
    likeness: float
    is_same: bool

    def to_json(self) -> dict[str, Any]:
        """The fields of ``ledger search --json``, and these."""
        return {**self.hit.to_json(), "likeness": self.likeness, "is_same": self.is_same}


class _Search:
    """Searches on one snapshot of the database."""

    def __init__(self, session: Session, ledger: Ledger, line: Sequence[Step]) -> None:
        self._session = session
        self._ledger = ledger
        self._line = line
        self._steps = {step.id: step for step in line}
        self._in_force = with_edits_in_force(line)

    def hits(self, terms: Terms, *, everywhere: bool) -> Iterator[Hit]:
        """All that have what `terms` say, newest first."""
        spans = [_everything(self._session)] if everywhere else self._spans
        for page in full_text.newest_first(self._session, terms, spans):
            for some in _growing(page):
                facts = [
                    fact
                    for fact in self._facts(some)
                    if (everywhere or fact.turn_id in self._steps)
                    and terms.are_in((fact.prompt, fact.target, fact.subject))
                ]
                yield from self._told(facts)

    def with_prompt(self, prompt: str, count: int) -> list[Hit]:
        """The newest `count` edits of the line with this prompt, newest first."""
        steps = [step for step in self._line if step.edits]
        facts = facts_about(self._session, steps, prompt_keys=[prompt_key(prompt)])
        return self._told(facts[: -count - 1 : -1])

    def _told(self, facts: Sequence[Fact]) -> list[Hit]:
        pairs = overriding(self._session, self._in_force, facts)
        later = {fact.edit_id: by.number for fact, by in pairs}
        turns = self._turns({fact.turn_id for fact in facts})
        return [_hit(fact, turns[fact.turn_id], self._steps, later) for fact in facts]

    def _facts(self, ids: Sequence[int]) -> list[Fact]:
        """The edits with these row ids, in the same order."""
        names = ("id" if name == "edit_id" else name for name in Fact._fields[1:])
        columns = [getattr(EditRow, name) for name in names]
        query = select(*columns).where(EditRow.id.in_(ids)).order_by(EditRow.id.desc())
        return [Fact(0, *row) for row in self._session.execute(query)]

    def _turns(self, ids: set[int]) -> dict[int, tuple[int, str, str]]:
        query = select(TurnRow.id, TurnRow.number, TurnRow.branch, TurnRow.hash)
        return {
            row[0]: (row[1], row[2], row[3])
            for some in chunks(sorted(ids))
            for row in self._session.execute(query.where(TurnRow.id.in_(some)))
        }

    @cached_property
    def _spans(self) -> list[tuple[int, int]]:
        """Stretches of row ids that hold all edits of the line, and few others; newest first."""
        steps = [step for step in self._line if step.edits]
        if not steps:
            return []
        if self._has_pulled():
            # The texts of an early turn may have come later than those of the turns after it.
            return [_everything(self._session)]
        stretches = [[steps[0], steps[0]]]
        for step in steps[1:]:
            if step.id - stretches[-1][1].id > _APART:
                stretches.append([step, step])
            stretches[-1][1] = step
        ends = self._ends({step.id for pair in stretches for step in pair})
        return [(ends[a.id][0], ends[b.id][1]) for a, b in reversed(stretches)]

    def _has_pulled(self) -> bool:
        """Whether there are turns from other ledgers."""
        ours = self._ledger.base.ledger_id
        # Not with <>, for which there is no index.
        other = or_(TurnRow.origin < ours, TurnRow.origin > ours)
        return self._session.scalars(select(TurnRow.id).where(other).limit(1)).first() is not None

    def _ends(self, turn_ids: set[int]) -> dict[int, tuple[int, int]]:
        """The first and last row id of each turn's edits."""
        query = select(EditRow.turn_id, func.min(EditRow.id), func.max(EditRow.id))
        return {
            turn: (first, last)
            for some in chunks(sorted(turn_ids))
            for turn, first, last in self._session.execute(
                query.where(EditRow.turn_id.in_(some)).group_by(EditRow.turn_id)
            )
        }


def _everything(session: Session) -> tuple[int, int]:
    return 0, session.scalar(select(func.max(EditRow.id))) or 0


def _growing(page: Sequence[int]) -> Iterator[Sequence[int]]:
    """Parts of a page, each twice as large as the one before: often the first few are enough."""
    start, size = 0, 25
    while start < len(page):
        yield page[start : start + size]
        start, size = start + size, size * 2


def _hit(
    fact: Fact, turn: tuple[int, str, str], steps: dict[int, Step], later: dict[int, int]
) -> Hit:
    number, branch, digest = turn
    by = later.get(fact.edit_id)
    return Hit(
        turn=number,
        branch=branch,
        hash=digest,
        state=state_of(steps.get(fact.turn_id), is_overridden=by is not None),
        row=fact.row,
        position=fact.position,
        prompt=fact.prompt,
        target=fact.target,
        subject=fact.subject,
        relation=fact.relation,
        overridden_by=by,
    )


def near(
    ledger: Ledger,
    text: str,
    *,
    at: Rev | None = None,
    count: int = 5,
    line: Sequence[Step] | None = None,
) -> list[Near]:
    """The edits that are most like `text`, up to turn `at` (default: the head), the likest first.

    Those with this very prompt (whatever the spaces between its words) come before all others, the
    newest first. line: the turns up to there, if they are known.
    """
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch, at) if line is None else line
        looking = _Search(session, ledger, line)
        same = looking.with_prompt(text, count)
        found = {_place(hit): Near(hit=hit, likeness=1.0, is_same=True) for hit in same}
        for hits in _likely(looking, text):
            if len(found) >= count:
                break
            for hit, alike in hits:
                one = Near(hit=hit, likeness=max(alike.values()), is_same=False)
                found.setdefault(_place(hit), one)
    # Of equally like ones the newest stay first.
    return sorted(found.values(), key=lambda one: (not one.is_same, -one.likeness))[:count]


def _place(hit: Hit) -> tuple[int, int]:
    """Where an edit is on its line."""
    return hit.turn, hit.position


def nearest(
    ledger: Ledger,
    text: str,
    *,
    at: Rev | None = None,
    count: int = 3,
    line: Sequence[Step] | None = None,
) -> list[str]:
    """The prompts and subjects that are most like `text`, up to turn `at` (default: the head).

    line: the turns up to there, if they are known.
    """
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch, at) if line is None else line
        looking = _Search(session, ledger, line)
        hits = next(_likely(looking, text), [])
    alike = {found: likeness for _, texts in hits for found, likeness in texts.items()}
    return sorted(alike, key=lambda found: (-alike[found], found))[:count]


def _likely(looking: _Search, text: str) -> Iterator[list[tuple[Hit, dict[str, float]]]]:
    """Edits that are like `text`, some at a time, which have fewer of its words each time; with
    what `_alike` says of each."""
    for terms in _fewer_and_fewer(text):
        some = islice(looking.hits(terms, everywhere=False), _CANDIDATES)
        if found := [(hit, alike) for hit in some if (alike := _alike(text, hit))]:
            yield found


def _alike(text: str, hit: Hit) -> dict[str, float]:
    """The prompt and the subject of an edit, where they are like `text`: how much, up to 1."""
    likeness = {found: _likeness(text, found) for found in (hit.prompt, hit.subject) if found}
    return {found: value for found, value in likeness.items() if value >= _ALIKE}


def _fewer_and_fewer(text: str) -> Iterator[Terms]:
    """All words, the longer ones of them, one of them, and at last the beginning of one."""
    words = sorted({word.text for word in words_of(text)}, key=lambda word: (-len(word), word))
    words = words[:_LONGEST]
    single = [Term(words=(word,)) for word in words]
    for last in range(len(single), 0, -1):
        yield Terms(required=tuple(single[:last]))
    beginnings = [
        Term(words=(word[:letters],), is_beginning=True)
        for letters in _BEGINNINGS
        for word in words
        if len(word) > letters
    ]
    for term in (*single[1:], *beginnings):
        yield Terms(required=(term,))


def _likeness(text: str, other: str) -> float:
    one, two = (some[:_COMPARED].casefold() for some in (other, text))
    return SequenceMatcher(None, one, two, autojunk=False).ratio()
