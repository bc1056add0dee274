"""Change everything that can be changed in a ledger behind its back; verify must find each, and
name it.

Whoever does that has the database to themselves: no foreign keys, no check constraints where that
can be had, no application. What the database refuses all the same (a null, a second row with a
unique value) is not counted.
"""

import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Engine,
    Integer,
    String,
    Text,
    create_engine,
    delete,
    event,
    insert,
    select,
)
from sqlalchemy import Table as Columns
from sqlalchemy.exc import IntegrityError

from ledger.orm import Table, UtcTime
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import EditLedgerError

Row = dict[str, Any]

EXEMPT = {
    ("edits", "id"): "a number that says nothing; what refers to it is named if it is lost",
}
"""Columns that need not be covered, and why."""
MAY_GO = {"keyframes": "disposable: made again when needed"}
"""Tables whose rows may be removed."""
# What two rows that change places keep.
_PLACE = {"edits": ("id", "turn_id", "position")}
_KINDS = {
    "blobs": ("patch", "editor-state"),
    "keyframes": ("weights", "statistics"),
    "turns": ("edit", "rollback", "merge", "import"),
    "refs": ("branch", "tag"),
}


def tamper(
    ledger: Ledger, *, seconds: float, seed: int, variants: int = 3, share: float = 1.0
) -> dict[str, int]:
    """Every column of every table, every row and every file at least once, then at random until
    the time is over; how much was changed and found.

    ledger: with a row in every table, as of `tests.full_ledgers`; as it was afterwards. An
    AssertionError names what was not found. variants: how many other values are tried at most.
    share: of the columns of each table that are changed at least once, if not all are.
    """
    vandal = _Vandal(ledger, random.Random(seed), variants, share)
    until = time.monotonic() + seconds
    try:
        vandal.round(every=True)
        while time.monotonic() < until:
            vandal.round(every=False)
    finally:
        vandal.leave()
    assert problems(ledger) == [], "the ledger is not as it was"
    return vandal.found


def problems(ledger: Ledger) -> list[str]:
    """What verify finds wrong, as if the ledger were opened anew."""
    ledger.__dict__.pop("base", None)
    try:
        return [f"{one.subject}: {one.what}" for one in verify(ledger).problems]
    except EditLedgerError as error:
        return [str(error)]


class _Vandal:
    """One who changes things and looks whether that is found."""

    def __init__(self, ledger: Ledger, chance: random.Random, variants: int, share: float) -> None:
        self.found = {
            "values changed and found": 0,
            "rows removed and found": 0,
            "rows swapped and found": 0,
            "bytes flipped and found": 0,
        }
        self._ledger = ledger
        self._chance = chance
        self._variants = variants
        self._share = share
        self._engine = _unguarded(ledger)
        turns = self._rows(Table.metadata.tables["turns"])
        self._numbers = {row["id"]: row["number"] for row in turns}
        entries = self._rows(Table.metadata.tables["journal"])
        self._entries = [row["id"] for row in entries]
        self._newest = [
            f"{table.removesuffix('s')} {key}"
            for table, keys in entries[-1]["records"].items()
            for key in keys
        ]

    def leave(self) -> None:
        self._engine.dispose()

    def round(self, *, every: bool) -> None:
        """every: each column and file once; else one of each kind, at random."""
        tables = Table.metadata.sorted_tables
        for table in tables if every else [self._chance.choice(tables)]:
            rows = self._rows(table)
            assert rows, f"the ledger has no row in {table.name}"
            columns = [c for c in table.columns if (table.name, c.name) not in EXEMPT]
            count = math.ceil(len(columns) * self._share) if every else 1
            for column in self._chance.sample(columns, count):
                self._change(table, column, rows)
            if table.name not in MAY_GO:
                self._remove(table, self._chance.choice(rows))
            self._swap(table, rows)
        files = sorted(self._ledger.folder.rglob("*.safetensors"))
        for path in files if every else [self._chance.choice(files)]:
            self._flip(path)

    def _rows(self, table: Columns) -> list[Row]:
        with self._engine.connect() as connection:
            query = select(table).order_by(*table.primary_key)
            return [dict(row) for row in connection.execute(query).mappings()]

    def _change(self, table: Columns, column: Column[Any], rows: Sequence[Row]) -> None:
        """Give a value another one: of a row that has one, and of a row that has none."""
        for empty in (False, True):
            some = [row for row in rows if (row[column.name] is None) == empty]
            if some:
                row = self._chance.choice(some)
                others = self._others(table, column, row[column.name])
                for value in islice(others, self._variants):
                    changed = {**row, column.name: value}
                    what = f"{table.name}.{column.name}: {row[column.name]!r} → {value!r}"
                    self._replace(table, [row], [changed], "values changed and found", what)

    def _remove(self, table: Columns, row: Row) -> None:
        self._replace(table, [row], [], "rows removed and found", f"{table.name}, without {row}")

    def _swap(self, table: Columns, rows: Sequence[Row]) -> None:
        """Two rows change places."""
        kept = _PLACE.get(table.name, tuple(key.name for key in table.primary_key))
        if len(rows) < 2 or {*kept} == {column.name for column in table.columns}:
            return
        one, other = self._chance.sample(rows, 2)
        here = {**other, **{name: one[name] for name in kept}}
        there = {**one, **{name: other[name] for name in kept}}
        if here != one:
            what = f"{table.name}: {one} and {other} swapped"
            self._replace(table, [one, other], [here, there], "rows swapped and found", what)

    def _flip(self, path: Path) -> None:
        """Another byte somewhere in a file."""
        content = path.read_bytes()
        place = self._chance.randrange(len(content))
        flipped = content[place] ^ self._chance.randrange(1, 256)
        path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
        try:
            self._check([path.stem[:12]], "bytes flipped and found", f"byte {place} of {path}")
        finally:
            path.write_bytes(content)

    def _replace(
        self, table: Columns, old: Sequence[Row], new: Sequence[Row], kind: str, what: str
    ) -> None:
        names = [name for row in (*old, *new) for name in self._names(table, row)]
        try:
            self._write(table, old, new)
        except IntegrityError:
            return
        try:
            self._check(names, kind, what)
        finally:
            self._write(table, new, old)

    def _write(self, table: Columns, old: Sequence[Row], new: Sequence[Row]) -> None:
        with self._engine.begin() as connection:
            for row in old:
                mine = (key == row[key.name] for key in table.primary_key)
                assert connection.execute(delete(table).where(*mine)).rowcount == 1
            for row in new:
                connection.execute(insert(table).values(row))

    def _check(self, names: Sequence[str], kind: str, what: str) -> None:
        found = problems(self._ledger)
        named = any(name in problem for name in names for problem in found)
        assert named, f"{what}: {names} not named in {found}"
        self.found[kind] += 1

    def _others(self, table: Columns, column: Column[Any], value: Any) -> Iterator[Any]:
        """Other values for this column, null too where it may be."""
        if column.name == "kind":
            yield from (kind for kind in _KINDS[table.name] if kind != value)
        elif column.foreign_keys:
            [reference] = column.foreign_keys
            target = reference.column
            known = [row[target.name] for row in self._rows(target.table)]
            yield self._chance.choice([other for other in known if other != value])
        else:
            yield _altered(column, value, self._chance)
        if value is not None and (column.nullable or isinstance(column.type, JSON)):
            yield None

    def _names(self, table: Columns, row: Row) -> list[str]:
        """Any of which says of a problem that it is with this row."""
        match table.name:
            case "turns":
                return [f"turn {row['number']}", f"turn {row['hash'][:12]}"]
            case "edits" | "skipped_rows" | "undoes" | "replacements":
                return [f"turn {self._numbers.get(row['turn_id'], '?')}"]
            case "outcomes":
                return [f"evaluation {row['evaluation_id']}"]
            case "bases":
                return ["base model"]
            case "blobs" | "keyframes":
                return [f"{row['digest'][:12]}…"]
            case "refs":
                return [row["name"]]
            case "journal":
                named = [f"journal entry {row['id']}", f"journal entry {row['id'] + 1}"]
                # What the newest told of has no entry any more.
                return named if row["id"] in self._entries[:-1] else [*named, *self._newest]
            case "settings":
                return [f"settings {row['id']}"]
        return [f"{table.name.removesuffix('s')} {row['id']}"]


def _altered(column: Column[Any], value: Any, chance: random.Random) -> Any:
    """Another value of the column's type."""
    if value is None:
        value = _SOMETHING[type(column.type)]
    if isinstance(value, datetime):
        return value + timedelta(microseconds=chance.choice((-1, 1, 3_600_000_000)))
    if isinstance(value, str):
        place = chance.randrange(len(value)) if value else 0
        other = chance.choice([c for c in "0123456789abcdef" if c != value[place : place + 1]])
        return f"{value[:place]}{other}{value[place + 1 :]}"
    if isinstance(value, dict):
        return _altered_mapping(value, chance)
    if isinstance(value, list):
        return [*value, "altered"]
    assert isinstance(value, int | float)
    return value + chance.choice((1, 2, 1000))


def _altered_mapping(value: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """One key more, or one less."""
    if value and chance.random() < 0.5:
        gone = chance.choice(sorted(value))
        return {key: kept for key, kept in value.items() if key != gone}
    return {**value, "altered": 1}


_SOMETHING: dict[type[Any], Any] = {
    String: "",
    Text: "",
    Integer: 0,
    BigInteger: 0,
    UtcTime: datetime(2026, 1, 1, tzinfo=UTC),
}
"""What stands for a null before it is altered."""


def _unguarded(ledger: Ledger) -> Engine:
    """The ledger's database without what guards it."""
    engine = create_engine(ledger.url)

    @event.listens_for(engine, "connect")
    def configure(connection: Any, _record: object) -> None:
        with closing(connection.cursor()) as cursor:
            if engine.dialect.name == "sqlite":
                cursor.execute("PRAGMA foreign_keys = OFF")
                cursor.execute("PRAGMA ignore_check_constraints = ON")
            else:
                cursor.execute("SET session_replication_role = replica")
                connection.commit()

    return engine
