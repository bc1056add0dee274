"""What two states differ in."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from threading import Lock
from typing import Any

from werkzeug.exceptions import BadRequest

from ledger import database
from ledger.diffing import Diff, diff, side_at
from ledger.diffing_extent import extent
from ledger.diffing_facts import FactChange, Side, only_in
from ledger.facts import Fact
from ledger.page.choices import choices
from ledger.page.kept import Kept
from ledger.page.paging import PER_PAGE, Part
from ledger.page.site import Asked, Content, Site
from ledger.refs import HEAD, Rev, branches
from ledger.wording import numbers
from ledger.workspace import Ledger

_MOST = 50_000
"""Edits, and scores, that a page compares at most: seconds, and tens of megabytes."""
_SHOWN, _LINKED, _KEPT, _BRANCHES, _HASH = 20, 30, 4, 5, 12
_SCORES = "changed"
LISTS = ("added", "removed", "overridden", _SCORES)


@dataclass(frozen=True, kw_only=True)
class _Asking:
    """The two states that a page is about, as their names were given. only: the list to show."""

    a: str
    b: str
    weights: bool
    only: str
    page: int


@dataclass(frozen=True, kw_only=True)
class _Sides:
    """What is told of the two states. too_far: they are not compared."""

    a: Content
    b: Content
    too_far: bool


def add(site: Site) -> None:
    """Add the page."""
    # Comparisons are large: few of them are kept, and one at a time reads the base's weights.
    kept, alone = Kept(most=_KEPT), Lock()

    def found(asked: Asked, a: Rev, b: Rev, *, weights: bool) -> Diff:
        def compare() -> Diff:
            if not weights:
                return diff(asked.ledger, a, b, weights=False)
            with alone:
                return diff(asked.ledger, a, b, device=site.device, keeps=False)

        return kept.of(asked.ledger, (a, b, weights), compare)

    @site.page("/diff", "diff.html", section="diff")
    def differing(asked: Asked) -> Content:
        asking = _asking(asked)
        content = {"asked": asdict(asking), "choices": choices(site, asked), **_nothing()}
        if not asking.a:
            return {**content, "suggestions": _suggestions(asked.ledger)}
        question = ("sides", asking.a, asking.b)
        sides = site.kept.of(asked.ledger, question, lambda: _sides(asked.ledger, asking))
        content |= {"a": sides.a, "b": sides.b}
        a, b = (side["hash"] or 0 for side in (sides.a, sides.b))
        if sides.too_far:
            return {**content, "refused": _refusal(asking, a, b)}
        return {**content, **_told(found(asked, a, b, weights=asking.weights), asking)}


def _asking(asked: Asked) -> _Asking:
    only = asked.text("list")
    if only and only not in LISTS:
        raise BadRequest(f"list is one of {', '.join(LISTS)}, not {only[:40]!r}")
    a, b = asked.text("a"), asked.text("b") or HEAD
    return _Asking(
        # Whoever gives one state wants to know what has changed since.
        a=a or (HEAD if asked.text("b") else ""),
        b=b,
        weights=asked.is_set("weights"),
        only=only,
        page=asked.number("page", 1),
    )


def _nothing() -> Content:
    """The page without a comparison."""
    left_out = ("a", "b", "facts", "weights", "scores", "refused")
    return {**dict.fromkeys(left_out), "lists": {}, "notes": [], "suggestions": []}


def _sides(ledger: Ledger, asking: _Asking) -> _Sides:
    with database.reading(ledger.engine) as session:
        a, b = (side_at(session, ledger, rev) for rev in (asking.a, asking.b))
        size = extent(session, a, b)
    too_far = max(size.edits, size.outcomes) > _MOST
    return _Sides(a=_side(a, b), b=_side(b, a), too_far=too_far)


def _side(one: Side, other: Side) -> Content:
    """only: the turns with edits in force that the other state has not; `turns` are the newest."""
    only = only_in(one, other)
    return {
        "turn": one.turn,
        "hash": one.hash,
        "edits_in_force": sum(step.edits for step in one.edits),
        "only": {
            "count": len(only),
            "edits": sum(step.edits for step in only),
            "numbers": numbers([step.number for step in only]),
            "turns": [
                {"turn": step.number, "hash": step.hash, "edits": step.edits}
                for step in only[: -_LINKED - 1 : -1]
            ],
        },
    }


def _refusal(asking: _Asking, a: Rev, b: Rev) -> str:
    names = " ".join(str(state)[:_HASH] for state in (a, b))
    return (
        f"{asking.a} and {asking.b} are more than {_MOST:,} edits apart, or share more scores: too "
        f"much for a page. Compare states that are nearer, or run: ledger diff {names} --stat"
    )


def _told(found: Diff, asking: _Asking) -> Content:
    """A comparison with its lists in parts. As ``ledger diff --json --stat``, and `lists`."""
    told = found.to_json(stat=True)
    lists = _lists(found)
    if asking.only:
        page = Part(number=asking.page, total=len(lists[asking.only]), per_page=PER_PAGE)
        parts = {asking.only: page}
    else:
        parts = {
            name: Part(number=1, total=len(items), per_page=_SHOWN) for name, items in lists.items()
        }
    return {
        **{name: told[name] for name in ("facts", "weights", "scores", "notes")},
        "lists": {
            name: {
                "page": page.to_json(),
                "items": [_item(found, one) for one in lists[name][page.start : page.stop]],
            }
            for name, page in parts.items()
        },
    }


def _lists(found: Diff) -> Mapping[str, Sequence[Any]]:
    return {**found.facts.groups(), _SCORES: found.scores.edits if found.scores else ()}


def _item(found: Diff, one: Any) -> Content:
    """A fact that changed, with where its edits are; or an edit that is answered otherwise."""
    if not isinstance(one, FactChange):
        return asdict(one)
    old, new = _place(found.a, one.old), _place(found.b, one.new)
    return {
        **one.to_json(),
        **{f"old_{name}": value for name, value in old.items()},
        **{f"new_{name}": value for name, value in new.items()},
    }


def _place(side: Side, fact: Fact | None) -> Content:
    if fact is None:
        return {"hash": None, "position": None, "prompt": None}
    return {
        "hash": side.steps[fact.number - 1].hash,
        "position": fact.position,
        "prompt": fact.prompt,
    }


def _suggestions(ledger: Ledger) -> list[Content]:
    """Comparisons that many want."""
    with database.reading(ledger.engine) as session:
        known = branches(session)
    found = []
    if known.get(ledger.branch):
        found.append(_suggestion("HEAD~1", HEAD, "what the newest turn changed"))
        found.append(_suggestion("0", HEAD, "what all turns together changed"))
    others = [name for name in known if name != ledger.branch][:_BRANCHES]
    return found + [
        _suggestion(ledger.branch, name, f"what {name} has that {ledger.branch} has not")
        for name in others
    ]


def _suggestion(a: str, b: str, what: str) -> Content:
    return {"a": a, "b": b, "what": what}
