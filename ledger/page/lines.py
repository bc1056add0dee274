"""The turns of the branch that a request is about, read once."""

from collections.abc import Iterable, Sequence

from ledger import database, history
from ledger.history import Step
from ledger.page.site import Asked, Site


def line_of(site: Site, asked: Asked) -> list[Step]:
    """The turns of the branch, oldest first. Do not change the list."""

    def read() -> list[Step]:
        with database.reading(asked.ledger.engine) as session:
            return history.line(session, asked.ledger.branch)

    return site.kept.of(asked.ledger, "line", read)


def hashes_of(line: Sequence[Step], numbers: Iterable[int]) -> dict[str, str]:
    """Number of a turn of the line → its hash, to make links of."""
    return {str(number): line[number - 1].hash for number in sorted(set(numbers))}
