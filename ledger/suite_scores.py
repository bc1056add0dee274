"""What suites other than the teacher-forced one have found at a turn. Imports no torch."""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.chain import timestamp
from ledger.orm import EvaluationRow
from ledger.suites import SUITES, TURNS

SUITE = "suite"
"""In the protocol: which suite it was."""


def suite_scores(session: Session, turn_id: int) -> list[dict[str, Any]]:
    """The newest scores of each suite in the state after the turn, in the order of their first.

    Without those that follow turns over many states, of which no single score tells.
    """
    query = select(
        EvaluationRow.protocol,
        EvaluationRow.n,
        EvaluationRow.base,
        EvaluationRow.state,
        EvaluationRow.created_at,
    ).where(EvaluationRow.turn_id == turn_id, EvaluationRow.scope.in_(("sample", "text")))
    found: dict[str, dict[str, Any]] = {}
    for protocol, n, base, state, created_at in session.execute(query.order_by(EvaluationRow.id)):
        name = protocol.get(SUITE)
        suite = SUITES.get(name)
        if name is None or (suite is not None and suite.on == TURNS):
            continue
        found[name] = {
            "suite": name,
            "n": n,
            "metric": None if suite is None else suite.main,
            "base": base,
            "state": state,
            "protocol": protocol,
            "created_at": timestamp(created_at),
        }
    return list(found.values())
