"""What pages do when many ask at once, when something below them breaks, and with odd numbers."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread

import pytest

from ledger.page.app import create_app
from ledger.workspace import Ledger, open_ledger
from tests import scored_turns, told_edits
from tests.reading_pages import Reader

TOKEN = "token-of-many-readers"
ADDRESSES = (
    "/",
    "/turns",
    "/turns?method=ultraedit",
    "/turns/1",
    "/turns/2?edits=forgotten",
    "/turns/1/edits/0",
    "/search?q=the",
    "/branches",
    "/datasets",
    "/publications",
    "/diff?a=1&b=HEAD",
    "/blame?prompt=Rome",
    "/retention",
    "/verify",
)
START = "/verify/start"
_READERS, _RECORDED = 8, 5
_PATIENCE = 60.0


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return scored_turns.build(tmp_path)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Of a ledger that nothing happens to."""
    with scored_turns.build(tmp_path_factory.mktemp("numbers")) as ledger:
        yield Reader(ledger)


def test_many_may_read_while_turns_are_recorded(tmp_path: Path, database_url: str) -> None:
    ended, seen = Event(), Counter[int]()
    with scored_turns.build(tmp_path, database_url) as ledger:
        app = create_app(ledger, token=TOKEN, patience=_PATIENCE)

        def read(first: int) -> None:
            client, number = app.test_client(), first
            while not ended.is_set():
                address = ADDRESSES[number % len(ADDRESSES)]
                answer = client.get(address, headers={"Authorization": f"Bearer {TOKEN}"})
                seen[answer.status_code] += 1
                number += 1

        readers = [Thread(target=read, args=(number,)) for number in range(_READERS)]
        for reader in readers:
            reader.start()
        with open_ledger(ledger.folder) as other:
            for number in range(_RECORDED):
                told_edits.record(other, [told_edits.edit(f"Town {number} is in", "Peru")])
        ended.set()
        for reader in readers:
            reader.join(_PATIENCE)
        assert Reader(ledger).json("/turns")["count"] == 4 + _RECORDED
    assert set(seen) == {200}
    assert seen[200] >= _READERS


def test_without_its_database_every_page_says_so_and_none_is_made(ledger: Ledger) -> None:
    with ledger:
        reader = Reader(ledger)
        ledger.engine.dispose()
        path = Path(ledger.url.database or "")
        path.unlink()
        for address in (*ADDRESSES, START):
            assert "database is missing; restore it" in reader.page(address, 503)
        assert not path.exists()


def test_with_a_damaged_database_every_page_says_so(ledger: Ledger) -> None:
    with ledger:
        reader = Reader(ledger)
        ledger.engine.dispose()
        path = Path(ledger.url.database or "")
        path.write_bytes(path.read_bytes()[:4096] + bytes(4096))
        for address in (*ADDRESSES, START):
            assert "Restore it from a backup" in reader.page(address, 503)


def test_without_the_store_what_needs_none_of_it_is_there(ledger: Ledger) -> None:
    with ledger:
        reader = Reader(ledger)
        shutil.move(Path(ledger.store.address), ledger.folder / "elsewhere")
        for address in ADDRESSES:
            reader.page(address)
        assert "the file is missing" in reader.page("/diff?a=0&b=HEAD&weights=1", 503)


@pytest.mark.parametrize("digits", ["0" * 5000, f"00000001{'9' * 5000}", "1000001", "-1", "٣"])
@pytest.mark.parametrize("asked", ["/turns?page=", "/datasets/1?turn=", "/retention?forgotten="])
def test_a_number_of_any_length_is_refused_and_not_counted(
    reader: Reader, asked: str, digits: str
) -> None:
    assert "is a number from" in reader.page(f"{asked}{digits}", 400)
