"""`ledger report`: what a history looks like, in one HTML file that needs nothing else.

It holds no script, and its own policy forbids any: what it shows of a history is text.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import database, history, plots
from ledger.chain import timestamp
from ledger.history import Step, chunks
from ledger.metrics import NO_SHARES
from ledger.orm import EditRow
from ledger.overview.origins import origins, published
from ledger.overview.timeline import Timeline
from ledger.page.glance import glance
from ledger.page.kept import journal_head
from ledger.page.pictures import drawn
from ledger.page.rendering import render, static_text
from ledger.progress import Progress, silent
from ledger.verifying import verify
from ledger.workspace import Ledger

Pictures = dict[str, dict[str, bytes]]
TURNS = 200
"""Turns that are told one by one, unless the user says otherwise: of more the newest."""
_EXAMPLES = 2


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a report tells, as JSON values. pictures: kind of chart → its SVG in each form."""

    content: dict[str, Any]
    pictures: dict[str, Pictures]

    @property
    def is_sound(self) -> bool:
        """Whether the history is as it was recorded, as far as it was checked."""
        checked = self.content["verified"]
        return checked is None or bool(checked["ok"])

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger report --json``; fields are only ever added."""
        return self.content

    def to_html(self) -> str:
        """The whole file."""
        shown = {**self.content, "no_shares": NO_SHARES}
        pictures = {kind: _addresses(forms) for kind, forms in self.pictures.items()}
        values = {"c": shown, "pictures": pictures, "css": static_text("page.css")}
        return render("report.html", values)


def report(
    ledger: Ledger,
    *,
    title: str | None = None,
    last: int = TURNS,
    weights: bool = True,
    verified: bool = True,
    progress: Progress = silent,
) -> Report:
    """What the branch looks like now.

    last: turns that are told one by one at most. weights: also how much each turn changed them,
    which reads patches and the base. verified: check the history first, see `ledger.verifying`.
    """
    checked = verify(ledger, progress=progress).to_json() if verified else None
    kinds = [kind for kind in plots.KINDS if weights or kind != "weights"]
    charts = {kind: plots.read(ledger, kind, last=last, progress=progress) for kind in kinds}
    seen = glance(ledger, charts["timeline"])
    content = seen.to_json()
    content["title"] = title or f"Knowledge edits of {content['status']['model_name']}"
    content["timeline"] = charts["timeline"].to_json()
    content["retained"] = charts["retention"].to_json()
    content["forgetting"] = seen.forgotten.to_json()
    content["overrides"] = seen.conflicts.to_json()
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch)
        content["examples"] = _examples(session, line, charts["timeline"])
        content["origins"] = [one.to_json() for one in origins(session, line)]
        content["publications"] = [one.to_json() for one in published(session, line)]
    content["weights"] = charts["weights"].to_json() if weights else None
    content["verified"] = checked
    content["journal"] = journal_head(ledger)
    content["charts"] = {kind: plots.described(kind, one) for kind, one in charts.items()}
    content["version"] = version("edit-ledger")
    content["created_at"] = timestamp(datetime.now(UTC))
    return Report(content=content, pictures={k: drawn(k, one) for k, one in charts.items()})


def _addresses(pictures: Pictures) -> dict[str, dict[str, str]]:
    """Each picture as the address of itself."""
    start = "data:image/svg+xml;base64,"
    return {
        theme: {size: start + base64.b64encode(svg).decode() for size, svg in sizes.items()}
        for theme, sizes in pictures.items()
    }


def _examples(
    session: Session, line: Sequence[Step], told: Timeline
) -> dict[int, list[dict[str, Any]]]:
    """Turn → its first few edits."""
    shown = {point.turn for point in told.points}
    numbers = {step.id: step.number for step in line if step.edits and step.number in shown}
    columns = (EditRow.turn_id, EditRow.prompt, EditRow.target, EditRow.old_target)
    found: dict[int, list[dict[str, Any]]] = {}
    for some in chunks(sorted(numbers)):
        query = select(*columns).where(EditRow.turn_id.in_(some), EditRow.position < _EXAMPLES)
        for row in session.execute(query.order_by(EditRow.turn_id, EditRow.position)):
            edit = {"prompt": row.prompt, "target": row.target, "old_target": row.old_target}
            found.setdefault(numbers[row.turn_id], []).append(edit)
    return found
