"""The pages of turns, of one turn, and of one edit."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select

from ledger import database
from ledger.branching import create_branch
from ledger.orm import EditRow, TurnRow
from ledger.reporting import log, show
from ledger.workspace import Ledger
from tests import full_ledgers, plain_ledgers, scored_turns, told_edits
from tests.reading_pages import Reader
from tests.scored_turns import FORGOTTEN, LATE, MANY, NEVER, ROME
from tests.test_query_plans import READ_WHOLE, read_whole, watched
from tests.told_edits import edit


@dataclass(frozen=True, kw_only=True)
class Seen:
    """The history of `tests.scored_turns`, and who reads it. hashes: of main's turns, from 1."""

    ledger: Ledger
    reader: Reader
    hashes: dict[int, str]

    def turn(self, number: int, query: str = "") -> Any:
        return self.reader.json(f"/turns/{number}?{query}")

    def prompts(self, number: int, query: str = "") -> list[str]:
        return [one["prompt"] for one in self.turn(number, query)["edit_list"]]


@pytest.fixture(scope="module")
def seen(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    with scored_turns.build(tmp_path_factory.mktemp("turns"), shared_url) as ledger:
        hashes = {turn.number: turn.hash for turn in log(ledger)}
        yield Seen(ledger=ledger, reader=Reader(ledger), hashes=hashes)


def numbers(found: Any) -> list[int]:
    return [turn["turn"] for turn in found["turns"]]


def test_turns_are_told_as_by_the_log_newest_first(seen: Seen) -> None:
    found = seen.reader.json("/turns")
    assert found["turns"] == [turn.to_json() for turn in reversed(log(seen.ledger))]
    assert (found["branch"], found["count"], found["is_filtered"]) == ("main", 4, False)
    page = seen.reader.page("/turns")
    for number, digest in seen.hashes.items():
        assert f'<a href="/turns/{digest[:12]}">{number}</a>' in page
    assert f'undoes <a href="/turns/{seen.hashes[3][:12]}">3</a>' in page
    assert page.count('class="faded"') == 1
    assert '<meter min="0" max="1" value="0.625"' in page
    assert "tag v1</span>" in page


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("method=x", [3, 2, 1]),
        ("kind=rollback", [4]),
        ("in_force=1", [4, 2, 1]),
        ("message=ANOTHER", [2]),
        ("dataset=facts.json&kind=edit", [3, 2, 1]),
        ("dataset=other", []),
        ("since=2020-01-01&until=2021-01-01", []),
        ("since=1h", [4, 3, 2, 1]),
        ("branch=side", [3, 2, 1]),
    ],
)
def test_turns_can_be_chosen(seen: Seen, query: str, found: list[int]) -> None:
    assert numbers(seen.reader.json(f"/turns?{query}")) == found
    page = seen.reader.page(f"/turns?{query}")
    assert ("None of the 4 turns is like that" in page) == (not found)


def test_what_was_chosen_stays_in_the_form_and_in_the_links(seen: Seen) -> None:
    page = seen.reader.page("/turns?branch=side&message=aside&in_force=1")
    assert '<input type="hidden" name="branch" value="side">' in page
    assert 'name="message" value="aside"' in page
    assert 'name="in_force" value="1" checked' in page
    assert re.search(r'<a href="/turns/[0-9a-f]{12}\?branch=side">3</a>', page)


def test_many_turns_come_in_pages(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        told_edits.record(ledger, *([edit(f"Fact {n} is", "so")] for n in range(55)))
        reader = Reader(ledger)
        assert numbers(reader.json("/turns")) == list(range(55, 5, -1))
        assert numbers(reader.json("/turns?page=2")) == [5, 4, 3, 2, 1]
        assert '<a rel="next" href="/turns?page=2">' in reader.page("/turns")
        assert "there is no page 3" in reader.page("/turns?page=3", 404)


@pytest.mark.parametrize(
    ("address", "status", "why"),
    [
        ("/turns?since=soon", 400, "is no time"),
        ("/turns?page=x", 400, "page is a number"),
        ("/turns?branch=nowhere", 404, "there is no branch nowhere"),
        ("/turns/5", 404, "the turns are 1 to 4"),
        ("/turns/0", 404, "turn 0 is the base"),
        ("/turns/nothing", 404, "nothing is called nothing"),
        ("/turns/1?edits=odd", 400, "edits is one of"),
        ("/turns/1?page=2", 404, "there is no page 2"),
        ("/turns/1/edits/4", 404, "turn 1 has 4 edits, none at position 4"),
        ("/turns/4/edits/0", 404, "it is a rollback"),
        ("/turns/1/edits/99999999999999999999", 404, "none at position"),
        ("/turns/1/edits/x", 404, "nothing is called"),
    ],
)
def test_what_is_not_there_is_an_error(seen: Seen, address: str, status: int, why: str) -> None:
    assert why in seen.reader.page(address, status)
    assert why in seen.reader.json(address, status)["error"]


def test_a_turn_is_told_as_by_show(seen: Seen) -> None:
    for number in seen.hashes:
        told, found = show(seen.ledger, number).to_json(), seen.turn(number)
        edits = told.pop("edit_list")
        assert {name: found[name] for name in told} == told
        shown = [{k: one[k] for k in edits[0]} for one in found["edit_list"]]
        assert shown == edits[:50]


@pytest.mark.parametrize("rev", ["2", "v1", "HEAD~2", "{hash}"])
def test_a_turn_has_all_its_names(seen: Seen, rev: str) -> None:
    page = seen.reader.page(f"/turns/{rev.format(hash=seen.hashes[2][:12])}")
    assert "<h1>Turn 2 · x</h1>" in page
    assert seen.hashes[2] in page
    assert f'<a rel="prev" href="/turns/{seen.hashes[1][:12]}">' in page
    assert f'<a rel="next" href="/turns/{seen.hashes[3][:12]}">' in page
    assert f'href="/diff?a={seen.hashes[1][:12]}&amp;b={seen.hashes[2][:12]}"' in page


def test_a_branch_whose_name_has_a_slash_names_a_turn(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        told_edits.record(ledger, [edit("A is", "b")], [edit("C is", "d")])
        create_branch(ledger, "some/one", at=1)
        reader = Reader(ledger)
        assert reader.json("/turns/some/one")["turn"] == 1
        assert reader.json("/turns/some/one/edits/0")["prompt"] == "A is"


def test_a_turn_of_another_branch_is_told_to_be_one(seen: Seen) -> None:
    side = seen.reader.json("/turns?branch=side")["turns"][0]["hash"]
    found = seen.reader.json(f"/turns/{side}")
    assert (found["turn"], found["on_branch"], found["next"]) == (3, False, None)
    assert "not on main" in seen.reader.page(f"/turns/{side}")
    assert "not on main" in seen.reader.page(f"/turns/{side}/edits/0")
    assert seen.reader.json(f"/turns/{side}?branch=side")["on_branch"]


def test_edits_are_told_before_after_and_now(seen: Seen) -> None:
    edits = seen.turn(1)["edit_list"]
    assert [one["base"]["edit_success"] for one in edits] == [0.25] * 4
    assert [one["state"]["edit_success"] for one in edits] == [1, 1, 0.5, 0]
    now = [one["now"] and one["now"]["state"]["edit_success"] for one in edits]
    assert now == [None, 0, 1, None]
    assert (edits[1]["now"]["turn"], edits[1]["now"]["hash"]) == (2, seen.hashes[2])
    standing = [one["standing"] for one in edits]
    assert standing == ["overridden", "in_force", "in_force", "in_force"]
    assert (edits[0]["overridden_by"], seen.turn(2)["edit_list"][0]["overrides"]) == (2, [1])
    page = seen.reader.page("/turns/1")
    assert f'<a href="/turns/{seen.hashes[1][:12]}/edits/1">{FORGOTTEN}</a>' in page


def test_edits_of_a_kind_are_counted_and_listed(seen: Seen) -> None:
    assert list(seen.turn(1)["edit_counts"].items()) == [
        *(("all", 4), ("forgotten", 1), ("never_right", 1), ("overridden", 1))
    ]
    assert (seen.turn(1)["scored_since"], seen.turn(2)["scored_since"]) == (2, 0)
    assert "of 2 edits scored again" in seen.reader.page("/turns/1")
    assert "Forgotten since" not in seen.reader.page("/turns/2")
    assert seen.prompts(1, "edits=forgotten") == [FORGOTTEN]
    assert seen.prompts(1, "edits=never_right") == [NEVER]
    assert seen.prompts(1, "edits=overridden") == [ROME]
    assert LATE in seen.prompts(1)
    for kind in ("forgotten", "never_right", "overridden"):
        assert seen.prompts(3, f"edits={kind}") == []
        assert '<p class="note">' in seen.reader.page(f"/turns/3?edits={kind}")


def test_of_many_edits_the_kinds_are_told_apart_only_if_they_are_asked_for(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.page.views.turns._COUNTED", 3)
    counts = seen.turn(1)["edit_counts"]
    assert counts == dict.fromkeys(("forgotten", "never_right", "overridden")) | {"all": 4}
    assert ">forgotten</a>" in seen.reader.page("/turns/1")
    assert seen.prompts(1, "edits=forgotten") == [FORGOTTEN]


def test_kinds_are_refused_where_to_tell_them_apart_would_take_long(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.page.views.turns.MOST_SORTED", 3)
    assert "edits=forgotten" not in seen.reader.page("/turns/1")
    page = seen.reader.page("/turns/1?edits=forgotten", 400)
    assert "turn 1 has 4 edits, too many to tell apart here; ledger show 1 --json has" in page


def test_many_edits_come_in_pages(seen: Seen) -> None:
    assert len(seen.prompts(3)) == 50
    assert [one["position"] for one in seen.turn(3, "page=2")["edit_list"]] == list(range(50, MANY))
    assert f'href="/turns/{3}?page=2"' in seen.reader.page("/turns/3")


def test_a_turn_that_was_undone_says_by_which(seen: Seen) -> None:
    assert "rolled back by turn 4" in seen.reader.page("/turns/3")
    undone = f'turn <a href="/turns/{seen.hashes[4][:12]}">4</a>'
    assert undone in seen.reader.page("/turns/3")
    assert "undoes turn 3" in seen.reader.page("/turns/4")


@pytest.mark.parametrize("address", ["/turns", "/turns/3", "/turns/3/edits/0"])
def test_hostile_texts_are_shown_as_text(seen: Seen, address: str) -> None:
    page = seen.reader.page(address)
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e" in page
    assert "<script>alert(1)</script>" in str(seen.reader.json(address))


def test_an_edit_is_told_in_full(seen: Seen) -> None:
    found = seen.reader.json("/turns/1/edits/0")
    assert (found["prompt"], found["old_target"], found["relation"]) == (ROME, "Europe", "P30")
    assert found["rephrasings"] == ["Rome is found in"]
    assert found["probes"] == {
        "locality": [{"prompt": "Oslo lies in", "answer": "Norway"}],
        "multi_hop": [{"prompt": "Trastevere lies in", "answer": "Asia"}],
    }
    later = {"turn": 2, "hash": seen.hashes[2], "position": 0, "prompt": ROME, "target": "Africa"}
    assert found["overriding_edit"] == later
    [under] = seen.reader.json("/turns/2/edits/0")["overridden_edits"]
    assert (under["turn"], under["target"]) == (1, "Asia")
    page = seen.reader.page("/turns/1/edits/0")
    for text in ("Rome is found in", "Oslo lies in", "Norway", "Trastevere lies in", "multi hop"):
        assert text in page
    assert 'href="/blame?prompt=Rome+lies+in"' in page
    assert 'href="/search?q=Rome"' in page
    assert f'<a href="/turns/{seen.hashes[2][:12]}/edits/0">{ROME}</a> → Africa' in page
    assert "/try?" not in page


def test_with_a_model_a_prompt_can_be_tried(seen: Seen) -> None:
    page = Reader(seen.ledger, model=True).page("/turns/1/edits/0")
    assert 'href="/try?prompt=Rome+lies+in"' in page


def test_an_edit_is_followed_over_the_turns(seen: Seen) -> None:
    found = seen.reader.json("/turns/1/edits/1")
    records = [(one["turn"], one["state"]["edit_success"]) for one in found["records"]]
    assert records == [(1, 1), (2, 0)]
    assert (found["now"]["turn"], found["standing"]) == (2, "in_force")
    page = seen.reader.page("/turns/1/edits/1")
    assert re.search(
        r'Now, after turn 2</span><span class="figure">\s*<span class="badge bad">', page
    )
    assert "No scores of this edit" in seen.reader.page("/turns/3/edits/0")


def test_more_records_than_a_page_has_are_counted(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.page.views.edits._MOST", 1)
    found = seen.reader.json("/turns/1/edits/1")
    assert ([one["turn"] for one in found["records"]], found["records_more"]) == ([2], 1)


def test_only_the_newest_evaluations_are_looked_at(
    seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.edit_records._EVALUATIONS", 0)
    assert Reader(seen.ledger).json("/turns/1/edits/1")["now"] is None


def test_skipped_rows_gates_merges_and_pushes_are_told(tmp_path: Path, database_url: str) -> None:
    with full_ledgers.build(tmp_path, database_url) as ledger:
        reader = Reader(ledger)
        first = reader.page("/turns/1")
        assert "<li>row 15: the target is empty</li>" in first
        assert "someone/edits as patch" in first
        merge = reader.json("/turns/5")
        assert merge["replaces"] == [1, 2]
        assert "merge of turns 1-2" in reader.page("/turns/5")
        replaced = f'Patch replaced by</dt><dd>turn <a href="/turns/{merge["hash"][:12]}">5</a>'
        assert replaced in first


def test_an_import_without_edits_has_no_list_of_them(tmp_path: Path) -> None:
    folder = plain_ledgers.build(tmp_path / "model")
    with plain_ledgers.new_ledger(tmp_path / "ledger", folder) as ledger:
        plain_ledgers.add_several(ledger, 1)
        assert 'id="edits"' not in Reader(ledger).page("/turns/1")


def test_a_pulled_turn_says_that_its_texts_are_elsewhere(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        told_edits.record(ledger, [edit("A is", "b")])
        with database.writing(ledger.engine) as session:
            row = session.scalars(select(TurnRow)).one()
            row.withheld = {"edits": True, "source": {"uri": "far.json", "sha256": "0" * 64}}
            row.dataset_id = None
            session.execute(delete(EditRow))
        reader = Reader(ledger)
        page = reader.page("/turns/1")
        assert "far.json, as its publisher tells" in page
        assert "Their texts are not here" in page
        assert "its publisher kept the texts back" in reader.page("/turns/1/edits/0", 404)


def test_a_ledger_without_turns_says_how_to_begin(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        assert "ledger add-edits" in Reader(ledger).page("/turns")


PAGES: dict[str, Callable[[Seen], object]] = {
    "turns": lambda seen: seen.reader.json("/turns"),
    "a turn": lambda seen: Reader(seen.ledger).json("/turns/1"),
    "a kind of edits": lambda seen: Reader(seen.ledger).json("/turns/1?edits=forgotten"),
    "an edit": lambda seen: Reader(seen.ledger).json("/turns/1/edits/0"),
}


@pytest.mark.parametrize("name", PAGES)
def test_no_page_reads_all_edits_turns_or_outcomes(seen: Seen, name: str) -> None:
    with watched(seen.ledger.engine) as statements:
        PAGES[name](seen)
    assert statements
    for statement in statements:
        found = read_whole(seen.ledger.engine, statement) - READ_WHOLE - {"journal"}
        assert not found, f"{found} in {statement[0]}"
