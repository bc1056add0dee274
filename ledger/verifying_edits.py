"""Verify: the edits of a turn are those that were recorded."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import chain
from ledger.orm import EditRow, TurnRow
from patches.edit import Edit


def wrong_edits(session: Session, turn: TurnRow) -> Iterator[str | None]:
    """One None for every edit that is there, and what is wrong with them."""
    query = select(EditRow).where(EditRow.turn_id == turn.id).order_by(EditRow.position)
    digests = []
    for place, edit in enumerate(session.scalars(query.execution_options(yield_per=1000))):
        digest = chain.edit_digest(_texts(edit), edit.row, edit.probes)
        if (edit.position, edit.digest) != (place, digest) or _keys(edit) != _found_keys(edit):
            yield f"edit {edit.position} ({edit.prompt!r}) has been altered"
        digests.append(digest)
        yield None
    if len(digests) != turn.edits:
        yield f"has {len(digests)} edits, recorded were {turn.edits}"
    elif chain.edits_digest(digests) != turn.edits_digest:
        yield "its edits are not those that were recorded"


def _found_keys(row: EditRow) -> tuple[int | None, ...]:
    return row.prompt_key, row.subject_key, row.fact_key


def _keys(row: EditRow) -> tuple[int | None, ...]:
    """What its keys must be."""
    return (
        chain.prompt_key(row.prompt),
        chain.subject_key(row.subject),
        chain.fact_key(row.subject, row.relation),
    )


def _texts(row: EditRow) -> Edit:
    """The edit without its probes, which are hashed as they are stored and may be unreadable."""
    return Edit(
        prompt=row.prompt,
        target=row.target,
        subject=row.subject,
        old_target=row.old_target,
        relation=row.relation,
    )
