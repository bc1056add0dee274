"""The browser that the other tests look with notices what no page may do."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests import browser as rig
from tests.browser import check_accessible, check_fits, visiting
from tests.serving import Site

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.browser


@contextmanager
def page_of(html: str, policy: str = "") -> Iterator[Site]:
    """A server of one page."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            if policy:
                self.send_header("Content-Security-Policy", policy)
            self.end_headers()
            if self.path == "/":
                self.wfile.write(f"<!doctype html><link rel=icon href=data:,>{html}".encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            """Keep the test's output free of requests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield Site(url=f"http://127.0.0.1:{server.server_port}/", token="")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


BAD = {
    "console: ": "<script>console.log('x')</script>",
    "error: ": "<script>throw new Error('x')</script>",
    "dialog: ": "<script>alert('x')</script>",
    "asked another server: ": "<img alt='' src='http://localhost:9/x.png'>",
}


def look_at(browser: "Browser", html: str, policy: str = "") -> None:
    """Go there, and stay for a moment."""
    with page_of(html, policy) as site, visiting(browser, site) as visit:
        visit.open("")
        visit.page.wait_for_timeout(100)


@pytest.mark.parametrize("complaint", BAD)
def test_what_a_page_may_not_do_is_noticed(browser: "Browser", complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        look_at(browser, BAD[complaint])


def test_what_a_policy_forbids_is_noticed(browser: "Browser") -> None:
    html = "<p style='color:red'>x"
    with pytest.raises(AssertionError, match="Content Security Policy"):
        look_at(browser, html, "default-src 'none'; img-src data:")
    look_at(browser, html)


def test_a_field_without_a_label_is_noticed_under_a_strict_policy(browser: "Browser") -> None:
    policy = "default-src 'none'; img-src data:"
    with page_of("<title>x</title><input>", policy) as site, visiting(browser, site) as visit:
        visit.open("")
        with pytest.raises(AssertionError, match="label"):
            check_accessible(visit)


def test_what_is_wider_than_the_window_is_noticed(browser: "Browser") -> None:
    with page_of("<pre>" + "x" * 900) as site, visiting(browser, site, size=rig.PHONE) as visit:
        visit.open("")
        with pytest.raises(AssertionError, match="<pre>"):
            check_fits(visit)


def test_without_a_browser_tests_are_skipped_but_fail_where_all_must_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("LEDGER_TEST_BROWSER", raising=False)
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="no Chromium"):
        rig.found_browser()
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="no Chromium"):
        rig.found_browser()
