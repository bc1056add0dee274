"""Settings that were chosen for a method, the trials behind them, and scores on running text."""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op
from alembic.util import CommandError

revision = "0005"
down_revision = "0004"

DIGEST = sa.String(64)
MOMENT = sa.DateTime(timezone=True)
SCOPE = "ck_evaluations_scope"
BEFORE = {
    "method": "ultraedit",
    "values": {"step": "published"},
    "evidence": {"reason": "the ledger's earlier turns were made by the published method"},
}

BASES = sa.table("bases", sa.column("fingerprint", DIGEST))
TURNS = sa.table("turns", sa.column("method", sa.String(32)))
EVALUATIONS = sa.table("evaluations", sa.column("scope", sa.String(16)))


def upgrade() -> None:
    with op.batch_alter_table("evaluations") as batch:
        batch.drop_constraint(op.f(SCOPE), type_="check")
        batch.create_check_constraint(
            op.f(SCOPE), "scope IN ('turn', 'in_force', 'sample', 'text')"
        )
    settings = create_settings()
    create_trials()
    keep_the_published_method(settings)


def create_settings() -> sa.Table:
    table = op.create_table(
        "settings",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("method", sa.String(32), nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("evidence", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("hash", DIGEST, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_settings")),
        sa.UniqueConstraint("hash", name=op.f("uq_settings_hash")),
    )
    op.create_index(op.f("ix_settings_method"), "settings", ["method"])
    return table


def create_trials() -> None:
    op.create_table(
        "trials",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("study", DIGEST, nullable=False),
        sa.Column("key", DIGEST, nullable=False),
        sa.Column("values", sa.JSON(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("failure", sa.Text(), nullable=True),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("hash", DIGEST, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
        sa.UniqueConstraint("study", "key", name=op.f("uq_trials_study_key")),
        sa.UniqueConstraint("hash", name=op.f("uq_trials_hash")),
    )


def keep_the_published_method(settings: sa.Table) -> None:
    """A ledger with turns of UltraEdit goes on with the method that made them."""
    connection = op.get_bind()
    fingerprint = connection.execute(sa.select(BASES.c.fingerprint)).scalar()
    used = sa.select(TURNS.c.method).where(TURNS.c.method == BEFORE["method"]).limit(1)
    if fingerprint is None or connection.execute(used).first() is None:
        return
    now = datetime.now(UTC)
    row: dict[str, Any] = {**BEFORE, "created_at": now}
    connection.execute(sa.insert(settings).values({**row, "hash": hashed(row, fingerprint)}))


def hashed(row: dict[str, Any], fingerprint: str) -> str:
    """As `ledger.chain` hashes settings at this revision."""
    moment = row["created_at"].isoformat(timespec="microseconds")
    content = {**row, "created_at": moment, "base": fingerprint}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def downgrade() -> None:
    connection = op.get_bind()
    text = sa.select(sa.func.count()).where(EVALUATIONS.c.scope == "text")
    if found := connection.execute(text).scalar_one():
        raise CommandError(
            f"{found} evaluations on running text are recorded, for which schema "
            f"{down_revision} has no place; stay at schema {revision}"
        )
    op.drop_table("trials")
    op.drop_index(op.f("ix_settings_method"), table_name="settings")
    op.drop_table("settings")
    with op.batch_alter_table("evaluations") as batch:
        batch.drop_constraint(op.f(SCOPE), type_="check")
        batch.create_check_constraint(op.f(SCOPE), "scope IN ('turn', 'in_force', 'sample')")
