"""What questions to a history need: full-text search, keys of facts, copies, samples, keyframes."""

import hashlib
import unicodedata
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

DIGEST = sa.String(64)
MOMENT = sa.DateTime(timezone=True)
SCOPE = "ck_evaluations_scope"
CHUNK = 5_000

BLOBS = sa.table(
    "blobs",
    sa.column("digest", DIGEST),
    sa.column("changes", sa.JSON()),
    sa.column("memories", sa.Integer()),
)
EDITS = sa.table(
    "edits",
    sa.column("id", sa.BigInteger()),
    sa.column("subject", sa.Text()),
    sa.column("subject_key", sa.BigInteger()),
)


def upgrade() -> None:
    create_keyframes()
    change_blobs()
    with op.batch_alter_table("turns") as batch:
        batch.add_column(sa.Column("copied_from", DIGEST, nullable=True))
    op.create_index(op.f("ix_turns_copied_from"), "turns", ["copied_from"])
    with op.batch_alter_table("evaluations") as batch:
        batch.drop_constraint(op.f(SCOPE), type_="check")
        batch.create_check_constraint(op.f(SCOPE), "scope IN ('turn', 'in_force', 'sample')")
    change_edits()
    create_text_index()


def create_keyframes() -> None:
    op.create_table(
        "keyframes",
        sa.Column("key", DIGEST, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("kind IN ('weights', 'statistics')", name=op.f("ck_keyframes_kind")),
        sa.CheckConstraint("bytes > 0", name=op.f("ck_keyframes_bytes")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_keyframes")),
    )
    op.create_index(op.f("ix_keyframes_digest"), "keyframes", ["digest"])


def change_blobs() -> None:
    with op.batch_alter_table("blobs") as batch:
        batch.add_column(sa.Column("memories", sa.Integer(), nullable=True))
        batch.add_column(sa.Column("pruned_at", MOMENT, nullable=True))
    fill(BLOBS, "digest", "changes", "memories", memories)
    with op.batch_alter_table("blobs") as batch:
        batch.alter_column("memories", existing_type=sa.Integer(), nullable=False)
    op.create_index(op.f("ix_blobs_pruned_at"), "blobs", ["pruned_at"])


def change_edits() -> None:
    with op.batch_alter_table("edits") as batch:
        batch.add_column(sa.Column("relation", sa.Text(), nullable=True))
        batch.add_column(sa.Column("subject_key", sa.BigInteger(), nullable=True))
        batch.add_column(sa.Column("fact_key", sa.BigInteger(), nullable=True))
    fill(EDITS, "id", "subject", "subject_key", subject_key)
    for column in ("subject_key", "fact_key"):
        op.create_index(op.f(f"ix_edits_{column}"), "edits", [column])


def fill(
    table: sa.TableClause, key: str, source: str, target: str, value: Callable[[Any], int | None]
) -> None:
    """Compute column `target` from `source`, `CHUNK` rows at a time in the order of `key`."""
    connection = op.get_bind()
    by = table.c[key]
    update = sa.update(table).where(by == sa.bindparam("of")).values({target: sa.bindparam("to")})
    query = sa.select(by, table.c[source]).order_by(by).limit(CHUNK)
    rows = connection.execute(query).all()
    while rows:
        found = [{"of": row, "to": value(content)} for row, content in rows]
        connection.execute(update, found)
        rows = connection.execute(query.where(by > rows[-1][0])).all()


def memories(changes: dict[str, Any]) -> int:
    return sum("routing" in change for change in changes.values())


def subject_key(subject: str | None) -> int | None:
    """As `ledger.chain.subject_key` at this revision."""
    text = " ".join(unicodedata.normalize("NFC", subject or "").split())
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True) if text else None


def create_text_index() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute(
            "CREATE INDEX ix_edits_text ON edits USING gin ((to_tsvector('simple', "
            "regexp_replace(left(prompt, 50000) || ' ' || left(target, 50000) || "
            "' ' || left(coalesce(subject, ''), 50000), '[!-/:-@\\[-`{-~]+', ' ', 'g'))))"
        )
        return
    op.execute(
        "CREATE VIRTUAL TABLE edits_text USING fts5 (prompt, target, subject, content='edits', "
        "content_rowid='id', columnsize=0, tokenize='unicode61 remove_diacritics 0')"
    )
    op.execute("INSERT INTO edits_text (edits_text) VALUES ('rebuild')")


def downgrade() -> None:
    if op.get_context().dialect.name == "postgresql":
        op.execute("DROP INDEX ix_edits_text")
    else:
        op.execute("DROP TABLE edits_text")
    drop_columns("edits", "relation", "subject_key", "fact_key")
    with op.batch_alter_table("evaluations") as batch:
        batch.drop_constraint(op.f(SCOPE), type_="check")
        batch.create_check_constraint(op.f(SCOPE), "scope IN ('turn', 'in_force')")
    drop_columns("turns", "copied_from")
    drop_columns("blobs", "memories", "pruned_at")
    op.drop_table("keyframes")


def drop_columns(table: str, *names: str) -> None:
    indexes = sa.inspect(op.get_bind()).get_indexes(table)
    with op.batch_alter_table(table) as batch:
        for index in indexes:
            if index["name"] and not set(index["column_names"]).isdisjoint(names):
                batch.drop_index(op.f(index["name"]))
        for name in names:
            batch.drop_column(name)
