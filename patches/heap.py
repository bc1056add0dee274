"""Memory that was used and is free, given back to the system."""

import ctypes


def give_back() -> None:
    """Give back what the allocator keeps for later, where the C library can (glibc); some ms.

    After work that needed much, so that what follows does not come on top of it.
    """
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return
    trim(0)
