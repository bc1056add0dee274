"""Record the turns of a published history: all of them in one transaction, or none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from ledger import chain, database, journal
from ledger.branching import check_room
from ledger.datasets import Dataset
from ledger.edit_values import EditValues, insert_edits
from ledger.orm import (
    PULL,
    EvaluationRow,
    RefRow,
    ReplacementRow,
    SkippedRow,
    Table,
    TurnRow,
    UndoRow,
)
from ledger.pruned import is_recorded, use_again
from ledger.recording import Blob, NewEvaluation, add_evaluation, blob_row, dataset_row
from ledger.sharing.manifest import Manifest, PublishedTurn
from ledger.workspace import Ledger
from patches.errors import HistoryError, ManifestError


@dataclass(frozen=True, kw_only=True)
class Received:
    """What came with a history, checked. blobs: in the store, by digest. edits: turn → columns.

    head: row id of the turn that the branch pointed to when the history was compared with it.
    moves: whether the branch is to point to the history's last turn; it may be ahead of it.
    """

    blobs: Mapping[str, Blob]
    edits: Mapping[int, list[EditValues]]
    head: int | None
    moves: bool


def receive(
    ledger: Ledger, manifest: Manifest, new: Sequence[PublishedTurn], branch: str, what: Received
) -> int:
    """Record the turns `new` of a history, and let the branch point to its last turn.

    The number of edits of known turns whose texts were not here before.

    HistoryError if the branch has moved meanwhile, ManifestError if a turn cannot be recorded with
    the hash that it has; with nothing recorded.
    """
    with database.writing(ledger.engine) as session:
        now = datetime.now(UTC)
        use_again(session, ledger, list(what.blobs))
        ref = _branch(session, branch, what.head)
        if what.moves:
            check_room(session, ledger, branch, manifest.turns[-1].number)
        known = select(TurnRow.hash, TurnRow.id).where(
            TurnRow.hash.in_([turn.hash for turn in manifest.turns])
        )
        ids: dict[str, int] = dict(session.execute(known).all())
        by_number = {turn.number: turn.hash for turn in manifest.turns}
        added: list[Table] = []
        for turn in new:
            parent = ids.get(turn.content["parent"])
            row = _record(session, ledger, turn, parent, what, now, added)
            earlier = {n: ids[h] for n, h in by_number.items() if n < turn.number}
            _relate(session, row.id, turn, earlier)
            ids[turn.hash] = row.id
            added += _evaluate(session, row, turn, what)
        completed = _complete(session, manifest.turns, what, added)
        head = ids[manifest.head] if what.moves else ref.turn_id
        _tell(session, ref, head, now, added)
    return completed


def _branch(session: Session, name: str, expected: int | None) -> RefRow:
    ref = session.scalars(select(RefRow).where(RefRow.name == name).with_for_update()).one_or_none()
    if ref is None:
        ref = RefRow(name=name, kind="branch", turn_id=None)
        session.add(ref)
        session.flush()
    if ref.turn_id != expected:
        raise HistoryError(
            f"branch {name} has got a new turn meanwhile; nothing was recorded, run the command "
            "again"
        )
    return ref


def _record(
    session: Session,
    ledger: Ledger,
    turn: PublishedTurn,
    parent: int | None,
    what: Received,
    now: datetime,
    added: list[Table],
) -> TurnRow:
    content = turn.content
    dataset = None
    if turn.dataset is not None:
        dataset = dataset_row(session, Dataset(**turn.dataset), now, added)
        if dataset.identity != content["dataset"]:
            raise ManifestError(f"turn {turn.number}: its dataset is not the one that was recorded")
    for kind, digest in (("patch", content["patch"]), ("editor-state", content["editor_state"])):
        if digest is not None and not is_recorded(session, ledger, digest):
            added.append(blob_row(kind, what.blobs[digest], now))
            session.add(added[-1])
    edits = what.edits.get(turn.number)
    row = TurnRow(
        **{name: content[name] for name in _SAME},
        parent_id=parent,
        dataset_id=None if dataset is None else dataset.id,
        first_row=content["rows"][0],
        last_row=content["rows"][1],
        edits=content["edits"][0],
        edits_digest=content["edits"][1],
        skipped=len(content["skipped"]),
        patch_digest=content["patch"],
        editor_state_digest=content["editor_state"],
        created_at=datetime.fromisoformat(content["created_at"]),
        hash=turn.hash,
        figures=content.get("figures", {}),
        copied_from=content.get("copied_from"),
        origin=turn.origin,
    )
    row.withheld = _withheld(row, turn, edits)
    _check_hash(ledger, row, turn)
    session.add(row)
    session.flush()
    added.append(row)
    if edits is not None:
        insert_edits(session, row.id, edits)
    return row


_SAME = (
    *("branch", "number", "kind", "method", "hyperparameters", "seed", "message", "author"),
    *("tensors", "environment", "seconds", "peak_memory", "notes"),
)
"""Columns of a turn that are called the same in its content."""


def _withheld(row: TurnRow, turn: PublishedTurn, edits: object) -> dict[str, Any]:
    """What the publisher has kept back; see `TurnRow`."""
    content = turn.content
    found = {
        "edits": bool(content["edits"][0]) and edits is None,
        "dataset": content["dataset"] if turn.dataset is None else None,
        "source": turn.source,
        "scores": turn.scores,
    }
    told = {name: value for name, value in found.items() if value}
    return {**told, "digest": chain.withheld_digest(row, told)}


def _check_hash(ledger: Ledger, row: TurnRow, turn: PublishedTurn) -> None:
    """The row says exactly what the hash covers; anything else would be found altered later."""
    content = chain.turn_content(
        row,
        base=ledger.base.fingerprint,
        dataset=turn.content["dataset"],
        skipped=[(number, reason) for number, reason in turn.content["skipped"]],
        undoes=turn.content["undoes"],
        replaces=turn.content.get("replaces", []),
        parent=turn.content["parent"],
    )
    if chain.content_hash(content) != turn.hash:
        raise ManifestError(f"turn {turn.number}: a value in it is not in the form that is hashed")


def _relate(session: Session, row: int, turn: PublishedTurn, ids: Mapping[int, int]) -> None:
    content = turn.content
    database.bulk_insert(
        session,
        SkippedRow,
        [{"turn_id": row, "row": number, "reason": why} for number, why in content["skipped"]],
    )
    database.bulk_insert(
        session, UndoRow, [{"turn_id": row, "undone_id": ids[n]} for n in content["undoes"]]
    )
    database.bulk_insert(
        session,
        ReplacementRow,
        [{"turn_id": row, "replaced_id": ids[n]} for n in content.get("replaces", [])],
    )


def _evaluate(
    session: Session, row: TurnRow, turn: PublishedTurn, what: Received
) -> list[EvaluationRow]:
    """The scores that were recorded with the turn, if its facts are here."""
    scores = turn.evaluation
    if scores is None or turn.number not in what.edits:
        return []
    evaluation = NewEvaluation(
        protocol=scores["protocol"],
        seed=scores["seed"],
        base=scores["base"],
        state=scores["state"],
        outcomes=[(base, state) for base, state in scores["outcomes"]],
        environment=scores["environment"],
        seconds=scores["seconds"],
    )
    if len(evaluation.outcomes) != row.edits:
        raise ManifestError(f"turn {turn.number}: not every edit has an outcome")
    made = add_evaluation(
        session,
        row,
        evaluation,
        scope_turn=row,
        edits=None,
        now=datetime.fromisoformat(scores["created_at"]),
    )
    if made.hash != scores["hash"]:
        raise ManifestError(f"turn {turn.number}: its scores were altered")
    return [made]


def _complete(
    session: Session, turns: Sequence[PublishedTurn], what: Received, added: list[Table]
) -> int:
    """Add the facts of turns that came without them at an earlier time; how many."""
    count = 0
    published = {turn.hash: turn for turn in turns if turn.number in what.edits}
    for row in session.scalars(select(TurnRow).where(TurnRow.hash.in_(published))):
        turn = published[row.hash]
        if row.withheld.get("edits"):
            insert_edits(session, row.id, what.edits[turn.number])
            row.withheld = _withheld(row, turn, what.edits[turn.number])
            added += [row, *_evaluate(session, row, turn, what)]
            count += row.edits
    return count


def _tell(
    session: Session, ref: RefRow, head: int | None, now: datetime, added: Sequence[Table]
) -> None:
    """Write what came into the journal, and move the branch to `head`."""
    if ref.turn_id == head:
        if added:
            journal.record(session, PULL, added, at=now)
        return
    move = journal.Move(ref=ref.name, left=ref.turn_id, reached=head)
    journal.record(session, PULL, added, at=now, move=move)
    session.execute(update(RefRow).where(RefRow.name == ref.name).values(turn_id=head))
