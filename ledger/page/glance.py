"""Where a ledger stands, at one glance: what the report and the first page begin with."""

from dataclasses import dataclass
from typing import Any

from ledger import database, history
from ledger.overview.concerns import concerns
from ledger.overview.forgotten import Forgetting, forgetting
from ledger.overview.overrides import Overrides, overrides
from ledger.overview.timeline import Timeline
from ledger.reporting import status
from ledger.wording import public_name
from ledger.workspace import Ledger


@dataclass(frozen=True, kw_only=True)
class Glance:
    """status: as `ledger status` has it. told: the turns. concerns: what to look at first."""

    status: dict[str, Any]
    told: Timeline
    forgotten: Forgetting
    conflicts: Overrides
    concerns: list[str]

    def to_json(self) -> dict[str, Any]:
        """span: when the first and the last turn were recorded; None where not all are told."""
        points = self.told.points
        is_whole = bool(points) and len(points) == self.told.turns
        return {
            "status": {**self.status, "model_name": public_name(self.status["model"])},
            "kept": self.forgotten.kept.to_json(),
            "concerns": self.concerns,
            "span": [points[0].created_at, points[-1].created_at] if is_whole else None,
        }


def glance(ledger: Ledger, told: Timeline) -> Glance:
    """Of the branch as it is now. told: its turns, or the newest of them."""
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch)
        forgotten, conflicts = forgetting(session, line), overrides(session, line)
    return Glance(
        status=status(ledger).to_json(),
        told=told,
        forgotten=forgotten,
        conflicts=conflicts,
        concerns=concerns(told, forgotten.kept, overridden=conflicts.count),
    )
