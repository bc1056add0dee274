"""The turn at which an answer was lost or gained: a binary search over the states of a model.

Every state that is asked is rebuilt exactly, from the base and its patches (or a keyframe), in the
one model that is loaded, or in one per worker. Several workers are asked at a time for the states
that the search may come to next, so that it goes the same way, only faster.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

from sqlalchemy.orm import Session

from ledger import database, history
from ledger.chain import prompt_key, timestamp
from ledger.facts import facts_about, in_force_about
from ledger.history import Step
from ledger.jobs import SizedCrew, crew
from ledger.neighbours import Neighbours, nearest_edits
from ledger.progress import Progress, silent
from ledger.refs import Rev, resolve
from ledger.wording import counted
from ledger.workspace import Ledger
from patches.answers import Answer, says
from patches.errors import HistoryError
from patches.live import LiveModel

Change = Literal["lost", "gained"]
_PHASE = "bisect"
_CANDIDATES = 16
"""States inside the range that are asked at the most, where its ends agree."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """The turns from `first` (0: the base) to the last of `steps`, which is the line to there."""

    steps: Sequence[Step]
    first: int

    @property
    def last(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, kw_only=True)
class Culprit:
    """The turn that made the difference, in short. state: as the end of the range sees it."""

    turn: int
    hash: str
    kind: str
    method: str | None
    state: str
    message: str
    author: str
    created_at: str
    edits: int
    undoes: tuple[int, ...]
    replaces: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """The fields are named as in ``ledger log --json``."""
        return {**asdict(self), "undoes": list(self.undoes), "replaces": list(self.replaces)}


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What the state after a turn answers, and whether that is what is expected."""

    turn: int
    matches: bool
    answer: str


@dataclass(frozen=True, kw_only=True)
class Bisected:
    """Where the answer changed. turns: how many the range had. steps: the states in the order in
    which they were asked. before, after: the answers of the states around the culprit."""

    prompt: str
    expect: str
    turns: int
    change: Change
    steps: list[Tried]
    before: str
    after: str
    culprit: Culprit
    neighbours: Neighbours
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger bisect --prompt … --json``; fields are only ever added."""
        return {
            "turn": self.culprit.turn,
            "change": self.change,
            "prompt": self.prompt,
            "expect": self.expect,
            "turns": self.turns,
            "steps": [asdict(step) for step in self.steps],
            "before": self.before,
            "after": self.after,
            "culprit": self.culprit.to_json(),
            **self.neighbours.to_json(),
            "notes": list(self.notes),
        }


def bisect(
    ledger: Ledger,
    prompt: str,
    expect: str,
    *,
    first: Rev = 0,
    last: Rev | None = None,
    device: str = "auto",
    dtype: str | None = None,
    workers: str | None = None,
    progress: Progress = silent,
) -> Bisected:
    """Find the turn after `first`, up to `last` (default: the head), at which the answer `expect`
    to `prompt` was lost or gained.

    If the ends of the range agree, the turns in it that are about the question are asked, and the
    search goes from one that differs to `last`. HistoryError if none does. A number for `first`
    counts on the line that leads to `last`. workers: as `ledger.jobs.crew` takes them; they find
    the same turn, and ask more states on the way.
    """
    span = open_span(ledger, first, last)
    with crew(ledger, workers, device=device, dtype=dtype) as them:
        return _searched(ledger, span, _Asking(them, span, prompt, expect, progress))


def _searched(ledger: Ledger, span: Span, asking: "_Asking") -> Bisected:
    start, notes = span.first, []
    asking.ask((span.first, span.last))
    beginning, end = asking.at(span.first), asking.at(span.last)
    if beginning.matches == end.matches:
        start = _differing(ledger, span, asking)
        notes.append(
            f"turns {span.first} and {span.last} answer the same; turn {start}, which is about "
            f"this question, answers differently: searched from there to turn {span.last}"
        )
    before, after = narrow(
        start,
        span.last,
        lambda turn: asking.at(turn).matches == end.matches,
        ahead=asking.ahead,
    )
    assert after - before == 1
    with database.reading(ledger.engine) as session:
        found = culprit(session, span.steps, after)
    return Bisected(
        prompt=asking.prompt,
        expect=asking.expect,
        turns=span.last - start,
        change="gained" if end.matches else "lost",
        steps=list(asking.tried.values()),
        before=asking.at(before).answer,
        after=asking.at(after).answer,
        culprit=found,
        neighbours=nearest_edits(
            ledger,
            asking.crew,
            span.steps,
            history.find_turn(span.steps, after),
            asking.prompt,
        ),
        notes=tuple(notes),
    )


def _not_ahead(_first: int, _last: int) -> None:
    pass


def narrow(
    first: int,
    last: int,
    like_last: Callable[[int], bool | None],
    *,
    ahead: Callable[[int, int], None] = _not_ahead,
) -> tuple[int, int]:
    """The turns a and b around a change, a like `first` and b like `last`.

    like_last: whether a state between the two is like the last one; None if that cannot be told,
    and then b − a may be more than 1. ahead: is told the two before every question.
    """
    untold: list[int] = []
    while (middle := _middle(first, last, untold)) is not None:
        ahead(first, last)
        verdict = like_last(middle)
        if verdict is None:
            untold.append(middle)
        elif verdict:
            last = middle
        else:
            first = middle
    return first, last


def _middle(first: int, last: int, untold: Sequence[int]) -> int | None:
    """The middle of the longest row of states between the two that have not been tried."""
    edges = [first, *sorted(turn for turn in untold if first < turn < last), last]
    a, b = max(pairwise(edges), key=lambda edge: edge[1] - edge[0])
    return None if b - a < 2 else (a + b) // 2


def upcoming(first: int, last: int, count: int) -> list[int]:
    """`count` of the states that a binary search between the two may come to, or all: the next one,
    then the two of which one comes after it, and so on."""
    found: list[int] = []
    rows = deque([(first, last)])
    while rows and len(found) < count:
        a, b = rows.popleft()
        if b - a > 1:
            middle = (a + b) // 2
            found.append(middle)
            rows += [(a, middle), (middle, b)]
    return found


def open_span(ledger: Ledger, first: Rev, last: Rev | None) -> Span:
    """The turns between two; HistoryError if `first` does not come before `last` on its line."""
    with database.reading(ledger.engine) as session:
        steps = history.line(session, ledger.branch, last)
        if isinstance(first, int) or first.isdecimal():
            number = int(first)
        else:
            found = resolve(session, ledger.branch, first)
            on_line: dict[int | None, int] = {step.id: step.number for step in steps}
            on_line[None] = 0
            if found not in on_line:
                raise HistoryError(
                    f"{first} is not a turn that the line to {last or 'HEAD'} has gone through; "
                    "give an earlier turn of that line as --from"
                )
            number = on_line[found]
    if number > len(steps) or not steps:
        raise HistoryError(history.no_such_turn(max(number, 1), len(steps)))
    if number == len(steps):
        raise HistoryError(
            f"there is nothing to search between turn {number} and turn {len(steps)}; "
            "give an earlier --from, or a later --to"
        )
    return Span(steps=steps, first=number)


def culprit(session: Session, steps: Sequence[Step], number: int) -> Culprit:
    """Turn `number` of the line, in short."""
    step = history.find_turn(steps, number)
    row = history.row_of(session, step)
    return Culprit(
        turn=step.number,
        hash=step.hash,
        kind=step.kind,
        method=step.method,
        state=step.state,
        message=row.message,
        author=row.author,
        created_at=timestamp(row.created_at),
        edits=step.edits,
        undoes=step.undoes,
        replaces=step.replaces,
    )


@dataclass(frozen=True, kw_only=True)
class AskJob:
    """What a state answers to `prompt`, and whether that is `expect`."""

    at: int | None
    prompt: str
    expect: str
    size: int = 1

    def run(self, live: LiveModel, tokenizer: Any) -> Answer:
        return says(live.model, tokenizer, self.prompt, self.expect, live.device)


class _Asking:
    """The states of a line, asked by a crew; each one once. tried: by turn, in order of asking."""

    def __init__(
        self, crew: SizedCrew, span: Span, prompt: str, expect: str, progress: Progress
    ) -> None:
        self.crew = crew
        self.prompt = prompt
        self.expect = expect
        self.tried: dict[int, Tried] = {}
        self._steps = span.steps
        self._progress = progress
        self._about = 2 + (span.last - span.first - 1).bit_length()

    def at(self, turn: int) -> Tried:
        """What the state after this turn answers."""
        self.ask((turn,))
        return self.tried[turn]

    def ask(self, turns: Sequence[int]) -> None:
        """Ask those states that have not been asked, several of them at a time."""
        new = [turn for turn in turns if turn not in self.tried]
        jobs = [AskJob(at=self._row(turn), prompt=self.prompt, expect=self.expect) for turn in new]
        found: dict[int, Answer] = {}
        for place, said in self.crew.run(jobs, phase=_PHASE, progress=self._but_for_asking):
            found[place] = said
            done = len(self.tried) + len(found)
            self._progress(_PHASE, done, max(done, self._about))
        for place, turn in enumerate(new):
            said = found[place]
            self.tried[turn] = Tried(turn=turn, matches=said.matches, answer=said.text)

    def ahead(self, first: int, last: int) -> None:
        """Before the state between these two is asked: ask as many as there are workers."""
        turns = upcoming(first, last, self.crew.size)
        if turns[0] not in self.tried:
            self.ask(turns)

    def _row(self, turn: int) -> int | None:
        return self._steps[turn - 1].id if turn else None

    def _but_for_asking(self, phase: str, done: int, total: int) -> None:
        """How far the search is, the crew cannot know."""
        if phase != _PHASE:
            self._progress(phase, done, total)


def _differing(ledger: Ledger, span: Span, asking: _Asking) -> int:
    """A turn inside the span whose state differs from both ends, which agree."""
    end = asking.at(span.last)
    candidates = _about(ledger, span, asking.prompt, asking.expect, likely=not end.matches)
    together = asking.crew.size
    for place, turn in enumerate(candidates):
        if place % together == 0:
            asking.ask(candidates[place : place + together])
        if asking.at(turn).matches != end.matches:
            return turn
    between = counted(len(candidates), "states")
    does, are = ("does", "is") if len(candidates) == 1 else ("do", "are")
    also = f", and so {does} {between} between them that {are} about it" if candidates else ""
    first, right = asking.at(span.first), "is" if end.matches else "is not"
    raise HistoryError(
        f"the model answers the same at both ends{also}: {first.answer!r} at turn {span.first} and "
        f"{end.answer!r} at turn {span.last}, which {right} {asking.expect!r}. Give --from and "
        "--to between which it changed, or see which turns are about the prompt: ledger blame"
    )


def _about(ledger: Ledger, span: Span, prompt: str, expect: str, *, likely: bool) -> list[int]:
    """The turns inside the span that are about the question, or undo or merge such turns: at the
    most `_CANDIDATES`. First those with `expect` as target (likely: false: with another), then the
    newest."""
    with database.reading(ledger.engine) as session:
        changing = [step for step in span.steps if step.kind in history.CHANGING]
        asked = facts_about(session, changing, prompt_keys=[prompt_key(prompt)])
        facts = in_force_about(session, changing, asked)
    found = {fact.number: (fact.target == expect.strip()) == likely for fact in facts}
    for step in span.steps:
        if not found.keys().isdisjoint((*step.undoes, *step.replaces)):
            found.setdefault(step.number, False)
    inside = [turn for turn in found if span.first < turn < span.last]
    return sorted(inside, key=lambda turn: (not found[turn], -turn))[:_CANDIDATES]
