"""How a process waits until another one is done with what both want to write."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from patches.errors import DatabaseError, SettingError

_SILENT_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1


def _say_nothing(_what: str) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """seconds: how long at most; 0: not at all. told: called once, with what is waited for, when
    that has taken a second."""

    seconds: float = 30.0
    told: Callable[[str], None] = _say_nothing

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < 10**7:
            raise SettingError(f"--lock-timeout {self.seconds}: give seconds, 0 or more")


def wait_for(attempt: Callable[[], bool], waiting: Waiting, what: str) -> None:
    """Try until `attempt` succeeds; DatabaseError, which names `what`, if it never does."""
    started = time.monotonic()
    pause, silent = _FIRST_PAUSE, True
    while not attempt():
        waited = time.monotonic() - started
        if waited >= waiting.seconds:
            raise DatabaseError(
                f"{what}: another process is writing to it, and was not done in "
                f"{waiting.seconds:g} seconds. Nothing was changed; run again, or wait longer "
                "with --lock-timeout"
            )
        if silent and waited >= _SILENT_SECONDS:
            waiting.told(what)
            silent = False
        time.sleep(max(0.0, min(pause, waiting.seconds - waited)))
        pause = min(1.5 * pause, _LONGEST_PAUSE)
