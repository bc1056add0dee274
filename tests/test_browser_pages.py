"""Every page in a real browser: by ear, in light and dark, on a desk and on a phone."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests import full_ledgers
from tests.browser import PHONE, check_accessible, check_fits, check_page, visiting
from tests.serving import Site, serving_here
from tests.told_edits import new_ledger

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser import Visit

pytestmark = pytest.mark.browser

PAGES = (
    "", "turns", "turns/2", "turns/4", "turns/5", "turns/2/edits/1", "search?q=capital",
    "branches", "datasets", "datasets/1", "publications", "diff?a=1&b=3", "blame?prompt=France",
    "blame?prompt=nobody", "retention", "verify", "try", "nowhere",
)  # fmt: skip
EMPTY = (
    "", "turns", "search", "search?q=capital", "branches", "datasets", "publications", "diff",
    "diff?a=0&b=HEAD", "blame", "blame?prompt=France", "retention", "verify", "try",
)  # fmt: skip
# What an empty ledger has that the other does not show like this.
FORMS = ("", "search", "diff", "blame")
NOT_FOUND = ("nowhere", "turns?page=99")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A ledger that has something of everything."""
    with (
        full_ledgers.build(tmp_path_factory.mktemp("full")) as ledger,
        serving_here(ledger.folder, model=True) as served,
    ):
        yield served


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A ledger without a turn."""
    with (
        new_ledger(tmp_path_factory.mktemp("empty")) as ledger,
        serving_here(ledger.folder) as served,
    ):
        yield served


@pytest.fixture(scope="module")
def visitor(browser: "Browser", full: Site) -> Iterator["Visit"]:
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
    browser: "Browser", full: Site
) -> None:
    with visiting(browser, full) as visit:
        check_page(visit, "turns/2")
        assert visit.page.locator("h1").inner_text() == "A token is needed"


def test_an_empty_ledger_has_every_page_and_says_what_to_do(
    browser: "Browser", empty: Site
) -> None:
    with visiting(browser, empty, size=PHONE) as visit:
        visit.enter()
        for path in EMPTY:
            assert visit.open(path) == 200, path
            if path in FORMS:
                check_accessible(visit)
            check_fits(visit)
            assert visit.page.locator("main").inner_text().strip()
        visit.open("")
        assert "ledger add-edits" in visit.text()
