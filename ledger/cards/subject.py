"""What a model card is about: the state to publish, read from the database."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger import database, history
from ledger.cards.markdown import MOST
from ledger.datasets import HUB
from ledger.orm import EditRow, EvaluationRow, TurnRow
from ledger.sources import HUB_PREFIX, parse_address
from ledger.turn import Turn
from ledger.workspace import Base, Ledger
from patches.errors import DatasetError, SettingError

FORMS = ("model", "patch", "adapter")

SLUG = re.compile(r"[a-z0-9][a-z0-9.+-]*")
"""What the Hub takes as a tag or as a licence."""
_NAME = re.compile(r"[A-Za-z0-9][\w./-]*", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Published:
    """What is pushed, and where to.

    repo: owner/name. form: one of `FORMS`. tag: the revision to load. base_model: Hub id of the
    base, None if it is not known. include_edits: the facts are published too. memories: side
    memories are part of the state. errors: of an adapter, tensor → relative Frobenius error of its
    low-rank factors; empty: they are exact. signed: the history is.
    """

    repo: str
    form: str
    tag: str | None
    base_model: str | None
    base_revision: str | None
    include_edits: bool = False
    memories: bool = False
    errors: Mapping[str, float] = field(default_factory=dict)
    signed: bool = False

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise SettingError(f"{self.form!r} cannot be published; known: {', '.join(FORMS)}")
        for what in ("repo", "tag", "base_model", "base_revision"):
            value = getattr(self, what)
            if value is not None and not _NAME.fullmatch(value):
                raise SettingError(f"{what} {value!r} is no name on the Hub")

    @property
    def name(self) -> str:
        """The repository without its owner."""
        return self.repo.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the edits of a turn came from. name: Hub address or file name. sha256: "" if unknown.
    hub: id of a dataset on the Hub."""

    name: str
    sha256: str
    layout: str
    licence: str | None
    whole: bool
    hub: str | None


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A state to write about.

    turns: those that led to it. active: numbers of those in force. changing: those of them that
    bring something of their own. sources: by turn. texts: by turn, how many of its edits are here.
    facts: (turn, edit) to list. evaluation: on all edits in force. memories: side memories are part
    of it.
    """

    what: Published
    base: Base
    turns: Sequence[Turn]
    active: set[int]
    changing: Sequence[Turn]
    sources: Mapping[int, Source]
    texts: Mapping[int, int]
    facts: Sequence[tuple[int, EditRow]]
    evaluation: EvaluationRow | None
    memories: bool

    @property
    def licence(self) -> str | None:
        """The licence of the base as the Hub writes them; None if it is unknown, or not one."""
        name = (self.base.licence or "").lower()
        return name if SLUG.fullmatch(name) else None

    @property
    def edits(self) -> int:
        """How many are in force."""
        return sum(turn.row.edits for turn in self.changing)


def read_subject(ledger: Ledger, turns: Sequence[Turn], at: int | None, what: Published) -> Subject:
    """The state after turn `at` (None: the last of `turns`). HistoryError if there is none."""
    changing = history.edits_in_force(turns, at)
    shown = turns[: len(turns) if at is None else at]
    ids = [turn.row.id for turn in changing]
    beside = any(turn.has_memory for turn in history.patches_in_force(turns, at))
    with database.reading(ledger.engine) as session:
        return Subject(
            what=what,
            base=ledger.base,
            turns=shown,
            active=history.active_turns({turn.number: turn.undoes for turn in shown}),
            changing=changing,
            sources=_sources(session, shown),
            texts=_texts(session, ids) if what.include_edits else {},
            facts=_listed(session, ids) if what.include_edits else (),
            evaluation=_evaluation(session, shown, changing),
            memories=what.memories or (what.form != "adapter" and beside),
        )


def _sources(session: Session, turns: Sequence[Turn]) -> dict[int, Source]:
    """Turn number → where its edits came from, of a pulled turn as far as its publisher tells."""
    found = {}
    for turn in turns:
        row = history.dataset_of(session, turn.row)
        told: dict[str, Any] = turn.row.withheld.get("source") or {}
        if row is not None:
            told = {"uri": row.uri, "sha256": row.sha256, "layout": row.layout}
            told |= {"licence": row.licence, "format": row.format}
        if told:
            found[turn.number] = _source(told)
    return found


def _source(told: Mapping[str, Any]) -> Source:
    uri = str(told.get("uri") or "")
    hub = None
    with suppress(DatasetError):
        hub = parse_address(uri).repo
    return Source(
        name=uri if uri.startswith(HUB_PREFIX) else PurePath(uri).name,
        sha256=str(told.get("sha256") or ""),
        layout=str(told.get("layout") or ""),
        licence=None if told.get("licence") is None else str(told["licence"]),
        whole=told.get("format") == HUB,
        hub=hub if hub and all(map(_NAME.fullmatch, hub.split("/"))) else None,
    )


def _texts(session: Session, ids: Sequence[int]) -> dict[int, int]:
    query = (
        select(TurnRow.number, func.count())
        .join(EditRow, EditRow.turn_id == TurnRow.id)
        .where(TurnRow.id.in_(ids))
        .group_by(TurnRow.number)
    )
    return {row[0]: row[1] for row in session.execute(query)}


def _listed(session: Session, ids: Sequence[int]) -> list[tuple[int, EditRow]]:
    query = (
        select(TurnRow.number, EditRow)
        .join(EditRow, EditRow.turn_id == TurnRow.id)
        .where(TurnRow.id.in_(ids))
        .order_by(TurnRow.number, EditRow.position)
        .limit(MOST)
    )
    return [(number, edit) for number, edit in session.execute(query)]


def _evaluation(
    session: Session, turns: Sequence[Turn], changing: Sequence[Turn]
) -> EvaluationRow | None:
    """The newest scores of this very state on all edits in force.

    With the edits of one turn in force, those that were recorded with it are such scores.
    """
    if not turns:
        return None
    query = (
        select(EvaluationRow)
        .where(EvaluationRow.scope == "in_force", EvaluationRow.turn_id == turns[-1].row.id)
        .order_by(EvaluationRow.id.desc())
        .limit(1)
    )
    found = session.scalars(query).one_or_none()
    if found is None and [turn.number for turn in changing] == [turns[-1].number]:
        return turns[-1].evaluation
    return found
