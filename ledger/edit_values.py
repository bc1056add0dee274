"""The rows of a turn's edits: made, hashed and inserted a hundred thousand at a time."""

from collections.abc import Iterator, Sequence

from sqlalchemy.orm import Session

from ledger import chain, database, full_text
from ledger.new_turn import RecordedEdit
from ledger.orm import EditRow
from patches.edit import Edit

# Not a named tuple: the garbage collector looks at those for as long as they live.
EditValues = tuple[str | int | None, ...]
"""The columns `NAMES` of an edit's row: all but its id and turn."""
NAMES = (
    *("position", "row", "prompt", "target", "subject", "old_target", "probes", "prompt_key"),
    *("digest", "relation", "subject_key", "fact_key"),
)
_DIGEST = NAMES.index("digest")


def edit_values(edits: Sequence[RecordedEdit]) -> list[EditValues]:
    """The columns of the edits' rows, in order."""
    return [
        _values(position, recorded.row, recorded.edit) for position, recorded in enumerate(edits)
    ]


def _values(position: int, row: int | None, edit: Edit) -> EditValues:
    probes = edit.probes_json()
    subject_key, fact_key = chain.subject_keys(edit.subject, edit.relation)
    return (
        position,
        row,
        edit.prompt,
        edit.target,
        edit.subject,
        edit.old_target,
        probes,
        chain.prompt_key(edit.prompt),
        chain.edit_digest(edit, row, probes),
        edit.relation,
        subject_key,
        fact_key,
    )


def digests(rows: Sequence[EditValues]) -> Iterator[str]:
    """Of the edits, in order."""
    return (str(row[_DIGEST]) for row in rows)


def insert_edits(session: Session, turn_id: int, rows: Sequence[EditValues]) -> None:
    """Insert the edits of a turn, all that it has, in bulk."""
    if rows:
        database.insert_rows(session, EditRow, NAMES, rows, same={"turn_id": turn_id})
        full_text.add(session, turn_id)
