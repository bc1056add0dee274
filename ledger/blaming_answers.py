"""`ledger blame --model`: what the base, and the states around each edit that hits, answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ledger import database, history
from ledger.blaming import Blame, Blamed
from ledger.history import Step
from ledger.models import load_model, load_tokenizer
from ledger.progress import Progress, silent
from ledger.refs import Rev
from ledger.states import open_state
from ledger.workspace import Ledger
from patches.answers import answer
from patches.errors import StoreError
from patches.live import LiveModel

_Patches = tuple[int, ...]
"""What makes up a state: the row ids of the turns whose patches are in it."""


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What is answered to the prompt `asked`: by the base, just before and just after the turn of
    the edit, and now. None: by a state that cannot be built any more."""

    edit: Blamed
    asked: str
    base: str | None
    before: str | None
    after: str | None
    now: str | None

    def to_json(self) -> dict[str, Any]:
        """The fields of ``ledger blame --json``, and these."""
        return {
            **self.edit.to_json(),
            "asked": self.asked,
            "base": self.base,
            "answers": {"before": self.before, "after": self.after},
            "now": self.now,
        }


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What was answered around each edit, oldest first. notes: why states could not be built."""

    edits: tuple[Answered, ...]
    notes: tuple[str, ...]


def ask_around(
    ledger: Ledger,
    text: str,
    found: Blame,
    *,
    at: Rev | None = None,
    device: str = "auto",
    dtype: str | None = None,
    progress: Progress = silent,
) -> Answers:
    """Ask the states around the edits in `found`, which are blamed for `text`.

    The prompt is `text` if that is one of theirs, else each edit's own. One model is loaded, and
    brought to each state once. at: the turn of the state that is called now (default: the head).
    """
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch, at)
    asked = [(edit, text if found.is_prompt else edit.prompt) for edit in found.edits]
    around = {edit.turn: (0, edit.turn - 1, edit.turn, len(line)) for edit in found.edits}
    states = _States(line)
    wanted: dict[_Patches, list[str]] = {}
    for edit, prompt in asked:
        for turn in around[edit.turn]:
            prompts = wanted.setdefault(states.at(turn), [])
            if prompt not in prompts:
                prompts.append(prompt)
    said, notes = _ask(ledger, line, wanted, device=device, dtype=dtype, progress=progress)

    def answered(edit: Blamed, prompt: str) -> Answered:
        turns = around[edit.turn]
        base, before, after, now = (said.get((states.at(turn), prompt)) for turn in turns)
        return Answered(edit=edit, asked=prompt, base=base, before=before, after=after, now=now)

    return Answers(edits=tuple(answered(*one) for one in asked), notes=tuple(notes))


class _States:
    """The states of a line, each known by what makes it up: later turns may come back to one."""

    def __init__(self, line: Sequence[Step]) -> None:
        self._line = line
        self._known: dict[int, _Patches] = {}

    def at(self, turn: int) -> _Patches:
        """The state after this turn; 0 is the base."""
        if turn not in self._known:
            used = history.patches_in_force(self._line, turn)
            self._known[turn] = tuple(step.id for step in used)
        return self._known[turn]


def _ask(
    ledger: Ledger,
    line: Sequence[Step],
    wanted: dict[_Patches, list[str]],
    *,
    device: str,
    dtype: str | None,
    progress: Progress,
) -> tuple[dict[tuple[_Patches, str], str], list[str]]:
    """What each state answers to its prompts, and why some could not be asked."""
    said: dict[tuple[_Patches, str], str] = {}
    notes: list[str] = []
    if not wanted:
        return said, notes
    steps = {step.id: step for step in line}
    progress("load", 0, 1)
    tokenizer = load_tokenizer(ledger.checkpoint.folder)
    model = load_model(ledger.checkpoint.folder, dtype=dtype, device=device)
    live = LiveModel(model, ledger.checkpoint)
    progress("load", 1, 1)
    for done, (used, prompts) in enumerate(wanted.items()):
        progress("ask", done, len(wanted))
        try:
            state = open_state(ledger, line, [steps[turn] for turn in used])
        except StoreError as error:
            notes.append(str(error))
            continue
        live.set_state(state.patches, state.memories)
        for prompt in prompts:
            said[used, prompt] = answer(model, tokenizer, prompt, live.device)
    progress("ask", len(wanted), len(wanted))
    return said, notes
