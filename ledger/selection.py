"""From rows of a dataset to the batches that become turns: what is used, skipped, known already."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.chain import prompt_key
from ledger.datasets import Dataset, Row
from ledger.orm import DatasetRow, EditRow, SkippedRow, TurnRow
from ledger.recording import RecordedEdit
from patches.edit import Edit
from patches.tokens import Encoded, encode

_LOOKUP = 500


@dataclass(kw_only=True)
class Batch:
    """What becomes one turn. skipped: (row, reason), up to the next usable row."""

    edits: list[RecordedEdit] = field(default_factory=list)
    encoded: list[Encoded] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)


@dataclass(kw_only=True)
class Selection:
    """Counts over a whole run. known: rows whose edit is in force from this very dataset.

    unrecorded: rows skipped after the last turn, which no turn can record.
    """

    usable: int = 0
    skipped: int = 0
    known: int = 0
    unrecorded: list[tuple[int, str]] = field(default_factory=list)


Known = Callable[[Sequence[Row]], dict[int, str | None]]
"""Of these rows, by number: None if turns in force have dealt with the row already, or the reason
to skip it if its fact is in force from elsewhere. Other rows are absent."""


def batches(
    rows: Iterable[Row],
    *,
    turn_size: int,
    tokenizer: Any,
    longest: int | None,
    known: Known,
    counts: Selection,
) -> Iterator[Batch]:
    """Cut the usable rows into batches of `turn_size`; the last may be smaller.

    `counts` is kept up to date. Rows are read a turn at a time.
    """
    batch = Batch()
    for row, encoded, reason in _classified(rows, turn_size, tokenizer, longest, known, counts):
        if reason is not None or row.edit is None or encoded is None:
            counts.skipped += 1
            batch.skipped.append((row.number, reason or "unusable"))
            continue
        if len(batch.edits) == turn_size:
            yield batch
            batch = Batch()
        counts.usable += 1
        batch.edits.append(RecordedEdit(edit=row.edit, row=row.number))
        batch.encoded.append(encoded)
    if batch.edits:
        yield batch
    else:
        counts.unrecorded = batch.skipped


def _classified(
    rows: Iterable[Row],
    size: int,
    tokenizer: Any,
    longest: int | None,
    known: Known,
    counts: Selection,
) -> Iterator[tuple[Row, Encoded | None, str | None]]:
    seen: dict[bytes, int] = {}
    stream = iter(rows)
    while chunk := list(islice(stream, max(size, 1))):
        usable = [(row.number, row.edit) for row in chunk if row.edit is not None]
        encoded = dict(
            zip(
                [number for number, _ in usable],
                encode(tokenizer, [e.prompt for _, e in usable], [e.target for _, e in usable]),
                strict=True,
            )
        )
        recorded = known(chunk)
        for row in chunk:
            if row.number in recorded and recorded[row.number] is None:
                counts.known += 1
            elif row.edit is None:
                yield row, None, row.reason
            else:
                item = encoded[row.number]
                reason = (
                    _unusable(item, longest)
                    or recorded.get(row.number)
                    or _repeated(row.number, row.edit, seen)
                )
                yield row, item, reason


def _unusable(encoded: Encoded, longest: int | None) -> str | None:
    if not encoded.answer:
        return "target without tokens"
    if encoded.first < 0:
        return "prompt without tokens"
    length = len(encoded.ids) + 1
    if longest is not None and length > longest:
        return f"prompt and target have {length} tokens, the model takes {longest}"
    return None


def _repeated(number: int, edit: Edit, seen: dict[bytes, int]) -> str | None:
    """The reason if the run has met the same fact before; else remember it."""
    key = hashlib.blake2b(
        f"{prompt_key(edit.prompt)}\0{edit.target}".encode(), digest_size=8
    ).digest()
    first = seen.setdefault(key, number)
    return None if first == number else f"duplicate of row {first}"


def rows_in_force(
    session: Session, turn_ids: Sequence[int], dataset: Dataset, rows: Sequence[Row]
) -> dict[int, str | None]:
    """Implements `Known` on the database, for the turns in force.

    A row is dealt with if one of these turns took or skipped it from a dataset of the same bytes
    that was read in the same way, wherever it lay; a fact is in force if one has the same prompt
    (normalised) with the same target.
    """
    found: dict[int, str | None] = {}
    same = _same_datasets(session, dataset)
    for start in range(0, len(rows), _LOOKUP):
        part = rows[start : start + _LOOKUP]
        found.update(_facts_in_force(session, set(turn_ids), part))
        found.update(_rows_dealt_with(session, set(turn_ids), same, part))
    return found


def _facts_in_force(
    session: Session, in_force: set[int], rows: Sequence[Row]
) -> dict[int, str | None]:
    facts: dict[tuple[int, str], list[int]] = {}
    for row in rows:
        if row.edit is not None:
            fact = (prompt_key(row.edit.prompt), row.edit.target)
            facts.setdefault(fact, []).append(row.number)
    query = (
        select(EditRow.prompt_key, EditRow.target, TurnRow.id, TurnRow.number)
        .join(TurnRow, TurnRow.id == EditRow.turn_id)
        .where(EditRow.prompt_key.in_({key for key, _ in facts}))
    )
    return {
        number: f"duplicate of an edit in force (turn {turn})"
        for key, target, turn_id, turn in session.execute(query)
        if turn_id in in_force
        for number in facts.get((key, target), ())
    }


def _same_datasets(session: Session, dataset: Dataset) -> list[int]:
    query = select(DatasetRow).where(
        DatasetRow.sha256 == dataset.sha256, DatasetRow.layout == dataset.layout
    )
    return [row.id for row in session.scalars(query) if row.mapping == dataset.mapping]


def _rows_dealt_with(
    session: Session, in_force: set[int], datasets: Sequence[int], rows: Sequence[Row]
) -> dict[int, str | None]:
    numbers = [row.number for row in rows]
    dealt: dict[int, str | None] = {}
    for table in (EditRow, SkippedRow):
        query = (
            select(table.turn_id, table.row)
            .join(TurnRow, TurnRow.id == table.turn_id)
            .where(
                TurnRow.dataset_id.in_(datasets),
                TurnRow.first_row <= max(numbers),
                TurnRow.last_row >= min(numbers),
                table.row.in_(numbers),
            )
        )
        for turn_id, row in session.execute(query):
            if turn_id in in_force and row is not None:
                dealt[row] = None
    return dealt
