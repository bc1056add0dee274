"""The pages of branches, datasets and publications."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger import database
from ledger.branching import create_branch, list_branches, list_tags, reflog, switch
from ledger.distances import distances
from ledger.recording import record_turn
from ledger.reporting import log
from ledger.workspace import Ledger
from tests import full_ledgers, plain_ledgers, scored_turns, told_edits
from tests.plain_ledgers import FIRST, change
from tests.reading_pages import Reader
from tests.told_edits import edit

FAR = ("ahead", "behind")


@pytest.fixture(scope="module")
def parted(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with scored_turns.build(tmp_path_factory.mktemp("parted"), shared_url) as made:
        yield made


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with full_ledgers.build(tmp_path_factory.mktemp("full")) as made:
        yield made


def by_name(found: list[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    return {one["name"]: (one["ahead"], one["behind"]) for one in found}


def test_branches_are_told_as_by_the_command_and_how_far_they_are(parted: Ledger) -> None:
    found = Reader(parted).json("/branches")
    for told, refs in (("branches", list_branches(parted)), ("tags", list_tags(parted))):
        names = [
            {k: one[k] for k in ref.to_json()} for ref, one in zip(refs, found[told], strict=True)
        ]
        assert names == [ref.to_json() for ref in refs]
    assert by_name(found["branches"]) == {"main": (0, 0), "side": (1, 2)}
    assert by_name(found["tags"]) == {"v1": (0, 2)}
    assert (found["viewed"], found["current"], found["more"]) == ("main", "main", 0)


def test_a_branch_can_be_shown_and_compared(parted: Ledger) -> None:
    page = Reader(parted).page("/branches?branch=side")
    assert "These pages show <strong>side</strong>; commands work on <strong>main</strong>." in page
    assert '<a href="/branches?branch=main">show it here</a>' in page
    assert '<a href="/turns?branch=main">its turns</a>' in page
    assert 'href="/diff?a=side&amp;b=main&amp;branch=side"' in page
    assert "2 ahead, 1 behind" in page
    assert "there is no branch nowhere" in Reader(parted).page("/branches?branch=nowhere", 404)


def test_distances_are_those_to_the_fork(tmp_path: Path, database_url: str) -> None:
    with told_edits.new_ledger(tmp_path, database_url) as ledger:
        create_branch(ledger, "empty")
        told_edits.record(ledger, *([edit(f"Fact {n} is", "so")] for n in range(3)))
        create_branch(ledger, "old", at=1)
        switch(ledger, "old")
        told_edits.record(ledger, [edit("A is", "b")], [edit("C is", "d")])
        with database.reading(ledger.engine) as session:
            of_main, of_empty = distances(session, "main"), distances(session, "empty")
        assert of_main == {"main": (0, 0), "old": (2, 2), "empty": (0, 3)}
        assert of_empty == {"main": (3, 0), "old": (3, 0), "empty": (0, 0)}


def test_moves_come_in_pages_newest_first_all_or_of_one_name(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        told_edits.record(ledger, *([edit(f"Fact {n} is", "so")] for n in range(25)))
        create_branch(ledger, "side", at=3)
        reader, moves = Reader(ledger), [move.to_json() for move in reflog(ledger)]
        assert reader.json("/branches")["moves"] == moves[:20]
        assert reader.json("/branches?page=2")["moves"] == moves[20:]
        [made] = reader.json("/branches?ref=side")["moves"]
        assert (made["action"], made["to"]["turn"]) == ("create", 3)
        assert '<a rel="next" href="/branches?page=2">' in reader.page("/branches")
        assert "there never was a branch or tag x" in reader.page("/branches?ref=x", 404)


def test_datasets_are_told_with_their_turns_rows_and_digests(full: Ledger) -> None:
    reader = Reader(full)
    first, second, third = reader.json("/datasets")["datasets"]
    assert (first["uri"], first["turns"], first["edits"], first["skipped"]) == (
        *("facts-1.json", [1], 3, 2),
    )
    page = reader.page("/datasets")
    for one in (first, second, third):
        assert f'<a href="/datasets/{one["id"]}">{one["name"]}</a>' in page
        assert one["sha256"][:12] in page
    assert "cc0-1.0" in page


def test_a_dataset_tells_of_its_turns_and_skipped_rows(full: Ledger) -> None:
    reader = Reader(full)
    number = reader.json("/datasets")["datasets"][1]["id"]
    found = reader.json(f"/datasets/{number}")
    rows = [(one["turn"], one["row"], one["reason"]) for one in found["skipped_rows"]]
    assert rows == [(2, 25, "the target is empty"), (2, 26, "twice")]
    page = reader.page(f"/datasets/{number}")
    assert f'<a href="/turns/{log(full)[1].hash[:12]}">2</a>' in page
    assert "2" * 64 in page
    assert f'<a href="/turns?dataset={"2" * 64}">list them</a>' in page
    assert [turn["turn"] for turn in reader.json(f"/turns?dataset={'2' * 64}")["turns"]] == [2]
    assert reader.json(f"/datasets/{number}?turn=2")["skipped_rows"] == found["skipped_rows"]
    assert "has nothing of this dataset" in reader.page(f"/datasets/{number}?turn=1", 404)


def test_skipped_rows_of_many_turns_come_in_pages(tmp_path: Path, database_url: str) -> None:
    with told_edits.new_ledger(tmp_path, database_url) as ledger:
        for turn in range(3):
            new = plain_ledgers.new_turn(
                ledger, {FIRST: change(FIRST, "low-rank", turn)}, edits=[edit(f"{turn} is", "so")]
            )
            skipped = [(100 * turn + row, "the target is empty") for row in range(30)]
            record_turn(ledger, replace(new, dataset=told_edits.SOURCE, skipped=skipped))
        reader = Reader(ledger)
        rows = [*range(30), *range(100, 130), *range(200, 230)]
        pages = [reader.json(f"/datasets/1?page={page}")["skipped_rows"] for page in (1, 2)]
        assert [[one["row"] for one in page] for page in pages] == [rows[:50], rows[50:]]
        assert [one["turn"] for one in pages[1]] == [2] * 10 + [3] * 30
        assert "there is no page 3" in reader.page("/datasets/1?page=3", 404)
        assert len(reader.json("/turns/2")["skipped_rows"]) == 20
        more = '<a href="/datasets/1?turn=2">all 30 rows</a>'
        assert more in reader.page("/turns/2")
        assert len(reader.json("/datasets/1?turn=2")["skipped_rows"]) == 30


def test_what_is_no_dataset_of_the_branch_is_an_error(parted: Ledger, full: Ledger) -> None:
    assert "there is no dataset 99" in Reader(parted).page("/datasets/99", 404)
    assert Reader(parted).get("/datasets/x").status_code == 404
    assert Reader(parted).get(f"/datasets/{'9' * 30}").status_code == 404
    number = Reader(full).json("/datasets")["datasets"][2]["id"]
    page = Reader(full).page(f"/datasets/{number}?branch=try", 404)
    assert f"no turn of branch try has edits of dataset {number}" in page


def test_publications_lead_to_their_turns(full: Ledger) -> None:
    found = Reader(full).json("/publications")
    told = [
        (one["repo"], one["turn"], one["ahead"], one["commit"]) for one in found["publications"]
    ]
    assert told == [("someone/edits", 1, 4, "7" * 40), ("someone/edits", 1, 4, "6" * 40)]
    page = Reader(full).page("/publications")
    assert f'<a href="/turns/{log(full)[0].hash[:12]}">1</a>' in page
    assert 'data-label="Turns since">4</td>' in page


@pytest.mark.parametrize("address", ["/datasets", "/publications", "/branches"])
def test_a_ledger_without_turns_has_these_pages_too(tmp_path: Path, address: str) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        Reader(ledger).page(address)
        Reader(ledger).json(address)
