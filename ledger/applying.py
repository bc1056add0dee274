"""Put a state where it is used: a checkpoint folder, or a model already in memory."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from ledger import database, history
from ledger.history import Step
from ledger.orm import BlobRow
from ledger.progress import Progress, silent
from ledger.refs import Rev
from ledger.states import State, open_state
from ledger.workspace import Ledger
from patches.application import patched_bytes
from patches.canonical import sha256
from patches.checkpoint_writer import check_target, write_checkpoint
from patches.errors import HistoryError
from patches.kept_weights import KeptWeights
from patches.live import LiveModel
from patches.memory_file import MEMORY_FILE, encode_memories

if TYPE_CHECKING:
    from torch import nn

PROVENANCE_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Applied:
    """A state that was put somewhere. in_force: its edit turns. tensors: name → SHA-256.

    memories: the turns whose side memories are part of it.
    """

    turn: int
    hash: str
    in_force: list[int]
    tensors: dict[str, str]
    memories: list[int]
    folder: Path | None = None
    files: int = 0
    bytes_written: int = 0
    bytes_taken_over: int = 0
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "folder": None if self.folder is None else str(self.folder),
            "turn": self.turn,
            "hash": self.hash,
            "in_force": self.in_force,
            "tensors": self.tensors,
            "memories": self.memories,
            "files": self.files,
            "bytes_written": self.bytes_written,
            "bytes_taken_over": self.bytes_taken_over,
            "left_out": list(self.left_out),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """A state to apply. used: the turns whose patches make it up. recorded: tensor → SHA-256, as of
    its turn."""

    turn: int
    hash: str
    in_force: list[Step]
    used: list[Step]
    state: State
    recorded: dict[str, str]


def apply_to_folder(
    ledger: Ledger,
    to: Path,
    *,
    at: Rev | None = None,
    link: bool = False,
    progress: Progress = silent,
) -> Applied:
    """Write the state after turn `at` (default: the head) as a checkpoint into folder `to`.

    Side memories go into a file of their own beside the weights; `load_patched` brings both back.
    Streams: one edited tensor in memory at a time. Every patched tensor must come out with the
    SHA-256 that was recorded with its turn. CheckpointError if `to` may not be written; whatever
    goes wrong, `to` stays as it was.
    """
    chosen = choose_state(ledger, at)
    digests: dict[str, str] = {}
    notes: list[str] = []

    def checked(name: str, build: Callable[[], memoryview]) -> memoryview:
        content = build()
        digests[name] = sha256(content)
        notes.extend(_check_digest(ledger, name, digests[name], chosen))
        return content

    builders = {
        name: partial(checked, name, build)
        for name, build in patched_bytes(ledger.checkpoint, chosen.state.patches).items()
    }
    beside = memory_files(ledger, chosen.state)
    written = write_checkpoint(
        ledger.checkpoint,
        to,
        patched=builders,
        beside=beside,
        provenance=provenance(ledger, chosen, beside),
        owner=ledger.base.ledger_id,
        link=link,
        progress=lambda done, total: progress("write", done, total),
    )
    return Applied(
        turn=chosen.turn,
        hash=chosen.hash,
        in_force=[turn.number for turn in chosen.in_force],
        tensors=digests,
        memories=[memory.turn for memory in chosen.state.memories],
        folder=written.folder,
        files=written.files,
        bytes_written=written.bytes_written,
        bytes_taken_over=written.bytes_taken_over,
        left_out=written.left_out,
        notes=tuple(notes),
    )


def check_folder(ledger: Ledger, to: Path) -> None:
    """CheckpointError if `apply_to_folder` would refuse this folder."""
    check_target(ledger.checkpoint, to, owner=ledger.base.ledger_id)


def memory_files(ledger: Ledger, state: State) -> dict[str, bytes]:
    """The files beside the weights that hold the side memories of a state: one, or none."""
    if not state.memories:
        return {}
    return {MEMORY_FILE: encode_memories(ledger.base.fingerprint, state.memories)}


def apply_to_model(
    ledger: Ledger,
    model: "nn.Module",
    *,
    at: Rev | None = None,
    materialise: bool = False,
    kept: KeptWeights | None = None,
) -> Applied:
    """Bring a model in memory, on any device, to the state after turn `at` (default: the head).

    Its patched weights are rebuilt from the base's bytes, whatever they were; weights that some
    other state of this ledger had patched go back to the base. The recorded digests are checked in
    the checkpoint's dtype, whatever the model's. Matrices with side memories are wrapped by
    routers, and are the very modules they were once no memory is in force; materialise: see
    `LiveModel`. kept: weights that states without memories leave in it are taken from there when it
    has them; one for each model, and between two calls nobody else may change what it holds.
    """
    live = LiveModel(model, ledger.checkpoint, materialise=materialise)
    if kept is not None and (back := _put_back(ledger, live, at, kept)) is not None:
        return back
    chosen = choose_state(ledger, at)
    live.reset(sorted(_ever_changed(ledger) - set(chosen.recorded)))
    live.set_state(chosen.state.patches, chosen.state.memories)
    digests = live.digests()
    if kept is not None:
        live.keep(kept, digests)
    notes = [
        note
        for name, digest in digests.items()
        for note in _check_digest(ledger, name, digest, chosen)
    ]
    return Applied(
        turn=chosen.turn,
        hash=chosen.hash,
        in_force=[turn.number for turn in chosen.in_force],
        tensors=digests,
        memories=[memory.turn for memory in chosen.state.memories],
        notes=tuple(notes),
    )


def _put_back(ledger: Ledger, live: LiveModel, at: Rev | None, kept: KeptWeights) -> Applied | None:
    """`apply_to_model` with kept weights; None, and nothing done, if some are missing."""
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch, at)
        recorded = history.tensors_at(session, turns)
    used = history.patches_in_force(turns)
    if any(step.has_memory for step in used) or not live.put_back(kept, recorded):
        return None
    live.reset(sorted(_ever_changed(ledger) - set(recorded)))
    return Applied(
        turn=len(turns),
        hash=history.state_hash(turns),
        in_force=[turn.number for turn in history.edits_in_force(turns)],
        tensors=recorded,
        memories=[],
    )


def _check_digest(ledger: Ledger, name: str, found: str, state: Chosen) -> list[str]:
    """Compare a rebuilt tensor with what was recorded with the turn.

    Base and patches have been checked by then, so a difference comes from the arithmetic. At 16
    bits that does not happen (about once in 10^13 elements): HistoryError. At 32 bits another
    machine's order of summation shows in one element of 10^8: a note.
    """
    if state.recorded.get(name) == found:
        return []
    what = (
        f"tensor {name} of turn {state.turn} comes out with SHA-256 {found[:12]}…, recorded is "
        f"{state.recorded.get(name, 'none')[:12]}…"
    )
    if ledger.base.tensors[name][0] in ("F32", "F64"):
        return [f"{what}: another machine's last-bit rounding; ledger verify --model compares it"]
    raise HistoryError(f"{what}. Run: ledger verify")


def provenance(ledger: Ledger, chosen: Chosen, beside: Mapping[str, bytes]) -> dict[str, object]:
    """What ``ledger.json`` says beside the weights."""
    return {
        "format": PROVENANCE_FORMAT,
        "base": {
            "fingerprint": ledger.base.fingerprint,
            "uri": ledger.base.uri,
            "revision": ledger.base.revision,
        },
        "branch": ledger.branch,
        "turn": chosen.turn,
        "hash": chosen.hash,
        "in_force": [turn.number for turn in chosen.in_force],
        "patches": [turn.patch_digest for turn in chosen.used],
        "tensors": chosen.recorded,
        "beside": {name: sha256(content) for name, content in beside.items()},
    }


def choose_state(ledger: Ledger, at: Rev | None, *, whole: bool = False) -> Chosen:
    """The state after turn `at` (default: the head), its patches and the base's tensors checked.

    whole: every patch itself, no keyframe.
    """
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch, at)
        recorded = history.tensors_at(session, turns)
    used = history.patches_in_force(turns)
    return Chosen(
        turn=len(turns),
        hash=history.state_hash(turns),
        in_force=history.edits_in_force(turns),
        used=used,
        state=open_state(ledger, turns, used, whole=whole),
        recorded=recorded,
    )


def _ever_changed(ledger: Ledger) -> set[str]:
    """Every tensor that some patch of the ledger changes."""
    with database.reading(ledger.engine) as session:
        query = select(BlobRow.changes).where(BlobRow.kind == "patch")
        return {name for changes in session.scalars(query) for name in changes}
