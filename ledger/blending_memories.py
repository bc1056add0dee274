"""Blend side memories that two branches have put beside one matrix, as shards are merged."""

import time
from collections.abc import Sequence
from dataclasses import replace

from ledger import database, environment, history
from ledger.blending import Blending, Sides
from ledger.copying import Draft
from ledger.history import Step
from ledger.merging import (
    edit_turns_behind,
    lowest_share,
    merged_change,
    notes_on,
    one_tensor,
    store_memory,
)
from ledger.models import load_model
from ledger.progress import Progress, silent
from ledger.recording import NewTurn
from ledger.states import open_patch, open_state
from ledger.workspace import Ledger
from patches.live import LiveModel
from patches.merging import Merge


def blend_memories(
    ledger: Ledger,
    draft: Draft,
    sides: Sequence[Sides],
    blending: Blending,
    *,
    progress: Progress = silent,
) -> list[Step]:
    """Plan one turn for each of `sides`, whose turns have memories beside one matrix.

    HistoryError if they cannot be merged, EditingError if a result is zero or not finite.
    """
    live = _live(ledger, draft, blending, progress)
    return [_blend(ledger, draft, live, one, blending) for one in sides]


def _live(ledger: Ledger, draft: Draft, blending: Blending, progress: Progress) -> LiveModel:
    """A live model with the main weights of the state as it is to be."""
    progress("load", 0, 1)
    state = open_state(ledger, draft.line, [s for s in draft.used if not s.has_memory])
    model = load_model(ledger.checkpoint.folder, dtype=blending.dtype, device=blending.device)
    live = LiveModel(model, ledger.checkpoint)
    live.set_state(state.patches)
    progress("load", 1, 1)
    return live


def _blend(ledger: Ledger, draft: Draft, live: LiveModel, sides: Sides, blending: Blending) -> Step:
    started = time.perf_counter()
    numbers = [step.number for step in sides.both]
    memories = [
        patch.memory(name, turn=step.number)
        for step in sides.both
        for patch in [open_patch(ledger, step)]
        for name in patch.memories
    ]
    tensor = one_tensor(memories)
    behind = edit_turns_behind(draft.line, sides.both)
    recorded = [draft.sources.get(step.number, step) for step in sides.both]
    with database.reading(ledger.engine) as session:
        rows = history.edit_rows(session, [draft.source_id(step) for step in behind])
        edits = [history.edit_of(row) for row in rows]
        share = lowest_share(session, recorded)
    change = merged_change(live, ledger, memories, edits, share, _of_shards(blending.how, sides))
    assert change.routing is not None
    settings = {
        **blending.how.to_json(),
        **blending.settings,
        "merges": numbers,
        "threshold": share,
    }
    patch = store_memory(
        ledger, tensor, change, settings, len(draft.line) + 1, draft.used[-1].patch_digest
    )
    dtype = next(live.model.parameters()).dtype
    new = NewTurn(
        parent=None,
        kind="merge",
        method=blending.how.method,
        hyperparameters=settings,
        seed=blending.how.seed,
        message=blending.message,
        patch=patch,
        environment=environment.describe(live.device, dtype),
        seconds={"total": time.perf_counter() - started},
        peak_memory=environment.peak_memory(live.device),
        notes=notes_on(memories, change.routing),
    )
    return draft.merge(new, replaces=numbers)


def _of_shards(how: Merge, sides: Sides) -> Merge:
    """The same with the weight of each side shared out among its shards."""
    if how.weights is None:
        return how
    shares = [
        weight / len(some)
        for weight, some in zip(how.weights, (sides.ours, sides.theirs), strict=True)
        for _ in some
    ]
    return replace(how, weights=tuple(shares))
