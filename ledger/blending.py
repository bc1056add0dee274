"""Blend what two branches have made of the weights since they parted, other than by adding it up.

The turns of both sides stay in force, and a merge takes the place of their patches: one turn for
the main weights, per tensor `patches.merging.merged_totals` of Σ Δ of ours and of theirs; and one
for each matrix with side memories of both sides, merged as `ledger.merging` merges shards. Rolling
the blend back leaves the plain sum, with the memories side by side.
"""

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ledger import environment
from ledger.copying import Draft
from ledger.history import Step
from ledger.progress import Progress, silent
from ledger.recording import Blob, NewTurn
from ledger.states import open_patch
from ledger.wording import turn_numbers
from ledger.workspace import Ledger
from patches.application import total_change
from patches.deltas import Dense, Sparse
from patches.errors import EditingError
from patches.merging import Merge, merged_totals
from patches.patch import Change, PatchFile, PatchHeader, tensors_changed
from patches.patch_writer import write_patch


@dataclass(frozen=True, kw_only=True)
class Blending:
    """How to blend. settings: beside those of `how`, recorded with every turn of the blend."""

    how: Merge
    settings: Mapping[str, Any]
    message: str
    device: str = "auto"
    dtype: str | None = None


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Turns whose patches are blended."""

    ours: Sequence[Step]
    theirs: Sequence[Step]

    @property
    def both(self) -> list[Step]:
        return [*self.ours, *self.theirs]

    @property
    def is_blend(self) -> bool:
        return bool(self.ours and self.theirs)

    def only(self, chosen: Collection[int]) -> "Sides":
        """Those with these numbers."""
        return Sides(
            ours=[step for step in self.ours if step.number in chosen],
            theirs=[step for step in self.theirs if step.number in chosen],
        )


def blend(
    ledger: Ledger,
    draft: Draft,
    fork: int,
    blending: Blending,
    *,
    progress: Progress = silent,
) -> tuple[list[Step], list[str]]:
    """Plan the turns of the blend after those of `draft`; they, and what is worth knowing.

    Ours are the turns since `fork` that are no copies in `draft`. What merges make together with
    turns from before the fork stays as it is. EditingError if a result is zero or not finite.
    """
    since, notes = _since(draft, fork)
    with_memory = {step.number for step in since.both if step.has_memory}
    main = since.only({step.number for step in since.both} - with_memory)
    made = []
    if main.is_blend:
        made.append(_blend_weights(ledger, draft, main, blending, progress))
    shards = _by_tensor(ledger, since.only(with_memory))
    blended = {tensor: sides for tensor, sides in shards.items() if sides.is_blend}
    if blended:
        # What runs a model, and takes seconds to load.
        from ledger.blending_memories import blend_memories

        made += blend_memories(ledger, draft, list(blended.values()), blending, progress=progress)
    if not made:
        notes.append(
            f"{blending.how.method} had nothing to blend, since not both sides have changed the "
            "same kind of weights; the turns were copied"
        )
    return made, notes


def _since(draft: Draft, fork: int) -> tuple[Sides, list[str]]:
    """The turns of the state that are patches from after the fork, of both sides."""
    used = [step for step in draft.used if step.number > fork]
    spanning = [step for step in used if _reaches(draft.line, step, fork)]
    used = [step for step in used if step not in spanning]
    notes = []
    if spanning:
        numbers = [step.number for step in spanning]
        notes.append(
            f"{turn_numbers(numbers)} also stand for turns from before the branches parted, and "
            "are added as they are"
        )
    return (
        Sides(
            ours=[step for step in used if step.number not in draft.sources],
            theirs=[step for step in used if step.number in draft.sources],
        ),
        notes,
    )


def _reaches(line: Sequence[Step], step: Step, fork: int) -> bool:
    """Whether the turn takes the place of one up to the fork."""
    return any(number <= fork or _reaches(line, line[number - 1], fork) for number in step.replaces)


def _by_tensor(ledger: Ledger, sides: Sides) -> dict[str, Sides]:
    """The side memories of both sides, by the matrix beside which they stand."""
    turns: dict[str, set[int]] = {}
    for step in sides.both:
        for name in open_patch(ledger, step).memories:
            turns.setdefault(name, set()).add(step.number)
    return {name: sides.only(numbers) for name, numbers in turns.items()}


def _blend_weights(
    ledger: Ledger, draft: Draft, sides: Sides, blending: Blending, progress: Progress
) -> Step:
    started = time.perf_counter()
    numbers = [step.number for step in sides.both]
    settings = {**blending.how.to_json(), **blending.settings, "merges": numbers}
    header = PatchHeader(
        base=ledger.base.fingerprint,
        method=blending.how.method,
        hyperparameters=settings,
        turn=len(draft.line) + 1,
        parent=draft.used[-1].patch_digest,
    )
    with ledger.store.arriving() as path:
        infos = write_patch(path, header, _blended(ledger, sides, blending.how, progress))
        if not infos:
            raise EditingError(
                f"{blending.how.method} leaves nothing of what both branches have changed; use "
                "another --strategy, or a higher --density. Nothing was recorded"
            )
        patch = Blob.keep(ledger.store, path, infos)
    new = NewTurn(
        parent=None,
        kind="merge",
        method=blending.how.method,
        hyperparameters=settings,
        seed=blending.how.seed,
        message=blending.message,
        patch=patch,
        environment={"versions": environment.versions(), "device": "cpu"},
        seconds={"total": time.perf_counter() - started},
        peak_memory=environment.peak_memory(torch.device("cpu")),
    )
    return draft.merge(new, replaces=numbers)


def _blended(
    ledger: Ledger, sides: Sides, how: Merge, progress: Progress
) -> Iterator[tuple[str, Change]]:
    """The blend tensor by tensor, each made when asked for."""
    ours, theirs = (
        [open_patch(ledger, step) for step in some] for some in (sides.ours, sides.theirs)
    )
    changed = tensors_changed([*ours, *theirs])
    for done, (name, transposed) in enumerate(changed.items(), start=1):
        values = merged_totals(total_change(ours, name), total_change(theirs, name), how)
        if not torch.isfinite(values).all():
            raise EditingError(
                f"tensor {name}: {how.method} gives numbers that are not finite; use another "
                "--strategy. Nothing was recorded"
            )
        # A tensor in which the sides cancel each other out is the base's again.
        if values.any():
            sparse = _all_sparse([*ours, *theirs], name)
            delta = Sparse.of(values, values != 0) if sparse else Dense(delta=values)
            yield name, Change(delta=delta, transposed=transposed)
        progress("blend", done, len(changed))


def _all_sparse(patches: Sequence[PatchFile], name: str) -> bool:
    return all(
        patch.changes[name].kind == Sparse.kind for patch in patches if name in patch.changes
    )
