"""The page of how edits last: the triangle, and what is forgotten."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import database, history
from ledger.overview.forgotten import forgetting
from ledger.page.rendering import STATIC
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger, open_ledger
from tests import told_edits
from tests.reading_pages import Reader
from tests.told_edits import edit
from tests.told_scores import score

HOSTILE = "<b>Lima</b> lies in"


@pytest.fixture(scope="module")
def ledger(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Three turns of four edits; of turn 1 one edit, of turn 2 all are forgotten after turn 3, and
    turn 4 undoes turn 2."""
    with told_edits.new_ledger(tmp_path_factory.mktemp("pages"), shared_url) as made:
        for turn in (1, 2, 3):
            told_edits.record(made, [edit(f"{HOSTILE} {turn} {n}", "Asia") for n in range(4)])
            score(made, turn, {(turn, n): 1.0 for n in range(4)}, of=turn)
        later = {(1, n): 0.0 if n == 2 else 1.0 for n in range(4)}
        score(made, 3, {**later, **{(2, n): 0.0 for n in range(4)}})
        rollback_turn(made, 2)
        yield made


@pytest.fixture(scope="module")
def reader(ledger: Ledger) -> Reader:
    return Reader(ledger)


def test_the_triangle_has_a_cell_for_every_state_and_none_where_nothing_is_recorded(
    ledger: Ledger, reader: Reader
) -> None:
    found = reader.json("/retention")["retained"]
    assert [state["turn"] for state in found["states"]] == [1, 2, 3]
    assert [state["hash"] for state in found["states"]] == [turn.hash for turn in log(ledger)[:3]]
    cells = {
        row["turn"]: [cell and cell["success"] for cell in row["cells"]] for row in found["rows"]
    }
    assert cells == {1: [1.0, None, 0.75], 2: [None, 1.0, 0.0], 3: [None, None, 1.0]}
    assert [row["base"] for row in found["rows"]] == [0.25] * 3
    assert [row["state"] for row in found["rows"]] == ["in_force", "rolled_back", "in_force"]


def test_cells_are_coloured_by_what_is_left(reader: Reader) -> None:
    page = reader.page("/retention")
    told = re.findall(r'<td class="number (q\d+)" title="4 edits">(\d+)</td>', page)
    assert told == [("q10", "100"), ("q7", "75"), ("q10", "100"), ("q0", "0"), ("q10", "100")]
    style = (STATIC / "page.css").read_text(encoding="utf-8")
    assert all(f".q{step} {{" in style for step in range(11))


def test_only_turns_that_lost_nothing_are_shown_as_whole(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        told_edits.record(ledger, [edit(f"Fact {n} is", "Asia") for n in range(300)])
        score(ledger, 1, {(1, n): 0.0 if n == 7 else 1.0 for n in range(300)}, of=1)
        assert 'class="number q9" title="300 edits">99</td>' in Reader(ledger).page("/retention")


def test_forgotten_edits_are_listed_and_lead_to_themselves(ledger: Ledger, reader: Reader) -> None:
    found = reader.json("/retention")["forgetting"]
    with database.reading(ledger.engine) as session:
        told = forgetting(session, history.line(session, "main")).to_json()
    assert found == {**told, "edits": list(told["edits"]), "notes": list(told["notes"])}
    [lost] = found["edits"]
    page = reader.page("/retention")
    assert (
        f'<a href="/turns/{lost["hash"][:12]}/edits/2">&lt;b&gt;Lima&lt;/b&gt; lies in 1 2</a>'
        in page
    )
    assert "<b>" not in page


def test_a_long_list_shows_more_when_asked(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        for turn in (1, 2):
            told_edits.record(ledger, [edit(f"Fact {turn} {n} is", "Asia") for n in range(5)])
            score(ledger, turn, {(turn, n): 1.0 for n in range(5)}, of=turn)
        score(ledger, 2, {(1, n): n / 10 for n in range(5)})
        reader = Reader(ledger)
        assert "3 more edits were forgotten" in reader.page("/retention?forgotten=2")
        assert "/retention?forgotten=8" in reader.page("/retention?forgotten=2")
        assert len(reader.json("/retention?forgotten=8")["forgetting"]["edits"]) == 5
        assert "forgotten is a number" in reader.page("/retention?forgotten=-1", 400)


def test_without_scores_it_says_how_to_get_them(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        reader = Reader(ledger)
        assert "There are no turns yet." in reader.page("/retention")
        with open_ledger(ledger.folder) as other:
            told_edits.record(other, [edit("Rome lies in", "Asia")])
        assert "ledger evaluate --suite retention" in reader.page("/retention")
        assert reader.json("/retention")["retained"]["rows"] == []
