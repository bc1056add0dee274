"""The journal: one entry for whatever is recorded at once, chained by their hashes.

An entry names every row that it brought or changed, with a digest of it:

    records    table → key of the row → digest

The last word on a row counts; a row is as it was recorded if its digest is still that one. Rows
that belong to others (edits, skipped rows, undoes, replacements, outcomes) are covered by the hash
of their turn or evaluation. So what was altered, removed, slipped in or reordered later is found by
`ledger verify`, down to the newest entry; what is cut off from the end of the journal together with
all that it records is found by whoever remembers an entry (`ledger.attesting`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast

from sqlalchemy import func, inspect, select
from sqlalchemy.orm import Session

from ledger import chain
from ledger.orm import (
    EMPTY,
    BaseRow,
    BlobRow,
    DatasetRow,
    EntryRow,
    EvaluationRow,
    KeyframeRow,
    PublicationRow,
    SettingsRow,
    Table,
    TrialRow,
    TurnRow,
)

EVALUATE, PUBLISH, SETTINGS, TRIAL = "evaluate", "publish", "settings", "trial"
KEYFRAME, PRUNE, RESTORE = "keyframe", "prune", "restore"
"""What an entry is called that moves no ref; PRUNE and RESTORE: files were given up, and came back
into use."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """A ref that came to point elsewhere. left, reached: row ids of its turns, if any."""

    ref: str
    left: int | None
    reached: int | None


def record(
    session: Session,
    action: str,
    rows: Sequence[Table] = (),
    *,
    at: datetime,
    move: Move | None = None,
) -> EntryRow:
    """Add an entry to the journal, in the caller's transaction.

    rows: what is new or changed, as it is from now on.
    """
    session.flush()
    number, previous = newest(session)
    left, reached = (None, None) if move is None else (move.left, move.reached)
    entry = EntryRow(
        id=number + 1,
        action=action,
        ref=None if move is None else move.ref,
        from_turn_id=left,
        to_turn_id=reached,
        records=_records(rows),
        created_at=at,
    )
    entry.hash = chain.content_hash(
        chain.entry_content(
            entry, previous=previous, left=_hash(session, left), reached=_hash(session, reached)
        )
    )
    session.add(entry)
    session.flush()
    return entry


def newest(session: Session) -> tuple[int, str]:
    """Number and hash of the newest entry: 0 and ``empty`` if there is none."""
    last = select(func.max(EntryRow.id)).scalar_subquery()
    found = session.execute(select(EntryRow.id, EntryRow.hash).where(EntryRow.id == last)).first()
    return (0, EMPTY) if found is None else (found[0], found[1])


def row_key(row: Table) -> str:
    """What an entry calls a row within its table."""
    (key,) = inspect(type(row)).primary_key_from_instance(row)
    return str(key)


def row_digest(row: Table) -> str:
    """SHA-256 of what is recorded of a row; of one with a hash that hash, which its own check
    compares with the content."""
    return _DIGESTS[type(row)](row)


def turn_digest(own_hash: str, withheld: dict[str, Any]) -> str:
    """The same of a turn; a pulled one may tell more, or less, than its hash covers."""
    return str(withheld.get("digest", own_hash))


_DIGESTS: dict[type[Table], Callable[[Any], str]] = {
    BaseRow: lambda row: chain.content_hash(chain.base_content(row)),
    DatasetRow: lambda row: chain.content_hash(chain.dataset_content(row)),
    BlobRow: lambda row: chain.content_hash(chain.blob_content(row)),
    KeyframeRow: lambda row: chain.content_hash(chain.keyframe_content(row)),
    TurnRow: lambda row: turn_digest(row.hash, row.withheld),
    EvaluationRow: lambda row: cast("str", row.hash),
    PublicationRow: lambda row: cast("str", row.hash),
    SettingsRow: lambda row: cast("str", row.hash),
    TrialRow: lambda row: cast("str", row.hash),
}
TABLES = tuple(_DIGESTS)
"""The tables whose rows entries name."""


def _records(rows: Sequence[Table]) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row.__tablename__, {})[row_key(row)] = row_digest(row)
    return found


def _hash(session: Session, turn_id: int | None) -> str | None:
    return None if turn_id is None else session.get_one(TurnRow, turn_id).hash
