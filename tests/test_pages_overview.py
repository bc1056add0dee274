"""The first page: where the ledger stands, at one glance; and its charts."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from ledger.page.app import read_only
from ledger.page.glance import Glance, glance
from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger, open_ledger
from patches.errors import DatabaseError
from tests import scored_turns, told_edits
from tests.reading_pages import Reader
from tests.told_scores import score


@pytest.fixture(scope="module")
def ledger(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with scored_turns.build(tmp_path_factory.mktemp("pages"), shared_url) as made:
        yield made


@pytest.fixture(scope="module")
def reader(ledger: Ledger) -> Reader:
    return Reader(ledger)


def test_it_says_what_stands_what_is_forgotten_and_what_to_look_at(reader: Reader) -> None:
    found = reader.json("/overview")
    assert found["is_current"]
    assert found["status"]["edits_in_force"] == 5
    assert found["kept"]["lost"] == 1
    assert [point["turn"] for point in found["newest"]] == [1, 2, 3, 4]
    page = reader.page("/")
    assert "1 edit was right when it was made and is wrong now" in page
    for concern in found["concerns"]:
        assert concern in page


def test_every_turn_has_a_link_by_its_hash(reader: Reader) -> None:
    page = reader.page("/")
    for point in reader.json("/overview")["newest"]:
        assert f'href="/turns/{point["hash"][:12]}"' in page


def test_the_address_may_name_a_branch_and_its_links_keep_it(reader: Reader) -> None:
    found = reader.json("/overview?branch=side")
    assert [point["turn"] for point in found["newest"]] == [1, 2, 3]
    assert 'href="/turns?branch=side"' in reader.page("/?branch=side")


def test_a_branch_that_is_not_there_is_not_found(reader: Reader) -> None:
    assert "there is no branch nope" in reader.json("/overview?branch=nope", 404)["error"]


def test_an_empty_ledger_says_what_to_do(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as empty:
        assert "ledger add-edits" in Reader(empty).page("/")


def test_scores_of_an_earlier_state_say_so_and_without_an_edit_in_force_there_are_none(
    tmp_path: Path,
) -> None:
    with told_edits.new_ledger(tmp_path) as growing:
        reader = Reader(growing)
        told_edits.record(growing, [told_edits.edit("a", "b")])
        score(growing, 1, {(1, 0): 1.0}, whole=True)
        page = reader.page("/")
        assert "Answered right" in page
        assert "at turn 1;" not in page
        told_edits.record(growing, [told_edits.edit("c", "d")])
        page = reader.page("/")
        assert "at turn 1; base 25" in page
        assert "not been scored together since turn 1" in page
        rollback_turn(growing, 1)
        rollback_turn(growing, 2)
        assert "Answered right" not in reader.page("/")


def test_a_turn_that_is_recorded_meanwhile_is_there_at_a_reload(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as growing:
        reader = Reader(growing)
        assert reader.json("/overview")["newest"] == []
        with open_ledger(growing.folder) as elsewhere:
            told_edits.record(elsewhere, [told_edits.edit("a", "b")])
        assert [point["turn"] for point in reader.json("/overview")["newest"]] == [1]


def test_the_pages_cannot_write_and_whoever_made_them_still_can(
    tmp_path: Path, database_url: str
) -> None:
    with told_edits.new_ledger(tmp_path, database_url) as growing:
        reader = Reader(growing)
        assert reader.json("/overview")["newest"] == []
        with pytest.raises(DatabaseError, match="only read"):
            told_edits.record(read_only(growing), [told_edits.edit("a", "b")])
        assert reader.json("/overview")["newest"] == []
        told_edits.record(growing, [told_edits.edit("a", "b")])
        assert [point["turn"] for point in reader.json("/overview")["newest"]] == [1]


def test_what_takes_long_is_not_waited_for_and_the_page_looks_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = Event()

    def slow(*given: Any) -> Glance:
        go.wait(10)
        return glance(*given)

    monkeypatch.setattr("ledger.page.views.overview.glance", slow)
    reader = Reader(ledger, patience=0.05)
    answer = reader.get("/")
    assert (answer.status_code, answer.headers["Refresh"]) == (202, "3")
    assert "looks again by itself" in answer.text
    assert reader.get("/overview.json").json == {"is_current": False}
    go.set()


@pytest.mark.parametrize("kind", ["timeline", "scores", "retention", "weights"])
def test_charts_are_pictures_in_which_nothing_can_run(reader: Reader, kind: str) -> None:
    answer = reader.get(f"/plots/{kind}.svg?theme=dark&size=narrow")
    assert (answer.status_code, answer.mimetype) == (200, "image/svg+xml")
    assert answer.text.startswith("<svg")
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("/plots/nope.svg", 404),
        ("/plots/scores.svg?size=huge", 404),
        ("/plots/scores.svg?theme=pink", 400),
        ("/plots/scores.svg?branch=nope", 404),
    ],
)
def test_charts_that_are_not_there_are_refused(reader: Reader, address: str, status: int) -> None:
    assert reader.get(address).status_code == status
