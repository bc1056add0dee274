"""Edits that are alike to a model: those of a turn with keys most like the key of a prompt."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session
from torch import Tensor, nn

from ledger import database
from ledger.chain import prompt_key
from ledger.facts import facts_about
from ledger.history import Step, chunks
from ledger.jobs import Crew
from ledger.orm import EditRow
from ledger.patched_tensors import tensors_of
from ledger.workspace import Ledger
from patches.keys import keys, nearest
from patches.live import LiveModel
from patches.modules import editable_modules, parameters_by_tensor
from patches.tokens import encode_prompts

_SHOWN = 5
_COMPARED = 1000
"""Edits whose keys are computed at the most: the newest."""


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """An edit, and the cosine of its key with the prompt's."""

    turn: int
    row: int | None
    prompt: str
    target: str
    cosine: float


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """The edits most like a prompt, the most similar first.

    module: where the keys were taken; None if there was nothing to compare. compared: edits.
    """

    module: str | None
    compared: int
    edits: list[Neighbour]

    def to_json(self) -> dict[str, Any]:
        return {
            "module": self.module,
            "compared": self.compared,
            "neighbours": [asdict(edit) for edit in self.edits],
        }


@dataclass(frozen=True, kw_only=True)
class KeysJob:
    """The keys of some prompts at the last linear module whose weight is one of `tensors`: that
    module's name, and the keys (n, d_in), float32; None if there is no such module."""

    at: int | None
    tensors: frozenset[str]
    prompts: tuple[str, ...]

    @property
    def size(self) -> int:
        return len(self.prompts)

    def run(self, live: LiveModel, tokenizer: Any) -> tuple[str, Tensor] | None:
        module = _last_module(live.model, self.tensors)
        if module is None:
            return None
        encoded = encode_prompts(tokenizer, list(self.prompts))
        return module, keys(live.model, module, encoded, live.device)


def nearest_edits(
    ledger: Ledger, crew: Crew, steps: Sequence[Step], step: Step, prompt: str
) -> Neighbours:
    """Of the edits that come or go with a turn, those whose keys are most like that of `prompt`.

    The keys are those that reach the last linear module that the turn changes, in the state before
    it. steps: the line that the turn is on.
    """
    with database.reading(ledger.engine) as session:
        turns = _with_edits(steps, step)
        found = _edits(session, turns, prompt)
        tensors = tensors_of(session, _patches(steps, step), memories=True)
    before = steps[step.number - 2].id if step.number > 1 else None
    prompts = (prompt, *(row.prompt for row in found))
    job = KeysJob(at=before, tensors=frozenset(tensors), prompts=prompts)
    seen = next(crew.run([job], phase="keys"))[1] if found and tensors else None
    if seen is None:
        return Neighbours(module=None, compared=0, edits=[])
    module, taken = seen
    numbers = {turn.id: turn.number for turn in turns}
    return Neighbours(
        module=module,
        compared=len(found),
        edits=[
            Neighbour(
                turn=numbers[found[at].turn_id],
                row=found[at].row,
                prompt=found[at].prompt,
                target=found[at].target,
                cosine=cosine,
            )
            for at, cosine in nearest(taken[0], taken[1:], _SHOWN)
        ],
    )


def _reached(steps: Sequence[Step], step: Step) -> list[Step]:
    """A turn, the turns that it undoes or merges, what these undo or merge, and so on."""
    found = {step.number: step}
    waiting = [step]
    while waiting:
        one = waiting.pop()
        for number in (*one.undoes, *one.replaces):
            if number not in found:
                found[number] = steps[number - 1]
                waiting.append(steps[number - 1])
    return [found[number] for number in sorted(found)]


def _with_edits(steps: Sequence[Step], step: Step) -> list[Step]:
    """The turns whose edits come or go with a turn: itself, or those that it undoes or merges."""
    return [one for one in _reached(steps, step) if one.edits]


def _patches(steps: Sequence[Step], step: Step) -> list[str]:
    """The patch of a turn; of one without, those of the turns that it undoes."""
    if step.patch_digest is not None:
        return [step.patch_digest]
    return sorted({one.patch_digest for one in _reached(steps, step) if one.patch_digest})


def _last_module(model: nn.Module, tensors: Collection[str]) -> str | None:
    """The last linear module whose weight is one of these tensors."""
    changed = {id(weight) for weight in parameters_by_tensor(model, tensors).values()}
    names = [n for n, module in editable_modules(model).items() if id(module.weight) in changed]
    return names[-1] if names else None


def _edits(session: Session, turns: Sequence[Step], prompt: str) -> list[Any]:
    """The newest edits of `turns`, at the most `_COMPARED`, and every one that asks `prompt`."""
    columns = (EditRow.id, EditRow.turn_id, EditRow.row, EditRow.prompt, EditRow.target)
    asked = facts_about(session, turns, prompt_keys=[prompt_key(prompt)])
    found: dict[int, Any] = {}
    for some in chunks([fact.edit_id for fact in asked][-_COMPARED:]):
        query = select(*columns).where(EditRow.id.in_(some))
        found |= {row.id: row for row in session.execute(query)}
    for turn in reversed(turns):
        if len(found) >= _COMPARED:
            break
        own = select(*columns).where(EditRow.turn_id == turn.id)
        newest = own.order_by(EditRow.position.desc()).limit(_COMPARED - len(found))
        found |= {row.id: row for row in session.execute(newest)}
    return [found[edit_id] for edit_id in sorted(found)]
