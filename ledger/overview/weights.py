"""How far each turn moves each tensor, from the patches in the store."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from ledger import database, pruned
from ledger.history import Step
from ledger.overview.spread import spread
from ledger.progress import Progress, silent
from ledger.states import open_patch
from ledger.wording import turn_numbers
from ledger.workspace import Ledger
from patches.application import base_tensor
from patches.errors import CheckpointError, HistoryError, HubError, PatchError, StoreError
from patches.norms import delta_norm, weight_norm
from patches.patch import PatchFile

_NUMBER = re.compile("([0-9]+)")


@dataclass(frozen=True, kw_only=True)
class Change:
    """What the patch of `turn` does to `tensor`. norm: the Frobenius norm of the delta. share: of
    the base's tensor; None if that is zero, or not here. kind: how the delta is stored. rank: of
    its factors, if it has such."""

    turn: int
    tensor: str
    norm: float
    share: float | None
    kind: str
    rank: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class WeightChanges:
    """turns: whose patches were read, also rolled-back ones. tensors: in the model's order.
    changes: in order of turn and tensor. notes: what is left out, for people."""

    turns: tuple[int, ...]
    tensors: tuple[str, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def weight_changes(
    ledger: Ledger, line: Sequence[Step], *, most: int = 200, progress: Progress = silent
) -> WeightChanges:
    """What the patches of `line` change; of more than `most` turns with one, those at even
    distances. Every patch is read, a tensor at a time, and its bytes are checked.

    A patch that is missing, damaged or for another base becomes a note, as does a base whose
    tensors are not here.
    """
    patched = [step for step in line if step.patch_digest]
    chosen = spread(patched, most)
    read, unread = _read(ledger, chosen, progress)
    names = sorted({one.tensor for found in read.values() for one in found}, key=in_order)
    base, why = _base_norms(ledger, names, progress)
    there = [step for step in chosen if step.patch_digest in read]
    return WeightChanges(
        turns=tuple(step.number for step in there),
        tensors=tuple(names),
        changes=tuple(
            one.of(step.number, base.get(one.tensor))
            for step in there
            for one in sorted(read[step.patch_digest or ""], key=lambda one: in_order(one.tensor))
        ),
        notes=(
            *([f"{len(chosen):,} of {len(patched):,} turns"] if len(chosen) < len(patched) else ()),
            *(_unread_notes(ledger, unread)),
            *why,
        ),
    )


class _Norm(NamedTuple):
    """What a patch does to a tensor."""

    tensor: str
    norm: float
    kind: str
    rank: int | None

    def of(self, turn: int, base: float | None) -> Change:
        """As the patch of this turn. base: the norm of the base's tensor."""
        return Change(
            turn=turn,
            tensor=self.tensor,
            norm=self.norm,
            share=self.norm / base if base else None,
            kind=self.kind,
            rank=self.rank,
        )


def _read(
    ledger: Ledger, steps: Sequence[Step], progress: Progress
) -> tuple[dict[str, list[_Norm]], list[Step]]:
    """What each patch does, by its digest, and the turns whose patch cannot be read."""
    read: dict[str, list[_Norm]] = {}
    unread = []
    for done, step in enumerate(steps):
        progress("read patches", done, len(steps))
        # A turn that was copied has the patch of its source.
        if step.patch_digest is not None and step.patch_digest not in read:
            try:
                read[step.patch_digest] = list(_norms(open_patch(ledger, step)))
            except (StoreError, PatchError, HistoryError):
                unread.append(step)
    progress("read patches", len(steps), len(steps))
    return read, unread


def _norms(patch: PatchFile) -> Iterator[_Norm]:
    for name, info in {**patch.changes, **patch.memories}.items():
        yield _Norm(name, delta_norm(patch.delta(name)), info.kind, info.rank)


def _unread_notes(ledger: Ledger, unread: Sequence[Step]) -> Iterator[str]:
    with database.reading(ledger.engine) as session:
        gone = pruned.among(session, sorted({step.patch_digest or "" for step in unread}))
    causes = {True: "was pruned", False: "cannot be read (see: ledger verify)"}
    for was_pruned, cause in causes.items():
        turns = [step.number for step in unread if (step.patch_digest in gone) == was_pruned]
        if turns:
            yield f"without {turn_numbers(turns)}, whose patch {cause}"


def _base_norms(
    ledger: Ledger, names: Sequence[str], progress: Progress
) -> tuple[dict[str, float], tuple[str, ...]]:
    """The norms of the base's tensors, and why there are none."""
    found: dict[str, float] = {}
    try:
        for done, name in enumerate(names):
            progress("measure base", done, len(names))
            found[name] = weight_norm(base_tensor(ledger.checkpoint, name))
    except (CheckpointError, HubError, PatchError) as error:
        return {}, (f"without the shares of the base's weights: {error}",)
    progress("measure base", len(names), len(names))
    return found, ()


def in_order(name: str) -> tuple[str | int, ...]:
    """A key that sorts layer 9 before layer 10: text and numbers by turns."""
    parts = enumerate(_NUMBER.split(name))
    return tuple(int(part) if place % 2 else part for place, part in parts)
