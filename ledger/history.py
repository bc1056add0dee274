"""The turns of a branch, and which of them are in force.

A turn is in force unless a later turn in force undoes it. That one rule covers undoing a turn,
going back to one, and bringing a rolled-back turn back by rolling back the rollback.

A merge in force takes the place of the patches of the turns that it merges, whose edits stay in
force: `edits_in_force` tells the facts, `patches_in_force` what makes up the weights.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from ledger.chain import timestamp
from ledger.orm import (
    EMPTY,
    BlobRow,
    DatasetRow,
    EditRow,
    EvaluationRow,
    PublicationRow,
    RefRow,
    ReplacementRow,
    TurnRow,
    UndoRow,
)
from patches.edit import Edit
from patches.errors import HistoryError

IN_FORCE, ROLLED_BACK = "in_force", "rolled_back"
CHANGING = ("edit", "import")
"""The kinds of turns that bring something of their own; the others rearrange what is there."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A turn as the branch's head sees it."""

    row: TurnRow
    undoes: tuple[int, ...]
    replaces: tuple[int, ...]
    in_force: bool
    parent: str | None
    patch: BlobRow | None
    evaluation: EvaluationRow | None
    publications: tuple[PublicationRow, ...] = ()

    @property
    def number(self) -> int:
        return self.row.number

    @property
    def state(self) -> str:
        return IN_FORCE if self.in_force else ROLLED_BACK

    @property
    def has_memory(self) -> bool:
        """Whether its patch puts a side memory beside a weight."""
        return self.patch is not None and any("routing" in i for i in self.patch.changes.values())

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger log --json``; fields are only ever added."""
        row = self.row
        return {
            "turn": row.number,
            "branch": row.branch,
            "kind": row.kind,
            "method": row.method,
            "state": self.state,
            "undoes": list(self.undoes),
            "replaces": list(self.replaces),
            "edits": row.edits,
            "skipped": row.skipped,
            "message": row.message,
            "patch": None if self.patch is None else patch_json(self.patch),
            "hash": row.hash,
            "parent": self.parent,
            "created_at": timestamp(row.created_at),
            "seconds": row.seconds,
            "scores": self.scores,
            "published": [publication_json(row) for row in self.publications],
        }

    @property
    def scores(self) -> dict[str, Any] | None:
        """n, and the means of the base and of the state, on the turn's own edits.

        Of a pulled turn without the texts of its edits, as its publisher tells them.
        """
        if self.evaluation is not None:
            return scores_json(self.evaluation)
        told: dict[str, Any] | None = self.row.withheld.get("scores")
        return told


def patch_json(patch: BlobRow) -> dict[str, Any]:
    """digest, bytes, and the rank per tensor (null for a kind without one)."""
    return {
        "digest": patch.digest,
        "bytes": patch.bytes,
        "rank": {name: info["rank"] for name, info in patch.changes.items()},
    }


def scores_json(evaluation: EvaluationRow) -> dict[str, Any]:
    """n, and the means of the base and of the state."""
    return {"n": evaluation.n, "base": evaluation.base, "state": evaluation.state}


def publication_json(publication: PublicationRow) -> dict[str, Any]:
    """Where a state went."""
    return {
        "repo": publication.repo,
        "form": publication.form,
        "revision": publication.revision,
        "commit": publication.commit,
        "tag": publication.tag,
        "created_at": timestamp(publication.created_at),
    }


def head_id(session: Session, branch: str) -> int | None:
    """The row id of the branch's newest turn, None while it is empty."""
    ref = session.get(RefRow, branch)
    if ref is None or ref.kind != "branch":
        names = ", ".join(sorted(branches(session)))
        raise HistoryError(f"there is no branch {branch}; the branches are {names}")
    return ref.turn_id


def branches(session: Session) -> dict[str, int]:
    """Every branch → the number of its newest turn, 0 while it is empty."""
    query = (
        select(RefRow.name, TurnRow.number)
        .outerjoin(TurnRow, TurnRow.id == RefRow.turn_id)
        .where(RefRow.kind == "branch")
        .order_by(RefRow.name)
    )
    return {name: number or 0 for name, number in session.execute(query)}


def turns(session: Session, branch: str) -> list[Turn]:
    """The turns that led to the branch's head, oldest first."""
    rows = _ancestry(session, head_id(session, branch))
    by_id = {row.id: row for row in rows}
    undoes = _relation(session, UndoRow.turn_id, UndoRow.undone_id, by_id)
    replaces = _relation(session, ReplacementRow.turn_id, ReplacementRow.replaced_id, by_id)
    active = active_turns({row.number: undoes.get(row.number, ()) for row in rows})
    patches = _patches(session, rows)
    evaluations = _own_evaluations(session, rows)
    publications = _publications(session, rows)
    return [
        Turn(
            row=row,
            undoes=undoes.get(row.number, ()),
            replaces=replaces.get(row.number, ()),
            in_force=row.number in active,
            parent=None if row.parent_id is None else by_id[row.parent_id].hash,
            patch=patches.get(row.patch_digest or ""),
            evaluation=evaluations.get(row.id),
            publications=tuple(publications.get(row.id, ())),
        )
        for row in rows
    ]


def active_turns(undoes: Mapping[int, Iterable[int]]) -> set[int]:
    """Numbers of the turns in force, given what each turn undoes (numbers, all earlier)."""
    active: set[int] = set()
    undone: set[int] = set()
    for number in sorted(undoes, reverse=True):
        if number not in undone:
            active.add(number)
            undone.update(undoes[number])
    return active


def edits_in_force(turns: Sequence[Turn], at: int | None = None) -> list[Turn]:
    """The turns of edits, and imports, in force after turn `at` (default: the head).

    `at` 0 is the base. HistoryError if there is no such turn.
    """
    active = _active_at(turns, at)
    return [turn for turn in turns if turn.row.kind in CHANGING and turn.number in active]


def patches_in_force(turns: Sequence[Turn], at: int | None = None) -> list[Turn]:
    """The turns whose patches make up the state after turn `at` (default: the head), in order."""
    return patches_among(turns, _active_at(turns, at))


def patches_among(turns: Sequence[Turn], active: Collection[int]) -> list[Turn]:
    """The turns whose patches make up the state in which those with the numbers in `active` are in
    force. HistoryError if one of them merges a turn that is not."""
    merges = [turn for turn in turns if turn.number in active and turn.replaces]
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
        if turn.number in active and turn.number not in replaced and turn.row.patch_digest
    ]


def _active_at(turns: Sequence[Turn], at: int | None) -> set[int]:
    last = len(turns) if at is None else at
    if not 0 <= last <= len(turns):
        raise HistoryError(no_such_turn(last, len(turns)))
    return active_turns({turn.number: turn.undoes for turn in turns[:last]})


def no_such_turn(number: int, count: int) -> str:
    """The sentence for a turn that does not exist."""
    if count == 0:
        return f"there is no turn {number}: the ledger has no turns; add some: ledger add-edits"
    return f"there is no turn {number}: the turns are 1 to {count} (see: ledger log)"


def find_turn(turns: Sequence[Turn], number: int) -> Turn:
    """Turn `number`; HistoryError if there is none."""
    if not 1 <= number <= len(turns):
        raise HistoryError(no_such_turn(number, len(turns)))
    return turns[number - 1]


def state_hash(turns: Sequence[Turn], at: int | None = None) -> str:
    """The chain hash at turn `at`."""
    last = len(turns) if at is None else at
    return turns[last - 1].row.hash if last else EMPTY


def edit_of(row: EditRow) -> Edit:
    """The edit that a row stores."""
    import json

    return Edit.restore(
        prompt=row.prompt,
        target=row.target,
        subject=row.subject,
        old_target=row.old_target,
        probes=json.loads(row.probes),
    )


def edit_rows(session: Session, turn_ids: Sequence[int]) -> list[EditRow]:
    """The edits of these turns, in order of turn and position."""
    query = (
        select(EditRow)
        .where(EditRow.turn_id.in_(turn_ids))
        .order_by(EditRow.turn_id, EditRow.position)
    )
    return list(session.scalars(query))


def dataset_of(session: Session, turn: TurnRow) -> DatasetRow | None:
    """Where the turn's edits came from."""
    return None if turn.dataset_id is None else session.get(DatasetRow, turn.dataset_id)


def _ancestry(session: Session, head: int | None) -> list[TurnRow]:
    if head is None:
        return []
    path = select(TurnRow.id, TurnRow.parent_id).where(TurnRow.id == head).cte(recursive=True)
    parent = aliased(TurnRow)
    path = path.union_all(select(parent.id, parent.parent_id).where(parent.id == path.c.parent_id))
    query = select(TurnRow).join(path, path.c.id == TurnRow.id).order_by(TurnRow.number)
    return list(session.scalars(query))


def _relation(
    session: Session, later: Any, earlier: Any, by_id: Mapping[int, TurnRow]
) -> dict[int, tuple[int, ...]]:
    """Turn number → numbers of the earlier turns that it undoes, or replaces."""
    found: dict[int, list[int]] = {}
    for turn_id, earlier_id in session.execute(select(later, earlier)):
        if turn_id in by_id and earlier_id in by_id:
            found.setdefault(by_id[turn_id].number, []).append(by_id[earlier_id].number)
    return {number: tuple(sorted(numbers)) for number, numbers in found.items()}


def _patches(session: Session, rows: Sequence[TurnRow]) -> dict[str, BlobRow]:
    wanted = {row.patch_digest for row in rows if row.patch_digest}
    blobs = session.scalars(select(BlobRow).where(BlobRow.kind == "patch"))
    return {blob.digest: blob for blob in blobs if blob.digest in wanted}


def _own_evaluations(session: Session, rows: Sequence[TurnRow]) -> dict[int, EvaluationRow]:
    """Each turn's first evaluation on its own edits: the one recorded with it."""
    wanted = {row.id for row in rows}
    query = (
        select(EvaluationRow)
        .where(EvaluationRow.scope == "turn", EvaluationRow.turn_id == EvaluationRow.scope_turn_id)
        .order_by(EvaluationRow.id.desc())
    )
    return {row.turn_id: row for row in session.scalars(query) if row.turn_id in wanted}


def _publications(session: Session, rows: Sequence[TurnRow]) -> dict[int, list[PublicationRow]]:
    wanted = {row.id for row in rows}
    found: dict[int, list[PublicationRow]] = {}
    for row in session.scalars(select(PublicationRow).order_by(PublicationRow.id)):
        if row.turn_id in wanted:
            found.setdefault(row.turn_id, []).append(row)
    return found
