"""The side memories of a state as one file: what a written model carries beside its weights.

A safetensors file, as canonical as a patch. Its metadata hold, all as text:

    format, version     "edit-ledger-memories", "1"
    base                fingerprint of the base model
    memories            canonical JSON: per memory turn, tensor, transposed, routing, and the name
                        of its own main weight here, or null where the model beside it has it

and its tensors are ``<number>/<part of the sparse delta>`` and main weights, ``main/<SHA-256>``.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from patches.canonical import canonical_json, sha256
from patches.deltas import Sparse
from patches.dtypes import tensor_bytes
from patches.errors import PatchError
from patches.patch import VERSION, read_metadata, safetensors_bytes
from patches.side_memory import Routing, SideMemory

MEMORY_FILE = "side_memory.safetensors"
MEMORY_FORMAT = "edit-ledger-memories"


@dataclass(frozen=True, kw_only=True, eq=False)
class MemoryFile:
    """What such a file holds. base: fingerprint."""

    base: str
    memories: tuple[SideMemory, ...]


def encode_memories(base: str, memories: Sequence[SideMemory]) -> bytes:
    """The bytes of the file: equal content gives equal bytes."""
    tensors: dict[str, Tensor] = {}
    described = []
    for number, memory in enumerate(memories):
        own = None
        if memory.main is not None:
            own = f"main/{sha256(tensor_bytes(memory.main))}"
            tensors[own] = memory.main
        tensors.update({f"{number}/{p}": t for p, t in memory.delta.tensors().items()})
        described.append(
            {
                "turn": memory.turn,
                "tensor": memory.tensor,
                "transposed": memory.transposed,
                "routing": memory.routing.to_json(),
                "main": own,
            }
        )
    metadata = {
        "format": MEMORY_FORMAT,
        "version": VERSION,
        "base": base,
        "memories": canonical_json(described).decode(),
    }
    return safetensors_bytes(tensors, metadata)


def read_memories(path: Path) -> MemoryFile:
    """The inverse of `encode_memories`; PatchError if the file is not one, or damaged."""
    metadata = read_metadata(path, MEMORY_FORMAT)
    try:
        described = json.loads(metadata["memories"])
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        memories = [_memory(number, entry, tensors) for number, entry in enumerate(described)]
        return MemoryFile(base=metadata["base"], memories=tuple(memories))
    except (SafetensorError, OSError) as error:
        raise PatchError(f"{path}: cannot be read ({error})") from error
    except PatchError as error:
        raise PatchError(f"{path}: {error}") from error
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise PatchError(f"{path}: the file of side memories is damaged ({error!r})") from error


def _memory(number: int, entry: Any, tensors: dict[str, Tensor]) -> SideMemory:
    prefix = f"{number}/"
    parts = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    return SideMemory(
        turn=int(entry["turn"]),
        tensor=str(entry["tensor"]),
        transposed=bool(entry["transposed"]),
        delta=Sparse.from_tensors(parts),
        routing=Routing.from_json(entry["routing"]),
        main=None if entry["main"] is None else tensors[entry["main"]],
    )
