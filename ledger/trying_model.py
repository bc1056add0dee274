"""The one model that is tried: brought from state to state, and asked."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from ledger.history import Step
from ledger.models import load_model, load_tokenizer
from ledger.routing import Candidate, candidates_of
from ledger.states import open_state
from ledger.workspace import Ledger
from patches.answer_tokens import TokenAnswer, answer_by_token, target_probabilities
from patches.answers import prompt_ids
from patches.errors import EditLedgerError
from patches.live import LiveModel

Patches = tuple[int, ...]
"""What makes up a state: the row ids of the turns whose patches are in it."""
_KNOWN = 300


@dataclass(frozen=True, kw_only=True)
class Question:
    """targets: whose probabilities are asked for. tokens: how many an answer has at the most."""

    prompt: str
    targets: tuple[str, ...]
    tokens: int


@dataclass(frozen=True, kw_only=True)
class AskedState:
    """A state that can be asked. line: the history that the turns `used` are part of."""

    line: Sequence[Step]
    used: Sequence[Step]

    @property
    def patches(self) -> Patches:
        return tuple(step.id for step in self.used)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a state says to a question, or the problem that keeps it from saying anything.

    targets: P(target | prompt) of each, None where it is too long. memories: those in force.
    """

    answer: TokenAnswer | None = None
    targets: tuple[float | None, ...] = ()
    memories: tuple[Candidate, ...] = ()
    problem: str | None = None


class TriedModel:
    """A loaded model, at one state at a time. The last answers are kept, since a question is often
    asked again, of one more state. For one thread at a time."""

    def __init__(self, ledger: Ledger, *, device: str, dtype: str | None) -> None:
        folder = ledger.checkpoint.folder
        self._ledger = ledger
        self._tokenizer = load_tokenizer(folder)
        self._live = LiveModel(load_model(folder, dtype=dtype, device=device), ledger.checkpoint)
        self._at: Patches | None = ()
        self._known: OrderedDict[tuple[Question, Patches], Answered] = OrderedDict()

    def ask(self, question: Question, states: Sequence[AskedState]) -> dict[Patches, Answered]:
        """What each of `states` says, those with the same patches once.

        SettingError if the prompt is too long for the model.
        """
        prompt_ids(self._live.model, self._tokenizer, question.prompt)
        apart = {state.patches: state for state in states}
        # To stay where the last question has left the model costs nothing.
        order = sorted(apart, key=lambda patches: patches != self._at)
        return {patches: self._answered(question, apart[patches]) for patches in order}

    def _answered(self, question: Question, state: AskedState) -> Answered:
        key = question, state.patches
        if key not in self._known:
            try:
                self._bring_to(state)
                self._known[key] = self._answer(question)
            except EditLedgerError as error:
                return Answered(problem=str(error))
        self._known.move_to_end(key)
        while len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return self._known[key]

    def _bring_to(self, state: AskedState) -> None:
        if state.patches != self._at:
            self._at = None
            opened = open_state(self._ledger, state.line, state.used, keeps=False)
            self._live.set_state(opened.patches, opened.memories)
            self._at = state.patches

    def _answer(self, question: Question) -> Answered:
        asked = self._live.model, self._tokenizer, question.prompt
        answer = answer_by_token(*asked, self._live.device, tokens=question.tokens)
        # Before the model reads anything else.
        memories = tuple(candidates_of(self._live.model))
        targets = tuple(target_probabilities(*asked, question.targets, self._live.device))
        return Answered(answer=answer, targets=targets, memories=memories)
