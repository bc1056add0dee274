"""States of the model: the patches that make one up, and a live model brought to it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ledger import history
from ledger.history import Turn
from ledger.models import load_model
from ledger.progress import Progress, silent
from ledger.workspace import Ledger
from patches.application import base_tensor, patched, total_change
from patches.canonical import sha256
from patches.dtypes import tensor_bytes
from patches.errors import HistoryError
from patches.live import LiveModel
from patches.patch import PatchFile
from patches.side_memory import SideMemory


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What makes up a state: patches of the main weights, and side memories; in turn order."""

    patches: tuple[PatchFile, ...]
    memories: tuple[SideMemory, ...]


def open_state(ledger: Ledger, turns: Sequence[Turn], used: Sequence[Turn]) -> State:
    """The state that the patches of `used` make up. turns: the history that they are part of.

    Every patch's bytes are checked, and the base's tensors under them too. A side memory brings the
    main weight of its own turn along where the state has another.
    """
    opened = {turn.number: open_patch(ledger, turn) for turn in used}
    names = {n for patch in opened.values() for n in (*patch.changes, *patch.memories)}
    ledger.check_base_tensors(sorted(names))
    mains = _Mains(ledger, turns, opened)
    memories = [
        patch.memory(name, main=mains.of(turn, name))
        for turn in used
        for patch in [opened[turn.number]]
        for name in patch.memories
    ]
    return State(
        patches=tuple(patch for patch in opened.values() if patch.changes),
        memories=tuple(memories),
    )


def open_patch(ledger: Ledger, turn: Turn) -> PatchFile:
    """The patch of a turn, its bytes checked; HistoryError if it is for another base."""
    assert turn.row.patch_digest is not None
    patch = PatchFile(ledger.store.open(turn.row.patch_digest))
    if patch.header.base != ledger.base.fingerprint:
        raise HistoryError(
            f"{patch.path} was made for another base model ({patch.header.base[:12]}…)"
        )
    return patch


class _Mains:
    """The main weights that side memories are relative to, where they are not the state's."""

    def __init__(self, ledger: Ledger, turns: Sequence[Turn], opened: dict[int, PatchFile]) -> None:
        self._ledger = ledger
        self._turns = turns
        self._opened = opened
        self._built: dict[tuple[str, tuple[int, ...]], Tensor] = {}

    def of(self, turn: Turn, name: str) -> Tensor | None:
        """Tensor `name` as it was at `turn`, as stored; None if the state has it in that form."""
        then = _changing(history.patches_in_force(self._turns, turn.number), name)
        if then == _changing((t for t in self._turns if t.number in self._opened), name):
            return None
        key = (name, tuple(t.number for t in then))
        if key not in self._built:
            self._built[key] = self._build(turn, name, then)
        return self._built[key]

    def _build(self, turn: Turn, name: str, then: Sequence[Turn]) -> Tensor:
        base = base_tensor(self._ledger.checkpoint, name)
        patches = [self._opened.get(t.number) or open_patch(self._ledger, t) for t in then]
        total = total_change(patches, name)
        weight = base
        if total is not None:
            transposed = patches[0].changes[name].transposed
            weight = patched(base, total, transposed=transposed, dtype=base.dtype)
        routing = self._opened[turn.number].memories[name].routing
        assert routing is not None
        found = sha256(tensor_bytes(weight))
        # At 32 bits another machine's order of summation shows in one element of 10^8.
        exact = self._ledger.base.tensors[name][0] not in ("F32", "F64")
        if found != routing.main and exact:
            raise HistoryError(
                f"tensor {name} at turn {turn.number} comes out with SHA-256 {found[:12]}…, but "
                f"the side memory of that turn is relative to {routing.main[:12]}…; "
                "run: ledger verify"
            )
        return weight


def _changing(turns: Iterable[Turn], name: str) -> list[Turn]:
    """Those whose patch changes the main weight `name`."""
    return [
        turn
        for turn in turns
        if turn.patch is not None and "routing" not in turn.patch.changes.get(name, {"routing": 0})
    ]


def live_state(
    ledger: Ledger,
    turns: Sequence[Turn],
    at: int | None,
    *,
    device: str,
    dtype: str | None,
    progress: Progress = silent,
) -> LiveModel:
    """The base model loaded and brought to the state after turn `at` (default: the head)."""
    progress("load", 0, 1)
    state = open_state(ledger, turns, history.patches_in_force(turns, at))
    model = load_model(ledger.checkpoint.folder, dtype=dtype, device=device)
    live = LiveModel(model, ledger.checkpoint)
    live.set_state(state.patches, state.memories)
    progress("load", 1, 1)
    return live
