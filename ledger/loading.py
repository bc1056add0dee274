"""Load a written model with its side memories, wherever it was written or pushed to."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ledger.models import load_model, load_tokenizer, resolve_model, split_revision
from patches.checkpoint import Checkpoint, open_checkpoint, tensor_digests
from patches.checkpoint_writer import PROVENANCE_FILE, read_provenance
from patches.errors import CheckpointError
from patches.memory_file import MEMORY_FILE, read_memories
from patches.side_memory import SideMemory

if TYPE_CHECKING:
    from torch import nn


def load_patched(
    address: str | Path,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    materialise: bool = False,
) -> tuple["nn.Module", Any]:
    """Model and tokenizer from a folder that `ledger apply` wrote, or a Hub id of one.

    With side memories, the model routes every prompt, in `generate` and in batches too; without, it
    is what transformers loads. materialise: keep the memories as dense matrices, which is faster on
    accelerators. Raises CheckpointError if the folder was not written by a ledger or is not as it
    was written.
    """
    name, given = split_revision(str(address))
    folder, _ = resolve_model(name, revision or given)
    provenance = read_provenance(folder)
    if provenance is None:
        raise CheckpointError(
            f"{folder}: no {PROVENANCE_FILE} in it, no ledger wrote it; load it with transformers"
        )
    memories = _memories(folder, provenance)
    model = load_model(folder, dtype=dtype, device=device)
    if memories:
        from patches.routing import attach

        attach(model, memories, materialise=materialise)
    return model, load_tokenizer(folder)


def _memories(folder: Path, provenance: dict[str, Any]) -> tuple[SideMemory, ...]:
    """The side memories in `folder`, checked to be those that were written for its weights."""
    beside = provenance.get("beside") or {}
    if not isinstance(beside, dict) or set(beside) - {MEMORY_FILE}:
        raise CheckpointError(
            f"{folder / PROVENANCE_FILE}: names files beside the weights that this program does "
            "not know; update edit-ledger"
        )
    if not beside:
        return ()
    path = folder / MEMORY_FILE
    if not path.is_file():
        raise CheckpointError(f"{path}: is missing; write or download the model again")
    if _digest(path) != beside[MEMORY_FILE]:
        raise CheckpointError(
            f"{path}: is not the file that was written here; write or download the model again"
        )
    found = read_memories(path)
    base = provenance.get("base")
    fingerprint = base.get("fingerprint") if isinstance(base, dict) else None
    if found.base != fingerprint:
        raise CheckpointError(
            f"{path}: its side memories were trained on another base model ({found.base[:12]}…)"
        )
    _check_mains(open_checkpoint(folder), found.memories)
    return found.memories


def _check_mains(checkpoint: Checkpoint, memories: tuple[SideMemory, ...]) -> None:
    """A memory that brings no main weight along is relative to the one in the folder."""
    relative = [m for m in memories if m.main is None]
    digests = tensor_digests(checkpoint, names=sorted({memory.tensor for memory in relative}))
    for memory in relative:
        # At 32 bits, another machine may have rounded the patched weight differently.
        exact = checkpoint.tensor(memory.tensor).dtype not in ("F32", "F64")
        if exact and digests[memory.tensor] != memory.routing.main:
            raise CheckpointError(
                f"{checkpoint.folder}: tensor {memory.tensor} is not the one that the side memory "
                f"of turn {memory.turn} is relative to; write or download the model again"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
