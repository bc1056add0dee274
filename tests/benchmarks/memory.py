"""What this process holds in memory, and the most that it has held."""

import os
import resource
import sys
from pathlib import Path

_STATM = Path("/proc/self/statm")
_CLEAR = Path("/proc/self/clear_refs")
_PEAK = "5"  # of proc(5): set the peak back to what is held now


def held() -> int:
    """Bytes held now; where the system does not say it, the most that were held so far."""
    if _STATM.is_file():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return peak()


def peak() -> int:
    """Bytes, the most that were held since the start, or since `forget_peak`."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Count the peak from now on, as far as the system can: what loading needed is over."""
    if _CLEAR.is_file():
        _CLEAR.write_text(_PEAK)
