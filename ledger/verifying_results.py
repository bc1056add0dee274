"""Verify: evaluations and publications are as they were recorded."""

from collections.abc import Iterator, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import chain
from ledger.orm import EditRow, EvaluationRow, OutcomeRow, PublicationRow
from ledger.verifying_journal import KnownTurn

_GONE = KnownTurn(number=0, hash="", name="a turn that is gone", parent=None)


def wrong_evaluations(
    session: Session, turns: Mapping[int, KnownTurn]
) -> Iterator[tuple[str, str | None]]:
    """Of every evaluation its subject, and what is wrong, if anything is. turns: by row id."""
    for row in session.scalars(select(EvaluationRow).order_by(EvaluationRow.id)):
        turn = turns.get(row.turn_id, _GONE)
        scope = None if row.scope_turn_id is None else turns.get(row.scope_turn_id, _GONE).hash
        content = chain.evaluation_content(
            row, turn=turn.hash, scope_turn=scope, outcomes=_outcomes(session, row)
        )
        wrong = chain.content_hash(content) != row.hash
        yield (
            f"evaluation {row.id} of {turn.name}",
            "its scores have been altered" if wrong else None,
        )


def wrong_publications(
    session: Session, turns: Mapping[int, KnownTurn]
) -> Iterator[tuple[str, str | None]]:
    """The same of publications."""
    for row in session.scalars(select(PublicationRow).order_by(PublicationRow.id)):
        turn = turns.get(row.turn_id, _GONE)
        wrong = chain.content_hash(chain.publication_content(row, turn=turn.hash)) != row.hash
        yield (
            f"publication {row.id} of {turn.name}",
            "its record has been altered" if wrong else None,
        )


def _outcomes(session: Session, evaluation: EvaluationRow) -> list[tuple[str, object, object]]:
    query = (
        select(EditRow.digest, OutcomeRow.base, OutcomeRow.state)
        .join(OutcomeRow, OutcomeRow.edit_id == EditRow.id)
        .where(OutcomeRow.evaluation_id == evaluation.id)
        .order_by(EditRow.turn_id, EditRow.position)
    )
    return [(digest, base, state) for digest, base, state in session.execute(query)]
