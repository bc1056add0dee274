"""A turn as it is told: its row, patch, scores, publications, and the names that point to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import history, refs
from ledger.chain import timestamp
from ledger.gates import was_rejected
from ledger.history import Step, chunks
from ledger.orm import BlobRow, EvaluationRow, PublicationRow, TurnRow

SAMPLE, RETENTION, THEN = "sample", "retention", "then"
"""In the protocol of an evaluation of some edits: which sample it is, and the mean success that
these edits had when they were made."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A turn in full, as the last one of its line sees it. refs: branches and tags at it, `tags`
    those of them that are tags. retention: how earlier edits are kept: n, and the mean success of
    these then, when they were made, and now, after the turn."""

    step: Step
    row: TurnRow
    parent: str | None
    patch: BlobRow | None
    evaluation: EvaluationRow | None
    retention: dict[str, Any] | None = None
    publications: tuple[PublicationRow, ...] = ()
    refs: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        return self.step.number

    @property
    def kind(self) -> str:
        return self.step.kind

    @property
    def undoes(self) -> tuple[int, ...]:
        return self.step.undoes

    @property
    def replaces(self) -> tuple[int, ...]:
        return self.step.replaces

    @property
    def patch_digest(self) -> str | None:
        return self.step.patch_digest

    @property
    def hash(self) -> str:
        return self.step.hash

    @property
    def in_force(self) -> bool:
        return self.step.in_force

    @property
    def state(self) -> str:
        return self.step.state

    @property
    def is_rejected(self) -> bool:
        """Whether it failed its gate, and is out of force."""
        return not self.in_force and was_rejected(self.row.figures)

    @property
    def has_memory(self) -> bool:
        return self.step.has_memory

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger log --json``; fields are only ever added."""
        row = self.row
        return {
            "turn": row.number,
            "branch": row.branch,
            "kind": row.kind,
            "method": row.method,
            "state": self.state,
            "rejected": self.is_rejected,
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
            "retention": self.retention,
            "published": [publication_json(row) for row in self.publications],
            "refs": list(self.refs),
            "tags": list(self.tags),
            "copied_from": row.copied_from,
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


def rejected_among(session: Session, ids: Sequence[int]) -> set[int]:
    """Row ids of those of these turns, none of them in force, that had failed their gate."""
    return {
        found
        for some in chunks(ids)
        for found, figures in session.execute(
            select(TurnRow.id, TurnRow.figures).where(TurnRow.id.in_(some))
        )
        if was_rejected(figures)
    }


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


def turns(session: Session, branch: str) -> list[Turn]:
    """All turns that led to the branch's head, oldest first, in full."""
    line = history.line(session, branch)
    return told(session, line, line)


def told(session: Session, line: Sequence[Step], chosen: Sequence[Step]) -> list[Turn]:
    """Those steps of `line` that are `chosen`, in full."""
    hashes = {step.id: step.hash for step in line}
    ids = [step.id for step in chosen]
    rows = {row.id: row for some in chunks(ids) for row in _by_id(session, some)}
    patches = _patches(session, chosen)
    evaluations = _own_evaluations(session, ids)
    retention = _retention(session, ids)
    published = publications(session, ids)
    names = refs.names_of_turns(session)
    return [
        Turn(
            step=step,
            row=rows[step.id],
            parent=None if step.parent_id is None else hashes[step.parent_id],
            patch=patches.get(step.patch_digest or ""),
            evaluation=evaluations.get(step.id),
            retention=retention.get(step.id),
            publications=tuple(published.get(step.id, ())),
            refs=tuple(name for _, name in names.get(step.id, ())),
            tags=tuple(name for kind, name in names.get(step.id, ()) if kind == "tag"),
        )
        for step in chosen
    ]


def publications(session: Session, ids: Sequence[int]) -> dict[int, list[PublicationRow]]:
    """Row id of a turn → its publications, oldest first."""
    found: dict[int, list[PublicationRow]] = {}
    for some in chunks(ids):
        query = select(PublicationRow).where(PublicationRow.turn_id.in_(some))
        for row in session.scalars(query.order_by(PublicationRow.id)):
            found.setdefault(row.turn_id, []).append(row)
    return found


def _by_id(session: Session, ids: Sequence[int]) -> list[TurnRow]:
    return list(session.scalars(select(TurnRow).where(TurnRow.id.in_(ids))))


def _patches(session: Session, steps: Sequence[Step]) -> dict[str, BlobRow]:
    digests = sorted({step.patch_digest for step in steps if step.patch_digest})
    return {
        blob.digest: blob
        for some in chunks(digests)
        for blob in session.scalars(select(BlobRow).where(BlobRow.digest.in_(some)))
    }


def _own_evaluations(session: Session, ids: Sequence[int]) -> dict[int, EvaluationRow]:
    """Each turn's first evaluation on its own edits: the one recorded with it."""
    found: dict[int, EvaluationRow] = {}
    for some in chunks(ids):
        query = select(EvaluationRow).where(
            EvaluationRow.turn_id.in_(some),
            EvaluationRow.scope == "turn",
            EvaluationRow.turn_id == EvaluationRow.scope_turn_id,
        )
        found |= {
            row.turn_id: row for row in session.scalars(query.order_by(EvaluationRow.id.desc()))
        }
    return found


def _retention(session: Session, ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Row id of a turn → how the earlier edits scored with it are kept."""
    found: dict[int, dict[str, Any]] = {}
    for some in chunks(ids):
        query = select(
            EvaluationRow.turn_id, EvaluationRow.n, EvaluationRow.protocol, EvaluationRow.state
        ).where(EvaluationRow.turn_id.in_(some), EvaluationRow.scope == "sample")
        for turn_id, n, protocol, state in session.execute(query.order_by(EvaluationRow.id)):
            if protocol.get(SAMPLE) == RETENTION:
                now = state.get("edit_success")
                found[turn_id] = {"n": n, "then": protocol.get(THEN), "now": now}
    return found
