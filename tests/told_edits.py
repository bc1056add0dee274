"""Ledgers whose turns are only recorded, not edited: many facts in no time."""

from collections.abc import Sequence
from pathlib import Path

from ledger import database
from ledger.datasets import Dataset
from ledger.new_turn import Blob, NewTurn, RecordedEdit
from ledger.recording import record_turns
from ledger.refs import head_id
from ledger.workspace import Ledger
from patches.edit import Edit
from patches.patch import PatchHeader, describe, encode_patch
from tests import plain_ledgers
from tests.plain_ledgers import FIRST

SOURCE = Dataset(
    uri="/data/facts.json",
    revision=None,
    sha256="ab" * 32,
    format="json",
    layout="canonical",
    mapping={},
    licence=None,
)


def new_ledger(folder: Path, url: str | None = None) -> Ledger:
    """A ledger in `folder`, on a checkpoint of a few small tensors."""
    return plain_ledgers.new_ledger(
        folder / "ledger", plain_ledgers.build(folder / "model"), url=url
    )


def edit(prompt: str, target: str, subject: str | None = None, relation: str | None = None) -> Edit:
    return Edit(prompt=prompt, target=target, subject=subject, relation=relation)


def record(ledger: Ledger, *turns: Sequence[Edit], message: str = "") -> None:
    """Record a turn of each of these rows of edits, one after the other; row n of the dataset is
    the n-th edit of all."""
    change = {FIRST: plain_ledgers.change(FIRST, "low-rank", 1)}
    header = PatchHeader(
        base=ledger.base.fingerprint, method="x", hyperparameters={}, turn=1, parent=None
    )
    content = encode_patch(header, change)
    patch = Blob(
        digest=ledger.store.put(content),
        bytes=len(content),
        changes={FIRST: describe(change[FIRST]).to_json()},
    )
    with database.reading(ledger.engine) as session:
        parent = head_id(session, ledger.branch)
    row = 0
    news = []
    for edits in turns:
        recorded = [RecordedEdit(edit=one, row=row + place) for place, one in enumerate(edits)]
        row += len(edits)
        news.append(
            NewTurn(
                parent=parent,
                kind="edit",
                method="x",
                seed=0,
                message=message,
                dataset=SOURCE,
                edits=recorded,
                patch=patch,
            )
        )
    record_turns(ledger, news)
