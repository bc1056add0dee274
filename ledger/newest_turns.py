"""The last turns of a branch, without reading what came before them."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import aliased

from ledger import database
from ledger.orm import TurnRow
from ledger.refs import head_id
from ledger.workspace import Ledger


def newest_turns(ledger: Ledger, count: int) -> list[tuple[int, str]]:
    """Number and message of the branch's last turns, at most so many, newest first.

    HistoryError if there is no such branch.
    """
    first: Any = select(TurnRow.id, TurnRow.parent_id, TurnRow.number, TurnRow.message)
    with database.reading(ledger.engine) as session:
        head = session.get(TurnRow, head_id(session, ledger.branch) or 0)
        if head is None:
            return []
        path = first.where(TurnRow.id == head.id).cte(recursive=True)
        parent = aliased(TurnRow)
        path = path.union_all(
            select(parent.id, parent.parent_id, parent.number, parent.message).where(
                parent.id == path.c.parent_id, path.c.number > head.number - count + 1
            )
        )
        query = select(path.c.number, path.c.message).order_by(path.c.number.desc())
        return [(number, message) for number, message in session.execute(query)]
