"""The branches and tags, how far they are from one another, and how they have moved."""

from copy import copy

from ledger import database
from ledger.branching import Ref, count_moves, list_branches, list_tags, reflog
from ledger.distances import Distance, distances
from ledger.page.paging import Part
from ledger.page.site import Asked, Content, Site
from ledger.refs import head_id
from ledger.workspace import current_branch

_MOVES = 20
_REFS = 500
"""Branches, and tags, that are shown."""


def add(site: Site) -> None:
    """Add the page."""

    @site.page("/branches", "branches.html", section="branches")
    def branches(asked: Asked) -> Content:
        ledger = copy(asked.ledger)
        viewed, ledger.branch = ledger.branch, current_branch(ledger.folder)
        with database.reading(ledger.engine) as session:
            head_id(session, viewed)
        found, tags = list_branches(ledger), list_tags(ledger)
        far = site.kept.of(asked.ledger, "distances", lambda: _distances(asked))
        ref = asked.text("ref") or None
        page = Part(number=asked.number("page", 1), total=count_moves(ledger, ref), per_page=_MOVES)
        moves = reflog(ledger, ref, last=page.per_page, skip=page.start)
        return {
            "viewed": viewed,
            "current": ledger.branch,
            "branches": [_told(one, far) for one in found[:_REFS]],
            "tags": [_told(one, far) for one in tags[:_REFS]],
            "more": max(0, len(found) - _REFS) + max(0, len(tags) - _REFS),
            "ref": ref,
            "page": page.to_json(),
            "moves": [move.to_json() for move in moves],
        }


def _distances(asked: Asked) -> dict[str, Distance]:
    with database.reading(asked.ledger.engine) as session:
        return distances(session, asked.ledger.branch)


def _told(ref: Ref, far: dict[str, Distance]) -> Content:
    """The fields of ``ledger branch --json``; ahead, behind: of the branch shown."""
    # A branch that has just been made is not among what was kept.
    found = far.get(ref.name)
    return {**ref.to_json(), **(found._asdict() if found else {"ahead": None, "behind": None})}
