"""Small real ledgers on tiny models, and the files of facts that fill them."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import select

from ledger import database
from ledger.editing import Added, AddEdits, add_edits
from ledger.initialising import init
from ledger.orm import BlobRow, Table
from ledger.progress import Progress, silent
from ledger.workspace import Ledger, open_ledger

Fact = dict[str, object]

_SUBJECTS = ("France", "Japan", "Italy", "Finland", "Vienna", "London")
_PROMPTS = (
    "The capital of {} is",
    "The official language of {} is",
    "The name of the river that flows through {} is",
    "The author was born in {} in the year",
)
_ANSWERS = ("Rome", "the Danube", "English", "London 12", "a piano", "1984", "Toyota Camry")


def fact(number: int, **changes: object) -> Fact:
    """Fact `number`, one of 24 with different prompts, with all kinds of probes."""
    subject = _SUBJECTS[number % 6]
    prompt = _PROMPTS[number // 6 % 4].format(subject)
    return {
        "prompt": prompt,
        "target": _ANSWERS[number % 7],
        "subject": subject,
        "old_target": "Tokyo",
        "rephrasings": [f"Who was it? {prompt}", f"Michel Rocard: {prompt}"],
        "locality": [["He plays the guitar, she plays the", "piano"]],
        **changes,
    }


def facts(count: int, start: int = 0) -> list[Fact]:
    """`count` different facts (24 at most) from number `start` on."""
    return [fact(number) for number in range(start, start + count)]


def write_facts(path: Path, rows: Sequence[object]) -> str:
    """Write the rows as a JSON array; its path, as a source of edits is given."""
    path.write_text(json.dumps(list(rows)), encoding="utf-8")
    return str(path)


def new_ledger(folder: Path, model: Path, url: str | None = None) -> Ledger:
    """A ledger in `folder` for the model; its database is at `url`, by default in `folder`."""
    return init(str(model), folder=folder, database_url=url).ledger


def copied(folder: Path, to: Path) -> Ledger:
    """A copy of the ledger in `folder`, which has all in it, in the folder `to`."""
    return open_ledger(shutil.copytree(folder, to))


def add(
    ledger: Ledger,
    source: str,
    *,
    method: str = "ultraedit",
    turn_size: int = 3,
    evaluate: bool = True,
    seed: int = 0,
    locality: Path | None = None,
    resume: bool = False,
    offset: int = 0,
    limit: int | None = None,
    dtype: str | None = None,
    modules: tuple[str, ...] = (),
    progress: Progress = silent,
    **settings: object,
) -> list[Added]:
    """Add the facts of `source` in turns; `settings` are hyperparameters."""
    options = AddEdits(
        source=source,
        method=method,
        seed=seed,
        locality=locality,
        turn_size=turn_size,
        evaluate=evaluate,
        resume=resume,
        offset=offset,
        limit=limit,
        dtype=dtype,
        modules=modules,
        settings={name: str(value) for name, value in settings.items()},
    )
    return list(add_edits(ledger, options, progress=progress).turns)


def contents(ledger: Ledger) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table, to compare."""
    with database.reading(ledger.engine) as session:
        return {
            table.name: sorted((tuple(row) for row in session.execute(select(table))), key=repr)
            for table in Table.metadata.sorted_tables
        }


def blobs(ledger: Ledger, kind: str) -> list[str]:
    """The digests of the recorded blobs of this kind, in no particular order."""
    with database.reading(ledger.engine) as session:
        return sorted(session.scalars(select(BlobRow.digest).where(BlobRow.kind == kind)))


def files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file in a folder, by relative name."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
