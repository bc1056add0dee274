"""The turn at which an answer was lost or gained: a binary search over the states of one model.

Every state that is asked is rebuilt exactly, from the base and its patches (or a keyframe), in the
one model that is loaded.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal

from sqlalchemy.orm import Session

from ledger import database, history
from ledger.chain import prompt_key, timestamp
from ledger.facts import facts_about, in_force_about
from ledger.history import Step
from ledger.models import load_model, load_tokenizer
from ledger.neighbours import Neighbours, nearest_edits
from ledger.progress import Progress, silent
from ledger.refs import Rev, resolve
from ledger.states import open_state
from ledger.wording import counted
from ledger.workspace import Ledger
from patches.answers import says
from patches.errors import HistoryError
from patches.live import LiveModel

Change = Literal["lost", "gained"]
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
    progress: Progress = silent,
) -> Bisected:
    """Find the turn after `first`, up to `last` (default: the head), at which the answer `expect`
    to `prompt` was lost or gained.

    If the ends of the range agree, the turns in it that are about the question are asked, and the
    search goes from one that differs to `last`. HistoryError if none does. A number for `first`
    counts on the line that leads to `last`.
    """
    span = open_span(ledger, first, last)
    asking = _Asking(ledger, span, prompt, expect, device=device, dtype=dtype, progress=progress)
    start, notes = span.first, []
    beginning, end = asking.at(span.first), asking.at(span.last)
    if beginning.matches == end.matches:
        start = _differing(ledger, span, asking)
        notes.append(
            f"turns {span.first} and {span.last} answer the same; turn {start}, which is about "
            f"this question, answers differently: searched from there to turn {span.last}"
        )
    before, after = narrow(start, span.last, lambda turn: asking.at(turn).matches == end.matches)
    assert after - before == 1
    with database.reading(ledger.engine) as session:
        found = culprit(session, span.steps, after)
    return Bisected(
        prompt=prompt,
        expect=expect,
        turns=span.last - start,
        change="gained" if end.matches else "lost",
        steps=list(asking.tried.values()),
        before=asking.at(before).answer,
        after=asking.at(after).answer,
        culprit=found,
        neighbours=asking.neighbours(after),
        notes=tuple(notes),
    )


def narrow(first: int, last: int, like_last: Callable[[int], bool | None]) -> tuple[int, int]:
    """The turns a and b around a change, a like `first` and b like `last`.

    like_last: whether a state between the two is like the last one; None if that cannot be told,
    and then b − a may be more than 1.
    """
    untold: list[int] = []
    while (middle := _middle(first, last, untold)) is not None:
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


class _Asking:
    """One loaded model that is brought to the states of a line and asked; each one once.

    tried: by turn, in the order of asking.
    """

    def __init__(
        self,
        ledger: Ledger,
        span: Span,
        prompt: str,
        expect: str,
        *,
        device: str,
        dtype: str | None,
        progress: Progress,
    ) -> None:
        self.prompt = prompt
        self.expect = expect
        self.tried: dict[int, Tried] = {}
        self._ledger = ledger
        self._span = span
        self._progress = progress
        self._about = 2 + (span.last - span.first - 1).bit_length()
        progress("load", 0, 1)
        self._tokenizer = load_tokenizer(ledger.checkpoint.folder)
        model = load_model(ledger.checkpoint.folder, dtype=dtype, device=device)
        self._live = LiveModel(model, ledger.checkpoint)
        progress("load", 1, 1)

    def at(self, turn: int) -> Tried:
        """What the state after this turn answers."""
        if turn not in self.tried:
            self._set(turn)
            live = self._live
            said = says(live.model, self._tokenizer, self.prompt, self.expect, live.device)
            self.tried[turn] = Tried(turn=turn, matches=said.matches, answer=said.text)
            done = len(self.tried)
            self._progress("bisect", done, max(done, self._about))
        return self.tried[turn]

    def neighbours(self, turn: int) -> Neighbours:
        """The edits of this turn with the keys most like the prompt's, in the state before it."""
        self._set(turn - 1)
        step = history.find_turn(self._span.steps, turn)
        return nearest_edits(
            self._ledger, self._live, self._tokenizer, self._span.steps, step, self.prompt
        )

    def _set(self, turn: int) -> None:
        steps = self._span.steps
        state = open_state(self._ledger, steps, history.patches_in_force(steps, turn))
        self._live.set_state(state.patches, state.memories)


def _differing(ledger: Ledger, span: Span, asking: _Asking) -> int:
    """A turn inside the span whose state differs from both ends, which agree."""
    end = asking.at(span.last)
    candidates = _about(ledger, span, asking.prompt, asking.expect, likely=not end.matches)
    for turn in candidates:
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
