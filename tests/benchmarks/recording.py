"""How fast edits are recorded, beside plain `sqlite3.executemany` of the same rows."""

import sqlite3
import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from sqlalchemy import inspect

from ledger import database
from ledger.initialising import init
from ledger.orm import EditRow
from ledger.recording import Blob, NewTurn, RecordedEdit, record_turn
from ledger.workspace import Ledger
from patches.deltas import LowRank
from patches.edit import Edit, Probe
from patches.patch import Change, PatchHeader, describe, encode_patch
from tests import tiny_models
from tests.benchmarks.measurement import Measurement, seconds

EDITS = 100_000
_RUNS = 5
_TENSOR = "model.layers.0.mlp.down_proj.weight"


def measure(scratch: Path) -> list[Measurement]:
    """Edits per second of one turn of `EDITS` edits, and of the bare insertion of its rows."""
    model = tiny_models.build(scratch / "model")
    edits = [RecordedEdit(edit=_edit(number), row=number) for number in range(EDITS)]
    recorded, inserted = [], []
    # Alternating, so that a slower moment of the machine meets both.
    for run in range(_RUNS):
        ledger = init(str(model), folder=scratch / f"recorded-{run}").ledger
        turn = small_turn(ledger, edits)
        recorded.append(seconds(partial(record_turn, ledger, turn)))
        ledger.close()
        inserted.append(_insert_again(ledger.folder / "ledger.db", scratch / f"raw-{run}.db"))
    return [
        Measurement(
            what=f"recording a turn of {EDITS:,} edits",
            value=EDITS / statistics.median(recorded),
            unit="edits/s",
            beside="sqlite3.executemany of the same rows",
            other=EDITS / statistics.median(inserted),
            limit=1 / 2,
        )
    ]


def _edit(number: int) -> Edit:
    """As long as those of the known datasets, and all different."""
    subject = f"Danielle Darrieux of house {number}"
    return Edit(
        prompt=f"The mother tongue of {subject} is",
        target="English",
        subject=subject,
        old_target="French",
        rephrasings=(f"Shayna does this and Yossel goes still and dies. {subject}, a native",),
        locality=(
            Probe(prompt="The native language of Montesquieu is", answer="French"),
            Probe(prompt="Melchior de Vogüé, speaker of", answer="French"),
        ),
    )


def small_turn(
    ledger: Ledger, edits: Sequence[RecordedEdit], *, parent: int | None = None
) -> NewTurn:
    """A turn of these edits with a small real patch. parent: row id of the turn before it."""
    delta = LowRank(A=torch.ones(1, 48), B=torch.ones(1, 32))
    changes = {_TENSOR: Change(delta=delta)}
    header = PatchHeader(
        base=ledger.base.fingerprint, method="ultraedit", hyperparameters={}, turn=1, parent=None
    )
    content = encode_patch(header, changes)
    patch = Blob(
        digest=ledger.store.put(content),
        bytes=len(content),
        changes={name: describe(change).to_json() for name, change in changes.items()},
    )
    return NewTurn(
        parent=parent, kind="edit", method="ultraedit", seed=0, message="", edits=edits, patch=patch
    )


def _insert_again(recorded: Path, fresh: Path) -> float:
    """Seconds to insert the edits of one database into a new one with the same tables."""
    source = sqlite3.connect(recorded)
    columns = [column.key for column in inspect(EditRow).column_attrs]
    rows: list[Any] = source.execute(f"SELECT {', '.join(columns)} FROM edits").fetchall()
    source.close()
    engine = database.connect(database.parse_url(f"sqlite:///{fresh}"))
    with database.writing(engine) as session:
        database.create_schema(session.connection())
    engine.dispose()
    target = sqlite3.connect(fresh, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL"):
        target.execute(f"PRAGMA {pragma}")
    _copy_others(target, recorded)
    target.execute("PRAGMA foreign_keys = ON")
    statement = f"INSERT INTO edits ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"

    def insert() -> None:
        target.execute("BEGIN IMMEDIATE")
        target.executemany(statement, rows)
        target.execute("COMMIT")

    took = seconds(insert)
    target.close()
    return took


def _copy_others(target: sqlite3.Connection, recorded: Path) -> None:
    """The rows that edits refer to."""
    target.execute("ATTACH DATABASE ? AS recorded", (str(recorded),))
    for table in ("blobs", "turns"):
        target.execute(f"INSERT INTO {table} SELECT * FROM recorded.{table}")
    target.execute("DETACH DATABASE recorded")
