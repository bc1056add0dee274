"""What was pushed, turns that came from other ledgers, and imported changes."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KIND, PATCH, NUMBER = "ck_turns_kind", "ck_turns_has_patch", "uq_turns_branch_number"
ORIGIN_NUMBER = "uq_turns_origin_branch_number"
MERGE_HAS_PATCH = "ck_turns_merge_has_patch"
HAS_PATCH = "patch_digest IS NOT NULL AND method IS NOT NULL"


def upgrade() -> None:
    create_publications()
    with op.batch_alter_table("turns") as batch:
        batch.add_column(sa.Column("origin", sa.String(36), nullable=True))
        batch.add_column(sa.Column("withheld", sa.JSON(), nullable=True))
        batch.drop_constraint(op.f(NUMBER), type_="unique")
        batch.create_unique_constraint(op.f(ORIGIN_NUMBER), ["origin", "branch", "number"])
        batch.drop_constraint(op.f(KIND), type_="check")
        batch.create_check_constraint(op.f(KIND), "kind IN ('edit', 'rollback', 'merge', 'import')")
        batch.drop_constraint(op.f(MERGE_HAS_PATCH), type_="check")
        batch.create_check_constraint(
            op.f(PATCH), f"kind NOT IN ('merge', 'import') OR ({HAS_PATCH})"
        )
    op.execute("UPDATE turns SET origin = (SELECT ledger_id FROM bases), withheld = '{}'")
    with op.batch_alter_table("turns") as batch:
        batch.alter_column("origin", existing_type=sa.String(36), nullable=False)
        batch.alter_column("withheld", existing_type=sa.JSON(), nullable=False)


def create_publications() -> None:
    op.create_table(
        "publications",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("turn_id", ROW_ID, nullable=False),
        sa.Column("form", sa.String(16), nullable=False),
        sa.Column("repo", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=False),
        sa.Column("commit", sa.String(64), nullable=False),
        sa.Column("tag", sa.Text(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
        sa.CheckConstraint(
            "form IN ('model', 'patch', 'adapter')", name=op.f("ck_publications_form")
        ),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], name=op.f("fk_publications_turn_id_turns")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_publications")),
        sa.UniqueConstraint("hash", name=op.f("uq_publications_hash")),
    )
    op.create_index(op.f("ix_publications_turn_id"), "publications", ["turn_id"])


def downgrade() -> None:
    with op.batch_alter_table("turns") as batch:
        batch.drop_constraint(op.f(PATCH), type_="check")
        batch.create_check_constraint(op.f(MERGE_HAS_PATCH), f"kind <> 'merge' OR ({HAS_PATCH})")
        batch.drop_constraint(op.f(KIND), type_="check")
        batch.create_check_constraint(op.f(KIND), "kind IN ('edit', 'rollback', 'merge')")
        batch.drop_constraint(op.f(ORIGIN_NUMBER), type_="unique")
        batch.create_unique_constraint(op.f(NUMBER), ["branch", "number"])
        batch.drop_column("withheld")
        batch.drop_column("origin")
    op.drop_index(op.f("ix_publications_turn_id"), "publications")
    op.drop_table("publications")
