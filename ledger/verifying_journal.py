"""Verify: the journal is one chain, and every row that it tells of is as it says."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import chain
from ledger.journal import TABLES, row_digest, row_key, turn_digest
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
from ledger.workspace import MAIN

_TOGETHER = 500


class KnownTurn(NamedTuple):
    """What others refer to a turn by. name: as in ``turn 3 of try``. parent: its row id."""

    number: int
    hash: str
    name: str
    parent: int | None


def known_turns(session: Session) -> dict[int, KnownTurn]:
    """All turns by row id."""
    columns = (TurnRow.id, TurnRow.number, TurnRow.branch, TurnRow.parent_id, TurnRow.hash)
    return {
        turn_id: KnownTurn(
            number=number,
            hash=digest,
            name=f"turn {number}" + ("" if branch == MAIN else f" of {branch}"),
            parent=parent,
        )
        for turn_id, number, branch, parent, digest in session.execute(
            select(*columns).order_by(TurnRow.id)
        )
    }


class Entry(NamedTuple):
    """An entry as it is read again. turns, evaluations: keys of the rows that it tells of."""

    number: int
    hash: str
    action: str
    ref: str | None
    left: int | None
    reached: int | None
    turns: tuple[str, ...]
    evaluations: tuple[str, ...]


class Told(NamedTuple):
    """The last word on a row, and the number of the entry that has it."""

    digest: str
    entry: int


@dataclass(kw_only=True)
class Journal:
    """What the journal says. told: table → key of a row → the last word on it."""

    entries: list[Entry] = field(default_factory=list)
    told: dict[str, dict[str, Told]] = field(default_factory=dict)


Problems = Iterator[tuple[str, str]]
"""Subject, and what is wrong with it."""


def wrong_entries(session: Session, turns: Mapping[int, KnownTurn], journal: Journal) -> Problems:
    """Read the journal into `journal`; what does not follow from what is before it.

    turns: by row id.
    """
    number, previous = 0, EMPTY
    query = select(EntryRow).order_by(EntryRow.id).execution_options(yield_per=_TOGETHER)
    for entry in session.scalars(query):
        subject = f"journal entry {entry.id}"
        if entry.id != number + 1:
            yield subject, f"entries after {number} were removed"
        elif _digest(entry, previous, turns) != entry.hash:
            yield subject, "does not give its hash: it, or the one before it, has been altered"
        number, previous = entry.id, entry.hash
        _read(entry, journal)


def wrong_rows(session: Session, turns: Mapping[int, KnownTurn], journal: Journal) -> Problems:
    """Rows that are not as the journal says, or of which it says nothing, or that are gone."""
    for table in TABLES:
        told = dict(journal.told.get(table.__tablename__, {}))
        for subject, key, digest in _rows(session, turns, table):
            word = told.pop(key, None)
            if word is None:
                yield subject, "was slipped in: the journal does not tell of it"
            elif word.digest != digest:
                yield subject, f"has been altered: journal entry {word.entry} tells otherwise"
        # Keyframes may go: they can be made again.
        for key, word in () if table is KeyframeRow else told.items():
            subject = _REMOVED[table].format(key=key, digest=word.digest)
            yield subject, f"was removed: journal entry {word.entry} tells of it"


def _digest(entry: EntryRow, previous: str, turns: Mapping[int, KnownTurn]) -> str:
    return chain.content_hash(
        chain.entry_content(
            entry,
            previous=previous,
            left=_hash(turns, entry.from_turn_id),
            reached=_hash(turns, entry.to_turn_id),
        )
    )


def _hash(turns: Mapping[int, KnownTurn], turn_id: int | None) -> str | None:
    if turn_id is None:
        return None
    return turns[turn_id].hash if turn_id in turns else "missing"


def _read(entry: EntryRow, journal: Journal) -> None:
    records = _records(entry)
    journal.entries.append(
        Entry(
            number=entry.id,
            hash=entry.hash,
            action=entry.action,
            ref=entry.ref,
            left=entry.from_turn_id,
            reached=entry.to_turn_id,
            turns=tuple(records.get(TurnRow.__tablename__, ())),
            evaluations=tuple(records.get(EvaluationRow.__tablename__, ())),
        )
    )
    for table, rows in records.items():
        words = {key: Told(digest, entry.id) for key, digest in rows.items()}
        journal.told.setdefault(table, {}).update(words)


def _records(entry: EntryRow) -> Mapping[str, Mapping[str, str]]:
    """What the entry tells of; nothing, if it was altered to what is not even of the form."""
    found: Any = entry.records
    if isinstance(found, dict) and all(isinstance(rows, dict) for rows in found.values()):
        return found
    return {}


def _rows(
    session: Session, turns: Mapping[int, KnownTurn], table: type[Table]
) -> Iterator[tuple[str, str, str | None]]:
    """Of every row: subject, key, digest."""
    if table is TurnRow:
        # Turns are large, and their content has been checked.
        for turn_id, own, told in session.execute(
            select(TurnRow.id, TurnRow.hash, TurnRow.withheld).order_by(TurnRow.id)
        ):
            digest = turn_digest(own, told) if isinstance(told, dict) else None
            yield turns[turn_id].name, str(turn_id), digest
        return
    query = select(table).order_by(*table.__table__.primary_key)
    for row in session.scalars(query.execution_options(yield_per=_TOGETHER)):
        yield _SUBJECTS[table](row, turns), row_key(row), row_digest(row)


def _of(turns: Mapping[int, KnownTurn], turn_id: int) -> str:
    return turns[turn_id].name if turn_id in turns else "a turn that is gone"


_SUBJECTS: dict[type[Table], Callable[[Any, Mapping[int, KnownTurn]], str]] = {
    BaseRow: lambda *_: "base model, its record",
    DatasetRow: lambda row, _: f"dataset {row.id} ({row.uri})",
    BlobRow: lambda row, _: f"{row.kind} {row.digest[:12]}…",
    KeyframeRow: lambda row, _: f"keyframe {row.digest[:12]}…",
    EvaluationRow: lambda row, turns: f"evaluation {row.id} of {_of(turns, row.turn_id)}",
    PublicationRow: lambda row, turns: f"publication {row.id} of {_of(turns, row.turn_id)}",
    SettingsRow: lambda row, _: f"settings {row.id} of {row.method}",
    TrialRow: lambda row, _: f"trial {row.id}",
}
"""What a problem with a row is filed under; of turns their names."""
_REMOVED = {
    BaseRow: "base model, its record",
    DatasetRow: "dataset {key}",
    BlobRow: "file {key:.12}…",
    TurnRow: "turn {digest:.12}…",
    EvaluationRow: "evaluation {key}",
    PublicationRow: "publication {key}",
    SettingsRow: "settings {key}",
    TrialRow: "trial {key}",
}
"""The same of one that is gone: by its key and the last word on it."""
