"""A ledger of thousands of turns, in a real browser: in parts."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.browser import visiting
from tests.many_turns import PER_TURN, TURNS, many_turns
from tests.serving import Site, serving_here

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser

PAGES = (
    "", "turns", "turns?page=20", f"turns/{TURNS}", "turns/1/edits/0", "search?q=Town+77",
    "search?q=mayor", "branches", "datasets", "datasets/1", "publications", f"diff?a=1&b={TURNS}",
    "blame?prompt=Town+3", "retention", "verify",
)  # fmt: skip
_LARGEST = 1 << 19


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with (
        many_turns(tmp_path_factory.mktemp("many")) as ledger,
        serving_here(ledger.folder) as running,
    ):
        yield running


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_there_and_not_long(served: Site, path: str) -> None:
    answer = served.ask(f"/{path}")
    assert answer.status == 200
    assert len(answer.body) < _LARGEST


def test_one_goes_through_all_turns_in_parts(browser: "Browser", served: Site) -> None:
    with visiting(browser, served) as visit:
        visit.enter("turns")
        total = served.ask("/turns.json").json()["page"]["total"]
        assert total > TURNS
        assert f"of {total:,}" in visit.text()
        visit.page.get_by_role("link", name="next →").click()
        assert "page=2" in visit.path
        visit.page.get_by_role("link", name="← previous").click()
        visit.open("turns?page=1000")
        assert "there is no page 1000" in visit.text()


def test_every_turn_is_on_one_part(served: Site) -> None:
    first = served.ask("/turns.json").json()
    numbers = []
    for number in range(1, first["page"]["pages"] + 1):
        found = served.ask(f"/turns.json?page={number}").json()
        numbers += [turn["turn"] for turn in found["turns"]]
    assert sorted(numbers) == list(range(1, first["page"]["total"] + 1))


def test_an_edit_is_found_among_thousands(browser: "Browser", served: Site) -> None:
    row = TURNS * PER_TURN // 3
    with visiting(browser, served) as visit:
        visit.enter("search")
        visit.page.get_by_label("Words of a prompt").press_sequentially(f"town {row}")
        visit.page.get_by_role("link", name=f"The mayor of Town {row} is").click()
        assert visit.page.locator("h1").inner_text().startswith(f"The mayor of Town {row} is →")
