"""Finding turns: by their edits, data, time, method and scores."""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, time, timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import chain
from ledger.full_text import edits_with
from ledger.history import Step, chunks
from ledger.orm import DatasetRow, EditRow, EvaluationRow, TurnRow
from ledger.search_terms import words_of
from patches.errors import SettingError

METRIC = "edit_success"
_ENOUGH = 8
"""Words of a target that are looked up; the rest of it is compared."""
_AGO = re.compile(r"(\d{1,6})([mhdw])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a turn must have to be told of; None: anything.

    subject, prompt, target: all three of one of its edits, whatever the spaces between their words.
    dataset: part of its address, or the beginning of its SHA-256. since, until: when the turn was
    recorded, both inclusive. min_score, max_score: the edit success of the state on its own edits,
    as recorded with it. message: part of the turn's, in whatever case.
    """

    subject: str | None = None
    prompt: str | None = None
    target: str | None = None
    dataset: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    method: str | None = None
    kind: str | None = None
    min_score: float | None = None
    max_score: float | None = None
    in_force: bool = False
    message: str | None = None

    def __post_init__(self) -> None:
        for name in ("subject", "prompt", "target", "dataset", "message"):
            text = getattr(self, name)
            if text is not None and not text.strip():
                raise SettingError(f"{name}: give the text to look for, it is empty")

    @property
    def is_all(self) -> bool:
        """Whether every turn has it."""
        return all(getattr(self, field.name) in (None, False) for field in fields(self))


def matching(session: Session, line: Sequence[Step], wanted: Wanted) -> list[Step]:
    """The steps of `line` that have what is wanted, in order."""
    found: Sequence[Step] = [step for step in line if _is_told(step, wanted)]
    if wanted.dataset is not None:
        found = _of_dataset(session, found, wanted.dataset)
    if wanted.message is not None:
        found = _with_message(session, found, wanted.message)
    if _given(wanted.subject, wanted.prompt, wanted.target):
        turns = _with_edits(session, wanted)
        found = [step for step in found if step.id in turns]
    if _given(wanted.since, wanted.until):
        found = _recorded(session, found, wanted.since, wanted.until)
    if _given(wanted.min_score, wanted.max_score):
        found = _scored(session, found, wanted.min_score, wanted.max_score)
    return list(found)


def moment(text: str, now: datetime, *, is_end: bool = False) -> datetime:
    """The time that a text tells: a date or time in ISO 8601, in UTC unless it says otherwise, or
    like ``3d``, ``2h``, so long before `now`.

    is_end: of a date, its end instead of its beginning. SettingError for any other text.
    """
    try:
        if ago := _AGO.fullmatch(text):
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        found = datetime.fromisoformat(text)
        if is_end and len(text) <= len("2026-03-29"):
            found = datetime.combine(found, time.max)
    except (ValueError, OverflowError):
        raise SettingError(
            f"{text!r} is no time; write e.g. 2026-03-29, 2026-03-29T12:00, or 3d for three days "
            "ago (m minutes, h hours, d days, w weeks)"
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


def _given(*values: object) -> bool:
    return any(value is not None for value in values)


def _is_told(step: Step, wanted: Wanted) -> bool:
    return (
        (wanted.kind is None or step.kind == wanted.kind)
        and (wanted.method is None or step.method == wanted.method)
        and (step.in_force or not wanted.in_force)
    )


def _of_dataset(session: Session, steps: Sequence[Step], text: str) -> list[Step]:
    """Those whose dataset is meant; of a pulled turn, what its publisher tells of it counts too."""
    rows = session.execute(select(DatasetRow.id, DatasetRow.uri, DatasetRow.sha256))
    ids = {number for number, uri, digest in rows if _is_meant(text, uri, digest)}
    told = _withheld(session, (step.id for step in steps if step.dataset_id is None))
    sources = {turn: withheld.get("source") or {} for turn, withheld in told}
    ids_told = {
        turn
        for turn, source in sources.items()
        if _is_meant(text, str(source.get("uri", "")), str(source.get("sha256", "")))
    }
    return [step for step in steps if step.dataset_id in ids or step.id in ids_told]


def _is_meant(text: str, uri: str, digest: str) -> bool:
    return text.casefold() in uri.casefold() or digest.startswith(text.casefold())


def _with_message(session: Session, steps: Sequence[Step], text: str) -> list[Step]:
    """Those whose message has it. Read, and not asked for: databases fold cases differently."""
    query = select(TurnRow.id, TurnRow.message)
    ids = {
        turn
        for some in chunks([step.id for step in steps])
        for turn, message in session.execute(query.where(TurnRow.id.in_(some)))
        if text.casefold() in message.casefold()
    }
    return [step for step in steps if step.id in ids]


def _with_edits(session: Session, wanted: Wanted) -> set[int]:
    """Row ids of the turns with such an edit."""
    query: Any = select(EditRow.turn_id, EditRow.target)
    if wanted.prompt is not None:
        query = query.where(EditRow.prompt_key == chain.prompt_key(wanted.prompt))
    if wanted.subject is not None:
        query = query.where(EditRow.subject_key == chain.subject_key(wanted.subject))
    if wanted.target is None:
        return set(session.scalars(query.with_only_columns(EditRow.turn_id).distinct()))
    rows: Iterable[Any] = _about_target(session, wanted.target)
    if _given(wanted.prompt, wanted.subject):
        rows = session.execute(query)
    target = _normal(wanted.target)
    return {turn for turn, found in rows if _normal(found) == target}


def _about_target(session: Session, target: str) -> Iterator[Any]:
    """Turn and target of all edits that may have this target: found by its words, if it has any."""
    columns = (EditRow.turn_id, EditRow.target)
    forms = {
        tuple(word.text for word in words_of(unicodedata.normalize(form, target))[:_ENOUGH])
        for form in ("NFC", "NFD")
    }
    if () in forms:
        yield from session.execute(select(*columns))
        return
    for words in sorted(forms):
        query = edits_with(f'"{" ".join(words)}"', session.get_bind().dialect.name)
        yield from session.execute(query.with_only_columns(*columns).order_by(None))


def _normal(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).split())


def _recorded(
    session: Session, steps: Sequence[Step], since: datetime | None, until: datetime | None
) -> list[Step]:
    found: set[int] = set()
    for some in chunks([step.id for step in steps]):
        query = select(TurnRow.id).where(TurnRow.id.in_(some))
        if since is not None:
            query = query.where(TurnRow.created_at >= since)
        if until is not None:
            query = query.where(TurnRow.created_at <= until)
        found.update(session.scalars(query))
    return [step for step in steps if step.id in found]


def _scored(
    session: Session, steps: Sequence[Step], least: float | None, most: float | None
) -> list[Step]:
    scores: dict[int, Any] = {}
    ids = [step.id for step in steps if step.edits]
    for some in chunks(ids):
        query = select(EvaluationRow.turn_id, EvaluationRow.state[METRIC]).where(
            EvaluationRow.turn_id.in_(some),
            EvaluationRow.scope == "turn",
            EvaluationRow.turn_id == EvaluationRow.scope_turn_id,
        )
        # The first one counts: it was recorded with the turn.
        for turn, score in session.execute(query.order_by(EvaluationRow.id.desc())):
            scores[turn] = score
    for turn, withheld in _withheld(session, (i for i in ids if i not in scores)):
        scores[turn] = (withheld.get("scores") or {}).get("state", {}).get(METRIC)
    return [step for step in steps if _is_within(scores.get(step.id), least, most)]


def _is_within(score: Any, least: float | None, most: float | None) -> bool:
    if not isinstance(score, int | float):
        return False
    return (least is None or score >= least) and (most is None or score <= most)


def _withheld(session: Session, ids: Iterable[int]) -> Iterable[tuple[int, dict[str, Any]]]:
    """Row id and what its publisher tells of each turn."""
    for some in chunks(list(ids)):
        rows = session.execute(select(TurnRow.id, TurnRow.withheld).where(TurnRow.id.in_(some)))
        yield from ((turn, withheld) for turn, withheld in rows)
