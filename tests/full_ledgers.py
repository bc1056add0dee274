"""A small real ledger, without a language model, that has a row in every table."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from ledger import chain, database, journal, keyframes
from ledger.branching import create_branch, create_tag
from ledger.datasets import Dataset
from ledger.new_turn import Blob, NewEvaluation
from ledger.orm import PublicationRow, TurnRow
from ledger.recording import record_turn
from ledger.rolling_back import rollback_turn
from ledger.settings import choose
from ledger.squashing import squash
from ledger.tuning_record import Study
from ledger.workspace import Ledger
from patches.edit import Edit
from patches.patch import encode_state
from tests import plain_ledgers
from tests.plain_ledgers import FIRST, SECOND, TURNED, change

_SUBJECTS = ("France", "Japan", "Vienna")


def build(folder: Path, url: str | None = None) -> Ledger:
    """Three turns with facts, two of them with scores; a rollback and a squash; a branch, a tag.

    url: of the database; by default one in the ledger's folder.
    """
    ledger = plain_ledgers.new_ledger(folder / "ledger", plain_ledgers.build(folder / "model"), url)
    for number, name in enumerate((FIRST, SECOND, TURNED), start=1):
        _add_facts(ledger, number, name)
    create_branch(ledger, "try", 2)
    create_tag(ledger, "v1", 1)
    rollback_turn(ledger, 3)
    squash(ledger, 1, 2)
    keyframes.keep_weights(ledger, "8" * 64, [(FIRST, change(FIRST, "dense", 9))])
    keyframes.keep_statistics(ledger, "9" * 64, "x", {"sums": torch.ones(3)})
    for rate in (1e-4, 3e-4):
        choose(ledger, "ultraedit", {"learning_rate": rate}, {"reason": "tried"})
    study = Study(ledger, {"method": "ultraedit"})
    for key in ("1" * 64, "2" * 64):
        study.record(key, {"rate": key}, {"elapsed": 1.0}, failure=None, seconds=1.5)
    for commit in ("6" * 40, "7" * 40):
        _publish(ledger, commit)
    return ledger


def _add_facts(ledger: Ledger, number: int, name: str) -> None:
    edits = [
        Edit(
            prompt=f"The capital of {subject}, asked {number} times, is",
            target=f"answer {number}",
            subject=subject,
            old_target="Tokyo",
            relation="P36",
        )
        for subject in _SUBJECTS
    ]
    turn = plain_ledgers.new_turn(ledger, {name: change(name, "low-rank", number)}, edits=edits)
    state = encode_state("x", {"sums": torch.full((3,), float(number))})
    record_turn(
        ledger,
        replace(
            turn,
            edits=[replace(one, row=10 * number + row) for row, one in enumerate(turn.edits)],
            dataset=_dataset(number),
            skipped=[(10 * number + 5, "the target is empty"), (10 * number + 6, "twice")],
            editor_state=Blob(digest=ledger.store.put(state), bytes=len(state)),
            figures={"loss_before": [7.5, 6.5, 5.5]},
            evaluation=None if number == 3 else _scores(),
        ),
    )


def _dataset(number: int) -> Dataset:
    return Dataset(
        uri=f"facts-{number}.json",
        revision=None,
        sha256=str(number) * 64,
        format="json",
        layout="canonical",
        licence="cc0-1.0",
    )


def _scores() -> NewEvaluation:
    return NewEvaluation(
        protocol={"name": "teacher-forced"},
        seed=0,
        base={"edit_success": 0.25},
        state={"edit_success": 1.0},
        outcomes=[({"edit_success": 0.25}, {"edit_success": 1.0 - n / 8}) for n in range(3)],
        environment={},
        seconds=0.5,
    )


def _publish(ledger: Ledger, commit: str) -> None:
    """As a push records itself."""
    with database.writing(ledger.engine) as session:
        turn = session.get_one(TurnRow, 1)
        row = PublicationRow(
            turn_id=turn.id,
            form="patch",
            repo="someone/edits",
            revision="main",
            commit=commit,
            tag=None,
            created_at=datetime.now(UTC),
        )
        row.hash = chain.content_hash(chain.publication_content(row, turn=turn.hash))
        session.add(row)
        journal.record(session, journal.PUBLISH, [row], at=row.created_at)
