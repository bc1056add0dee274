"""Lists in parts, of which a page shows one."""

from dataclasses import asdict, dataclass
from typing import Any

from werkzeug.exceptions import NotFound

PER_PAGE = 50


@dataclass(frozen=True, kw_only=True)
class Part:
    """Page `number`, from 1, of a list of `total` items."""

    number: int
    total: int
    per_page: int = PER_PAGE

    def __post_init__(self) -> None:
        if self.number > self.pages:
            raise NotFound(f"there is no page {self.number}: the last is {self.pages}")

    @property
    def pages(self) -> int:
        return max(1, -(-self.total // self.per_page))

    @property
    def start(self) -> int:
        """How many items come before."""
        return (self.number - 1) * self.per_page

    @property
    def stop(self) -> int:
        return min(self.total, self.start + self.per_page)

    def to_json(self) -> dict[str, Any]:
        """first, last: of the items that are shown, counted from 1."""
        shown = {"pages": self.pages, "first": self.start + 1, "last": self.stop}
        return {**asdict(self), **shown}
