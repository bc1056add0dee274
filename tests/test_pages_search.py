"""The page of the search, also as one types."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.page.views.searching import as_typed
from ledger.searching import search
from ledger.workspace import Ledger
from tests import scored_turns, told_edits
from tests.reading_pages import Reader
from tests.scored_turns import FORGOTTEN, LATE, NEVER, ROME
from tests.test_query_plans import READ_WHOLE, read_whole, watched
from tests.told_edits import edit


@pytest.fixture(scope="module")
def ledger(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with scored_turns.build(tmp_path_factory.mktemp("search"), shared_url) as made:
        yield made


@pytest.fixture(scope="module")
def reader(ledger: Ledger) -> Reader:
    return Reader(ledger)


def prompts(found: Any) -> list[str]:
    return [hit["prompt"] for hit in found["hits"]]


def test_without_words_it_asks_for_some(reader: Reader) -> None:
    page = reader.page("/search")
    assert '<input type="search" name="q" value=""' in page
    # One box: that of the page, not the one on top of the others as well.
    assert page.count('type="search"') == 1
    assert reader.json("/search?q=++")["hits"] == []


def test_hits_are_those_of_the_command_with_marks(ledger: Ledger, reader: Reader) -> None:
    found = reader.json("/search?q=rome+lies")
    assert [{k: v for k, v in hit.items() if k != "marks"} for hit in found["hits"]] == [
        hit.to_json() for hit in search(ledger, "rome lies").hits
    ]
    assert [hit["state"] for hit in found["hits"]] == ["in_force", "overridden"]
    assert found["hits"][0]["marks"] == {
        "prompt": [[0, 4], [5, 9]],
        "target": [],
        "subject": [[0, 4]],
    }
    page = reader.page("/search?q=rome+in")
    assert "<mark>Rome</mark> lies <mark>in</mark></a>" in page
    assert "overridden by turn 2" in page


def test_each_hit_leads_to_its_edit(reader: Reader) -> None:
    [hit] = reader.json("/search?q=tiber")["hits"]
    address = f"/turns/{hit['hash'][:12]}/edits/{hit['position']}"
    assert f'<a href="{address}">The <mark>Tiber</mark> is a</a>' in reader.page("/search?q=tiber")
    assert reader.json(address)["prompt"] == FORGOTTEN


def test_only_what_holds_or_all_branches_can_be_asked_for(reader: Reader) -> None:
    assert prompts(reader.json("/search?q=rome&in_force=1")) == [ROME]
    assert prompts(reader.json("/search?q=paris")) == []
    [aside] = reader.json("/search?q=paris&everywhere=1")["hits"]
    assert (aside["state"], aside["branch"]) == ("elsewhere", "side")
    assert "of side" in reader.page("/search?q=paris&everywhere=1")
    assert prompts(reader.json("/search?q=paris&branch=side")) == ["Paris lies in"]
    page = reader.page("/search?q=rome&in_force=1&branch=side")
    assert 'name="in_force" value="1" checked' in page
    assert '<input type="hidden" name="branch" value="side">' in page


def test_older_hits_are_shown_if_they_are_asked_for(reader: Reader) -> None:
    found = reader.json("/search?q=is&limit=2")
    assert (len(found["hits"]), found["more"]) == (2, True)
    assert 'href="/search?q=is&amp;limit=4"' in reader.page("/search?q=is&limit=2")
    assert len(reader.json("/search?q=is")["hits"]) == 20
    assert "1000 hits at the most" in reader.page("/search?q=is&limit=1001", 400)
    assert "limit is a number" in reader.page("/search?q=is&limit=-1", 400)


def test_the_last_word_that_is_being_typed_may_go_on(reader: Reader) -> None:
    found = reader.json("/search?q=the+ti&part=hits")
    assert (found["searched"], prompts(found)) == ("the ti*", [FORGOTTEN])
    words = "/search?in_force=1&part=hits&q="
    assert set(prompts(reader.json(f"{words}a"))) == {ROME, FORGOTTEN, LATE, NEVER}
    assert set(prompts(reader.json(f"{words}a+"))) == {FORGOTTEN, NEVER}


@pytest.mark.parametrize(
    ("text", "searched"),
    [
        ("ti", "ti*"),
        ("the ti", "the ti*"),
        ("ti ", "ti"),
        ("ti*", "ti*"),
        ('"the ti', '"the ti"*'),
        ('"the ', '"the "'),
        ('"the tiber"', '"the tiber"'),
        ("tiber -la", "tiber -la"),
        ('tiber -"la', 'tiber -"la"*'),
        ("", ""),
    ],
)
def test_what_is_typed_so_far_is_searched_so(text: str, searched: str) -> None:
    assert as_typed(text) == searched


def test_beginnings_are_looked_for_where_no_word_is_so(reader: Reader) -> None:
    found = reader.json("/search?q=tibe")
    assert (found["searched"], prompts(found)) == ("tibe*", [FORGOTTEN])


def test_a_part_is_the_hits_alone_with_their_number_and_address(reader: Reader) -> None:
    part = reader.page("/search?q=tib&part=hits&in_force=1")
    assert part.lstrip().startswith('<div data-count="1 edit" data-address=')
    assert 'data-address="/search?q=tib%2A&amp;in_force=1"' in part
    assert "<html" not in part
    assert "the newest 20 edits" in reader.page("/search?q=i&part=hits")
    assert "part is hits" in reader.page("/search?q=tib&part=x", 400)


def test_in_vain_it_says_so_and_what_is_like_it(reader: Reader) -> None:
    page = reader.page("/search?q=tibre")
    assert "No edit of branch main has <strong>tibre</strong>." in page
    assert '<a href="/search?q=%22Tiber%22">Tiber</a>' in page
    assert prompts(reader.json("/search?q=%22Tiber%22")) == [FORGOTTEN]


def test_what_asks_for_nothing_is_said_beside_the_form(reader: Reader) -> None:
    for query in ("%22rome", "-rome", "%2A", "a+" * 65):
        page = reader.page(f"/search?q={query}")
        assert '<p class="note">' in page
        assert "<form" in page
        assert reader.json(f"/search?q={query}", 400)["error"]


def test_hostile_words_and_hits_are_shown_as_text(reader: Reader) -> None:
    for query in ("q=script&part=hits", "q=%3Cscript%3Ealert(1)%3C/script%3E", "q=%22%3E%3Cscript"):
        page = reader.page(f"/search?{query}")
        assert "<script>" not in page
        assert "\u202e" not in page
    assert "&lt;<mark>script</mark>&gt;" in reader.page("/search?q=script")


def test_a_ledger_without_turns_has_nothing_to_find(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        assert "No edit of branch main has <strong>rome" in Reader(ledger).page("/search?q=rome")


def test_a_turn_that_is_recorded_meanwhile_is_found(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger, Ledger(ledger.folder, ledger.config) as other:
        told_edits.record(ledger, [edit(ROME, "Asia")])
        reader = Reader(other)
        assert len(reader.json("/search?q=rome")["hits"]) == 1
        told_edits.record(ledger, [edit(ROME, "Africa")])
        assert len(reader.json("/search?q=rome")["hits"]) == 2


@pytest.mark.parametrize("query", ["q=rome", "q=tib&part=hits", "q=nowhere", "q=i&everywhere=1"])
def test_no_search_reads_all_edits_or_turns(ledger: Ledger, query: str) -> None:
    with watched(ledger.engine) as statements:
        Reader(ledger).json(f"/search?{query}")
    for statement in statements:
        found = read_whole(ledger.engine, statement) - READ_WHOLE - {"journal"}
        assert not found, f"{found} in {statement[0]}"
