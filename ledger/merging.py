"""Merge side memories into one (WISE-Merge): a turn that takes the place of the shards' patches."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from sqlalchemy.orm import Session

from ledger import database, environment, history
from ledger.evaluating import evaluate as evaluate_state
from ledger.history import Step
from ledger.models import load_tokenizer
from ledger.progress import Progress, silent
from ledger.recording import Blob, NewTurn, record_turn
from ledger.states import live_state
from ledger.workspace import Ledger
from patches.deltas import Sparse
from patches.edit import Edit
from patches.editors.neutral import NEUTRAL
from patches.editors.wise import METHOD
from patches.editors.wise_matrix import Matrix
from patches.editors.wise_threshold import measured_routing
from patches.errors import EditingError, HistoryError
from patches.live import LiveModel
from patches.merging import Merge, merged
from patches.modules import linear_modules_by_tensor
from patches.patch import Change, PatchHeader, describe, encode_patch
from patches.routing import bypassed
from patches.side_memory import Form, Routing, SideMemory
from patches.tokens import Encoded, context_length, encode_prompts


@dataclass(frozen=True, kw_only=True)
class Merged:
    """A merge that was recorded as `turn`. merges: the turns whose memories it takes the place of.

    threshold: of the merged memory. scores: on all edits in force, of base and state, or None.
    """

    turn: int
    merges: list[int]
    method: str
    tensor: str
    threshold: float
    patch_bytes: int
    notes: list[str]
    scores: dict[str, Any] | None
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def merge_shards(
    ledger: Ledger,
    first: int,
    last: int,
    how: Merge,
    *,
    message: str = "",
    device: str = "auto",
    dtype: str | None = None,
    evaluate: bool = True,
    progress: Progress = silent,
) -> Merged:
    """Merge the side memories of turns `first` to `last` that are in force into one.

    The threshold is taken anew, on the edits of all of them. Their turns stay in force, and stand
    for themselves again once the merge is rolled back. HistoryError if there are fewer than two
    memories, or they do not stand beside one matrix.
    """
    started = time.perf_counter()
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch)
        used = history.patches_in_force(turns)
        shards = _shards(turns, used, first, last)
        rows = history.edit_rows(session, [turn.id for turn in edit_turns_behind(turns, shards)])
        edits = [history.edit_of(row) for row in rows]
        tensors = history.tensors_at(session, turns)
        share = lowest_share(session, shards)
    live = live_state(ledger, turns, device=device, dtype=dtype, progress=progress)
    environment.start_peak_memory(live.device)
    numbers = [turn.number for turn in shards]
    memories = [memory for memory in live.memories if memory.turn in numbers]
    tensor = one_tensor(memories)
    change = merged_change(live, ledger, memories, edits, share, how)
    assert change.routing is not None
    settings = {**how.to_json(), "merges": numbers, "threshold": share}
    patch = store_memory(ledger, tensor, change, settings, len(turns) + 1, used[-1].patch_digest)
    notes = notes_on(memories, change.routing)
    record_turn(
        ledger,
        NewTurn(
            parent=turns[-1].id,
            kind="merge",
            method=how.method,
            hyperparameters=settings,
            seed=how.seed,
            message=message or f"merge the shards of turns {first} to {last}",
            replaces=[turn.id for turn in shards],
            patch=patch,
            # The main weights stay as they are.
            tensors=tensors,
            environment=environment.describe(live.device, next(live.model.parameters()).dtype),
            seconds={"total": time.perf_counter() - started},
            peak_memory=environment.peak_memory(live.device),
            notes=notes,
        ),
    )
    scores = None
    if evaluate:
        found = evaluate_state(ledger, device=device, dtype=dtype, seed=how.seed, progress=progress)
        scores = {"n": found.n, "base": found.base, "state": found.state}
    return Merged(
        turn=len(turns) + 1,
        merges=numbers,
        method=how.method,
        tensor=tensor,
        threshold=change.routing.threshold,
        patch_bytes=patch.bytes,
        notes=notes,
        scores=scores,
        seconds=time.perf_counter() - started,
    )


def _shards(turns: Sequence[Step], used: Sequence[Step], first: int, last: int) -> list[Step]:
    """The turns in the range whose side memories are part of the state."""
    for number in (first, last):
        history.find_turn(turns, number)
    found = [turn for turn in used if first <= turn.number <= last and turn.has_memory]
    if len(found) < 2:
        numbers = ", ".join(str(turn.number) for turn in found) or "none"
        raise HistoryError(
            f"a merge needs two side memories in force, in turns {first} to {last} there are: "
            f"{numbers} (see: ledger log)"
        )
    return found


def edit_turns_behind(turns: Sequence[Step], shards: Sequence[Step]) -> list[Step]:
    """The edit turns behind the shards, some of which may be merges themselves."""
    leaves: list[Step] = []
    for turn in shards:
        inner = [turns[number - 1] for number in turn.replaces]
        leaves += edit_turns_behind(turns, inner) if inner else [turn]
    return leaves


def one_tensor(memories: Sequence[SideMemory]) -> str:
    """The tensor beside which all of them stand; HistoryError if they cannot be merged."""
    tensors = sorted({memory.tensor for memory in memories})
    forms = {(memory.routing.form, memory.routing.activation) for memory in memories}
    if len(tensors) > 1 or len(forms) > 1:
        raise HistoryError(
            "only side memories beside one matrix, with one form of activation, can be merged; "
            f"these stand beside {', '.join(tensors)}"
        )
    return tensors[0]


def merged_change(
    live: LiveModel,
    ledger: Ledger,
    memories: Sequence[SideMemory],
    edits: Sequence[Edit],
    share: float,
    how: Merge,
) -> Change:
    """The merged memory as a change, its threshold taken from the edits of all shards."""
    tokenizer = load_tokenizer(ledger.checkpoint.folder)
    first = memories[0]
    stored = live.stored(first.tensor)
    stack = torch.stack([memory.delta.dense(dtype=torch.float32) for memory in memories])
    rounded = merged(stack, how).to(stored.dtype)
    if not torch.isfinite(rounded).all() or not rounded.any():
        raise EditingError(
            f"{first.tensor}: the merge by {how.method} is zero or not finite; use another method "
            "or a higher --density"
        )
    delta = Sparse.of(rounded, rounded != 0)
    name, _ = linear_modules_by_tensor(live.model, [first.tensor])[first.tensor]
    form = Form(name=first.routing.form, activation=first.routing.activation)
    longest = context_length(live.model.config)
    outside = [probe.prompt for edit in edits for probe in edit.locality]
    matrix = Matrix(live.model, name, form=form, device=live.device)
    dense = delta.dense(dtype=torch.float32, device=live.device)
    asked = [
        _fitting(tokenizer, prompts, longest)
        for prompts in ([edit.prompt for edit in edits], [*NEUTRAL, *outside])
    ]
    with bypassed(live.model):
        inside, beyond = (
            matrix.activations_of(matrix.record(prompts, as_asked=True), dense) for prompts in asked
        )
    routing = measured_routing(form, edits=inside, others=beyond, share=share, main=stored)
    return Change(delta=delta, transposed=first.transposed, routing=routing)


def lowest_share(session: Session, shards: Sequence[Step]) -> float:
    """Where the shards' own thresholds lie between prompts outside and edits; the lowest."""
    rows = (history.row_of(session, turn) for turn in shards)
    return min(float(row.hyperparameters["threshold"]) for row in rows)


def _fitting(tokenizer: Any, prompts: Sequence[str], longest: int | None) -> list[Encoded]:
    encoded = encode_prompts(tokenizer, list(dict.fromkeys(prompts)))
    return [e for e in encoded if e.ids and (longest is None or len(e.ids) <= longest)]


def store_memory(
    ledger: Ledger,
    tensor: str,
    change: Change,
    settings: dict[str, Any],
    turn: int,
    parent: str | None,
) -> Blob:
    """Put the patch of turn `turn` into the store. parent: the patch before it."""
    header = PatchHeader(
        base=ledger.base.fingerprint,
        method=METHOD,
        hyperparameters=settings,
        turn=turn,
        parent=parent,
    )
    data = encode_patch(header, {tensor: change})
    changes = {tensor: describe(change).to_json()}
    return Blob(digest=ledger.store.put(data), bytes=len(data), changes=changes)


def notes_on(memories: Sequence[SideMemory], routing: Routing) -> list[str]:
    """What is worth knowing of the merge of `memories`. routing: of the merged one."""
    notes = []
    if any(memory.routing.main != routing.main for memory in memories):
        notes.append(
            "some of these memories were trained beside another main weight; the merged one stands "
            "beside the present one"
        )
    if routing.others.max >= routing.edits.min:
        notes.append(
            "an unrelated prompt activates the merged memory as strongly as an edit "
            f"({routing.others.max:.3g} against {routing.edits.min:.3g}): some prompts will take "
            "the wrong way"
        )
    return notes
