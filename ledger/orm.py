"""The tables: what happened, in order.

Rows of turns, edits, evaluations, settings and datasets are only ever added. Refs move. The journal
has an entry for whatever is recorded and for every move. Constraints guard what they can;
`ledger.chain` and `ledger.journal` guard the rest.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PULL = "pull"
"""The action of a ref that came to point to a turn which was recorded elsewhere."""

EMPTY = "empty"
"""What stands for the state before the first turn in hashes and refs."""


class UtcTime(TypeDecorator[datetime]):
    """A moment in UTC with microseconds, the same on databases with and without time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite numbers rows by itself only when the key is exactly INTEGER.
RowId = BigInteger().with_variant(Integer, "sqlite")
Digest = String(64)


class Table(DeclarativeBase):
    """Base class of all tables."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy reads it from the class)
        dict[str, Any]: JSON,
        list[Any]: JSON,
        datetime: UtcTime,
    }


class BaseRow(Table):
    """The base model. One per ledger.

    tensors: name → [dtype, shape, SHA-256 of its bytes].
    """

    __tablename__ = "bases"
    __table_args__ = (CheckConstraint("id = 1", name="one"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=False)
    ledger_id: Mapped[str] = mapped_column(String(36))
    fingerprint: Mapped[str] = mapped_column(Digest)
    uri: Mapped[str] = mapped_column(Text)
    revision: Mapped[str | None] = mapped_column(Text)
    architecture: Mapped[str] = mapped_column(Text)
    licence: Mapped[str | None] = mapped_column(Text)
    tensors: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class DatasetRow(Table):
    """Where edits came from. identity: digest over the other columns, for finding it again."""

    __tablename__ = "datasets"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    identity: Mapped[str] = mapped_column(Digest, unique=True)
    uri: Mapped[str] = mapped_column(Text)
    revision: Mapped[str | None] = mapped_column(Text)
    sha256: Mapped[str] = mapped_column(Digest, index=True)
    format: Mapped[str] = mapped_column(String(32))
    layout: Mapped[str] = mapped_column(String(32))
    mapping: Mapped[dict[str, Any]]
    licence: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]


class BlobRow(Table):
    """A file of the patch store.

    changes: for a patch, tensor → kind, shape, rank, transposed.
    memories: how many of these are side memories.
    pruned_at: when the file was given up, since a squash had taken its place everywhere.
    """

    __tablename__ = "blobs"
    __table_args__ = (
        CheckConstraint("kind IN ('patch', 'editor-state')", name="kind"),
        CheckConstraint("bytes > 0", name="bytes"),
    )

    digest: Mapped[str] = mapped_column(Digest, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    bytes: Mapped[int] = mapped_column(BigInteger)
    changes: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    memories: Mapped[int]
    # Every turn that is recorded asks whether anything was pruned.
    pruned_at: Mapped[datetime | None] = mapped_column(index=True)


class KeyframeRow(Table):
    """What a row of patches, or of editor states, adds up to: kept to be fast, and disposable.

    key: digest of the row (`ledger.keyframes`). digest: of the file in the patch store.
    """

    __tablename__ = "keyframes"
    __table_args__ = (
        CheckConstraint("kind IN ('weights', 'statistics')", name="kind"),
        CheckConstraint("bytes > 0", name="bytes"),
    )

    key: Mapped[str] = mapped_column(Digest, primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    digest: Mapped[str] = mapped_column(Digest, index=True)
    bytes: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime]


class TurnRow(Table):
    """One recorded step.

    number: 1, 2, 3 … along the parents; unique on the branch that it was recorded on.
    origin: id of the ledger that it was recorded in; another's came by a pull.
    withheld: empty for a turn made here. Of a pulled one: ``edits`` if its publisher kept their
    texts back, ``dataset`` (its identity) and ``source`` likewise; ``scores`` as told where their
    outcomes were kept back; and ``digest`` over these, the origin and the turn's hash.
    tensors: state after the turn: tensor name → SHA-256 of its bytes in the checkpoint's dtype.
    edits_digest: SHA-256 over the digests of the turn's edits in order.
    figures: what the method told of the turn, e.g. the loss of every edit; and ``gate``, what its
    gate said, if it was held to one.
    copied_from: hash of the turn that this one repeats, with its patch as it is or edited again.
    """

    __tablename__ = "turns"
    __table_args__ = (
        UniqueConstraint("origin", "branch", "number"),
        CheckConstraint("number > 0", name="number"),
        CheckConstraint("kind IN ('edit', 'rollback', 'merge', 'import')", name="kind"),
        CheckConstraint("(number = 1) = (parent_id IS NULL)", name="parent"),
        CheckConstraint(
            "kind <> 'edit' OR (patch_digest IS NOT NULL AND method IS NOT NULL AND edits > 0)",
            name="edit_has_patch",
        ),
        CheckConstraint(
            "kind NOT IN ('merge', 'import') OR (patch_digest IS NOT NULL AND method IS NOT NULL)",
            name="has_patch",
        ),
        CheckConstraint("edits >= 0 AND skipped >= 0", name="counts"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    branch: Mapped[str] = mapped_column(String(200))
    number: Mapped[int]
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("turns.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    method: Mapped[str | None] = mapped_column(String(32))
    hyperparameters: Mapped[dict[str, Any]]
    seed: Mapped[int] = mapped_column(BigInteger)
    message: Mapped[str] = mapped_column(Text)
    author: Mapped[str] = mapped_column(Text)
    dataset_id: Mapped[int | None] = mapped_column(ForeignKey("datasets.id"), index=True)
    first_row: Mapped[int | None] = mapped_column(BigInteger)
    last_row: Mapped[int | None] = mapped_column(BigInteger)
    edits: Mapped[int]
    edits_digest: Mapped[str] = mapped_column(Digest)
    skipped: Mapped[int]
    patch_digest: Mapped[str | None] = mapped_column(ForeignKey("blobs.digest"), index=True)
    editor_state_digest: Mapped[str | None] = mapped_column(ForeignKey("blobs.digest"), index=True)
    tensors: Mapped[dict[str, Any]]
    environment: Mapped[dict[str, Any]]
    seconds: Mapped[dict[str, Any]]
    peak_memory: Mapped[int | None] = mapped_column(BigInteger)
    notes: Mapped[list[Any]]
    created_at: Mapped[datetime]
    hash: Mapped[str] = mapped_column(Digest, unique=True)
    figures: Mapped[dict[str, Any]]
    origin: Mapped[str] = mapped_column(String(36))
    withheld: Mapped[dict[str, Any]]
    copied_from: Mapped[str | None] = mapped_column(Digest, index=True)


class EditRow(Table):
    """One fact of a turn.

    row: its number in the dataset.  relation: what of the subject the fact tells, e.g. ``P103``.
    prompt_key, subject_key, fact_key: hashes of the normalised prompt, of the subject, and of
    subject and relation, for look-ups.
    probes: canonical JSON as text, since it is hashed and written far more often than it is read.
    """

    __tablename__ = "edits"
    __table_args__ = (
        UniqueConstraint("turn_id", "position"),
        CheckConstraint("position >= 0", name="position"),
        CheckConstraint("target <> ''", name="target"),
        Index(None, "prompt_key"),
        Index(None, "subject_key"),
        Index(None, "fact_key"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    turn_id: Mapped[int] = mapped_column(ForeignKey("turns.id"))
    position: Mapped[int]
    row: Mapped[int | None] = mapped_column(BigInteger)
    prompt: Mapped[str] = mapped_column(Text)
    target: Mapped[str] = mapped_column(Text)
    subject: Mapped[str | None] = mapped_column(Text)
    old_target: Mapped[str | None] = mapped_column(Text)
    probes: Mapped[str] = mapped_column(Text)
    prompt_key: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[str] = mapped_column(Digest)
    relation: Mapped[str | None] = mapped_column(Text)
    subject_key: Mapped[int | None] = mapped_column(BigInteger)
    fact_key: Mapped[int | None] = mapped_column(BigInteger)


class SkippedRow(Table):
    """A row of the dataset that a turn could not use, and why."""

    __tablename__ = "skipped_rows"

    turn_id: Mapped[int] = mapped_column(ForeignKey("turns.id"), primary_key=True)
    row: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    reason: Mapped[str] = mapped_column(Text)


class UndoRow(Table):
    """A rollback turn undoes an earlier turn."""

    __tablename__ = "undoes"
    __table_args__ = (CheckConstraint("undone_id < turn_id", name="earlier"),)

    turn_id: Mapped[int] = mapped_column(ForeignKey("turns.id"), primary_key=True)
    undone_id: Mapped[int] = mapped_column(ForeignKey("turns.id"), primary_key=True)


class ReplacementRow(Table):
    """A merge takes the place of an earlier turn's patch; the edits of that turn stay in force."""

    __tablename__ = "replacements"
    __table_args__ = (CheckConstraint("replaced_id < turn_id", name="earlier"),)

    turn_id: Mapped[int] = mapped_column(ForeignKey("turns.id"), primary_key=True)
    replaced_id: Mapped[int] = mapped_column(ForeignKey("turns.id"), primary_key=True)


class RefRow(Table):
    """A branch or tag. turn_id is null while a branch is empty."""

    __tablename__ = "refs"
    __table_args__ = (
        CheckConstraint("kind IN ('branch', 'tag')", name="kind"),
        CheckConstraint("kind = 'branch' OR turn_id IS NOT NULL", name="tag_has_turn"),
    )

    name: Mapped[str] = mapped_column(String(200), primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    turn_id: Mapped[int | None] = mapped_column(ForeignKey("turns.id"))


class EntryRow(Table):
    """What was recorded at once, and which ref came to point elsewhere with it, if one did.

    id: 1, 2, 3 … without a gap. action: what was done, e.g. ``edit``, ``tag`` or ``evaluate``.
    records: table → key of a row → digest of the row as it is from now on (`ledger.journal`).
    hash covers the entry and the hash of the entry before it.
    """

    __tablename__ = "journal"

    id: Mapped[int] = mapped_column(RowId, primary_key=True, autoincrement=False)
    action: Mapped[str] = mapped_column(String(32))
    ref: Mapped[str | None] = mapped_column(String(200), index=True)
    from_turn_id: Mapped[int | None] = mapped_column(ForeignKey("turns.id"))
    to_turn_id: Mapped[int | None] = mapped_column(ForeignKey("turns.id"))
    records: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    hash: Mapped[str] = mapped_column(Digest, unique=True)


class EvaluationRow(Table):
    """Scores of the state at a turn. scope: ``turn`` (edits of one turn), ``in_force``, ``sample``:
    some of them, ``protocol`` says which; or ``text``: running text, without outcomes.

    n: edits, or tokens of text. base, state: metric → mean. hash covers the row, the outcomes and
    the turn's hash.
    """

    __tablename__ = "evaluations"
    __table_args__ = (
        CheckConstraint("scope IN ('turn', 'in_force', 'sample', 'text')", name="scope"),
        CheckConstraint("(scope = 'turn') = (scope_turn_id IS NOT NULL)", name="scope_turn"),
        CheckConstraint("n >= 0", name="n"),
    )

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    turn_id: Mapped[int] = mapped_column(ForeignKey("turns.id"), index=True)
    scope: Mapped[str] = mapped_column(String(16))
    scope_turn_id: Mapped[int | None] = mapped_column(ForeignKey("turns.id"))
    protocol: Mapped[dict[str, Any]]
    seed: Mapped[int] = mapped_column(BigInteger)
    n: Mapped[int]
    base: Mapped[dict[str, Any]]
    state: Mapped[dict[str, Any]]
    environment: Mapped[dict[str, Any]]
    seconds: Mapped[float]
    created_at: Mapped[datetime]
    hash: Mapped[str] = mapped_column(Digest, unique=True)


class OutcomeRow(Table):
    """Scores of one edit in an evaluation: metric → value, of the base and of the state."""

    __tablename__ = "outcomes"

    evaluation_id: Mapped[int] = mapped_column(ForeignKey("evaluations.id"), primary_key=True)
    edit_id: Mapped[int] = mapped_column(ForeignKey("edits.id"), primary_key=True)
    base: Mapped[dict[str, Any]]
    state: Mapped[dict[str, Any]]


class PublicationRow(Table):
    """One push of the state at a turn to a Hub repository.

    form: what was pushed. revision: the branch of the repository. hash covers the row and the
    turn's hash.
    """

    __tablename__ = "publications"
    __table_args__ = (CheckConstraint("form IN ('model', 'patch', 'adapter')", name="form"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    turn_id: Mapped[int] = mapped_column(ForeignKey("turns.id"), index=True)
    form: Mapped[str] = mapped_column(String(16))
    repo: Mapped[str] = mapped_column(Text)
    revision: Mapped[str] = mapped_column(Text)
    commit: Mapped[str] = mapped_column(String(64))
    tag: Mapped[str | None] = mapped_column(Text)
    created_at: Mapped[datetime]
    hash: Mapped[str] = mapped_column(Digest, unique=True)


class SettingsRow(Table):
    """What a method's hyperparameters are by default from now on; the newest row counts.

    values: hyperparameter → value, of those that were chosen; none: the built-in defaults again.
    evidence: why. hash covers the row and the base's fingerprint.
    """

    __tablename__ = "settings"

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    method: Mapped[str] = mapped_column(String(32), index=True)
    values: Mapped[dict[str, Any]]
    evidence: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    hash: Mapped[str] = mapped_column(Digest, unique=True)


class TrialRow(Table):
    """What came of settings that were tried, kept so that tuning goes on where it stopped.

    study: digest of all that trials must have in common to be compared. key: digest of the trial
    within its study. values: what was set. result: scores, and on which rows; of one that failed
    the rows alone. failure: why the method could not. hash covers the row.
    """

    __tablename__ = "trials"
    __table_args__ = (UniqueConstraint("study", "key"),)

    id: Mapped[int] = mapped_column(RowId, primary_key=True)
    study: Mapped[str] = mapped_column(Digest)
    key: Mapped[str] = mapped_column(Digest)
    values: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any]]
    failure: Mapped[str | None] = mapped_column(Text)
    seconds: Mapped[float]
    created_at: Mapped[datetime]
    hash: Mapped[str] = mapped_column(Digest, unique=True)
