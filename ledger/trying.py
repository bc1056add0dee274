"""Try it: a prompt is answered by the base and by states of the model, side by side.

One model is in memory, from the first question on, and is brought from state to state. Questions
come from several threads and wait for one another; the history is read anew for each of them.
"""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any

import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import database, history
from ledger.chain import prompt_key
from ledger.facts import facts_about
from ledger.history import Step, chunks
from ledger.orm import EditRow, TurnRow
from ledger.refs import Rev, resolve
from ledger.routing import Candidate
from ledger.trying_model import Answered, AskedState, Patches, Question, TriedModel
from ledger.workspace import Ledger
from patches.answer_tokens import TOKENS, TokenAnswer
from patches.errors import HistoryError, SettingError

MOST_TOKENS = 100
"""More of them are no answer that a person waits for."""
_TARGETS = 6


@dataclass(frozen=True, kw_only=True)
class Target:
    """An answer that edits with the prompt tell of. wanted_by: the turns of those that want it.
    replaced_by: of those whose old answer it is."""

    text: str
    wanted_by: tuple[int, ...]
    replaced_by: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one state says.

    asked: what it was asked for by. turn: its number, 0 for the base, None where there is no such
    turn. branch, hash: of the turn. answer: None where the state could not be asked; `note` says
    why. targets: the probability of each target of the question, None where it is too long.
    memories: the side memories in force, and what the prompt is to each.
    """

    asked: Rev
    turn: int | None
    branch: str | None
    hash: str | None
    answer: TokenAnswer | None
    targets: tuple[float | None, ...]
    memories: tuple[Candidate, ...]
    note: str | None

    @property
    def routed(self) -> tuple[int, ...]:
        """The turns of the memories that the prompt went to."""
        return tuple(memory.turn for memory in self.memories if memory.chosen)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "routed": self.routed}


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One question, and what each state says, in the order asked for. targets: of the edits on the
    branch that have this prompt, the newest first."""

    prompt: str
    targets: tuple[Target, ...]
    states: tuple[Said, ...]

    def to_json(self) -> dict[str, Any]:
        """The contract of the page as JSON; fields are only ever added."""
        return {**asdict(self), "states": [state.to_json() for state in self.states]}


class Trying:
    """The states of a ledger, ready to be asked; nothing is loaded before the first question.

    device, dtype: as `ledger.models.load_model` takes them. Nothing is written to the ledger.
    """

    def __init__(self, ledger: Ledger, *, device: str = "auto", dtype: str | None = None) -> None:
        self._ledger = ledger
        self._device = device
        self._dtype = dtype
        self._lock = Lock()
        self._model: TriedModel | None = None

    @property
    def is_loaded(self) -> bool:
        """Whether a question finds the model in memory."""
        return self._model is not None

    def ask(
        self,
        prompt: str,
        states: Sequence[Rev],
        *,
        branch: str | None = None,
        tokens: int = TOKENS,
    ) -> Tried:
        """What each of `states` answers to `prompt`, in at most so many `tokens`.

        states: as `ledger.refs.resolve` takes them, 0 is the base. branch: what their numbers are
        of (default: that of the ledger). Those with the same patches in force are asked once. A
        state that does not exist or cannot be built any more has a note in place of an answer.
        SettingError for a prompt that is empty, no text or too long for the model; HistoryError if
        there is no such branch; ModelError if the model cannot be loaded.
        """
        _check(prompt, tokens)
        branch = branch or self._ledger.branch
        with database.reading(self._ledger.engine) as session:
            line = history.line(session, branch)
            places = [_place(session, branch, line, rev) for rev in states]
            targets = _targets(session, line, prompt)
        texts = tuple(target.text for target in targets)
        question = Question(prompt=prompt, targets=texts, tokens=tokens)
        found = [place.state for place in places if place.state is not None]
        with self._lock:
            answers = self._loaded().ask(question, found)
        said = tuple(_said(place, answers) for place in places)
        return Tried(prompt=prompt, targets=targets, states=said)

    def close(self) -> None:
        """Drop the model; another question would load it again."""
        with self._lock:
            self._model = None
            gc.collect()
            torch.cuda.empty_cache()

    def __enter__(self) -> "Trying":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _loaded(self) -> TriedModel:
        if self._model is None:
            self._model = TriedModel(self._ledger, device=self._device, dtype=self._dtype)
        return self._model


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a state is: after a turn, None for the base. problem: why there is no such state."""

    rev: Rev
    turn: Step | None = None
    state: AskedState | None = None
    problem: str | None = None


def _check(prompt: str, tokens: int) -> None:
    if not prompt.strip():
        raise SettingError("an empty prompt has no answer; give it some text")
    if any("\ud800" <= letter <= "\udfff" for letter in prompt):
        raise SettingError(f"{prompt[:40]!r} is not text in UTF-8, and cannot be asked")
    if not 1 <= tokens <= MOST_TOKENS:
        raise SettingError(f"an answer has from 1 to {MOST_TOKENS} tokens, not {tokens}")


def _place(session: Session, branch: str, line: Sequence[Step], rev: Rev) -> _Place:
    """line: that of the branch, on which most states are."""
    if isinstance(rev, str) and not rev.isprintable():
        return _Place(rev=rev, problem=f"nothing is called {rev!r:.80}")
    try:
        found = resolve(session, branch, rev)
        number = _number(session, found)
        if number and (number > len(line) or line[number - 1].id != found):
            line = history.line_to(session, found)
        used = history.patches_in_force(line, number)
    except HistoryError as error:
        return _Place(rev=rev, problem=str(error))
    turn = line[number - 1] if number else None
    return _Place(rev=rev, turn=turn, state=AskedState(line=line, used=used))


def _number(session: Session, turn_id: int | None) -> int:
    """The number of the turn with this row id; 0 for the base."""
    if turn_id is None:
        return 0
    return session.scalars(select(TurnRow.number).where(TurnRow.id == turn_id)).one()


def _targets(session: Session, line: Sequence[Step], prompt: str) -> tuple[Target, ...]:
    """The new and old answers of the line's edits with this prompt, the newest first."""
    steps = [step for step in line if step.edits]
    facts = facts_about(session, steps, prompt_keys=[prompt_key(prompt)])
    old: dict[int, str | None] = {}
    for some in chunks([fact.edit_id for fact in facts]):
        query = select(EditRow.id, EditRow.old_target).where(EditRow.id.in_(some))
        old |= dict(session.execute(query).all())
    wanted: dict[str, list[int]] = {}
    replaced: dict[str, list[int]] = {}
    for fact in reversed(facts):
        wanted.setdefault(fact.target.strip(), []).append(fact.number)
        if text := (old[fact.edit_id] or "").strip():
            replaced.setdefault(text, []).append(fact.number)
    return tuple(
        Target(
            text=text,
            wanted_by=tuple(wanted.get(text, ())),
            replaced_by=tuple(replaced.get(text, ())),
        )
        for text in list(dict.fromkeys((*wanted, *replaced)))[:_TARGETS]
    )


def _said(place: _Place, answers: Mapping[Patches, Answered]) -> Said:
    turn, problem = place.turn, place.problem
    given = Answered(problem=problem) if place.state is None else answers[place.state.patches]
    return Said(
        asked=place.rev,
        turn=None if place.state is None else 0 if turn is None else turn.number,
        branch=None if turn is None else turn.branch,
        hash=None if turn is None else turn.hash,
        answer=given.answer,
        targets=given.targets,
        memories=given.memories,
        note=given.problem,
    )
