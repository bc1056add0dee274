"""The page of the edits behind a prompt or subject."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from markupsafe import escape

from ledger.blaming import blame
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger
from tests import told_edits
from tests.reading_pages import Reader
from tests.told_edits import edit

ROME, HOSTILE = "Rome lies in", '"><img src=x onerror=alert(1)>\u202e'
MANY = [edit(f"Fact {number} of Oslo is", str(number), "Oslo") for number in range(60)]


@pytest.fixture(scope="module")
def ledger(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Turn 2 overrides what turn 1 says of Rome; turn 3 is undone by turn 5; turn 4 is long."""
    with told_edits.new_ledger(tmp_path_factory.mktemp("pages"), shared_url) as made:
        told_edits.record(made, [edit(ROME, "Asia", "Rome")], message=HOSTILE)
        told_edits.record(made, [edit(ROME, "Africa", "Rome")])
        told_edits.record(made, [edit(HOSTILE, "Europe", "Rome")])
        told_edits.record(made, MANY)
        rollback_turn(made, 3)
        yield made


@pytest.fixture(scope="module")
def reader(ledger: Ledger) -> Reader:
    return Reader(ledger)


def test_without_a_prompt_it_asks_for_one_and_offers_some(reader: Reader) -> None:
    assert '<input name="prompt"' in reader.page("/blame")
    found = reader.json("/blame")
    assert (found["edits"], found["examples"]) == ([], [one.prompt for one in MANY[:3]])
    assert '<a href="/blame?prompt=Fact+0+of+Oslo+is">Fact 0 of Oslo is</a>' in reader.page(
        "/blame"
    )


def test_it_tells_what_the_command_tells(ledger: Ledger, reader: Reader) -> None:
    found = reader.json("/blame?prompt=Rome")
    assert found["edits"] == [one.to_json() for one in blame(ledger, "Rome").edits]
    states = [(one["turn"], one["state"]) for one in found["edits"]]
    assert states == [(1, "overridden"), (2, "in_force"), (3, "rolled_back")]
    assert (found["is_prompt"], found["without_text"], found["near"]) == (False, 0, [])


def test_each_edit_leads_to_itself_its_turn_and_says_what_became_of_it(
    ledger: Ledger, reader: Reader
) -> None:
    page = reader.page("/blame?prompt=Rome")
    first = log(ledger)[0].hash[:12]
    assert f'<a href="/turns/{first}/edits/0">{ROME}</a>' in page
    assert f'<a href="/turns/{first}">1</a>' in page
    assert "overridden by turn 2" in page
    assert "rolled back by turn 5" in page
    assert "/data/facts.json, row 0" in page


def test_a_state_of_the_past_is_asked_as_it_was(reader: Reader) -> None:
    [then] = reader.json("/blame?prompt=Rome+lies++in&at=1")["edits"]
    assert (then["turn"], then["state"]) == (1, "in_force")
    assert 'name="at" value="1"' in reader.page("/blame?prompt=Rome&at=1")


def test_nobody_is_said_with_what_is_near(reader: Reader) -> None:
    page = reader.page("/blame?prompt=Rome+lays+in")
    assert "Nobody: no edit of branch main has this prompt" in page
    assert '<a href="/blame?prompt=Rome+lies+in">Rome lies in</a>' in page
    near = reader.json("/blame?prompt=Rome+lays+in")["near"]
    assert (near[0]["prompt"], near[0]["is_same"]) == (ROME, False)
    assert "up to 1 has" in reader.page("/blame?prompt=zzz&at=1")


def test_hostile_texts_are_shown_as_text(reader: Reader) -> None:
    for address in ("/blame?prompt=Rome", "/blame?prompt=%22%3E%3Cimg%20src%3Dx%3E"):
        page = reader.page(address)
        assert "<img" not in page
        assert "\u202e" not in page
    assert escape(HOSTILE[:-1]) + "\\u202e" in reader.page("/blame?prompt=Rome")


@pytest.mark.parametrize("prompt", ["%00", "a%00b*", "%F0%9F%98%80", "%ff", "-", '%22"'])
def test_any_text_can_be_blamed(reader: Reader, prompt: str) -> None:
    assert "Nobody" in reader.page(f"/blame?prompt={prompt}")


def test_many_hits_come_in_parts(reader: Reader) -> None:
    found = reader.json("/blame?prompt=Oslo&page=2")
    assert [one["target"] for one in found["edits"]] == [str(number) for number in range(50, 60)]
    assert 'rel="prev" href="/blame?prompt=Oslo&amp;page=1"' in reader.page(
        "/blame?prompt=Oslo&page=2"
    )
    assert reader.get("/blame?prompt=Oslo&page=3").status_code == 404


@pytest.mark.parametrize(
    ("query", "status", "said"),
    [
        ("prompt=Rome&at=99", 404, "there is no turn 99"),
        ("prompt=Rome&branch=nowhere", 404, "there is no branch nowhere"),
        ("prompt=Rome&page=x", 400, "page is a number"),
    ],
)
def test_what_there_is_not_is_an_error(reader: Reader, query: str, status: int, said: str) -> None:
    assert said in reader.page(f"/blame?{query}", status)


def test_an_empty_ledger_blames_nobody(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        assert "Nobody" in Reader(ledger).page("/blame?prompt=Rome")
