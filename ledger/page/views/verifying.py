"""Whether everything is as recorded, and what to remember of the history."""

from dataclasses import asdict
from urllib.parse import urlencode

from flask import redirect
from werkzeug.wrappers import Response

from ledger import database, journal
from ledger.orm import EMPTY, TurnRow
from ledger.page.checking import Check, Checking
from ledger.page.site import Asked, Content, Site, look_again
from ledger.refs import head_id

_BASE = "base"
_PHASES = {
    "": "starting",
    "turns": "the chain of turns, and their edits",
    "patches": "the files of patches",
    _BASE: "the base model",
}
_SOONEST, _LATEST, _SHOWN = 2, 10, 200


def add(site: Site) -> None:
    """Add the pages."""
    checking = Checking(site.ledger)

    # Its own address, which answers with another one: to load a page again starts nothing.
    @site.app.get("/verify/start")
    def start() -> Response:
        checking.start()
        chosen = site.asked().chosen
        query = f"?{urlencode({'branch': chosen})}" if chosen else ""
        return redirect(f"/verify{query}", 303)

    @site.page("/verify", "verify.html", section="verify")
    def verifying(asked: Asked) -> Content:
        check = checking.last()
        if check is not None and check.is_running:
            # The less often the longer it is.
            look_again(round(min(_LATEST, max(_SOONEST, check.seconds / 10))))
        with database.reading(asked.ledger.engine) as session:
            head = head_id(session, asked.ledger.branch)
            turn = None if head is None else session.get_one(TurnRow, head)
            number, state = (0, EMPTY) if turn is None else (turn.number, turn.hash)
            entry, digest = journal.newest(session)
        return {
            "turn": number,
            "hash": state,
            "entry": entry,
            "entry_hash": digest,
            "check": None if check is None else _told(check, digest),
        }


def _told(check: Check, head: str) -> Content:
    """doing: the phase, for people; in_bytes: what is done of it is. is_current: whether nothing
    was recorded since it began. Of many problems and notes the first; more_…: how many others
    there are."""
    found = check.found or {"ok": None, "checked": {}, "problems": [], "notes": []}
    return {
        **{name: value for name, value in asdict(check).items() if name != "found"},
        "is_running": check.is_running,
        "is_current": check.head == head,
        "doing": _PHASES.get(check.phase, check.phase),
        "in_bytes": check.phase == _BASE,
        "ok": found["ok"],
        "checked": found["checked"],
        **{name: found[name][:_SHOWN] for name in ("problems", "notes")},
        **{f"more_{name}": len(found[name][_SHOWN:]) for name in ("problems", "notes")},
    }
