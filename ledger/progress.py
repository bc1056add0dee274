"""How long work tells how far it is. The library never prints; whoever watches decides."""

from typing import Protocol


class Progress(Protocol):
    """Called with the phase, what is done of it and how much there is, as often as convenient."""

    def __call__(self, phase: str, done: int, total: int) -> None: ...


def silent(phase: str, done: int, total: int) -> None:
    """The progress that nobody watches."""
