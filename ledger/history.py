"""The line of turns that led to a state, and which of them are in force.

A turn is in force unless a later turn in force undoes it. That one rule covers undoing a turn,
going back to one, and bringing a rolled-back turn back by rolling back the rollback.

A merge in force takes the place of the patches of the turns that it merges, whose edits stay in
force: `edits_in_force` tells the facts, `patches_in_force` what makes up the weights.

A line may have tens of thousands of turns, so its steps hold what these rules need and no more;
`ledger.turn` tells the whole of one.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, Protocol, TypeVar

from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.orm import Session, aliased

from ledger.orm import (
    EMPTY,
    BlobRow,
    DatasetRow,
    EditRow,
    ReplacementRow,
    TurnRow,
    UndoRow,
)
from ledger.refs import Rev, resolve
from patches.edit import Edit
from patches.errors import HistoryError

IN_FORCE, ROLLED_BACK = "in_force", "rolled_back"
KINDS = ("edit", "rollback", "merge", "import")
CHANGING = ("edit", "import")
"""The kinds of turns that bring something of their own; the others rearrange what is there."""
_TOGETHER = 500
"""Values in one IN list."""


class Step(NamedTuple):
    """A turn as the last one of its line sees it.

    id: of its row. memories, patch_bytes: of its patch. undoes, replaces: numbers on the line.
    """

    id: int
    branch: str
    number: int
    parent_id: int | None
    kind: str
    method: str | None
    edits: int
    skipped: int
    patch_digest: str | None
    editor_state_digest: str | None
    hash: str
    dataset_id: int | None
    copied_from: str | None
    memories: int
    patch_bytes: int
    undoes: tuple[int, ...]
    replaces: tuple[int, ...]
    in_force: bool

    @property
    def has_memory(self) -> bool:
        """Whether its patch puts a side memory beside a weight."""
        return self.memories > 0

    @property
    def state(self) -> str:
        return IN_FORCE if self.in_force else ROLLED_BACK


class Placed(Protocol):
    """What the rules need to know of a turn."""

    @property
    def number(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def undoes(self) -> tuple[int, ...]: ...
    @property
    def replaces(self) -> tuple[int, ...]: ...
    @property
    def patch_digest(self) -> str | None: ...
    @property
    def hash(self) -> str: ...


P = TypeVar("P", bound=Placed)


def line(session: Session, branch: str, at: Rev | None = None) -> list[Step]:
    """The turns that led to `at` (default: the head of `branch`), oldest first.

    at: see `ledger.refs.resolve`. HistoryError if there is no such turn.
    """
    return line_to(session, resolve(session, branch, at))


def line_to(session: Session, turn_id: int | None) -> list[Step]:
    """The turns that led to the one with this row id; none for None."""
    rows = _ancestry(session, turn_id)
    numbers = {row[0]: row[2] for row in rows}
    undoes = _relation(session, UndoRow.turn_id, UndoRow.undone_id, numbers)
    replaces = _relation(session, ReplacementRow.turn_id, ReplacementRow.replaced_id, numbers)
    return _steps(rows, undoes, replaces)


class Lines:
    """Every turn of the ledger, read at once: for use cases that look at the lines of many refs."""

    def __init__(self, session: Session) -> None:
        self._rows = {row[0]: tuple(row) for row in session.execute(_columns())}
        self._undoes = _pairs(session, UndoRow.turn_id, UndoRow.undone_id)
        self._replaces = _pairs(session, ReplacementRow.turn_id, ReplacementRow.replaced_id)
        self._by_hash = {row[Step._fields.index("hash")]: row[0] for row in self._rows.values()}

    def to(self, turn_id: int | None) -> list[Step]:
        """What `line_to` gives."""
        rows = []
        while turn_id is not None:
            rows.append(self._rows[turn_id])
            turn_id = rows[-1][Step._fields.index("parent_id")]
        rows.reverse()
        numbers = {row[0]: row[2] for row in rows}
        undoes, replaces = (
            {
                number: tuple(sorted(numbers[i] for i in pairs[turn] if i in numbers))
                for turn, number in numbers.items()
                if turn in pairs
            }
            for pairs in (self._undoes, self._replaces)
        )
        return _steps(rows, undoes, replaces)

    def with_hash(self, digest: str) -> int | None:
        """The row id of the turn with this hash, if it is here."""
        return self._by_hash.get(digest)

    def patch(self, turn_id: int) -> str | None:
        """The digest of a turn's patch."""
        return self._column(turn_id, "patch_digest")

    def editor_state(self, turn_id: int) -> str | None:
        """The digest of a turn's editor state."""
        return self._column(turn_id, "editor_state_digest")

    def _column(self, turn_id: int, name: str) -> str | None:
        found: str | None = self._rows[turn_id][Step._fields.index(name)]
        return found

    def ids(self) -> set[int]:
        """The row ids of all turns."""
        return set(self._rows)


def active_turns(undoes: Mapping[int, Iterable[int]]) -> set[int]:
    """Numbers of the turns in force, given what each turn undoes (numbers, all earlier)."""
    active: set[int] = set()
    undone: set[int] = set()
    for number in sorted(undoes, reverse=True):
        if number not in undone:
            active.add(number)
            undone.update(undoes[number])
    return active


def edits_in_force(turns: Sequence[P], at: int | None = None) -> list[P]:
    """The turns of edits, and imports, in force after turn `at` (default: the last).

    `at` 0 is the base. HistoryError if there is no such turn.
    """
    active = _active_at(turns, at)
    return [turn for turn in turns if turn.kind in CHANGING and turn.number in active]


def patches_in_force(turns: Sequence[P], at: int | None = None) -> list[P]:
    """The turns whose patches make up the state after turn `at` (default: the last), in order."""
    return patches_among(turns, _active_at(turns, at))


def patches_among(turns: Sequence[P], active: Collection[int]) -> list[P]:
    """The turns whose patches make up the state in which those with the numbers in `active` are in
    force. HistoryError if one of them merges a turn that is not."""
    merges = [turn for turn in turns if turn.replaces and turn.number in active]
    for merge in merges:
        for number in merge.replaces:
            if number not in active:
                raise HistoryError(
                    f"turn {number} is part of the merge in turn {merge.number}, and cannot "
                    f"be taken out of it; take the merge back first: "
                    f"ledger rollback turn {merge.number}"
                )
    replaced = {number for merge in merges for number in merge.replaces}
    return [
        turn
        for turn in turns
        if turn.number in active and turn.number not in replaced and turn.patch_digest
    ]


def _active_at(turns: Sequence[P], at: int | None) -> set[int]:
    last = len(turns) if at is None else at
    if not 0 <= last <= len(turns):
        raise HistoryError(no_such_turn(last, len(turns)))
    return active_turns({turn.number: turn.undoes for turn in turns[:last]})


def no_such_turn(number: int, count: int) -> str:
    """The sentence for a turn that does not exist."""
    if count == 0:
        return f"there is no turn {number}: the ledger has no turns; add some: ledger add-edits"
    return f"there is no turn {number}: the turns are 1 to {count} (see: ledger log)"


def find_turn(turns: Sequence[P], number: int) -> P:
    """Turn `number`; HistoryError if there is none."""
    if not 1 <= number <= len(turns):
        raise HistoryError(no_such_turn(number, len(turns)))
    return turns[number - 1]


def number_on(session: Session, branch: str, turns: Sequence[Step], rev: Rev) -> int:
    """The number, among the `turns` of `branch`, of the turn that `rev` names; 0 for the base."""
    found = resolve(session, branch, rev)
    if found is None:
        return 0
    number = session.get_one(TurnRow, found).number
    if number > len(turns) or turns[number - 1].id != found:
        raise HistoryError(f"{rev} is not a turn that branch {branch} has gone through")
    return number


def state_hash(turns: Sequence[P], at: int | None = None) -> str:
    """The chain hash at turn `at`."""
    last = len(turns) if at is None else at
    return turns[last - 1].hash if last else EMPTY


def tensors_at(session: Session, turns: Sequence[Step]) -> dict[str, str]:
    """SHA-256 of every patched tensor, as recorded with the last of `turns`."""
    if not turns:
        return {}
    found = session.scalars(select(TurnRow.tensors).where(TurnRow.id == turns[-1].id)).one()
    return dict(found)


def by_hash(session: Session, digest: str) -> TurnRow | None:
    """The turn with this hash, if it is here."""
    return session.scalars(select(TurnRow).where(TurnRow.hash == digest)).one_or_none()


def row_of(session: Session, step: Step) -> TurnRow:
    """The whole row of a step."""
    return session.get_one(TurnRow, step.id)


def edit_of(row: EditRow) -> Edit:
    """The edit that a row stores."""
    return Edit.restore(
        prompt=row.prompt,
        target=row.target,
        subject=row.subject,
        old_target=row.old_target,
        relation=row.relation,
        probes=json.loads(row.probes),
    )


def edit_rows(session: Session, turn_ids: Sequence[int]) -> list[EditRow]:
    """The edits of these turns, in order of turn and position."""
    found: list[EditRow] = []
    for some in chunks(sorted(turn_ids)):
        query = select(EditRow).where(EditRow.turn_id.in_(some))
        found += session.scalars(query.order_by(EditRow.turn_id, EditRow.position))
    return found


def dataset_of(session: Session, turn: TurnRow) -> DatasetRow | None:
    """Where the turn's edits came from."""
    return None if turn.dataset_id is None else session.get(DatasetRow, turn.dataset_id)


T = TypeVar("T")


def chunks(values: Sequence[T]) -> Iterable[Sequence[T]]:
    """`values` in parts that fit into an IN list."""
    return (values[start : start + _TOGETHER] for start in range(0, len(values), _TOGETHER))


def _ancestry(session: Session, head: int | None) -> list[tuple[Any, ...]]:
    """The columns of the steps, oldest first, without the ORM: many times faster."""
    if head is None:
        return []
    return [tuple(row) for row in session.execute(_path_to_head(), {"head": head})]


# Put together once: that takes longer than to run it on a short line.
@cache
def _path_to_head() -> Select[Any]:
    first = select(TurnRow.id, TurnRow.parent_id).where(TurnRow.id == bindparam("head"))
    path = first.cte(recursive=True)
    parent = aliased(TurnRow)
    path = path.union_all(select(parent.id, parent.parent_id).where(parent.id == path.c.parent_id))
    return _columns().join(path, path.c.id == TurnRow.id).order_by(TurnRow.number)


def _columns() -> Select[Any]:
    columns = [getattr(TurnRow, name) for name in Step._fields[: Step._fields.index("memories")]]
    return select(
        *columns, func.coalesce(BlobRow.memories, 0), func.coalesce(BlobRow.bytes, 0)
    ).outerjoin(BlobRow, BlobRow.digest == TurnRow.patch_digest)


def _steps(
    rows: Sequence[tuple[Any, ...]],
    undoes: Mapping[int, tuple[int, ...]],
    replaces: Mapping[int, tuple[int, ...]],
) -> list[Step]:
    """The turns of a line, given their columns, and what each number undoes and replaces."""
    active = active_turns({row[2]: undoes.get(row[2], ()) for row in rows})
    return [
        Step._make((*row, undoes.get(row[2], ()), replaces.get(row[2], ()), row[2] in active))
        for row in rows
    ]


def _pairs(session: Session, later: Any, earlier: Any) -> dict[int, list[int]]:
    """Row id of a turn → those of the earlier turns that it undoes, or replaces."""
    found: dict[int, list[int]] = {}
    for turn_id, earlier_id in session.execute(select(later, earlier)):
        found.setdefault(turn_id, []).append(earlier_id)
    return found


def _relation(
    session: Session, later: Any, earlier: Any, numbers: Mapping[int, int]
) -> dict[int, tuple[int, ...]]:
    """Turn number → numbers of the earlier turns that it undoes, or replaces."""
    found: dict[int, list[int]] = {}
    if numbers:
        for turn_id, earlier_id in session.execute(select(later, earlier)):
            if turn_id in numbers and earlier_id in numbers:
                found.setdefault(numbers[turn_id], []).append(numbers[earlier_id])
    return {number: tuple(sorted(them)) for number, them in found.items()}
