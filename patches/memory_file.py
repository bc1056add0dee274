"""The side memories of a state as one file: what a written model carries beside its weights.

A safetensors file, as canonical as a patch. Its metadata hold, all as text:

    format, version     "edit-ledger-memories", "1"
    base                fingerprint of the base model
    memories            canonical JSON: per memory turn, tensor, transposed, routing, and the name
                        of its own main weight here, or null where the model beside it has it

and its tensors are ``<number>/<part of the sparse delta>`` and main weights, ``main/<SHA-256>``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor

from patches.canonical import canonical_json, sha256
from patches.canonical_tensors import safetensors_bytes
from patches.deltas import Sparse
from patches.dtypes import tensor_bytes
from patches.errors import PatchError
from patches.patch import VERSION, read_metadata, read_tensors
from patches.side_memory import Routing, SideMemory
from patches.strict_json import strict_json

MEMORY_FILE = "side_memory.safetensors"
MEMORY_FORMAT = "edit-ledger-memories"
_TYPES: dict[str, tuple[type, ...]] = {
    "turn": (int,),
    "tensor": (str,),
    "transposed": (bool,),
    "routing": (dict,),
    "main": (str, type(None)),
}


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
        described = strict_json(metadata["memories"])
        base = metadata["base"]
        if not isinstance(described, list):
            raise TypeError("its memories are not a list")
    except (KeyError, ValueError, TypeError) as error:
        raise _damaged(path, error) from error
    tensors = read_tensors(path)
    try:
        memories = [_memory(number, entry, tensors) for number, entry in enumerate(described)]
    except PatchError as error:
        raise PatchError(f"{path}: {error}") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise _damaged(path, error) from error
    _check_owners(path, memories, tensors)
    return MemoryFile(base=base, memories=tuple(memories))


def _damaged(path: Path, error: Exception) -> PatchError:
    return PatchError(f"{path}: the file of side memories is damaged ({error!r:.300})")


def _memory(number: int, entry: Any, tensors: Mapping[str, Tensor]) -> SideMemory:
    prefix = f"{number}/"
    parts = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    found = {name: entry[name] for name in _TYPES}
    for name, value in found.items():
        if type(value) not in _TYPES[name]:
            raise TypeError(f"memory {number}: {name} is {value!r:.40}")
    delta = Sparse.from_tensors(parts)
    return SideMemory(
        turn=found["turn"],
        tensor=found["tensor"],
        transposed=found["transposed"],
        delta=delta,
        routing=Routing.from_json(found["routing"]),
        main=None if found["main"] is None else _main(found["main"], delta, tensors),
    )


def _main(name: str, delta: Sparse, tensors: Mapping[str, Tensor]) -> Tensor:
    """A memory's own main weight, which is called by its digest."""
    main = tensors[name]
    if name != f"main/{sha256(tensor_bytes(main))}":
        raise PatchError(f"the main weight {name} is not what its name says: it was altered")
    if main.numel() != prod(delta.shape) or not main.is_floating_point():
        raise PatchError(
            f"the main weight {name} is {main.dtype} {tuple(main.shape)}, its memory {delta.shape}"
        )
    return main


def _check_owners(
    path: Path, memories: Sequence[SideMemory], tensors: Mapping[str, Tensor]
) -> None:
    """Bytes that belong to no memory would be carried along unseen."""
    known = {f"{n}/{part}" for n, m in enumerate(memories) for part in m.delta.tensors()}
    mains = {id(memory.main) for memory in memories}
    strays = [n for n, tensor in tensors.items() if n not in known and id(tensor) not in mains]
    if strays:
        raise PatchError(f"{path}: the tensor {strays[0]!r:.200} belongs to no side memory")
