"""A real browser that looks at `ledger serve`: Chromium, without a window, driven by Playwright.

It is the one that LEDGER_TEST_BROWSER names, or that the system has; none is downloaded. Tests that
need it are marked `browser`; where there is none they are skipped, but with CI=true they fail.
"""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Page, Route, sync_playwright

from tests.serving import COMING, Site

PHONE, DESKTOP = (390, 844), (1280, 900)
_NAMES = ("chromium", "chromium-browser", "google-chrome")
# Without a sandbox it runs as root, as it does in containers; the others keep it from calling home.
_ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_SERIOUS = ("serious", "critical")
_LONGEST_WAIT = 10_000
# A refused page is an answer that tests ask for; the browser tells of it on its console.
_STATUS = re.compile(r"Failed to load resource: the server responded with a status of 4\d\d")
Theme = Literal["light", "dark"]


def found_browser() -> str:
    """The path of a Chromium. Skips the test if there is none; with CI=true, fails it."""
    named = os.environ.get("LEDGER_TEST_BROWSER")
    found = named or next(filter(None, map(shutil.which, _NAMES)), None)
    if found is not None:
        return found
    missing = "no Chromium: install one, or name one in LEDGER_TEST_BROWSER"
    if os.environ.get("CI") == "true":
        pytest.fail(missing)
    pytest.skip(missing)


@contextmanager
def launched() -> Iterator[Browser]:
    """The browser, until the end of the block."""
    path = found_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*_ARGUMENTS])
        try:
            yield browser
        finally:
            browser.close()


@dataclass(kw_only=True)
class Visit:
    """Somebody at a browser that knows nothing yet: one tab. complaints: what no page may do."""

    page: Page
    site: Site
    complaints: list[str] = field(default_factory=list)

    def enter(self, path: str = "search") -> None:
        """Open a page at an address with the token, as the server prints one."""
        sign = "&" if "?" in path else "?"
        self.page.goto(f"{self.site.url}{path}{sign}token={self.site.token}")

    def open(self, path: str) -> int:
        """Go to a page, and wait until it is there; the status of the answer. path: after the
        address of the server, and as it is to stand there."""
        while True:
            answer = self.page.goto(f"{self.site.url}{path.removeprefix('/')}")
            assert answer is not None
            if answer.status != COMING:
                return answer.status
            self.page.wait_for_timeout(100)

    @property
    def path(self) -> str:
        """Where the tab is, after the address of the server."""
        return self.page.url.removeprefix(self.site.url.rstrip("/"))

    def text(self) -> str:
        """What can be read on the page."""
        return self.page.locator("body").inner_text()


@contextmanager
def visiting(
    browser: Browser,
    site: Site,
    *,
    theme: Theme = "light",
    size: tuple[int, int] = DESKTOP,
    javascript: bool = True,
) -> Iterator[Visit]:
    """A visit until the end of the block.

    It fails if a page asks another server, writes to the console, throws, opens a dialog, or does
    what its policy forbids.
    """
    context = browser.new_context(
        color_scheme=theme,
        viewport={"width": size[0], "height": size[1]},
        java_script_enabled=javascript,
    )
    try:
        context.set_default_timeout(_LONGEST_WAIT)
        visit = Visit(page=context.new_page(), site=site)
        _watch(visit)
        yield visit
    finally:
        context.close()
    assert not visit.complaints, "\n".join(visit.complaints)


def _watch(visit: Visit) -> None:
    complaints = visit.complaints

    def route(route: Route) -> None:
        asked = urlsplit(route.request.url)
        if visit.site.token and visit.site.token in route.request.headers.get("referer", ""):
            complaints.append(f"told the token: {route.request.url}")
        if asked.scheme in ("http", "https") and asked.netloc != urlsplit(visit.site.url).netloc:
            complaints.append(f"asked another server: {route.request.url}")
            route.abort()
        else:
            route.continue_()

    def hear(message: ConsoleMessage) -> None:
        if not _STATUS.match(message.text):
            complaints.append(f"console: {message.text}")

    def dismiss(dialog: Dialog) -> None:
        complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    visit.page.route("**/*", route)
    visit.page.on("console", hear)
    visit.page.on("pageerror", lambda error: complaints.append(f"error: {error}"))
    visit.page.on("dialog", dismiss)
    visit.page.on("popup", lambda _: complaints.append("opened a window"))


def check_accessible(visit: Visit, rules: Sequence[str] = ()) -> None:
    """That axe-core finds nothing serious on the page, as it is shown. rules: only these."""
    # Through the debugger: the page's own policy lets no such script in.
    if not visit.page.evaluate("typeof axe === 'object'"):
        visit.page.evaluate(_axe())
    options = {"resultTypes": ["violations"], **({"runOnly": [*rules]} if rules else {})}
    found = visit.page.evaluate("options => axe.run(options)", options)
    serious = [
        f"{one['id']}: {one['help']} ({node['html']}; {node.get('failureSummary')})"
        for one in found["violations"]
        if one["impact"] in _SERIOUS
        for node in one["nodes"]
    ]
    assert not serious, f"{visit.path}: " + "\n".join(serious)


@cache
def _axe() -> str:
    return (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")


def check_fits(visit: Visit) -> None:
    """That nothing is wider than the window: only what is in a frame of its own scrolls aside."""
    sides = "[document.scrollingElement.scrollWidth, window.innerWidth]"
    width, room = visit.page.evaluate(sides)
    wide = """[...document.querySelectorAll('body *')]
        .filter(one => one.getBoundingClientRect().left + one.scrollWidth > window.innerWidth + 1)
        .filter(one => !one.closest('.scroll, .skip'))
        .slice(-5).map(one => one.outerHTML.slice(0, 120))"""
    assert width <= room, f"{visit.path}: {visit.page.evaluate(wide)}"


def check_page(visit: Visit, path: str) -> None:
    """A page as everybody gets to see it: by ear, in light and dark, on a desk and on a phone."""
    page = visit.page
    page.set_viewport_size({"width": DESKTOP[0], "height": DESKTOP[1]})
    page.emulate_media(color_scheme="light")
    visit.open(path)
    check_accessible(visit)
    page.emulate_media(color_scheme="dark")
    check_accessible(visit, rules=("color-contrast",))
    page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    check_fits(visit)
