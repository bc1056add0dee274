"""The charts of the pages, as pictures."""

from typing import Any

from flask import make_response, request
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

from ledger import plots
from ledger.page.pictures import FORMS, WIDTHS
from ledger.page.site import Asked, Site
from ledger.progress import silent

MOST = 500
"""Turns in a chart; of a longer history the newest."""
# The picture's own style sheet is its only one; scripts do not run in it.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def add(site: Site) -> None:
    """Add the pictures."""

    @site.app.get("/plots/<kind>.svg")
    def chart(kind: str) -> Response:
        if kind not in plots.KINDS:
            raise NotFound(f"there is no chart {kind!r}, only: {', '.join(plots.KINDS)}")
        asked = site.asked()
        theme, size = (request.args.get(name, known[0]) for name, known in FORMS.items())
        width = WIDTHS.get(size)
        if width is None:
            raise NotFound(f"there is no size {size!r}, only: {', '.join(WIDTHS)}")

        def draw() -> bytes:
            return plots.draw(kind, content_of(site, asked, kind), theme=theme, width=width)

        picture = site.kept.of(asked.ledger, ("picture", kind, theme, size), draw)
        response = make_response(picture)
        response.mimetype = "image/svg+xml"
        response.headers["Content-Security-Policy"] = _POLICY
        return response


def content_of(site: Site, asked: Asked, kind: str) -> Any:
    """What the chart shows."""
    return site.kept.of(
        asked.ledger,
        ("chart", kind),
        lambda: plots.read(asked.ledger, kind, last=MOST, progress=silent),
    )


def described(site: Site, asked: Asked, kind: str) -> str:
    """What the chart shows, in words."""
    return plots.described(kind, content_of(site, asked, kind))
