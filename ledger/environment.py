"""What a turn was made with: library versions, device, memory."""

import platform
import resource
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_LIBRARIES = ("edit-ledger", "torch", "transformers", "safetensors", "tokenizers", "sqlalchemy")


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that have a part in the result."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    # Each is parsed from a file, and every turn tells them.
    found = {"python": platform.python_version()}
    for library in _LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return found


def describe(device: "torch.device", dtype: "torch.dtype") -> dict[str, Any]:
    """Versions, device, dtype of the live model, and threads."""
    import torch

    cuda = device.type == "cuda"
    return {
        "versions": versions(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
    }


def start_peak_memory(device: "torch.device") -> None:
    """Count the device's peak from here; on the CPU it is that of the process's whole life."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: "torch.device") -> int:
    """Bytes: the most that the device has held for torch, or on the CPU the process in memory."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
