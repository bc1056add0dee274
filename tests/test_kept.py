"""What pages keep: made once, of the ledger as it is, and not waited for where it takes long."""

from collections.abc import Iterator
from contextlib import suppress
from gc import collect
from pathlib import Path
from threading import Event, Thread
from time import monotonic
from weakref import ref

import pytest

from ledger.page.kept import Kept, NotYet
from ledger.workspace import Ledger
from patches.errors import HistoryError
from tests import told_edits

_PATIENCE = 10.0


class _Large:
    """An answer that would take much memory."""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with told_edits.new_ledger(tmp_path) as found:
        yield found


def record(ledger: Ledger, prompt: str) -> None:
    told_edits.record(ledger, [told_edits.edit(prompt, "b")])


def test_an_answer_is_made_once_until_something_is_recorded(ledger: Ledger) -> None:
    answers, found = iter(range(10)), Kept()
    assert [found.of(ledger, "key", lambda: next(answers)) for _ in range(3)] == [0, 0, 0]
    assert found.of(ledger, "other", lambda: next(answers)) == 1
    record(ledger, "a")
    assert found.of(ledger, "key", lambda: next(answers)) == 2


def test_only_so_many_answers_are_kept_those_that_were_asked_for_last(ledger: Ledger) -> None:
    answers, found = iter(range(10)), Kept(most=2)
    assert [found.of(ledger, key, lambda: next(answers)) for key in "abacab"] == [0, 1, 0, 2, 0, 3]


def test_what_was_kept_before_something_was_recorded_takes_no_more_memory(ledger: Ledger) -> None:
    found = Kept()
    gone = ref(found.of(ledger, "key", _Large))
    assert gone() is not None
    record(ledger, "a")
    found.of(ledger, "other", _Large)
    collect()
    assert gone() is None


def test_many_who_ask_at_once_have_it_made_once(ledger: Ledger) -> None:
    made, go, found = [], Event(), Kept()

    def make() -> int:
        go.wait(_PATIENCE)
        made.append(1)
        return len(made)

    threads = [Thread(target=found.of, args=(ledger, "key", make)) for _ in range(4)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(_PATIENCE)
    assert found.of(ledger, "key", make) == 1


def test_what_takes_long_comes_later_and_an_earlier_answer_stands_in(
    ledger: Ledger,
) -> None:
    go, found = Event(), Kept(patience=0.05)

    def slow(answer: str) -> str:
        go.wait(_PATIENCE)
        return answer

    def in_the_end() -> tuple[str, bool]:
        """What is there when it was waited for."""
        go.set()
        ends = monotonic() + _PATIENCE
        while monotonic() < ends:
            with suppress(NotYet):
                answer, is_current = found.soon(ledger, "key", lambda: slow("too late"))
                if is_current:
                    break
        go.clear()
        return answer, is_current

    with pytest.raises(NotYet):
        found.soon(ledger, "key", lambda: slow("first"))
    assert in_the_end() == ("first", True)
    record(ledger, "a")
    assert found.soon(ledger, "key", lambda: slow("second")) == ("first", False)
    assert in_the_end() == ("second", True)


def test_an_error_reaches_who_asked_and_the_next_one_may_try_again(ledger: Ledger) -> None:
    found = Kept()

    def fail() -> str:
        raise HistoryError("there is no branch x")

    with pytest.raises(HistoryError, match="no branch x"):
        found.soon(ledger, "key", fail)
    assert found.soon(ledger, "key", lambda: "now") == ("now", True)
