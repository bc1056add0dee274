"""Search, also as one types: then `part=hits` asks for the hits without the page around them."""

from collections.abc import Sequence
from typing import Any

from flask import request
from werkzeug.exceptions import BadRequest

from ledger.history import Step
from ledger.page.access import wants_json
from ledger.page.lines import line_of
from ledger.page.site import Asked, Content, Site
from ledger.search_terms import Terms
from ledger.searching import Found, Hit, nearest, search
from patches.errors import SettingError

HITS = "hits"
_FEW, _MOST = 20, 1000


def add(site: Site) -> None:
    """Add the page."""

    @site.page("/search", "search.html", section="search")
    def searching(asked: Asked) -> Content:
        part, text = asked.text("part"), request.args.get("q", "").lstrip()
        if part not in ("", HITS):
            raise BadRequest(f"part is {HITS} or left out, not {part[:40]!r}")
        limit = asked.number("limit", _FEW)
        if limit > _MOST:
            raise SettingError(f"{_MOST} hits at the most; add a word to the search instead")
        content: Content = {
            "query": text,
            "searched": text.strip(),
            "in_force": asked.is_set("in_force"),
            "everywhere": asked.is_set("everywhere"),
            "limit": limit,
            "most": _MOST,
            "part": part,
            "hits": [],
            "more": False,
            "near": [],
            "problem": None,
        }
        if not text.strip():
            return content
        try:
            return {**content, **_found(asked, line_of(site, asked), content)}
        except SettingError as error:
            if wants_json():
                raise
            # Whoever is still typing comes to that.
            return {**content, "problem": str(error)}


def _found(asked: Asked, line: Sequence[Step], content: Content) -> Content:
    text = content["query"]
    searched = as_typed(text) if content["part"] else text.strip()
    found = _search(asked, line, searched, content)
    if not found.hits and (longer := as_typed(text.strip())) != searched:
        longer_found = _search(asked, line, longer, content)
        if longer_found.hits:
            found, searched = longer_found, longer
    return {
        "searched": searched,
        "hits": [_told(hit, found.terms) for hit in found.hits],
        "more": found.more,
        "near": [] if found.hits else nearest(asked.ledger, text, line=line),
    }


def _search(asked: Asked, line: Sequence[Step], text: str, content: Content) -> Found:
    return search(
        asked.ledger,
        text,
        limit=content["limit"],
        in_force=content["in_force"],
        everywhere=content["everywhere"],
        line=line,
    )


def as_typed(text: str) -> str:
    """What is searched for while `text` is being typed: its last word may go on, a quote is not
    closed yet."""
    is_open = text.count('"') % 2 == 1
    closed = f'{text}"' if is_open else text
    words = text.split()
    is_left_out = bool(words) and words[-1].startswith("-") and not is_open
    return f"{closed}*" if text[-1:].isalnum() and not is_left_out else closed.strip()


def _told(hit: Hit, terms: Terms) -> dict[str, Any]:
    """The fields of ``ledger search --json``; and marks: from where to where each text has what was
    searched for."""
    texts = {"prompt": hit.prompt, "target": hit.target, "subject": hit.subject}
    marks = {name: terms.spans(text) for name, text in texts.items() if text}
    return {**hit.to_json(), "marks": marks}
