"""Safetensors files of which equal content gives equal bytes."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from patches.canonical import Piece, canonical_json
from patches.dtypes import NAMES, tensor_view

_ALIGNMENT = 8


def safetensors_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file with sorted metadata, and tensors sorted by alignment and name.

    The library's own writer puts metadata in the random order of a hash map, so that equal
    content gives different bytes; its readers take this file like any other.
    """
    return b"".join(safetensors_pieces(tensors, metadata))


def safetensors_pieces(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> list[Piece]:
    """The same one after the other."""
    parts = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    head, order = safetensors_head(parts, metadata)
    return [head, *(tensor_view(tensors[name]) for name in order)]


def safetensors_head(
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> tuple[bytes, list[str]]:
    """What comes before the tensors' bytes in such a file, and the order in which they follow.

    tensors: name → (dtype, shape).
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    order = sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name))
    for name in order:
        dtype, shape = tensors[name]
        end = offset + prod(shape) * dtype.itemsize
        header[name] = {
            "dtype": NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = canonical_json(header)
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, order
