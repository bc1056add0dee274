"""The first tables: the base, datasets, blobs, turns with their edits, refs, evaluations."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
DIGEST = sa.String(64)
MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    create_bases()
    create_datasets()
    create_blobs()
    create_turns()
    create_edits()
    create_skipped_rows()
    create_undoes()
    create_refs()
    create_ref_moves()
    create_evaluations()
    create_outcomes()


def downgrade() -> None:
    op.drop_table("outcomes")
    op.drop_table("evaluations")
    op.drop_table("ref_moves")
    op.drop_table("refs")
    op.drop_table("undoes")
    op.drop_table("skipped_rows")
    op.drop_table("edits")
    op.drop_table("turns")
    op.drop_table("blobs")
    op.drop_table("datasets")
    op.drop_table("bases")


def create_bases() -> None:
    op.create_table(
        "bases",
        sa.Column("id", ROW_ID, autoincrement=False, nullable=False),
        sa.Column("ledger_id", sa.String(36), nullable=False),
        sa.Column("fingerprint", DIGEST, nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=True),
        sa.Column("architecture", sa.Text(), nullable=False),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column("tensors", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("ck_bases_one")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bases")),
    )


def create_datasets() -> None:
    op.create_table(
        "datasets",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("identity", DIGEST, nullable=False),
        sa.Column("uri", sa.Text(), nullable=False),
        sa.Column("revision", sa.Text(), nullable=True),
        sa.Column("sha256", DIGEST, nullable=False),
        sa.Column("format", sa.String(32), nullable=False),
        sa.Column("layout", sa.String(32), nullable=False),
        sa.Column("mapping", sa.JSON(), nullable=False),
        sa.Column("licence", sa.Text(), nullable=True),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_datasets")),
        sa.UniqueConstraint("identity", name=op.f("uq_datasets_identity")),
    )
    op.create_index(op.f("ix_datasets_sha256"), "datasets", ["sha256"])


def create_blobs() -> None:
    op.create_table(
        "blobs",
        sa.Column("digest", DIGEST, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("changes", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.CheckConstraint("kind IN ('patch', 'editor-state')", name=op.f("ck_blobs_kind")),
        sa.CheckConstraint("bytes > 0", name=op.f("ck_blobs_bytes")),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_blobs")),
    )


def create_turns() -> None:
    op.create_table(
        "turns",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("branch", sa.String(200), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("parent_id", ROW_ID, nullable=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("method", sa.String(32), nullable=True),
        sa.Column("hyperparameters", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("author", sa.Text(), nullable=False),
        sa.Column("dataset_id", ROW_ID, nullable=True),
        sa.Column("first_row", sa.BigInteger(), nullable=True),
        sa.Column("last_row", sa.BigInteger(), nullable=True),
        sa.Column("edits", sa.Integer(), nullable=False),
        sa.Column("edits_digest", DIGEST, nullable=False),
        sa.Column("skipped", sa.Integer(), nullable=False),
        sa.Column("patch_digest", DIGEST, nullable=True),
        sa.Column("editor_state_digest", DIGEST, nullable=True),
        sa.Column("tensors", sa.JSON(), nullable=False),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.JSON(), nullable=False),
        sa.Column("peak_memory", sa.BigInteger(), nullable=True),
        sa.Column("notes", sa.JSON(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("hash", DIGEST, nullable=False),
        *turn_guards(),
        sa.ForeignKeyConstraint(["parent_id"], ["turns.id"], name=op.f("fk_turns_parent_id_turns")),
        sa.ForeignKeyConstraint(
            ["dataset_id"], ["datasets.id"], name=op.f("fk_turns_dataset_id_datasets")
        ),
        sa.ForeignKeyConstraint(
            ["patch_digest"], ["blobs.digest"], name=op.f("fk_turns_patch_digest_blobs")
        ),
        sa.ForeignKeyConstraint(
            ["editor_state_digest"],
            ["blobs.digest"],
            name=op.f("fk_turns_editor_state_digest_blobs"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_turns")),
        sa.UniqueConstraint("branch", "number", name=op.f("uq_turns_branch_number")),
        sa.UniqueConstraint("hash", name=op.f("uq_turns_hash")),
    )
    for column in ("parent_id", "dataset_id", "patch_digest", "editor_state_digest"):
        op.create_index(op.f(f"ix_turns_{column}"), "turns", [column])


def turn_guards() -> list[sa.CheckConstraint]:
    return [
        sa.CheckConstraint("number > 0", name=op.f("ck_turns_number")),
        sa.CheckConstraint("kind IN ('edit', 'rollback')", name=op.f("ck_turns_kind")),
        sa.CheckConstraint("(number = 1) = (parent_id IS NULL)", name=op.f("ck_turns_parent")),
        sa.CheckConstraint(
            "kind <> 'edit' OR (patch_digest IS NOT NULL AND method IS NOT NULL AND edits > 0)",
            name=op.f("ck_turns_edit_has_patch"),
        ),
        sa.CheckConstraint("edits >= 0 AND skipped >= 0", name=op.f("ck_turns_counts")),
    ]


def create_edits() -> None:
    op.create_table(
        "edits",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("turn_id", ROW_ID, nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("row", sa.BigInteger(), nullable=True),
        sa.Column("prompt", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("old_target", sa.Text(), nullable=True),
        sa.Column("probes", sa.Text(), nullable=False),
        sa.Column("prompt_key", sa.BigInteger(), nullable=False),
        sa.Column("digest", DIGEST, nullable=False),
        sa.CheckConstraint("position >= 0", name=op.f("ck_edits_position")),
        sa.CheckConstraint("target <> ''", name=op.f("ck_edits_target")),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name=op.f("fk_edits_turn_id_turns")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_edits")),
        sa.UniqueConstraint("turn_id", "position", name=op.f("uq_edits_turn_id_position")),
    )
    op.create_index(op.f("ix_edits_prompt_key"), "edits", ["prompt_key"])


def create_skipped_rows() -> None:
    op.create_table(
        "skipped_rows",
        sa.Column("turn_id", ROW_ID, nullable=False),
        sa.Column("row", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], name=op.f("fk_skipped_rows_turn_id_turns")
        ),
        sa.PrimaryKeyConstraint("turn_id", "row", name=op.f("pk_skipped_rows")),
    )


def create_undoes() -> None:
    op.create_table(
        "undoes",
        sa.Column("turn_id", ROW_ID, nullable=False),
        sa.Column("undone_id", ROW_ID, nullable=False),
        sa.CheckConstraint("undone_id < turn_id", name=op.f("ck_undoes_earlier")),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name=op.f("fk_undoes_turn_id_turns")),
        sa.ForeignKeyConstraint(
            ["undone_id"], ["turns.id"], name=op.f("fk_undoes_undone_id_turns")
        ),
        sa.PrimaryKeyConstraint("turn_id", "undone_id", name=op.f("pk_undoes")),
    )


def create_refs() -> None:
    op.create_table(
        "refs",
        sa.Column("name", sa.String(200), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("turn_id", ROW_ID, nullable=True),
        sa.CheckConstraint("kind IN ('branch', 'tag')", name=op.f("ck_refs_kind")),
        sa.CheckConstraint(
            "kind = 'branch' OR turn_id IS NOT NULL", name=op.f("ck_refs_tag_has_turn")
        ),
        sa.ForeignKeyConstraint(["turn_id"], ["turns.id"], name=op.f("fk_refs_turn_id_turns")),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_refs")),
    )


def create_ref_moves() -> None:
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


def create_evaluations() -> None:
    op.create_table(
        "evaluations",
        sa.Column("id", ROW_ID, nullable=False),
        sa.Column("turn_id", ROW_ID, nullable=False),
        sa.Column("scope", sa.String(16), nullable=False),
        sa.Column("scope_turn_id", ROW_ID, nullable=True),
        sa.Column("protocol", sa.JSON(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("base", sa.JSON(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", MOMENT, nullable=False),
        sa.Column("hash", DIGEST, nullable=False),
        sa.CheckConstraint("scope IN ('turn', 'in_force')", name=op.f("ck_evaluations_scope")),
        sa.CheckConstraint(
            "(scope = 'turn') = (scope_turn_id IS NOT NULL)",
            name=op.f("ck_evaluations_scope_turn"),
        ),
        sa.CheckConstraint("n >= 0", name=op.f("ck_evaluations_n")),
        sa.ForeignKeyConstraint(
            ["turn_id"], ["turns.id"], name=op.f("fk_evaluations_turn_id_turns")
        ),
        sa.ForeignKeyConstraint(
            ["scope_turn_id"], ["turns.id"], name=op.f("fk_evaluations_scope_turn_id_turns")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_evaluations")),
        sa.UniqueConstraint("hash", name=op.f("uq_evaluations_hash")),
    )
    op.create_index(op.f("ix_evaluations_turn_id"), "evaluations", ["turn_id"])


def create_outcomes() -> None:
    op.create_table(
        "outcomes",
        sa.Column("evaluation_id", ROW_ID, nullable=False),
        sa.Column("edit_id", ROW_ID, nullable=False),
        sa.Column("base", sa.JSON(), nullable=False),
        sa.Column("state", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["evaluation_id"],
            ["evaluations.id"],
            name=op.f("fk_outcomes_evaluation_id_evaluations"),
        ),
        sa.ForeignKeyConstraint(["edit_id"], ["edits.id"], name=op.f("fk_outcomes_edit_id_edits")),
        sa.PrimaryKeyConstraint("evaluation_id", "edit_id", name=op.f("pk_outcomes")),
    )
