"""Every page in a real browser: by ear, in light and dark, on a desk and on a phone."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests import full_ledgers
from tests.browser import check_page, visiting
from tests.serving import Served, serving
from tests.told_edits import new_ledger

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser import Visit

pytestmark = pytest.mark.browser

PAGES = (
    "", "turns", "turns/2", "turns/4", "turns/5", "turns/2/edits/1", "search",
    "search?q=capital", "branches", "datasets", "datasets/1", "publications", "diff",
    "diff?a=1&b=3", "blame", "blame?prompt=France", "blame?prompt=nobody", "retention",
    "verify", "try", "nowhere", "turns?page=99",
)  # fmt: skip
EMPTY = (
    "", "turns", "search?q=capital", "branches", "datasets", "publications", "diff",
    "diff?a=0&b=HEAD", "blame?prompt=France", "retention", "verify", "try",
)  # fmt: skip
NOT_FOUND = ("nowhere", "turns?page=99")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A ledger that has something of everything."""
    with (
        full_ledgers.build(tmp_path_factory.mktemp("full")) as ledger,
        serving(ledger.folder, "--model") as served,
    ):
        yield served


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A ledger without a turn."""
    with (
        new_ledger(tmp_path_factory.mktemp("empty")) as ledger,
        serving(ledger.folder) as served,
    ):
        yield served


@pytest.fixture(scope="module")
def visitor(browser: "Browser", full: Served) -> Iterator["Visit"]:
    """Somebody who has entered."""
    with visiting(browser, full) as visit:
        visit.enter()
        yield visit


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_accessible_and_fits(visitor: "Visit", path: str) -> None:
    check_page(visitor, path)
    assert visitor.page.locator("h1").count() == 1
    assert "Something is wrong" not in visitor.text()


def test_pages_that_are_none_say_so_with_ways_on(visitor: "Visit") -> None:
    for path in NOT_FOUND:
        assert visitor.open(path) == 404
        assert visitor.page.locator("h1").inner_text() == "Not found"
        visitor.page.get_by_role("main").get_by_role("link", name="all turns").click()
        assert visitor.path == "/turns"


def test_the_page_for_who_has_no_token_is_accessible_and_fits(
    browser: "Browser", full: Served
) -> None:
    with visiting(browser, full) as visit:
        check_page(visit, "turns/2")
        assert visit.page.locator("h1").inner_text() == "A token is needed"


def test_an_empty_ledger_has_every_page_and_says_what_to_do(
    browser: "Browser", empty: Served
) -> None:
    with visiting(browser, empty) as visit:
        visit.enter()
        for path in EMPTY:
            assert visit.open(path) == 200, path
            check_page(visit, path)
            assert visit.page.locator("main").inner_text().strip()
        visit.open("")
        assert "ledger add-edits" in visit.text()
