"""Retention as it is recorded: how the edits of each turn fared in the states after later turns.

Whatever was scored counts: a turn's own edits, the earlier ones scored with it, all in force, and
the cells of the suite `retention`; but not how an edit fares that something overrides.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from sqlalchemy import Select, and_, func, literal, select
from sqlalchemy.orm import Session

from ledger.history import CHANGING, Step
from ledger.orm import EditRow, OutcomeRow
from ledger.overview.overrides import overridden_on
from ledger.overview.scorings import Scoring, among, scorings, success
from ledger.overview.spread import spread

_HINT = "ledger evaluate --suite retention"
# A triangle that the suite has made of so many turns is shown as it is.
_ENOUGH = 10


@dataclass(frozen=True, kw_only=True)
class Cell:
    """`n` edits of turn `turn` in the state after turn `at`: their mean edit success."""

    turn: int
    at: int
    n: int
    success: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Retained:
    """The triangle as far as it is recorded. turns: its rows. states: its columns. cells: in order
    of both. base: row → mean success of the un-edited base on its edits, where that is known.
    recorded: how many evaluations it is from. notes: what is left out, and how to get more."""

    turns: tuple[int, ...]
    states: tuple[int, ...]
    cells: tuple[Cell, ...]
    base: Mapping[int, float]
    recorded: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def retained(session: Session, line: Sequence[Step], *, most: int = 40) -> Retained:
    """What the evaluations on `line` say of at most `most` turns, its rows and columns.

    Of a longer line these are the turns that the suite `retention` has followed, or else some at
    even distances with the first and the last. Nothing is scored.
    """
    found = scorings(session, line)
    known = _known(line, found)
    chosen = set(_chosen(found, known, most))
    looked_at = [one for one in found if one.at in chosen]
    rows = [s for s in line if s.number in chosen and s.edits and s.kind in CHANGING]
    asked = _Asked(
        rows={step.id: step.number for step in rows},
        edits=sum(step.edits for step in rows),
        without=[fact.edit_id for fact, _ in overridden_on(session, line)],
    )
    best = _best([*_when_made(looked_at, asked), *_since(session, looked_at, asked)])
    cells = [
        Cell(turn=turn, at=at, n=one.n, success=one.success)
        for (turn, at), one in sorted(best.items())
    ]
    turns = tuple(sorted({cell.turn for cell in cells}))
    states = tuple(sorted({cell.at for cell in cells}))
    return Retained(
        turns=turns,
        states=states,
        cells=tuple(cells),
        base=_base(found, turns),
        recorded=len({one.evaluation for one in best.values()}),
        notes=tuple(_notes(known, chosen, [s for s in rows if s.in_force], looked_at, cells)),
    )


class _Found(NamedTuple):
    """What an evaluation says of a cell. Of several the one with the most edits counts, and of
    these the newest."""

    n: int
    evaluation: int
    success: float
    turn: int
    at: int


def _best(found: Iterable[_Found]) -> dict[tuple[int, int], _Found]:
    best: dict[tuple[int, int], _Found] = {}
    for one in sorted(found):
        best[one.turn, one.at] = one
    return best


def _known(line: Sequence[Step], found: Sequence[Scoring]) -> list[int]:
    """The turns that evaluations may tell of: their states, and whose edits were scored."""
    last = max((one.at for one in found if one.of is None), default=0)
    known = {step.number for step in line[:last] if step.edits and step.kind in CHANGING}
    known.update(one.of for one in found if one.of is not None)
    return sorted(known | {one.at for one in found})


def _chosen(found: Sequence[Scoring], known: Sequence[int], most: int) -> Sequence[int]:
    """The turns to show, of those that the evaluations tell of."""
    if len(known) <= most:
        return known
    followed = {turn for one in found if one.looks_back for turn in (one.at, one.of or one.at)}
    marked = sorted(followed | {one.at for one in found if one.is_whole})
    chosen = spread(marked, most)
    if len(followed) < _ENOUGH:
        chosen += spread([turn for turn in known if turn not in marked], most - len(chosen))
    return chosen


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The rows: row id → number of these turns, with so many edits in all; without those edits that
    something overrides, which are no more expected to hold."""

    rows: Mapping[int, int]
    edits: int
    without: Sequence[int]


def _when_made(found: Sequence[Scoring], asked: _Asked) -> Iterator[_Found]:
    """Of turns' own edits, none of which was overridden yet, the means are recorded."""
    turns = set(asked.rows.values())
    for one in found:
        if one.of in turns and one.of == one.at and one.state is not None:
            yield _Found(one.n, one.id, one.state, one.of, one.at)


def _since(session: Session, found: Sequence[Scoring], asked: _Asked) -> Iterator[_Found]:
    """All others are taken apart by the database."""
    turns = set(asked.rows.values())
    later = {one.id: one for one in found if one.of is None or one.of in turns - {one.at}}
    few = [one.id for one in later.values() if one.n <= asked.edits]
    queries = [_from_outcomes(few, asked)] if few else []
    queries += [_from_edits(one.id, asked) for one in later.values() if one.n > asked.edits]
    for query in queries:
        for evaluation, turn_id, n, mean in session.execute(query):
            if n:
                yield _Found(n, evaluation, mean, asked.rows[turn_id], later[evaluation].at)


def _from_outcomes(evaluations: Sequence[int], asked: _Asked) -> Select[Any]:
    """By way of the outcomes, of which there are few, to the edits of the rows."""
    value = success(OutcomeRow.state)
    return (
        select(OutcomeRow.evaluation_id, EditRow.turn_id, func.count(value), func.avg(value))
        .join(EditRow, EditRow.id == OutcomeRow.edit_id)
        .where(
            among(OutcomeRow.evaluation_id, evaluations),
            among(EditRow.turn_id, list(asked.rows)),
            ~among(EditRow.id, asked.without),
        )
        .group_by(OutcomeRow.evaluation_id, EditRow.turn_id)
    )


def _from_edits(evaluation: int, asked: _Asked) -> Select[Any]:
    """By way of the edits of the rows: SQLite takes them first if all of them are wanted."""
    value = success(OutcomeRow.state)
    here = and_(OutcomeRow.edit_id == EditRow.id, OutcomeRow.evaluation_id == evaluation)
    return (
        select(literal(evaluation), EditRow.turn_id, func.count(value), func.avg(value))
        .outerjoin(OutcomeRow, here)
        .where(among(EditRow.turn_id, list(asked.rows)), ~among(EditRow.id, asked.without))
        .group_by(EditRow.turn_id)
    )


def _base(found: Sequence[Scoring], turns: Sequence[int]) -> dict[int, float]:
    """Of the first evaluation of each turn's edits alone: that recorded with it, if there is."""
    base: dict[int, float] = {}
    for one in found:
        if one.of is not None and one.of in turns and one.base is not None:
            base.setdefault(one.of, one.base)
    return base


def _notes(
    known: Sequence[int],
    chosen: Collection[int],
    in_force: Sequence[Step],
    looked_at: Sequence[Scoring],
    cells: Sequence[Cell],
) -> Iterator[str]:
    if len(chosen) < len(known):
        yield f"{len(chosen):,} of {len(known):,} turns with scores"
    states = {one.at for one in looked_at}
    rows = {step.number for step in in_force}
    possible = sum(turn <= at for turn in rows for at in states)
    there = sum(cell.turn in rows for cell in cells)
    if 2 * there < possible:
        yield f"{there:,} of {possible:,} cells are recorded; for more: {_HINT}"
