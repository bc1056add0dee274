"""States of the model: the patches that make one up, and a live model brought to it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ledger import database, history, keyframes, pruned
from ledger.history import Step
from ledger.models import load_model
from ledger.needed import trained_on
from ledger.progress import Progress, silent
from ledger.workspace import Ledger
from patches.application import base_tensor, patched, total_change
from patches.canonical import sha256
from patches.dtypes import tensor_view
from patches.errors import HistoryError, PatchError
from patches.finite import check_weight
from patches.live import LiveModel
from patches.patch import PatchFile
from patches.side_memory import SideMemory


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What makes up a state: patches of the main weights, and side memories; in turn order.

    patches: the first may be a keyframe, the sum of all before the others.
    """

    patches: tuple[PatchFile, ...]
    memories: tuple[SideMemory, ...]


def open_state(
    ledger: Ledger,
    turns: Sequence[Step],
    used: Sequence[Step],
    *,
    whole: bool = False,
    keeps: bool = True,
) -> State:
    """The state that the patches of `used` make up. turns: the history that they are part of.

    Every patch's bytes are checked, and the base's tensors under them too. A side memory brings the
    main weight of its own turn along where the state has another. whole: every patch itself, no
    keyframe. keeps: a keyframe that is due is written.
    """
    patches = _weights(ledger, used, whole=whole, keeps=keeps)
    beside = {step.number: open_patch(ledger, step) for step in used if step.has_memory}
    names = {name for patch in patches for name in patch.changes}
    names |= {name for patch in beside.values() for name in patch.memories}
    ledger.check_base_tensors(sorted(names))
    mains = _Mains(ledger, turns, used, keeps=keeps)
    memories = [
        patch.memory(name, turn=step.number, main=mains.of(step, patch, name))
        for step in used
        if (patch := beside.get(step.number)) is not None
        for name in patch.memories
    ]
    return State(patches=tuple(patches), memories=tuple(memories))


def open_patch(ledger: Ledger, step: Step) -> PatchFile:
    """The patch of a turn, its bytes checked; HistoryError if it is for another base, StoreError if
    it is missing, which says so where it was pruned."""
    assert step.patch_digest is not None
    return _opened(ledger, step.patch_digest)


def _opened(ledger: Ledger, digest: str) -> PatchFile:
    patch = PatchFile(pruned.opened(ledger, digest))
    if patch.header.base != ledger.base.fingerprint:
        raise HistoryError(
            f"{patch.path} was made for another base model ({patch.header.base[:12]}…)"
        )
    return patch


def _weights(
    ledger: Ledger, used: Sequence[Step], *, whole: bool = False, keeps: bool = True
) -> list[PatchFile]:
    """The patches of `used` that change main weights, the first of them as a keyframe if there is
    one; a new one is kept where that is worth it."""
    keys = keyframes.keys(
        "weights", ledger.base.fingerprint, (step.patch_digest or "" for step in used)
    )
    found = None if whole else keyframes.find(ledger, "weights", keys)
    opened = [] if found is None else _held(found.path)
    rest = used[found.count if found is not None and opened else 0 :]
    opened += [patch for step in rest if (patch := open_patch(ledger, step)).changes]
    shapes = {name: info.shape for patch in opened for name, info in patch.changes.items()}
    size = keyframes.frame_bytes(shapes.values())
    if (
        whole
        or not keeps
        or not keyframes.due(len(rest), sum(step.patch_bytes for step in rest), size)
    ):
        return opened
    ledger.check_base_tensors(sorted(shapes))
    digest = keyframes.keep_weights(ledger, keys[-1], keyframes.summed(opened))
    return (digest and _held(ledger.store.path(digest))) or opened


def _held(path: Path) -> list[PatchFile]:
    """The keyframe in a file; nothing if garbage collection has just removed it, as it may while
    the keyframe is in use."""
    try:
        return [PatchFile(path, held=True)]
    except PatchError:
        return []


class _Mains:
    """The main weights that side memories are relative to, where they are not the state's."""

    def __init__(
        self, ledger: Ledger, turns: Sequence[Step], used: Sequence[Step], *, keeps: bool
    ) -> None:
        self._ledger = ledger
        self._keeps = keeps
        self._turns = turns
        self._used = used
        self._changing: dict[tuple[str, str], bool] = {}
        self._built: dict[tuple[str, tuple[str, ...]], Tensor] = {}

    def of(self, step: Step, patch: PatchFile, name: str) -> Tensor | None:
        """Tensor `name` as it was where the memory was trained, as stored; None if the state has it
        in that form."""
        then = history.patches_in_force(trained_on(self._turns, step, self._line_to))
        now, before = (Counter(one.patch_digest for one in some) for some in (self._used, then))
        other = {*(now - before), *(before - now)}
        if not any(self._changes(digest, name) for digest in other):
            return None
        then = [one for one in then if self._changes(one.patch_digest, name)]
        key = (name, tuple(one.patch_digest or "" for one in then))
        if key not in self._built:
            self._built[key] = self._build(patch, name, then)
        return self._built[key]

    def _line_to(self, digest: str) -> list[Step] | None:
        with database.reading(self._ledger.engine) as session:
            found = history.by_hash(session, digest)
            return None if found is None else history.line_to(session, found.id)

    def _changes(self, digest: str | None, name: str) -> bool:
        """Whether this patch changes the main weight `name`."""
        assert digest is not None
        key = (digest, name)
        if key not in self._changing:
            self._changing[key] = name in _opened(self._ledger, digest).changes
        return self._changing[key]

    def _build(self, patch: PatchFile, name: str, then: Sequence[Step]) -> Tensor:
        base = base_tensor(self._ledger.checkpoint, name)
        patches = _weights(self._ledger, then, keeps=self._keeps)
        total = total_change(patches, name)
        weight = base
        if total is not None:
            transposed = patches[0].changes[name].transposed
            weight = patched(base, total, transposed=transposed, dtype=base.dtype)
            check_weight(name, weight, base=base, turn=patches[-1].header.turn)
        routing = patch.memories[name].routing
        assert routing is not None
        found = sha256(tensor_view(weight))
        # At 32 bits another machine's order of summation shows in one element of 10^8.
        exact = self._ledger.base.tensors[name][0] not in ("F32", "F64")
        if found != routing.main and exact:
            raise HistoryError(
                f"tensor {name} comes out with SHA-256 {found[:12]}…, but the side memory in "
                f"{patch.path} is relative to {routing.main[:12]}…; run: ledger verify"
            )
        return weight


def live_state(
    ledger: Ledger,
    turns: Sequence[Step],
    *,
    device: str,
    dtype: str | None,
    progress: Progress = silent,
) -> LiveModel:
    """The base model loaded and brought to the state after the last of `turns`."""
    progress("load", 0, 1)
    state = open_state(ledger, turns, history.patches_in_force(turns))
    model = load_model(ledger.checkpoint.folder, dtype=dtype, device=device)
    live = LiveModel(model, ledger.checkpoint)
    live.set_state(state.patches, state.memories)
    progress("load", 1, 1)
    return live
