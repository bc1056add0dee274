"""The turns of a branch, and one turn with its edits."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session
from werkzeug.exceptions import BadRequest

from ledger import database, history
from ledger.finding import Wanted, matching, moment
from ledger.history import KINDS, Step
from ledger.page.lines import hashes_of, line_of
from ledger.page.paging import Part
from ledger.page.site import Asked, Content, Site
from ledger.reporting import details, placed
from ledger.skipped import skipped_between
from ledger.turn import Turn, told
from ledger.turn_edits import (
    ALL,
    FORGOTTEN,
    MOST_SORTED,
    NEVER_RIGHT,
    OVERRIDDEN,
    Sorted,
    count_edits,
    rows_between,
    rows_with,
    sort_out,
    traced,
)
from ledger.wording import counted
from patches.errors import SettingError

_EDITS = (ALL, FORGOTTEN, NEVER_RIGHT, OVERRIDDEN)
_FILTERS = ("method", "kind", "message", "since", "until", "dataset")
_COUNTED = 2_000
"""Of a turn with more edits, those of each kind are counted only if one of these is asked for."""
_SKIPPED = 20
"""Skipped rows that the page of a turn shows; that of the dataset has all."""
_MENTIONED = 500
"""Turns that a page tells to be undone, merged or overridden: so many are links."""


def add(site: Site) -> None:
    """Add the pages."""

    @site.page("/turns", "turns.html", section="turns")
    def turns(asked: Asked) -> Content:
        line = line_of(site, asked)
        asks = {name: asked.text(name) for name in _FILTERS}
        wanted = _wanted(asked, asks)
        found = line if wanted.is_all else _matching(site, asked, line, wanted)
        page = Part(number=asked.number("page", 1), total=len(found))
        with database.reading(asked.ledger.engine) as session:
            shown = told(session, line, found[::-1][page.start : page.stop])
            rows = [turn.to_json() for turn in shown]
        mentioned = [number for turn in rows for number in (*turn["undoes"], *turn["replaces"])]
        return {
            "branch": asked.ledger.branch,
            "asked": {**asks, "in_force": wanted.in_force},
            "is_filtered": not wanted.is_all,
            "methods": sorted({step.method for step in line if step.method}),
            "kinds": [kind for kind in KINDS if any(step.kind == kind for step in line)],
            "count": len(line),
            "page": page.to_json(),
            "turns": rows,
            "hashes": hashes_of(line, mentioned[:_MENTIONED]),
        }

    @site.page("/turns/<path:rev>", "turn.html", section="turns")
    def turn(asked: Asked, rev: str) -> Content:
        return _turn(site, asked, rev)


def _matching(site: Site, asked: Asked, line: Sequence[Step], wanted: Wanted) -> list[Step]:
    def find() -> list[Step]:
        with database.reading(asked.ledger.engine) as session:
            return matching(session, line, wanted)

    return site.kept.of(asked.ledger, wanted, find)


def _wanted(asked: Asked, asks: dict[str, str]) -> Wanted:
    # To the minute, so that the pages of a list are found once.
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    return Wanted(
        method=asks["method"] or None,
        kind=asks["kind"] or None,
        message=asks["message"] or None,
        since=moment(asks["since"], now) if asks["since"] else None,
        until=moment(asks["until"], now, is_end=True) if asks["until"] else None,
        dataset=asks["dataset"] or None,
        in_force=asked.is_set("in_force"),
    )


def _turn(site: Site, asked: Asked, rev: str) -> Content:
    which = asked.text("edits") or ALL
    if which not in _EDITS:
        raise BadRequest(f"edits is one of {', '.join(_EDITS)}, not {which[:40]!r}")
    own = line_of(site, asked)
    with database.reading(asked.ledger.engine) as session:
        line, step = placed(session, asked.ledger, rev, own)
        [shown] = told(session, line, [step])
        total = count_edits(session, step)
        is_told_apart = total <= (_COUNTED if which == ALL else MOST_SORTED)
        sorted_out = _sorted_out(site, asked, line, shown) if is_told_apart else None
        edits, page = _edits(session, line, shown, asked, which, total, sorted_out)
        skipped = skipped_between(session, [step], 0, _SKIPPED)
        found = details(
            session, line, shown, skipped=[(one.row, one.reason) for one in skipped], edits=edits
        )
        content = found.to_json()
        source = history.by_hash(session, shown.row.copied_from or "")
        mentioned = [*step.undoes, *step.replaces, *([found.undone_by] if found.undone_by else [])]
        mentioned += [n for edit in edits for n in (*edit["overrides"], edit["overridden_by"]) if n]
        return {
            **content,
            "on_branch": line is own,
            "dataset_id": shown.row.dataset_id,
            "edit_page": page.to_json(),
            "edits_shown": which,
            "edits_here": total,
            "edit_kinds": list(_EDITS if total <= MOST_SORTED else _EDITS[:1]),
            "edit_counts": _counts(total, sorted_out),
            "scored_since": None if sorted_out is None else sorted_out.scored_since,
            "previous": _neighbour(line, step, -1),
            "next": _neighbour(line, step, 1),
            "copied_from_here": source is not None,
            "replaced_by": _replaced_by(line, step),
            "hashes": hashes_of(line, [*mentioned[:_MENTIONED], *_replaced_by(line, step)]),
        }


def _sorted_out(site: Site, asked: Asked, line: Sequence[Step], turn: Turn) -> Sorted:
    def make() -> Sorted:
        with database.reading(asked.ledger.engine) as session:
            return sort_out(session, line, turn.step, turn.evaluation)

    return site.kept.of(asked.ledger, ("edits of", turn.hash), make)


def _edits(
    session: Session,
    line: Sequence[Step],
    turn: Turn,
    asked: Asked,
    which: str,
    total: int,
    sorted_out: Sorted | None,
) -> tuple[list[dict[str, Any]], Part]:
    """The edits of one part of those that are asked for."""
    number = asked.number("page", 1)
    if which == ALL:
        page = Part(number=number, total=total)
        rows = rows_between(session, turn.step, page.start, page.stop)
    elif sorted_out is None:
        raise SettingError(
            f"turn {turn.number} has {counted(total, 'edits')}, too many to tell apart here; "
            f"ledger show {turn.number} --json has what was recorded of each of them"
        )
    else:
        ids = sorted_out.of(which)
        page = Part(number=number, total=len(ids))
        rows = rows_with(session, ids[page.start : page.stop])
    found = traced(session, line, turn.step, turn.evaluation, rows)
    return [one.to_json() for one in found], page


def _counts(total: int, sorted_out: Sorted | None) -> dict[str, int | None]:
    """How many edits there are of each kind; None: they were not told apart."""
    apart = {kind: None if sorted_out is None else len(sorted_out.of(kind)) for kind in _EDITS[1:]}
    return {ALL: total, **apart}


def _neighbour(line: Sequence[Step], step: Step, by: int) -> dict[str, Any] | None:
    """The turn before or after."""
    number = step.number + by
    if not 1 <= number <= len(line):
        return None
    return {"turn": number, "hash": line[number - 1].hash}


def _replaced_by(line: Sequence[Step], step: Step) -> list[int]:
    """The merges in force that take the place of the turn's patch."""
    return [one.number for one in line if one.in_force and step.number in one.replaces]
