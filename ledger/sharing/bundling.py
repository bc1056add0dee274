"""What ``ledger push --as patch`` publishes of a history: manifest, patches, states, facts."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import chain, database, history
from ledger.orm import DatasetRow, EditRow, EvaluationRow, OutcomeRow, SkippedRow
from ledger.pruned import opened
from ledger.sharing.manifest import EDITS, MANIFEST, Manifest, PublishedTurn, file_entry
from ledger.sources import HUB_PREFIX
from ledger.turn import Turn
from ledger.workspace import Ledger

Files = dict[str, Path | bytes]
"""File name in the repository → where its bytes are, or they themselves."""


def bundle(
    ledger: Ledger,
    turns: Sequence[Turn],
    *,
    base: Mapping[str, str | None],
    provenance: bytes,
    include_edits: bool,
) -> Files:
    """The files of a published history that ends with the last of `turns`.

    base: uri and revision to publish of the base. provenance: the content of ``ledger.json``.
    StoreError if a patch or editor state is missing, be it that it was pruned, or damaged.
    """
    with database.reading(ledger.engine) as session:
        published = [_turn(session, ledger, turn, include_edits) for turn in turns]
        lines = _edit_lines(session, turns) if include_edits else b""
    files: Files = {"ledger.json": provenance}
    entries = {"ledger.json": file_entry(provenance)}
    if lines:
        files[EDITS] = lines
        entries[EDITS] = file_entry(lines)
    for turn in published:
        for name, digest in turn.blobs().items():
            path = opened(ledger, digest)
            files[name] = path
            entries[name] = {"sha256": digest, "bytes": path.stat().st_size}
    manifest = Manifest(
        base={
            "fingerprint": ledger.base.fingerprint,
            **base,
            "architecture": ledger.base.architecture,
            "licence": ledger.base.licence,
            "tensors": {n: [d, list(s), h] for n, (d, s, h) in ledger.base.tensors.items()},
        },
        branch=ledger.branch,
        turns=published,
        files=entries,
    )
    return {MANIFEST: manifest.encode(), **files}


def _turn(session: Session, ledger: Ledger, turn: Turn, include_edits: bool) -> PublishedTurn:
    row = turn.row
    dataset = history.dataset_of(session, row)
    skipped = session.scalars(select(SkippedRow).where(SkippedRow.turn_id == row.id))
    content = chain.turn_content(
        row,
        base=ledger.base.fingerprint,
        dataset=row.withheld.get("dataset") if dataset is None else dataset.identity,
        skipped=[(skip.row, skip.reason) for skip in skipped],
        undoes=turn.undoes,
        replaces=turn.replaces,
        parent=turn.parent,
    )
    public = dataset is not None and dataset.uri.startswith(HUB_PREFIX)
    with_facts = include_edits and turn.evaluation is not None
    return PublishedTurn(
        hash=row.hash,
        origin=row.origin,
        content=content,
        dataset=_columns(dataset) if public and dataset is not None else None,
        source=row.withheld.get("source") if dataset is None or public else _source(dataset),
        scores=None if with_facts else turn.scores,
        evaluation=_evaluation(session, turn.evaluation) if with_facts else None,
    )


def _columns(dataset: DatasetRow) -> dict[str, Any]:
    names = ("uri", "revision", "sha256", "format", "layout", "mapping", "licence")
    return {name: getattr(dataset, name) for name in names}


def _source(dataset: DatasetRow) -> dict[str, Any]:
    """What may be told of a file on this machine: not where it lies."""
    name = PurePath(dataset.uri).name
    return {**_columns(dataset), "uri": name}


def _evaluation(session: Session, row: EvaluationRow | None) -> dict[str, Any]:
    """The scores with the outcome of every edit, in the order of the edits."""
    assert row is not None
    query = select(OutcomeRow).where(OutcomeRow.evaluation_id == row.id)
    outcomes = session.scalars(query.order_by(OutcomeRow.edit_id))
    return {
        "protocol": row.protocol,
        "seed": row.seed,
        "base": row.base,
        "state": row.state,
        "environment": row.environment,
        "seconds": row.seconds,
        "created_at": chain.timestamp(row.created_at),
        "hash": row.hash,
        "outcomes": [[outcome.base, outcome.state] for outcome in outcomes],
    }


def _edit_lines(session: Session, turns: Sequence[Turn]) -> bytes:
    """The facts, one a line: turn, row, and the texts as they are hashed."""
    numbers = {turn.row.id: turn.number for turn in turns}
    rows = history.edit_rows(session, list(numbers))
    lines = [json.dumps(_told(row, numbers[row.turn_id]), ensure_ascii=False) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def _told(row: EditRow, number: int) -> dict[str, Any]:
    """A fact as it is published; without a relation, as before there were any."""
    return {
        "turn": number,
        "row": row.row,
        "prompt": row.prompt,
        "target": row.target,
        "subject": row.subject,
        "old_target": row.old_target,
        **({} if row.relation is None else {"relation": row.relation}),
        "probes": json.loads(row.probes),
    }
