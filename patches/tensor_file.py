"""The header of a safetensors file, read without a tensor library and without trust.

8 bytes little-endian with the length of the header, the header as JSON, then the tensors' bytes
without gaps. Readers of this format differ in what they let pass (repeated names, overlaps, bytes
that belong to nothing); here nothing of it does.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeGuard

from patches.strict_json import strict_json

# Bits of one element, by the names that the safetensors format uses.
BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}

# The format's own limit; a longer one is a damaged length, not a header.
_LONGEST_HEADER = 100_000_000
# Torch counts elements and steps in 64 bits, also where there are no elements.
_MOST_ELEMENTS = 2**48


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where the bytes of one tensor lie.

    dtype: safetensors' name of it, e.g. ``BF16``.
    file: name of the weight file in its folder.
    start, end: absolute byte offsets in that file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class TensorFile:
    """What a header says. tensors: in the order of their bytes."""

    metadata: Mapping[str, str]
    tensors: tuple[StoredTensor, ...]


def read_tensor_file(path: Path, *, longest: int = _LONGEST_HEADER) -> TensorFile:
    """The header of the file at `path`, every claim checked against the others and the size.

    longest: bytes of a header that is read at all.
    ValueError says what is wrong with it; OSError if it cannot be read.
    """
    with path.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, longest):
            raise ValueError(
                f"{size} bytes long, its header says {length}: not safetensors, or cut off"
            )
        text = opened.read(length)
    if not text.startswith(b"{"):
        raise ValueError("its header is not a JSON object: not safetensors, or damaged")
    try:
        header = strict_json(text)
    except ValueError as error:
        raise ValueError(f"its header is not JSON ({error})") from error
    metadata = _checked_metadata(header.pop("__metadata__", None))
    tensors = [_stored(name, entry, path.name, 8 + length) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end, tensor.name))
    _check_order(tensors, 8 + length, size)
    return TensorFile(metadata=metadata, tensors=tuple(tensors))


def _check_order(tensors: list[StoredTensor], start: int, size: int) -> None:
    """The tensors' bytes follow one another from `start` on, up to the end of the file."""
    reached = start
    for tensor in tensors:
        if tensor.start != reached:
            raise _damaged(tensor.name, "leaves a gap or overlaps another")
        reached = tensor.end
    if reached != size:
        raise ValueError(f"{size} bytes long where its header describes {reached}")


def _checked_metadata(value: object) -> dict[str, str]:
    """Free text about the file may be absent, but not anything else than text."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError("__metadata__ in its header is not text")
    return value


def _stored(name: str, entry: object, file: str, origin: int) -> StoredTensor:
    """Check one entry of a header; its offsets count from `origin`, the header's end."""
    if not isinstance(entry, dict):
        raise _damaged(name, "has no description")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _damaged(name, f"has the unknown dtype {dtype!r}")
    if not _are_counts(shape) or prod(max(1, n) for n in shape) > _MOST_ELEMENTS:
        raise _damaged(name, "has no valid shape")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _damaged(name, "has no valid data_offsets")
    # Elements of less than a byte are packed, and must fill whole bytes.
    if prod(shape) * BITS[dtype] != (offsets[1] - offsets[0]) * 8:
        raise _damaged(name, f"has data_offsets that do not fit {dtype} {shape}")
    start, end = origin + offsets[0], origin + offsets[1]
    return StoredTensor(name=name, dtype=dtype, shape=tuple(shape), file=file, start=start, end=end)


def _are_counts(value: object) -> TypeGuard[list[int]]:
    """Whether a JSON value is a list of whole numbers from 0 on (true and false are not)."""
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


def _damaged(name: str, problem: str) -> ValueError:
    return ValueError(f"tensor {name[:200]!r} {problem}")
