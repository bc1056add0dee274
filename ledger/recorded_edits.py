"""Edits as they are recorded, to be made again: texts, rows, dataset, and how they were made."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import database, history
from ledger.datasets import Dataset, Row
from ledger.facts import Fact
from ledger.history import Step, chunks
from ledger.orm import DatasetRow, EditRow, TurnRow
from ledger.workspace import Ledger
from patches.canonical import canonical_json


@dataclass(frozen=True, kw_only=True)
class RecordedEdits:
    """Edits of one dataset that were made alike. row: of a turn that made some of them, with its
    method, hyperparameters and seed. rows: an edit of no row of the dataset has a negative number.
    """

    row: TurnRow
    dataset: Dataset | None
    rows: Sequence[Row]

    @property
    def told(self) -> str:
        """Where the edits come from, for people."""
        return f"turn {self.row.number}" if self.dataset is None else self.dataset.uri


def of_turn(ledger: Ledger, step: Step) -> RecordedEdits | None:
    """The edits of a turn; None if their texts are not here."""
    with database.reading(ledger.engine) as session:
        row = history.row_of(session, step)
        edits = history.edit_rows(session, [step.id])
        found = RecordedEdits(row=row, dataset=_dataset(session, row), rows=_rows(edits))
        session.expunge_all()
    return found if len(edits) == step.edits else None


def of_facts(session: Session, facts: Sequence[Fact]) -> list[RecordedEdits]:
    """These edits, each once; those together that were made alike and come from one dataset."""
    edits: dict[int, EditRow] = {}
    turns: dict[int, TurnRow] = {}
    for some in chunks(sorted({fact.edit_id for fact in facts})):
        found = session.scalars(select(EditRow).where(EditRow.id.in_(some)))
        edits |= {row.id: row for row in found}
    for some in chunks(sorted({fact.turn_id for fact in facts})):
        made = session.scalars(select(TurnRow).where(TurnRow.id.in_(some)))
        turns |= {row.id: row for row in made}
    groups: dict[bytes, list[Fact]] = {}
    for fact in {(fact.prompt_key, fact.target): fact for fact in facts}.values():
        turn = turns[fact.turn_id]
        alike = [turn.method, turn.hyperparameters, turn.seed, turn.dataset_id]
        groups.setdefault(canonical_json(alike), []).append(fact)
    told = [
        RecordedEdits(
            row=turns[group[0].turn_id],
            dataset=_dataset(session, turns[group[0].turn_id]),
            rows=_rows([edits[fact.edit_id] for fact in group]),
        )
        for group in groups.values()
    ]
    session.expunge_all()
    return told


def _rows(edits: Iterable[EditRow]) -> list[Row]:
    return [
        Row(
            number=-1 - place if edit.row is None else edit.row,
            edit=history.edit_of(edit),
            reason=None,
        )
        for place, edit in enumerate(edits)
    ]


def _dataset(session: Session, turn: TurnRow) -> Dataset | None:
    row: DatasetRow | None = history.dataset_of(session, turn)
    if row is None:
        return None
    return Dataset(
        uri=row.uri,
        revision=row.revision,
        sha256=row.sha256,
        format=row.format,
        layout=row.layout,
        mapping=dict(row.mapping),
        licence=row.licence,
    )
