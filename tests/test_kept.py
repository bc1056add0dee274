"""What pages keep: made once, of the ledger as it is, and not waited for where it takes long."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from ledger.page import kept
from ledger.page.kept import Kept, NotYet
from ledger.workspace import Ledger
from patches.errors import HistoryError
from tests import told_edits

_PATIENCE = 10.0


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


def test_only_so_many_answers_are_kept(ledger: Ledger) -> None:
    answers, found = iter(range(10)), Kept(most=1)
    assert [found.of(ledger, key, lambda: next(answers)) for key in "aba"] == [0, 1, 2]


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
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "_PATIENCE", 0.05)
    go, found = Event(), Kept()
    done = Event()

    def slow(answer: str) -> str:
        go.wait(_PATIENCE)
        done.set()
        return answer

    with pytest.raises(NotYet):
        found.soon(ledger, "key", lambda: slow("first"))
    go.set()
    assert done.wait(_PATIENCE)
    monkeypatch.setattr(kept, "_PATIENCE", _PATIENCE)
    assert found.soon(ledger, "key", lambda: slow("never made")) == ("first", True)
    record(ledger, "a")
    go.clear()
    monkeypatch.setattr(kept, "_PATIENCE", 0.05)
    assert found.soon(ledger, "key", lambda: slow("second")) == ("first", False)
    go.set()
    monkeypatch.setattr(kept, "_PATIENCE", _PATIENCE)
    assert found.soon(ledger, "key", lambda: slow("never made")) == ("second", True)


def test_an_error_reaches_who_asked_and_the_next_one_may_try_again(ledger: Ledger) -> None:
    found = Kept()

    def fail() -> str:
        raise HistoryError("there is no branch x")

    with pytest.raises(HistoryError, match="no branch x"):
        found.soon(ledger, "key", fail)
    assert found.soon(ledger, "key", lambda: "now") == ("now", True)
