"""The check of a ledger, in the background: one at a time, and what the last one has found."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from threading import Lock, Thread
from time import monotonic
from typing import Any

from ledger.chain import timestamp
from ledger.page.kept import journal_head
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import EditLedgerError


@dataclass(frozen=True, kw_only=True)
class Check:
    """A check, running or done.

    head: the hash of the journal's newest entry when it began. phase, done, total: how far it is.
    seconds: since it began, or that it took. found: what `ledger.verifying.Verified` tells; error:
    why there is nothing to tell. Both are None while it runs.
    """

    head: str | None
    started_at: str
    phase: str = ""
    done: int = 0
    total: int = 0
    seconds: float = 0.0
    found: dict[str, Any] | None = None
    error: str | None = None

    @property
    def is_running(self) -> bool:
        return self.found is None and self.error is None


class Checking:
    """The checks of a ledger since this program started, of which it keeps the last."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._lock = Lock()
        self._check: Check | None = None
        self._began = 0.0
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begin a check, if none is running."""
        with self._lock:
            if self._check is not None and self._check.is_running:
                return
            head = journal_head(self._ledger)
            self._check = Check(head=head, started_at=timestamp(datetime.now(UTC)))
            self._began = monotonic()
            # It only reads: whoever ends the program need not wait for it.
            self._thread = Thread(target=self._run, name="ledger verify", daemon=True)
            self._thread.start()

    def last(self) -> Check | None:
        """The check that is running, or the last one."""
        with self._lock:
            found = self._check
            if found is None or not found.is_running:
                return found
            return replace(found, seconds=monotonic() - self._began)

    def wait(self, seconds: float | None = None) -> None:
        """Until the check that is running is done, or so long."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        try:
            # Opened anew, for what this one has read before may have changed since.
            with Ledger(self._ledger.folder, self._ledger.config) as ledger:
                found = verify(ledger, progress=self._tell)
            self._change(found=found.to_json())
        except EditLedgerError as error:
            self._change(error=str(error))
        except Exception:
            self._change(error="the check broke off; the terminal of ledger serve has the details")
            raise

    def _tell(self, phase: str, done: int, total: int) -> None:
        self._change(phase=phase, done=done, total=total)

    def _change(self, **changes: Any) -> None:
        with self._lock:
            assert self._check is not None
            seconds = monotonic() - self._began
            self._check = replace(self._check, seconds=seconds, **changes)
