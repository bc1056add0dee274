"""The keys of the search and what is shown while one types, in a real browser."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests import scored_turns
from tests.browser import visiting
from tests.scored_turns import FORGOTTEN, ROME
from tests.serving import Served, serving

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser import Visit

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with scored_turns.build(tmp_path_factory.mktemp("typing")) as ledger:
        folder = ledger.folder
    with serving(folder) as running:
        yield running


@pytest.fixture
def visit(browser: "Browser", served: Served) -> Iterator["Visit"]:
    """Somebody on the page of the search."""
    with visiting(browser, served) as found:
        found.enter("search")
        yield found


def typed(visit: "Visit", text: str) -> None:
    visit.page.get_by_role("searchbox").fill("")
    visit.page.get_by_role("searchbox").press_sequentially(text)


def count(visit: "Visit", told: str) -> None:
    """Wait for what is said of the hits, which are then there."""
    visit.page.locator("#found-count").get_by_text(told, exact=True).wait_for()


def focused(visit: "Visit") -> str:
    """The text of what has the focus, or its name."""
    found = visit.page.evaluate("document.activeElement.innerText || document.activeElement.name")
    return str(found)


def test_a_slash_goes_to_the_box_on_every_page(visit: "Visit") -> None:
    for path in ("turns", "turns/1", "branches", "search"):
        visit.open(path)
        visit.page.keyboard.press("/")
        assert focused(visit) == "q"
    visit.page.keyboard.type("1/2")
    assert visit.page.get_by_role("searchbox").input_value() == "1/2"


def test_the_arrows_go_through_the_hits_and_escape_comes_back(visit: "Visit") -> None:
    typed(visit, "rom")
    count(visit, "2 edits")
    for _ in range(3):
        visit.page.keyboard.press("ArrowDown")
        assert focused(visit) == ROME
    visit.page.keyboard.press("Escape")
    assert focused(visit) == "q"
    assert visit.page.get_by_role("searchbox").input_value() == "rom"
    visit.page.keyboard.press("ArrowDown")
    visit.page.keyboard.press("ArrowUp")
    assert focused(visit) == "q"


def test_the_address_gives_what_is_shown_while_one_types(visit: "Visit") -> None:
    typed(visit, '"the tib')
    count(visit, "1 edit")
    assert visit.path == "/search?q=%22the+tib%22%2A"
    visit.page.reload()
    assert visit.page.get_by_role("link", name=FORGOTTEN).is_visible()
    count(visit, "1 edit")


def test_a_box_that_is_ticked_counts_at_once(visit: "Visit") -> None:
    typed(visit, "rome")
    count(visit, "2 edits")
    visit.page.get_by_label("in force only").check()
    count(visit, "1 edit")
    assert visit.path == "/search?q=rome%2A&in_force=1"


def test_what_is_typed_and_not_yet_to_be_searched_for_is_explained(visit: "Visit") -> None:
    typed(visit, "-rome")
    visit.page.get_by_text("holds only words to leave out").wait_for()
    visit.page.get_by_role("searchbox").fill("")
    visit.page.locator("#found .note").wait_for(state="detached")
    assert visit.path == "/search"


def test_hostile_hits_that_come_while_one_types_are_text(visit: "Visit") -> None:
    typed(visit, "script")
    count(visit, "the newest 20 edits")
    assert "<script>alert(1)</script>" in visit.page.locator("#found").inner_text()
    assert visit.page.locator("#found script").count() == 0


def test_enter_searches_for_whole_words(visit: "Visit") -> None:
    typed(visit, "a")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_url("**/search?q=a")
    assert ROME not in visit.text()
    assert FORGOTTEN in visit.text()
