"""Answers that cost more than a moment, kept until something is recorded."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any, TypeVar

from sqlalchemy import select

from ledger import database
from ledger.orm import EntryRow
from ledger.workspace import Ledger

T = TypeVar("T")
_MOST = 64


class Kept:
    """The newest answers, each made once, also when many ask at the same time."""

    def __init__(self, *, most: int = _MOST) -> None:
        """most: so many answers are kept."""
        self._most = most
        self._lock = Lock()
        self._found: OrderedDict[Hashable, Any] = OrderedDict()
        self._making: dict[Hashable, Lock] = {}

    def of(self, ledger: Ledger, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, or gave to this question in the ledger as it is."""
        whole = (journal_head(ledger), ledger.branch, key)
        with self._lock:
            making = self._making.setdefault(whole, Lock())
        with making:
            try:
                with self._lock:
                    if whole in self._found:
                        found: T = self._found[whole]
                        return found
                return self._keep(whole, make())
            finally:
                with self._lock:
                    self._making.pop(whole, None)

    def _keep(self, key: Hashable, value: T) -> T:
        with self._lock:
            self._found[key] = value
            while len(self._found) > self._most:
                self._found.popitem(last=False)
        return value


def journal_head(ledger: Ledger) -> str | None:
    """The hash of the newest entry of the journal: another one as soon as anything is recorded."""
    newest = select(EntryRow.hash).order_by(EntryRow.id.desc()).limit(1)
    with database.reading(ledger.engine) as session:
        return session.scalars(newest).one_or_none()
