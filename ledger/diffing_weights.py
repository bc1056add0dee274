"""Two states compared in weights, tensor by tensor; and both asked, in one loaded model."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from sqlalchemy import select

from ledger import database, history
from ledger.diffing_facts import Side, in_both
from ledger.diffing_scores import Outcomes
from ledger.history import Step, chunks
from ledger.models import load_tokenizer, parse_device
from ledger.orm import EditRow
from ledger.patched_tensors import tensors_of
from ledger.progress import Progress, silent
from ledger.states import live_state, open_patch, open_state
from ledger.workspace import Ledger
from patches import evaluation
from patches.application import base_tensor, total_change
from patches.comparing import Compared, compared
from patches.deltas import LowRank
from patches.errors import HistoryError
from patches.evaluation import Questions
from patches.patch import PatchFile, tensors_changed
from patches.tokens import context_length

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TensorChange:
    """How far apart a tensor is in the two states."""

    tensor: str
    compared: Compared

    def to_json(self) -> dict[str, Any]:
        return {"tensor": self.tensor, **self.compared.to_json()}


@dataclass(frozen=True, kw_only=True)
class MemoryChange:
    """A side memory that stands in one state only. bytes: of its mask and values."""

    side: Literal["a", "b"]
    turn: int
    tensor: str
    bytes: int

    def to_json(self) -> dict[str, Any]:
        return {"side": self.side, "turn": self.turn, "tensor": self.tensor, "bytes": self.bytes}


@dataclass(frozen=True, kw_only=True)
class WeightChanges:
    """The tensors that patches of only one of the states change, and side memories."""

    tensors: Sequence[TensorChange]
    memories: Sequence[MemoryChange]

    def to_json(self) -> dict[str, Any]:
        return {
            "tensors": [one.to_json() for one in self.tensors],
            "memories": [one.to_json() for one in self.memories],
        }


def weight_changes(
    ledger: Ledger,
    a: Side,
    b: Side,
    *,
    device: str = "auto",
    keeps: bool = True,
    progress: Progress = silent,
) -> WeightChanges:
    """Compare the main weights of two states, one tensor in memory at a time, and their memories.

    Tensors that the same patches change in both are left out. keeps: keyframes that are due are
    written.
    """
    only_a, only_b = _only(a, b), _only(b, a)
    digests = sorted({step.patch_digest or "" for step in (*only_a, *only_b)})
    with database.reading(ledger.engine) as session:
        names = sorted(tensors_of(session, digests, memories=False))
    memories = [*_memories(ledger, only_a, "a"), *_memories(ledger, only_b, "b")]
    if not names:
        return WeightChanges(tensors=[], memories=memories)
    used_on = parse_device(device)
    first, second = (
        open_state(ledger, side.steps, side.used, keeps=keeps).patches for side in (a, b)
    )
    transposed = tensors_changed([*first, *second])
    tensors = []
    for done, name in enumerate(names):
        progress("compare", done, len(names))
        found = _compared(
            ledger, name, (first, second), transposed=transposed[name], device=used_on
        )
        tensors.append(TensorChange(tensor=name, compared=found))
    progress("compare", len(names), len(names))
    return WeightChanges(tensors=tensors, memories=memories)


def _compared(
    ledger: Ledger,
    name: str,
    states: tuple[Sequence[PatchFile], Sequence[PatchFile]],
    *,
    transposed: bool,
    device: torch.device,
) -> Compared:
    """Compare one tensor; nothing of it is held afterwards."""
    total_a, total_b = (total_change(patches, name, device=device) for patches in states)
    return compared(
        base_tensor(ledger.checkpoint, name),
        total_a,
        total_b,
        transposed=transposed,
        factors=_factors(*states, name),
    )


def _factors(a: Sequence[PatchFile], b: Sequence[PatchFile], name: str) -> LowRank | None:
    """Δ_b − Δ_a of a tensor as one product, of the patches that only one of the states has; None if
    one of them, or the product, is not of low rank."""
    of_a, of_b = ([patch for patch in side if name in patch.changes] for side in (a, b))
    left = [
        *((-1, patch) for patch in _beyond(of_a, of_b, lambda patch: patch.path)),
        *((1, patch) for patch in _beyond(of_b, of_a, lambda patch: patch.path)),
    ]
    ranks = [patch.changes[name].rank or 0 for _, patch in left]
    if not all(ranks) or 2 * sum(ranks) > min((of_a or of_b)[0].changes[name].shape):
        return None
    deltas = [(sign, patch.delta(name)) for sign, patch in left]
    parts = [(sign * d.B.double(), d.A.double()) for sign, d in deltas if isinstance(d, LowRank)]
    if not parts:
        return None
    return LowRank(A=torch.cat([a for _, a in parts]), B=torch.cat([b for b, _ in parts]))


def _only(one: Side, other: Side) -> list[Step]:
    """The steps whose patches make up one state and not the other; a copied patch is the same."""
    return _beyond(one.used, other.used, lambda step: step.patch_digest)


def _beyond(one: Sequence[T], other: Sequence[T], key: Callable[[T], object]) -> list[T]:
    """What is in one and, by its key, not in the other, as often as it is."""
    known = Counter(map(key, other))
    left = []
    for item in one:
        if known[key(item)]:
            known[key(item)] -= 1
        else:
            left.append(item)
    return left


def _memories(ledger: Ledger, steps: Sequence[Step], side: Literal["a", "b"]) -> list[MemoryChange]:
    found = []
    for step in steps:
        if step.has_memory:
            patch = open_patch(ledger, step)
            for name in patch.memories:
                parts = patch.delta(name).tensors().values()
                size = sum(part.nbytes for part in parts)
                found.append(MemoryChange(side=side, turn=step.number, tensor=name, bytes=size))
    return found


def scores_now(
    ledger: Ledger,
    a: Side,
    b: Side,
    *,
    device: str = "auto",
    dtype: str | None = None,
    progress: Progress = silent,
) -> Outcomes:
    """Score both states, in one loaded model, on the edits that hold in both; nothing is recorded.

    If one of them is the base, on those that hold in the other. HistoryError if there are none.
    """
    with database.reading(ledger.engine) as session:
        wanted = [fact.edit_id for fact in in_both(session, a, b)]
        rows: list[EditRow] = []
        for some in chunks(wanted):
            rows += session.scalars(select(EditRow).where(EditRow.id.in_(some)))
        session.expunge_all()
    if not rows:
        raise HistoryError(
            f"no edit is in force at turn {a.turn} and at turn {b.turn}: nothing to score both on; "
            "leave out --evaluate"
        )
    edits = [history.edit_of(row) for row in rows]
    live = live_state(ledger, a.steps, device=device, dtype=dtype, progress=progress)
    tokenizer = load_tokenizer(ledger.checkpoint.folder)
    questions = Questions.of(edits, tokenizer, context_length(live.model.config))

    def answers(phase: str) -> list[evaluation.Answered]:
        total = len(questions.encoded)
        return evaluation.answer(
            live.model,
            questions,
            device=live.device,
            progress=lambda done: progress(phase, done, total),
        )

    first = answers("evaluate")
    state = open_state(ledger, b.steps, b.used)
    live.set_state(state.patches, state.memories)
    outcomes = evaluation.score(edits, questions, first, answers("evaluate other"))
    return {
        row.id: (outcome.base, outcome.state) for row, outcome in zip(rows, outcomes, strict=True)
    }
