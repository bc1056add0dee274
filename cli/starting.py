"""What a command costs beside its work: loading its modules, and leaving the program."""

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Around imports of what is large, such as torch: not interrupted by a search for garbage.

    Imports leave none, and there will be none among what they bring; to look for it would take a
    tenth of the time that they need.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def leave_quickly() -> None:
    """When the program ends, give everything back at once: Python would look through all that torch
    is made of for garbage first, a third of a second."""
    atexit.unregister(gc.freeze)
    atexit.register(gc.freeze)
