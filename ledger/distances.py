"""How far branches and tags are from a branch: the turns that only one of both has. No torch."""

from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.orm import RefRow, TurnRow
from ledger.refs import head_id


class Distance(NamedTuple):
    """ahead, behind: how many turns a ref has that the branch has not, and the other way round."""

    ahead: int
    behind: int


def distances(session: Session, branch: str) -> dict[str, Distance]:
    """Name of every branch and tag → how far it is from `branch`.

    It reads the parent of every turn of the ledger, and nothing else of them.
    """
    parents = dict(session.execute(select(TurnRow.id, TurnRow.parent_id)).all())
    depth: dict[int | None, int] = {None: 0}
    for step, turn in enumerate(reversed(_way(parents, head_id(session, branch))), start=1):
        depth[turn] = step
    length = len(depth) - 1
    found = {}
    refs = select(RefRow.name, RefRow.turn_id).order_by(RefRow.name)
    for name, head in session.execute(refs):
        at, ahead = head, 0
        while at is not None and at not in depth:
            at, ahead = parents[at], ahead + 1
        found[name] = Distance(ahead=ahead, behind=length - depth[at])
    return found


def _way(parents: Mapping[int, int | None], turn: int | None) -> list[int]:
    """The turn and those that led to it, the newest first."""
    found = []
    while turn is not None:
        found.append(turn)
        turn = parents[turn]
    return found
