"""The names that safetensors gives to torch's dtypes, and the bytes of a tensor."""

import torch
from torch import Tensor

from patches.errors import CheckpointError

NAMES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES: dict[str, torch.dtype] = {name: dtype for dtype, name in NAMES.items()}
EDITABLE = ("BF16", "F16", "F32", "F64")


def tensor_bytes(tensor: Tensor) -> bytes:
    """The elements of `tensor` in row-major order, little-endian."""
    return bytes(tensor_view(tensor))


def tensor_view(tensor: Tensor) -> memoryview:
    """The same where they lie, if they lie so: no copy of a whole tensor on the CPU."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def tensor_from_bytes(data: bytearray, *, dtype: str, shape: tuple[int, ...], name: str) -> Tensor:
    """A tensor over `data`; CheckpointError if tensor `name` has a dtype that cannot be edited."""
    if dtype not in EDITABLE:
        raise CheckpointError(
            f"tensor {name} is stored as {dtype}; edits need one of {', '.join(EDITABLE)}"
        )
    if not data:
        return torch.empty(shape, dtype=DTYPES[dtype])
    return torch.frombuffer(data, dtype=DTYPES[dtype]).reshape(shape)
