"""The machine and the versions that figures were measured with."""

import os
import platform
from pathlib import Path

import torch

from ledger.environment import versions


def describe() -> dict[str, str]:
    """What has an influence on the figures, by name."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)))
        if hasattr(os, "sched_getaffinity")
        else str(os.cpu_count()),
        "memory": f"{memory / 1e9:.1f} GB",
        "system": platform.platform(terse=True),
        "threads": f"{torch.get_num_threads()} (OMP_NUM_THREADS: "
        f"{os.environ.get('OMP_NUM_THREADS', 'not set')})",
        **versions(),
    }


def _processor() -> str:
    """The processor's name; where the system does not say it, its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
