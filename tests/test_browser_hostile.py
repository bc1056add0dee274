"""Texts from elsewhere that would run, break out or widen a page, in a real browser: they are
shown as the text that they are, and nothing else happens."""

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from markupsafe import escape

from ledger.wording import visible
from tests.browser import PHONE, check_accessible, check_fits, visiting
from tests.many_turns import HARM, LONG, hostile
from tests.serving import Site, serving_here

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.browser import Visit

pytestmark = pytest.mark.browser

PAGES = (
    "", "turns", "turns/1", "turns/2", "turns/4", "turns/11", "turns/21", "turns/2/edits/0",
    "turns/11/edits/0", "search?q=everywhere", "branches", "datasets", "datasets/2", "datasets/11",
    "publications", "diff?a=1&b=HEAD", "diff?a=11&b=12", "blame?prompt=The+same+everywhere+is",
    "retention", "verify",
)  # fmt: skip
ACCESSIBLE = ("turns/1", "turns/2/edits/0", "publications", "branches")
# What takes a text from its address, and shows it.
ASKING = (
    "search?q={}", "blame?prompt={}", "blame?prompt=x&at={}", "diff?a={}&b=1", "turns?branch={}",
    "turns/{}", "turns?page={}", "{}", "try?prompt={}", "turns?method={}",
)  # fmt: skip


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with (
        hostile(tmp_path_factory.mktemp("hostile")) as ledger,
        serving_here(ledger.folder) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def visit(browser: "Browser", served: Site) -> Iterator["Visit"]:
    """Somebody who has entered, on a phone. That no page did anything is checked at the end."""
    with visiting(browser, served, size=PHONE) as found:
        found.enter()
        yield found


def check_harmless(visit: "Visit") -> None:
    """That no text has become anything but text."""
    assert visit.page.evaluate("window.harmed") is None
    assert visit.page.url.startswith(visit.site.url)
    found = """[...document.querySelectorAll('*')].flatMap(one => [...one.attributes]
        .filter(a => /^(on|style$)/i.test(a.name) || /^\\s*(javascript|data):/i.test(a.value))
        .filter(a => a.name !== 'value' && a.name !== 'content')
        .map(a => one.outerHTML.slice(0, 100)))"""
    assert visit.page.evaluate(found) == []
    odd = "document.querySelectorAll('main script, main base, main meta, main style, main iframe')"
    assert visit.page.evaluate(f"{odd}.length") == 0
    visit.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert "49" not in visit.page.title()


@pytest.mark.parametrize("path", PAGES)
def test_no_text_of_a_history_does_anything_on_a_page_or_keeps_anybody_from_reading_it(
    visit: "Visit", path: str
) -> None:
    assert visit.open(path) == 200
    check_harmless(visit)
    check_fits(visit)
    if path in ACCESSIBLE:
        check_accessible(visit)


def test_every_text_is_shown_as_it_is(visit: "Visit") -> None:
    """What cannot be seen is shown as an escape sequence in letters. Texts without signs of HTML
    are looked for in what the server sends, the others in what the browser makes of it."""
    for number, text in enumerate(HARM, start=1):
        path = f"turns/{number}/edits/0"
        if escape(text) == text:
            assert f">{visible(text)}</" in visit.site.ask(f"/{path}").text, text[:80]
            continue
        assert visit.open(path) == 200
        shown = visit.page.locator("dl.facts dd").nth(1).evaluate("one => one.textContent")
        assert shown == visible(text), text[:80]


@pytest.mark.parametrize("path", ASKING)
def test_no_text_of_an_address_does_anything_on_a_page(visit: "Visit", path: str) -> None:
    for text in ("".join(text for text in HARM if text.isprintable() and text != LONG), LONG):
        assert visit.open(path.format(quote(text, safe=""))) < 500
        check_harmless(visit)
        check_fits(visit)


class _Tags(HTMLParser):
    """The start tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def check_scripts(page: str) -> None:
    """That scripts are files of our own, and no element has one of its own."""
    parser = _Tags()
    parser.feed(page)
    for tag, attributes in parser.tags:
        assert not {name for name in attributes if name.startswith("on") or name == "style"}
        assert tag != "script" or (attributes.get("src") or "").startswith("/static/")


def test_scripts_are_our_own_files_alone(served: Site) -> None:
    for path in (*PAGES, "nowhere", "try"):
        check_scripts(served.ask(f"/{path}").text)
    for path in ASKING:
        for text in HARM:
            answer = served.ask(f"/{path.format(quote(text, safe=''))}")
            assert answer.status < 500, (path, text[:80])
            check_scripts(answer.text)


def test_programs_get_every_text_exactly(served: Site) -> None:
    for number, text in enumerate(HARM, start=1):
        found = served.ask(f"/turns/{number}/edits/0.json").json()
        assert (found["prompt"], found["target"]) == (f"{text} is in", text)
        answer = served.ask(f"/turns/{number}/edits/0.json")
        assert answer.headers["content-type"] == "application/json"
