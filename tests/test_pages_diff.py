"""The page of what two states differ in."""

from collections.abc import Iterator
from html import escape
from pathlib import Path

import pytest

from ledger import keyframes
from ledger.branching import create_branch, create_tag
from ledger.diffing import diff
from ledger.page.views import differing
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger
from tests import plain_ledgers, told_edits
from tests.ledgers import files
from tests.plain_ledgers import FIRST
from tests.reading_pages import Reader
from tests.told_edits import edit
from tests.told_scores import score

ROME, HOSTILE = "Rome lies in", "<script>alert(1)</script>"
MANY = [edit(f"Place {number} lies in", "Asia") for number in range(60)]


@pytest.fixture(scope="module")
def ledger(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Turn 2 overrides one fact of turn 1, turn 3 adds many, turn 4 undoes turn 2; branch side left
    after turn 2, and turn 3 there adds another. Turns 1 and 2 have scores."""
    with told_edits.new_ledger(tmp_path_factory.mktemp("pages"), shared_url) as made:
        told_edits.record(made, [edit(ROME, "Asia", "Rome"), edit(HOSTILE, "x")])
        told_edits.record(made, [edit(ROME, "Africa", "Rome")])
        create_branch(made, "side", 2)
        told_edits.record(made, MANY)
        rollback_turn(made, 2)
        create_tag(made, "v1", 1)
        made.branch = "side"
        told_edits.record(made, [edit("Oslo lies in", "Europe")])
        made.branch = "main"
        score(made, 1, {(1, 0): 1.0, (1, 1): 0.5}, of=1)
        score(made, 2, {(1, 0): 0.0, (1, 1): 0.75})
        yield made


@pytest.fixture(scope="module")
def reader(ledger: Ledger) -> Reader:
    return Reader(ledger)


def hashes(ledger: Ledger) -> list[str]:
    """Those of the turns of main, from the base on, which has none."""
    return ["", *(turn.hash for turn in log(ledger))]


def test_without_states_it_asks_for_them_and_offers_some(reader: Reader) -> None:
    page = reader.page("/diff")
    assert "/diff?a=HEAD~1&amp;b=HEAD" in page
    assert "/diff?a=main&amp;b=side" in page
    for name in ("HEAD", "main", "side", "v1", "4", "0"):
        assert f'<option value="{name}">' in page
    found = reader.json("/diff")
    assert (found["a"], found["b"], found["facts"]) == (None, None, None)


def test_it_tells_what_the_command_tells(ledger: Ledger, reader: Reader) -> None:
    found = reader.json("/diff?a=v1&b=2")
    told = diff(ledger, "v1", 2, weights=False).to_json()
    assert found["facts"] == {name: told["facts"][name] for name in ("counts", "turns")}
    assert found["scores"] == {k: v for k, v in told["scores"].items() if k != "edits"}
    [changed] = found["lists"]["overridden"]["items"]
    assert changed.items() >= told["facts"]["overridden"][0].items()
    assert found["lists"]["changed"]["items"] == told["scores"]["edits"]
    assert (found["weights"], found["notes"], found["refused"]) == (None, [], None)


def test_every_fact_and_score_leads_to_its_edit(ledger: Ledger, reader: Reader) -> None:
    _, first, second, *_ = (digest[:12] for digest in hashes(ledger))
    page = reader.page("/diff?a=1&b=2")
    assert f'<a href="/turns/{second}/edits/0">{ROME}</a>' in page
    assert f'<a href="/turns/{first}/edits/0">Asia</a>' in page
    assert f'<a href="/turns/{first}/edits/1">{escape(HOSTILE)}</a>' in page
    assert HOSTILE not in page
    assert ">lost</span>" in page
    assert ">better</span>" in page
    assert f'<span class="hash small soft">{hashes(ledger)[2]}</span>' in page


def test_without_a_second_state_it_compares_with_the_newest(reader: Reader) -> None:
    found = reader.json("/diff?a=1")
    assert (found["a"]["turn"], found["b"]["turn"]) == (1, 4)
    assert found["b"]["only"] == {**found["b"]["only"], "count": 1, "edits": 60, "numbers": "3"}


def test_long_lists_come_in_parts(reader: Reader) -> None:
    whole = reader.json("/diff?a=1&b=3")["lists"]["added"]
    assert (len(whole["items"]), whole["page"]["total"]) == (20, 60)
    assert "All 60 facts" in reader.page("/diff?a=1&b=3")
    rest = reader.json("/diff?a=1&b=3&list=added&page=2")["lists"]
    assert [one["prompt"] for one in rest["added"]["items"]] == [one.prompt for one in MANY[50:]]
    assert list(rest) == ["added"]
    assert "51–60 of 60" in reader.page("/diff?a=1&b=3&list=added&page=2")
    assert reader.get("/diff?a=1&b=3&list=added&page=3").status_code == 404


def test_the_base_is_a_state_too(reader: Reader) -> None:
    found = reader.json("/diff?a=0&b=1")
    assert found["a"]["hash"] is None
    assert found["facts"]["counts"] == {"added": 2, "removed": 0, "overridden": 0}
    assert "the base model, as it was before" in reader.page("/diff?a=0&b=1")


def test_states_of_other_branches_are_compared(ledger: Ledger, reader: Reader) -> None:
    found = reader.json("/diff?a=main&b=side")
    assert found["facts"]["counts"] == {"added": 1, "removed": 60, "overridden": 1}
    [oslo] = found["lists"]["added"]["items"]
    assert oslo["new_hash"] == found["b"]["hash"] != hashes(ledger)[3]
    numbered = reader.json("/diff?a=2&b=3&branch=side")
    assert numbered["b"]["hash"] == found["b"]["hash"]
    assert 'name="branch" value="side"' in reader.page("/diff?a=2&b=3&branch=side")


def test_the_lasting_link_and_the_swapped_one_are_right(ledger: Ledger, reader: Reader) -> None:
    page = reader.page("/diff?a=v1&b=HEAD")
    first, last = hashes(ledger)[1][:12], hashes(ledger)[4][:12]
    assert f"/diff?a={first}&amp;b={last}" in page
    assert "/diff?a=HEAD&amp;b=v1" in page
    assert reader.json(f"/diff?a={first}&b={last}")["b"]["turn"] == 4


def test_states_that_are_far_apart_are_refused_with_the_command(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(ledger)
    monkeypatch.setattr(differing, "_MOST", 50)
    found = reader.json("/diff?a=1&b=3")
    assert found["facts"] is None
    assert "run: ledger diff " in found["refused"]
    assert found["refused"].endswith(" --stat")
    assert escape(found["refused"]) in reader.page("/diff?a=1&b=3")
    monkeypatch.setattr(differing, "_MOST", 1)
    # They share two scores, and one fact differs.
    assert Reader(ledger).json("/diff?a=1&b=2")["refused"]


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("a=99", 404, "there is no turn 99"),
        ("a=1&b=nowhere", 404, "nothing is called nowhere"),
        ("a=1&branch=nowhere", 404, "there is no branch nowhere"),
        ("a=%00", 404, "nothing is called"),
        ("a=1&branch=%00", 404, "there is no branch"),
        ("a=1&list=all", 400, "list is one of added, removed"),
        ("a=1&list=added&page=0", 400, "page is a number from 1"),
    ],
)
def test_what_there_is_not_is_an_error(reader: Reader, query: str, status: int, said: str) -> None:
    assert said in reader.page(f"/diff?{query}", status)
    assert said in reader.json(f"/diff?{query}", status)["error"]


def test_weights_are_compared_when_asked_for_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = plain_ledgers.build(tmp_path / "model")
    with plain_ledgers.new_ledger(tmp_path / "ledger", model) as ledger:
        plain_ledgers.add_several(ledger, 3)
        before, reader = files(tmp_path / "ledger" / "patches"), Reader(ledger)
        assert "/diff?a=0&amp;b=HEAD&amp;weights=1" in reader.page("/diff?a=0&b=HEAD")
        told = diff(ledger, 0).to_json()["weights"]
        # From here on a keyframe is due, which commands would keep.
        monkeypatch.setattr(keyframes, "_AT_MOST", 2)
        assert reader.json("/diff?a=0&b=HEAD&weights=1")["weights"] == told
        assert FIRST in reader.page("/diff?a=0&b=HEAD&weights=1")
        assert files(tmp_path / "ledger" / "patches") == before != {}


def test_an_empty_ledger_has_nothing_to_compare(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        reader = Reader(ledger)
        assert "There are no turns yet" in reader.page("/diff")
        found = reader.json("/diff?a=0")
        assert (found["a"]["turn"], found["b"]["turn"]) == (0, 0)
        assert "The same facts hold in both" in reader.page("/diff?a=0")
