"""What people do on the pages, in a real browser: look for an edit, compare, ask who said it."""

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.browser import PHONE, check_accessible, visiting
from tests.serving import Site, serving_here
from tests.told_edits import edit, new_ledger, record

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Browser

    from tests.browser import Visit

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> "Path":
    """A ledger of three turns; the last says something else about Lima than the first."""
    with new_ledger(tmp_path_factory.mktemp("tour")) as ledger:
        record(ledger, [edit("Lima is in", "Peru", "Lima"), edit("Oslo is in", "Norway", "Oslo")])
        record(ledger, [edit("Quito is in", "Ecuador", "Quito")])
        record(ledger, [edit("Lima is in", "Chile", "Lima")], message="on second thoughts")
        return ledger.folder


@pytest.fixture(scope="module")
def served(folder: "Path") -> Iterator[Site]:
    with serving_here(folder) as running:
        yield running


@pytest.fixture(scope="module")
def visit(browser: "Browser", served: Site) -> Iterator["Visit"]:
    """Somebody who has entered, and goes on from wherever the test before has ended. What no page
    may do is told at the end."""
    with visiting(browser, served) as found:
        found.enter()
        yield found


@pytest.fixture(scope="module", params=[True, False], ids=["script", "no script"])
def anybody(request: pytest.FixtureRequest, browser: "Browser", served: Site) -> Iterator["Visit"]:
    """The same, whose browser runs scripts, and somebody whose browser does not."""
    if request.param:
        yield request.getfixturevalue("visit")
        return
    with visiting(browser, served, javascript=False) as found:
        found.enter()
        yield found


def heading(visit: "Visit") -> str:
    return visit.page.locator("h1").inner_text()


# Search


def test_search_finds_as_one_types_and_leads_to_the_edit(visit: "Visit") -> None:
    visit.open("search")
    visit.page.get_by_label("Words of a prompt").press_sequentially("quit")
    visit.page.get_by_role("link", name="Quito is in").wait_for()
    assert visit.page.locator("#found li").count() == 1
    assert "q=quit" in visit.path
    check_accessible(visit)
    visit.page.get_by_role("link", name="Quito is in").click()
    assert heading(visit) == "Quito is in → Ecuador"
    visit.page.go_back()
    assert visit.page.get_by_label("Words of a prompt").input_value().startswith("quit")


def test_search_from_every_page_works_with_and_without_scripts(anybody: "Visit") -> None:
    anybody.open("branches")
    anybody.page.get_by_role("searchbox", name="Search edits").fill("norway")
    anybody.page.get_by_role("button", name="Search").click()
    anybody.page.get_by_role("link", name="Oslo is in").click()
    assert heading(anybody) == "Oslo is in → Norway"


def test_words_that_no_edit_has_are_told_and_near_ones_offered(visit: "Visit") -> None:
    visit.open("search")
    visit.page.get_by_label("Words of a prompt").press_sequentially("Lime is in")
    visit.page.get_by_text("No edit of branch main has Lime is in").wait_for()


# Turns


def test_from_the_turns_to_a_turn_to_its_edits(anybody: "Visit") -> None:
    page = anybody.page
    anybody.open("search")
    page.get_by_role("navigation", name="Pages").get_by_role("link", name="Turns").click()
    page.get_by_role("main").get_by_role("link", name="3", exact=True).first.click()
    assert "on second thoughts" in anybody.text()
    page.get_by_role("link", name="Lima is in").first.click()
    assert heading(anybody) == "Lima is in → Chile"
    assert "turn 1" in anybody.text()  # which it overrides


# Diff and blame


def test_two_states_are_compared_and_swapped(anybody: "Visit") -> None:
    anybody.open("diff")
    anybody.page.get_by_label("From state A").fill("1")
    anybody.page.get_by_label("to state B").fill("HEAD")
    anybody.page.get_by_role("button", name="Compare").click()
    assert heading(anybody) == "From turn 1 to turn 3"
    overridden = anybody.page.get_by_role("region", name="Facts with another answer")
    assert "Peru" in overridden.inner_text()
    assert "Chile" in overridden.inner_text()
    anybody.page.get_by_role("link", name="swap A and B").click()
    assert heading(anybody) == "From turn 3 to turn 1"


def test_blame_names_the_edits_behind_a_prompt(anybody: "Visit") -> None:
    anybody.open("blame")
    anybody.page.get_by_role("textbox", name="Prompt").fill("Lima is in")
    anybody.page.get_by_role("main").get_by_role("button").first.click()
    rows = anybody.page.locator("tbody tr")
    assert rows.count() == 2
    assert "overridden by turn 3" in rows.first.inner_text()
    rows.last.get_by_role("link", name="Lima is in").click()
    assert heading(anybody) == "Lima is in → Chile"


# The keyboard


def test_everything_is_reached_with_the_keyboard(visit: "Visit") -> None:
    page = visit.page
    visit.open("turns")
    page.keyboard.press("Tab")
    assert page.locator(":focus").inner_text() == "Skip to the content"
    assert page.locator(":focus").bounding_box() is not None
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")
    page.locator("main").focus()
    page.keyboard.press("/")
    page.keyboard.type("Quito")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/search\?q=Quito"))
    page.locator("input[name=q]").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/edits/0"))
    assert heading(visit) == "Quito is in → Ecuador"


def test_the_focus_goes_through_a_page_in_the_order_of_reading(visit: "Visit") -> None:
    visit.open("diff?a=1&b=3")
    places: list[int] = []
    while len(places) < 200:
        visit.page.keyboard.press("Tab")
        where: int | None = visit.page.evaluate(_PLACE)
        if where is None or where in places:
            break
        places.append(where)
        assert visit.page.evaluate(_IS_OUTLINED), where
    assert len(places) > 15
    assert places == sorted(places)


# Its place among all elements, and whether its focus can be seen.
_PLACE = """() => document.activeElement === document.body ? null
    : [...document.querySelectorAll('*')].indexOf(document.activeElement)"""
_IS_OUTLINED = """() => {
    const style = getComputedStyle(document.activeElement);
    return style.outlineStyle !== 'none' && style.outlineWidth !== '0px'
}"""


# The token


def test_an_expired_token_is_asked_for_and_one_comes_back_to_the_deep_link(
    browser: "Browser", folder: "Path"
) -> None:
    with ExitStack() as running:
        first = running.enter_context(serving_here(folder))
        with visiting(browser, first, size=PHONE) as visit:
            visit.enter()
            running.close()
            with serving_here(folder, port=urlsplit(first.url).port or 0) as second:
                visit.open("blame?prompt=Lima+is+in&at=1")
                assert heading(visit) == "This link needs a new token"
                visit.page.get_by_label("Token").fill("something wrong")
                visit.page.keyboard.press("Enter")
                visit.page.get_by_role("heading", name="That token is not the right one").wait_for()
                visit.page.get_by_label("Token").fill(second.token)
                visit.page.get_by_role("button", name="Open").click()
                assert visit.path == "/blame?prompt=Lima+is+in&at=1"
                assert "Peru" in visit.text()
                visit.site = second
                visit.enter("turns?page=1")
                assert visit.path == "/turns?page=1"


def test_the_token_is_in_no_page_nor_where_scripts_could_read_it(visit: "Visit") -> None:
    for path in ("", "search?q=Lima", "overview.json"):
        visit.open(path)
        assert visit.site.token not in visit.page.content() + visit.page.url
        found = "document.cookie + JSON.stringify({...localStorage, ...sessionStorage})"
        assert visit.site.token not in visit.page.evaluate(found)
