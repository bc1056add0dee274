"""Where the edits came from, and where states went: datasets and publications."""

from collections.abc import Sequence

from werkzeug.exceptions import NotFound

from ledger import database
from ledger.history import Step, find_turn
from ledger.orm import DatasetRow
from ledger.overview.origins import Origin, Publication, origins, published
from ledger.page.lines import hashes_of, line_of
from ledger.page.paging import Part
from ledger.page.site import Asked, Content, Site
from ledger.skipped import count_skipped, skipped_between

_TURNS = 12
"""Turns of a dataset that are told one by one, the newest."""
_FARTHEST = 10**15


def add(site: Site) -> None:
    """Add the pages."""

    @site.page("/datasets", "datasets.html", section="datasets")
    def datasets(asked: Asked) -> Content:
        found = _origins(site, asked)
        page = Part(number=asked.number("page", 1), total=len(found))
        shown = found[page.start : page.stop]
        return {
            "branch": asked.ledger.branch,
            "page": page.to_json(),
            "datasets": [origin.to_json() for origin in shown],
        }

    @site.page(f"/datasets/<int(max={_FARTHEST}):number>", "dataset.html", section="datasets")
    def dataset(asked: Asked, number: int) -> Content:
        line = line_of(site, asked)
        origin = next((one for one in _origins(site, asked) if one.id == number), None)
        if origin is None:
            raise NotFound(_missing(asked, number))
        steps = _steps(line, origin, asked.number("turn", 0, least=0))
        page = Part(number=asked.number("page", 1), total=count_skipped(steps))
        with database.reading(asked.ledger.engine) as session:
            skipped = skipped_between(session, steps, page.start, page.stop)
        return {
            "branch": asked.ledger.branch,
            "dataset": origin.to_json(),
            "turn": asked.number("turn", 0, least=0) or None,
            "page": page.to_json(),
            "skipped_rows": [one.to_json() for one in skipped],
            "hashes": hashes_of(line, origin.turns[-_TURNS:]),
        }

    @site.page("/publications", "publications.html", section="publications")
    def publications(asked: Asked) -> Content:
        line = line_of(site, asked)
        found = site.kept.of(asked.ledger, "publications", lambda: _published(asked, line))
        page = Part(number=asked.number("page", 1), total=len(found))
        return {
            "branch": asked.ledger.branch,
            "turns": len(line),
            "page": page.to_json(),
            "publications": [_since(one, line) for one in found[page.start : page.stop]],
        }


def _origins(site: Site, asked: Asked) -> Sequence[Origin]:
    line = line_of(site, asked)

    def make() -> Sequence[Origin]:
        with database.reading(asked.ledger.engine) as session:
            return origins(session, line)

    return site.kept.of(asked.ledger, "origins", make)


def _steps(line: Sequence[Step], origin: Origin, turn: int) -> list[Step]:
    """The turns of a dataset, or the one of them that is asked for."""
    numbers = (turn,) if turn else origin.turns
    if turn and turn not in origin.turns:
        raise NotFound(f"turn {turn} has nothing of this dataset")
    return [find_turn(line, number) for number in numbers]


def _missing(asked: Asked, number: int) -> str:
    with database.reading(asked.ledger.engine) as session:
        found = session.get(DatasetRow, number)
    if found is None:
        return f"there is no dataset {number}; see the list of datasets"
    return f"no turn of branch {asked.ledger.branch} has edits of dataset {number}"


def _published(asked: Asked, line: Sequence[Step]) -> Sequence[Publication]:
    with database.reading(asked.ledger.engine) as session:
        return published(session, line)


def _since(one: Publication, line: Sequence[Step]) -> Content:
    """ahead: the turns of the branch since; None if the turn is not on it."""
    return {**one.to_json(), "ahead": None if one.turn is None else len(line) - one.turn}
