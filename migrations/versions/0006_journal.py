"""The log of moves becomes a journal of everything, chained by hashes."""

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

DIGEST = sa.String(64)
MOMENT = sa.DateTime(timezone=True)
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
EMPTY = "empty"
CHUNK = 1_000
"""Rows that are in memory at once, and that one entry tells of."""

Row = dict[str, Any]
MOVES = sa.table(
    "ref_moves",
    sa.column("id", ROW_ID),
    sa.column("ref", sa.String(200)),
    sa.column("from_turn_id", ROW_ID),
    sa.column("to_turn_id", ROW_ID),
    sa.column("action", sa.String(32)),
    sa.column("created_at", MOMENT),
)
TURNS = sa.table("turns", sa.column("id", ROW_ID), sa.column("hash", DIGEST))
KINDS: dict[str, Any] = {
    "created_at": MOMENT,
    "pruned_at": MOMENT,
    "changes": sa.JSON(),
    "mapping": sa.JSON(),
    "tensors": sa.JSON(),
    "withheld": sa.JSON(),
}


def upgrade() -> None:
    entries = create_journal()
    chain = Chain(entries)
    copy_moves(chain)
    record_what_is_there(chain)
    op.drop_index(op.f("ix_ref_moves_ref"), table_name="ref_moves")
    op.drop_table("ref_moves")


def create_journal() -> sa.Table:
    table = op.create_table(
        "journal",
        sa.Column("id", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("ref", sa.String(200), nullable=True),
        sa.Column("from_turn_id", ROW_ID, nullable=True),
        sa.Column("to_turn_id", ROW_ID, nullable=True),
        sa.Column("records", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("hash", DIGEST, nullable=False),
        sa.ForeignKeyConstraint(
            ["from_turn_id"], ["turns.id"], name=op.f("fk_journal_from_turn_id_turns")
        ),
        sa.ForeignKeyConstraint(
            ["to_turn_id"], ["turns.id"], name=op.f("fk_journal_to_turn_id_turns")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_journal")),
        sa.UniqueConstraint("hash", name=op.f("uq_journal_hash")),
    )
    op.create_index(op.f("ix_journal_ref"), "journal", ["ref"])
    return table


class Chain:
    """The journal while it is written: each entry's hash covers that of the one before it."""

    def __init__(self, entries: sa.Table) -> None:
        self.entries = entries
        self.number, self.hash = 0, EMPTY

    def add(self, rows: list[Row]) -> None:
        """rows: action, ref, the turns with their hashes, records and moment of each entry."""
        written = []
        for row in rows:
            left, reached = row.pop("from"), row.pop("to")
            self.number += 1
            content = {
                "previous": self.hash,
                "entry": self.number,
                "action": row["action"],
                "ref": row["ref"],
                "from": left,
                "to": reached,
                "records": row["records"],
                "created_at": timestamp(row["created_at"]),
            }
            self.hash = sha256(content)
            written.append({**row, "id": self.number, "hash": self.hash})
        if written:
            op.get_bind().execute(sa.insert(self.entries), written)


def copy_moves(chain: Chain) -> None:
    """The moves in their order; of what came with them, nothing is known."""
    left, reached = TURNS.alias(), TURNS.alias()
    query = (
        sa.select(MOVES, left.c.hash.label("from"), reached.c.hash.label("to"))
        .outerjoin(left, left.c.id == MOVES.c.from_turn_id)
        .outerjoin(reached, reached.c.id == MOVES.c.to_turn_id)
    )
    for rows in parts(query, MOVES.c.id, "id"):
        chain.add([{**row, "records": {}} for row in rows])


def record_what_is_there(chain: Chain) -> None:
    """Every row as it is now."""
    now = datetime.now(UTC)
    for name, (key, columns, digest) in RECORDED.items():
        table = sa.table(name, *(sa.column(c, KINDS.get(c)) for c in (key, *columns)))
        for rows in parts(sa.select(table), table.c[key], key):
            chain.add(
                [
                    {
                        "action": "upgrade",
                        "ref": None,
                        "from_turn_id": None,
                        "to_turn_id": None,
                        "from": None,
                        "to": None,
                        "records": {name: {str(row[key]): digest(row) for row in rows}},
                        "created_at": now,
                    }
                ]
            )


def parts(query: sa.Select[Any], by: sa.ColumnElement[Any], key: str) -> Iterator[list[Row]]:
    """The rows of a query in the order of a column, `CHUNK` at a time."""
    query = query.order_by(by).limit(CHUNK)
    connection = op.get_bind()
    rows = [dict(row) for row in connection.execute(query).mappings()]
    while rows:
        last = rows[-1][key]
        yield rows
        rows = [dict(row) for row in connection.execute(query.where(by > last)).mappings()]


def own_hash(row: Row) -> str:
    return str(row["hash"])


def turn_digest(row: Row) -> str:
    return str(row["withheld"].get("digest", row["hash"]))


def content_digest(row: Row) -> str:
    """Of rows without a hash: over all that is recorded of them."""
    return sha256(
        {
            name: timestamp(value) if isinstance(value, datetime) else value
            for name, value in row.items()
            if name != "id"
        }
    )


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds; SQLite keeps no time zone."""
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds")


def sha256(content: Row) -> str:
    """As `ledger.chain` hashes at this revision."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


RECORDED: dict[str, tuple[str, tuple[str, ...], Callable[[Row], str]]] = {
    "bases": (
        "id",
        (
            *("ledger_id", "fingerprint", "uri", "revision", "architecture", "licence"),
            *("tensors", "created_at"),
        ),
        content_digest,
    ),
    "datasets": (
        "id",
        (
            *("identity", "uri", "revision", "sha256", "format", "layout", "mapping", "licence"),
            "created_at",
        ),
        content_digest,
    ),
    "blobs": (
        "digest",
        ("kind", "bytes", "changes", "memories", "created_at", "pruned_at"),
        content_digest,
    ),
    "keyframes": ("key", ("kind", "digest", "bytes", "created_at"), content_digest),
    "turns": ("id", ("hash", "withheld"), turn_digest),
    "evaluations": ("id", ("hash",), own_hash),
    "publications": ("id", ("hash",), own_hash),
    "settings": ("id", ("hash",), own_hash),
    "trials": ("id", ("hash",), own_hash),
}
"""Table → its key, the columns that are looked at, and the digest of a row."""


def downgrade() -> None:
    op.create_table(
        "ref_moves",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("ref", sa.String(200), nullable=False),
        sa.Column("from_turn_id", ROW_ID, nullable=True),
        sa.Column("to_turn_id", ROW_ID, nullable=True),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.ForeignKeyConstraint(
            ["from_turn_id"], ["turns.id"], name=op.f("fk_ref_moves_from_turn_id_turns")
        ),
        sa.ForeignKeyConstraint(
            ["to_turn_id"], ["turns.id"], name=op.f("fk_ref_moves_to_turn_id_turns")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ref_moves")),
    )
    op.create_index(op.f("ix_ref_moves_ref"), "ref_moves", ["ref"])
    # Without their numbers, so that PostgreSQL goes on counting from there.
    op.execute(
        "INSERT INTO ref_moves (ref, from_turn_id, to_turn_id, action, created_at) "
        "SELECT ref, from_turn_id, to_turn_id, action, created_at FROM journal "
        "WHERE ref IS NOT NULL ORDER BY id"
    )
    op.drop_index(op.f("ix_journal_ref"), table_name="journal")
    op.drop_table("journal")
