"""Merge turns, which take the place of earlier patches, and the figures of a turn."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
KIND = "ck_turns_kind"
MERGE_HAS_PATCH = "ck_turns_merge_has_patch"


def upgrade() -> None:
    op.create_table(
        "replacements",
        sa.Column("turn_id", ROW_ID, nullable=False),
        sa.Column("replaced_id", ROW_ID, nullable=False),
        sa.CheckConstraint("replaced_id < turn_id", name=op.f("ck_replacements_earlier")),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], name=op.f("fk_replacements_turn_id_turns")
        ),
        sa.ForeignKeyConstraint(
            ["replaced_id"], ["turns.id"], name=op.f("fk_replacements_replaced_id_turns")
        ),
        sa.PrimaryKeyConstraint("turn_id", "replaced_id", name=op.f("pk_replacements")),
    )
    with op.batch_alter_table("turns") as batch:
        batch.add_column(sa.Column("figures", sa.JSON(), nullable=True))
        batch.drop_constraint(op.f(KIND), type_="check")
        batch.create_check_constraint(op.f(KIND), "kind IN ('edit', 'rollback', 'merge')")
        batch.create_check_constraint(
            op.f(MERGE_HAS_PATCH),
            "kind <> 'merge' OR (patch_digest IS NOT NULL AND method IS NOT NULL)",
        )
    op.execute("UPDATE turns SET figures = '{}'")
    with op.batch_alter_table("turns") as batch:
        batch.alter_column("figures", existing_type=sa.JSON(), nullable=False)


def downgrade() -> None:
    with op.batch_alter_table("turns") as batch:
        batch.drop_column("figures")
        batch.drop_constraint(op.f(MERGE_HAS_PATCH), type_="check")
        batch.drop_constraint(op.f(KIND), type_="check")
        batch.create_check_constraint(op.f(KIND), "kind IN ('edit', 'rollback')")
    op.drop_table("replacements")
