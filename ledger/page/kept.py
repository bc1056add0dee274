"""Answers that cost more than a moment, kept until something is recorded."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any, TypeVar

from sqlalchemy import select

from ledger import database
from ledger.orm import EntryRow
from ledger.workspace import Ledger

T = TypeVar("T")
_MOST = 64
PATIENCE = 2.0
"""Seconds that a page waits for what takes long."""


class NotYet(Exception):
    """An answer is being made, and there is no earlier one."""


class Kept:
    """The newest answers, each made once, also when many ask at the same time."""

    def __init__(self, *, most: int = _MOST, patience: float = PATIENCE) -> None:
        """most: so many answers are kept. patience: seconds that `soon` waits."""
        self._most = most
        self._patience = patience
        self._lock = Lock()
        self._head: str | None = None
        self._found: OrderedDict[Hashable, Any] = OrderedDict()
        self._making: dict[Hashable, Lock] = {}
        self._seen: OrderedDict[Hashable, tuple[str | None, Any]] = OrderedDict()
        self._coming: dict[Hashable, Future[tuple[str | None, Any]]] = {}

    def of(self, ledger: Ledger, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, or gave to this question in the ledger as it is."""
        head = journal_head(ledger)
        whole = (head, ledger.branch, key)
        with self._lock:
            if head != self._head:
                # Nobody will ask for what was found before.
                self._head = head
                self._found.clear()
            making = self._making.setdefault(whole, Lock())
        with making:
            try:
                with self._lock:
                    if whole in self._found:
                        self._found.move_to_end(whole)
                        found: T = self._found[whole]
                        return found
                made = make()
                with self._lock:
                    self._keep(self._found, whole, made)
                return made
            finally:
                with self._lock:
                    self._making.pop(whole, None)

    def soon(self, ledger: Ledger, key: Hashable, make: Callable[[], T]) -> tuple[T, bool]:
        """What `make` gives of the ledger as it is, and True; if it takes long, what it gave before
        something was recorded, and False. Raises NotYet where there is neither.

        In any case it is made to the end, one at a time for each question.
        """
        head, place = journal_head(ledger), (ledger.branch, key)
        with self._lock:
            known = self._seen.get(place)
            if known is not None and known[0] == head:
                return known[1], True
            coming = self._coming.get(place)
            if coming is None:
                coming = self._coming[place] = Future()
                work = (place, head, make, coming)
                # It only reads: whoever ends the program need not wait for it.
                Thread(target=self._finish, args=work, daemon=True).start()
        try:
            made_of, found = coming.result(self._patience)
        except TimeoutError:
            if known is None:
                raise NotYet from None
            return known[1], False
        return found, made_of == head

    def _finish(
        self,
        place: Hashable,
        head: str | None,
        make: Callable[[], Any],
        coming: "Future[tuple[str | None, Any]]",
    ) -> None:
        try:
            found = head, make()
        except Exception as error:
            with self._lock:
                del self._coming[place]
            coming.set_exception(error)
            return
        with self._lock:
            self._keep(self._seen, place, found)
            del self._coming[place]
        coming.set_result(found)

    def _keep(self, answers: OrderedDict[Hashable, T], key: Hashable, answer: T) -> None:
        answers[key] = answer
        answers.move_to_end(key)
        while len(answers) > self._most:
            answers.popitem(last=False)


def journal_head(ledger: Ledger) -> str | None:
    """The hash of the newest entry of the journal: another one as soon as anything is recorded."""
    newest = select(EntryRow.hash).order_by(EntryRow.id.desc()).limit(1)
    with database.reading(ledger.engine) as session:
        return session.scalars(newest).one_or_none()
