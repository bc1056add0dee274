"""Where the edits of a line came from, and where its states went."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePath
from typing import Any, NamedTuple

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.chain import timestamp
from ledger.history import Step, chunks
from ledger.orm import DatasetRow, PublicationRow, TurnRow
from ledger.sources import HUB_PREFIX


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A dataset. name: for people, its file's name or Hub address. turns: whose edits came from it.
    edits, skipped: how many rows these used, and could not use. first_row, last_row: the range that
    they are from. id: of its row; None of one that only its publisher has."""

    uri: str
    name: str
    revision: str | None
    sha256: str
    format: str
    layout: str
    licence: str | None
    mapping: dict[str, Any]
    turns: tuple[int, ...]
    edits: int
    skipped: int
    first_row: int | None
    last_row: int | None
    id: int | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Publication:
    """A push of the state after a turn. turn: its number on the line, None if it is elsewhere.
    hash: of the turn."""

    turn: int | None
    hash: str
    repo: str
    form: str
    revision: str
    commit: str
    tag: str | None
    created_at: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def origins(session: Session, line: Sequence[Step]) -> tuple[Origin, ...]:
    """The datasets of the turns of `line`, in order of their first turns.

    Of pulled turns whose source was published without its edits, as far as the publisher tells.
    """
    steps = {step.id: step for step in line}
    used: dict[str, list[_Use]] = {}
    for use in _uses(session, line):
        used.setdefault(use.identity, []).append(use)
    return tuple(_origin(uses, steps) for uses in used.values())


class _Use(NamedTuple):
    """A turn (row id) and the dataset that its edits came from, rows `first` to `last`; its
    identity, and what is told of it."""

    turn_id: int
    first: int | None
    last: int | None
    identity: str
    source: Mapping[str, Any]


def _uses(session: Session, line: Sequence[Step]) -> Iterator[_Use]:
    """In order of the turns."""
    datasets = {row.id: row for row in session.scalars(select(DatasetRow))}
    told = {row.id: _columns(row) for row in datasets.values()}
    columns = select(TurnRow.id, TurnRow.first_row, TurnRow.last_row, TurnRow.dataset_id)
    for some in chunks([step.id for step in line]):
        here = columns.where(TurnRow.id.in_(some), TurnRow.dataset_id.is_not(None))
        uses = [
            _Use(*row[:3], datasets[row.dataset_id].identity, told[row.dataset_id])
            for row in session.execute(here)
        ]
        uses += _withheld(session, some)
        yield from sorted(uses, key=lambda use: use.turn_id)


def _withheld(session: Session, ids: Sequence[int]) -> Iterator[_Use]:
    """Turns whose publisher only tells of their dataset."""
    query = select(TurnRow.id, TurnRow.first_row, TurnRow.last_row, TurnRow.withheld).where(
        TurnRow.id.in_(ids), TurnRow.dataset_id.is_(None), TurnRow.edits + TurnRow.skipped > 0
    )
    for turn_id, first, last, withheld in session.execute(query):
        if source := withheld.get("source"):
            yield _Use(turn_id, first, last, str(withheld.get("dataset")), source)


def _columns(row: DatasetRow) -> dict[str, Any]:
    names = ("id", "uri", "revision", "sha256", "format", "layout", "licence", "mapping")
    return {name: getattr(row, name) for name in names}


def _origin(uses: Sequence[_Use], steps: Mapping[int, Step]) -> Origin:
    turns = [steps[use.turn_id] for use in uses]
    source = uses[0].source
    mapping = source.get("mapping")
    uri = str(source.get("uri") or "")
    return Origin(
        uri=uri,
        name=uri if uri.startswith(HUB_PREFIX) else PurePath(uri).name,
        revision=_text(source.get("revision")),
        sha256=str(source.get("sha256") or ""),
        format=str(source.get("format") or ""),
        layout=str(source.get("layout") or ""),
        licence=_text(source.get("licence")),
        mapping=mapping if isinstance(mapping, dict) else {},
        turns=tuple(step.number for step in turns),
        edits=sum(step.edits for step in turns),
        skipped=sum(step.skipped for step in turns),
        first_row=min((use.first for use in uses if use.first is not None), default=None),
        last_row=max((use.last for use in uses if use.last is not None), default=None),
        id=source.get("id"),
    )


def _text(value: object) -> str | None:
    """What a publisher tells may be anything."""
    return None if value is None else str(value)


def published(session: Session, line: Sequence[Step]) -> tuple[Publication, ...]:
    """Every push of the ledger, newest first, also of turns that are not on `line`."""
    numbers = {step.id: step.number for step in line}
    query = select(PublicationRow, TurnRow.hash).join(TurnRow).order_by(PublicationRow.id.desc())
    return tuple(
        Publication(
            turn=numbers.get(row.turn_id),
            hash=digest,
            repo=row.repo,
            form=row.form,
            revision=row.revision,
            commit=row.commit,
            tag=row.tag,
            created_at=timestamp(row.created_at),
        )
        for row, digest in session.execute(query)
    )
