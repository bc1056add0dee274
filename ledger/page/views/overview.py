"""The first page: where the ledger stands, at one glance."""

from ledger.page.glance import glance
from ledger.page.site import Asked, Content, Site
from ledger.page.views.charts import content_of, described

_NEWEST = 10
_CHARTS = ("timeline", "scores")


def add(site: Site) -> None:
    """Add the page."""

    @site.page("/", "overview.html", section="overview")
    def overview(asked: Asked) -> Content:
        def look() -> Content:
            told = content_of(site, asked, "timeline")
            newest = [point.to_json() for point in told.points[-_NEWEST:]]
            charts = {kind: described(site, asked, kind) for kind in _CHARTS}
            return {**glance(asked.ledger, told).to_json(), "newest": newest, "charts": charts}

        return site.soon(asked, "overview", look)
