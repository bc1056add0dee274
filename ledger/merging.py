"""Merge side memories into one (WISE-Merge): a turn that takes the place of the shards' patches."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from ledger import database, environment, history
from ledger.evaluating import measure
from ledger.history import Turn
from ledger.models import load_tokenizer
from ledger.orm import TurnRow
from ledger.progress import Progress, silent
from ledger.recording import Blob, NewEvaluation, NewTurn, record_evaluation, record_turn
from ledger.states import State, open_state
from ledger.workspace import Ledger
from patches.deltas import Sparse
from patches.edit import Edit
from patches.editors.neutral import NEUTRAL
from patches.editors.wise import METHOD, Matrix
from patches.editors.wise_threshold import measured_routing
from patches.errors import EditingError, HistoryError
from patches.live import LiveModel
from patches.merging import Merge, merged
from patches.modules import editable_modules, parameters_by_tensor
from patches.patch import Change, PatchFile, PatchHeader, describe, encode_patch
from patches.routing import bypassed
from patches.side_memory import Form, SideMemory
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
    from ledger.models import load_model

    started = time.perf_counter()
    with database.reading(ledger.engine) as session:
        turns = history.turns(session, ledger.branch)
        used = history.patches_in_force(turns)
        shards = _shards(turns, used, first, last)
        rows = history.edit_rows(session, [turn.row.id for turn in _leaves(turns, shards)])
        edits = [history.edit_of(row) for row in rows]
        everything = history.edit_rows(
            session, [turn.row.id for turn in history.edits_in_force(turns)]
        )
        asked = [history.edit_of(row) for row in everything]
    state = open_state(ledger, turns, used)
    numbers = {turn.number for turn in shards}
    memories = [memory for memory in state.memories if memory.turn in numbers]
    tensor = _one_tensor(memories)
    progress("load", 0, 1)
    live = LiveModel(
        load_model(ledger.checkpoint.folder, dtype=dtype, device=device), ledger.checkpoint
    )
    live.set_state(state.patches, state.memories)
    progress("load", 1, 1)
    tokenizer = load_tokenizer(ledger.checkpoint.folder)
    environment.start_peak_memory(live.device)
    change = _merged_change(live, tokenizer, memories, edits, shards, how)
    patch, content = _patch(ledger, turns, used, tensor, change, how, sorted(numbers))
    _put_in_place(live, state, numbers, PatchFile(ledger.store.path(patch.digest)), tensor)
    evaluation = None
    if evaluate:
        evaluation = measure(live, tokenizer, asked, seed=how.seed, progress=progress)
    seconds = time.perf_counter() - started
    notes = _notes(memories, change)
    turn_id = record_turn(
        ledger,
        NewTurn(
            parent=turns[-1].row.id,
            kind="merge",
            method=how.method,
            hyperparameters=content,
            seed=how.seed,
            message=message or f"merge the shards of turns {first} to {last}",
            replaces=[turn.row.id for turn in shards],
            patch=patch,
            tensors=live.digests(),
            environment=environment.describe(live.device, next(live.model.parameters()).dtype),
            seconds={"total": seconds},
            peak_memory=environment.peak_memory(live.device),
            notes=notes,
        ),
    )
    if evaluation is not None:
        _record_scores(ledger, turn_id, evaluation, [(row.id, row.digest) for row in everything])
    assert change.routing is not None
    return Merged(
        turn=len(turns) + 1,
        merges=sorted(numbers),
        method=how.method,
        tensor=tensor,
        threshold=change.routing.threshold,
        patch_bytes=patch.bytes,
        notes=notes,
        scores=None
        if evaluation is None
        else {"n": len(asked), "base": evaluation.base, "state": evaluation.state},
        seconds=time.perf_counter() - started,
    )


def _shards(turns: Sequence[Turn], used: Sequence[Turn], first: int, last: int) -> list[Turn]:
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


def _leaves(turns: Sequence[Turn], shards: Sequence[Turn]) -> list[Turn]:
    """The edit turns behind the shards, some of which may be merges themselves."""
    leaves: list[Turn] = []
    for turn in shards:
        inner = [turns[number - 1] for number in turn.replaces]
        leaves += _leaves(turns, inner) if inner else [turn]
    return leaves


def _one_tensor(memories: Sequence[SideMemory]) -> str:
    tensors = sorted({memory.tensor for memory in memories})
    forms = {(memory.routing.form, memory.routing.activation) for memory in memories}
    if len(tensors) > 1 or len(forms) > 1:
        raise HistoryError(
            "only side memories beside one matrix, with one form of activation, can be merged; "
            f"these stand beside {', '.join(tensors)}"
        )
    return tensors[0]


def _merged_change(
    live: LiveModel,
    tokenizer: Any,
    memories: Sequence[SideMemory],
    edits: Sequence[Edit],
    shards: Sequence[Turn],
    how: Merge,
) -> Change:
    """The merged memory as a change, its threshold taken from the edits of all shards."""
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
    module = _module_name(live, first.tensor)
    form = Form(name=first.routing.form, activation=first.routing.activation)
    longest = context_length(live.model.config)
    outside = [probe.prompt for edit in edits for probe in edit.locality]
    matrix = Matrix(live.model, module, form=form, device=live.device)
    dense = delta.dense(dtype=torch.float32, device=live.device)
    with bypassed(live.model):
        inside, beyond = (
            matrix.activations_of(matrix.record(_fitting(tokenizer, prompts, longest)), dense)
            for prompts in ([edit.prompt for edit in edits], [*NEUTRAL, *outside])
        )
    routing = measured_routing(form, edits=inside, others=beyond, share=_share(shards), main=stored)
    return Change(delta=delta, transposed=first.transposed, routing=routing)


def _share(shards: Sequence[Turn]) -> float:
    """Where the shards' own thresholds lie between prompts outside and edits; the lowest."""
    return min(float(turn.row.hyperparameters["threshold"]) for turn in shards)


def _fitting(tokenizer: Any, prompts: Sequence[str], longest: int | None) -> list[Encoded]:
    encoded = encode_prompts(tokenizer, list(dict.fromkeys(prompts)))
    return [e for e in encoded if e.ids and (longest is None or len(e.ids) <= longest)]


def _module_name(live: LiveModel, tensor: str) -> str:
    weight = parameters_by_tensor(live.model, [tensor])[tensor]
    modules = editable_modules(live.model)
    return next(name for name, module in modules.items() if module.weight is weight)


def _patch(
    ledger: Ledger,
    turns: Sequence[Turn],
    used: Sequence[Turn],
    tensor: str,
    change: Change,
    how: Merge,
    merges: list[int],
) -> tuple[Blob, dict[str, Any]]:
    """The stored patch, and the hyperparameters of the turn."""
    content = {
        **asdict(how),
        "weights": None if how.weights is None else list(how.weights),
        "merges": merges,
        "threshold": _share([turns[number - 1] for number in merges]),
    }
    header = PatchHeader(
        base=ledger.base.fingerprint,
        method=METHOD,
        hyperparameters=content,
        turn=len(turns) + 1,
        parent=used[-1].row.patch_digest,
    )
    data = encode_patch(header, {tensor: change})
    blob = Blob(
        digest=ledger.store.put(data),
        bytes=len(data),
        changes={tensor: describe(change).to_json()},
    )
    return blob, content


def _put_in_place(
    live: LiveModel, state: State, merges: set[int], patch: PatchFile, tensor: str
) -> None:
    kept = [memory for memory in state.memories if memory.turn not in merges]
    live.set_state(state.patches, (*kept, patch.memory(tensor)))


def _notes(memories: Sequence[SideMemory], change: Change) -> list[str]:
    notes = []
    if any(memory.main is not None for memory in memories):
        notes.append(
            "some of these memories were trained beside another main weight; the merged one stands "
            "beside the present one"
        )
    routing = change.routing
    assert routing is not None
    if routing.others.max >= routing.edits.min:
        notes.append(
            "an unrelated prompt activates the merged memory as strongly as an edit "
            f"({routing.others.max:.3g} against {routing.edits.min:.3g}): some prompts will take "
            "the wrong way"
        )
    return notes


def _record_scores(
    ledger: Ledger, turn_id: int, scores: NewEvaluation, edits: Sequence[tuple[int, str]]
) -> None:
    with database.writing(ledger.engine) as session:
        record_evaluation(
            session,
            session.get_one(TurnRow, turn_id),
            scores,
            scope_turn=None,
            edits=edits,
            now=datetime.now(UTC),
        )
