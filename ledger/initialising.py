"""Start a ledger: fingerprint the base model, create database and store."""

import contextlib
import json
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.engine import URL

from ledger import database, journal
from ledger.models import resolve_model, split_revision
from ledger.orm import BaseRow, RefRow, TurnRow
from ledger.progress import Progress, silent
from ledger.stores import CACHE, store_address, store_at
from ledger.workspace import (
    ANNOUNCED,
    CONFIG,
    FOLDER,
    MAIN,
    Config,
    Ledger,
    resolve_database,
)
from patches.checkpoint import Checkpoint, fingerprint, open_checkpoint, tensor_digests
from patches.errors import DatabaseError, HistoryError

_DATABASE = "sqlite:///ledger.db"
_STORE = "patches"
# The database file and what SQLite puts beside it, the last while it switches to WAL.
_DATABASE_FILES = ("ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db-journal")


@dataclass(frozen=True, kw_only=True)
class Initialised:
    """What `init` made. undo: takes it back, as long as nothing was recorded."""

    ledger: Ledger
    tensors: int
    bytes: int
    undo: Callable[[], None]

    def to_json(self) -> dict[str, Any]:
        base = self.ledger.base
        return {
            "ledger": str(self.ledger.folder),
            "database": database.masked(self.ledger.url),
            "store": self.ledger.store.address,
            "model": self.ledger.config.model,
            "revision": base.revision,
            "architecture": base.architecture,
            "fingerprint": base.fingerprint,
            "tensors": self.tensors,
            "bytes": self.bytes,
        }


def init(
    model: str,
    *,
    folder: Path | None = None,
    database_url: str | None = None,
    store: str | None = None,
    progress: Progress = silent,
) -> Initialised:
    """Create a ledger for `model` (a folder, or a Hub id with optional ``@revision``).

    folder: the ledger's own folder, default ``.ledger`` here. store: a folder for patches, or the
    address of a store elsewhere, by default in `folder`. Raises HistoryError if there is a ledger
    already, CheckpointError if the model cannot be used, DatabaseError if the database cannot be
    used or holds a ledger, StoreError if the store cannot be written to; in each case nothing is
    left behind.
    """
    folder = (folder or Path.cwd() / FOLDER).expanduser().resolve()
    _refuse_existing(folder)
    name, revision = split_revision(model)
    base_folder, commit = resolve_model(name, revision)
    checkpoint = open_checkpoint(base_folder)
    digests = tensor_digests(
        checkpoint, progress=lambda done, total: progress("fingerprint", done, total)
    )
    created = not folder.exists()
    embedded = database_url is None and database.environment_url() is None
    config = Config(
        database=stored_url(database_url),
        store=store_address(store) if store else _STORE,
        model=str(base_folder) if commit is None else name,
        revision=commit,
    )
    if embedded:
        _discard_half_made(folder)
    url, made = _address(folder, config, database_url), False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        interrupted = (folder / ANNOUNCED.format(CONFIG)).exists()
        config.announce(folder)
        # Before the database, which may be one that outlives the folder.
        store_at(folder, config.store).prepare()
        if not (interrupted and _was_made(url, fingerprint(checkpoint, digests))):
            _create_database(url, checkpoint, digests, config, commit)
        made = True
        # The configuration comes last: a folder without it is not a ledger yet.
        config.write(folder)
    except BaseException as error:
        # Before what tells of the attempt: if the tables stay, the next one takes them over.
        if made and not embedded:
            _drop_tables(url)
        _remove(folder, created, embedded)
        if isinstance(error, OSError):
            raise HistoryError(
                f"{folder}: cannot be created ({error.strerror}); choose another with --ledger"
            ) from error
        raise
    ledger = Ledger(folder, config)
    # With the password, which the configuration does not hold.
    ledger.url = url

    def undo() -> None:
        ledger.close()
        if not embedded:
            _drop_tables(url)
        (folder / CONFIG).unlink(missing_ok=True)
        _remove(folder, created, embedded)

    size = sum(tensor.size for tensor in checkpoint.tensors.values())
    return Initialised(ledger=ledger, tensors=len(checkpoint.tensors), bytes=size, undo=undo)


def _refuse_existing(folder: Path) -> None:
    if (folder / CONFIG).exists():
        raise HistoryError(
            f"{folder} is a ledger already; use it as it is, or choose another with --ledger"
        )
    if folder.is_file():
        raise HistoryError(f"{folder} is a file; choose another place with --ledger")
    leftover = {*_DATABASE_FILES, _STORE, CACHE, ANNOUNCED.format(CONFIG)}
    strangers = (
        [p.name for p in folder.iterdir() if p.name not in leftover] if folder.exists() else []
    )
    if strangers:
        raise HistoryError(
            f"{folder} holds other files ({strangers[0]}); choose an empty folder with --ledger"
        )


def stored_url(address: str | None) -> str:
    """The database for config.json: never with a password, a file by its full path."""
    if address is None:
        return _DATABASE
    url = database.parse_url(address)
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise DatabaseError("a ledger in memory would be gone at once; name a database file")
        url = url.set(database=str(Path(url.database).expanduser().resolve()))
    return database.without_password(url)


def _address(folder: Path, config: Config, given: str | None) -> URL:
    """Where to connect to now: with the password that was given, if one was."""
    url = resolve_database(folder, config.database)
    password = database.parse_url(given).password if given else None
    return url if password is None else url.set(password=str(password))


def _create_database(
    url: URL, checkpoint: Checkpoint, digests: dict[str, str], config: Config, commit: str | None
) -> None:
    engine = database.connect(url)
    try:
        if database.schema_revision(engine) is not None:
            raise DatabaseError(
                f"database {database.masked(url)} holds a ledger already. To work on that ledger "
                f"from here, copy its {CONFIG} into {FOLDER}/ and set 'model' in it"
            )
        with database.writing(engine) as session:
            database.create_schema(session.connection())
            now = datetime.now(UTC)
            base = _base_row(checkpoint, digests, config, commit, now)
            session.add_all([base, RefRow(name=MAIN, kind="branch", turn_id=None)])
            begins = journal.Move(ref=MAIN, left=None, reached=None)
            journal.record(session, "init", [base], at=now, move=begins)
    finally:
        engine.dispose()


def _base_row(
    checkpoint: Checkpoint,
    digests: dict[str, str],
    config: Config,
    commit: str | None,
    now: datetime,
) -> BaseRow:
    return BaseRow(
        id=1,
        ledger_id=str(uuid.uuid4()),
        fingerprint=fingerprint(checkpoint, digests),
        uri=config.model,
        revision=commit,
        architecture=_architecture(checkpoint.folder),
        licence=_licence(checkpoint.folder),
        tensors={
            name: [tensor.dtype, list(tensor.shape), digests[name]]
            for name, tensor in checkpoint.tensors.items()
        },
        created_at=now,
    )


def _architecture(folder: Path) -> str:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str((config.get("architectures") or [config.get("model_type", "unknown")])[0])
    except (OSError, ValueError, AttributeError, IndexError):
        return "unknown"


def _licence(folder: Path) -> str | None:
    """The licence on the model's card, if it has one."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    from huggingface_hub import ModelCard

    try:
        licence = ModelCard.load(card).data.to_dict().get("license")
    except (ValueError, OSError):
        return None
    return licence if isinstance(licence, str) else None


def _discard_half_made(folder: Path) -> None:
    """Remove the database that an interrupted init has left; HistoryError if it has been used."""
    url = resolve_database(folder, _DATABASE)
    if (folder / _DATABASE_FILES[0]).exists():
        engine = database.connect(url)
        try:
            used = database.schema_revision(engine) is not None and _has_turns(engine)
        finally:
            engine.dispose()
        if used:
            raise HistoryError(
                f"{folder} holds a database with turns, but no {CONFIG}; restore that file, or "
                "choose another folder with --ledger"
            )
    _remove_database(folder)


def _was_made(url: URL, base: str) -> bool:
    """Whether an init for this base was interrupted after it had made the database at `url`."""
    engine = database.connect(url)
    try:
        if database.schema_revision(engine) != database.SCHEMA or _has_turns(engine):
            return False
        with database.reading(engine) as session:
            return session.scalar(select(BaseRow.fingerprint)) == base
    finally:
        engine.dispose()


def _drop_tables(url: URL) -> None:
    engine = database.connect(url)
    try:
        with database.writing(engine) as session:
            database.drop_schema(session.connection())
    finally:
        engine.dispose()


def _has_turns(engine: Engine) -> bool:
    with database.reading(engine) as session:
        return session.scalar(select(TurnRow.id).limit(1)) is not None


def _remove(folder: Path, created: bool, embedded: bool) -> None:
    """Take back what an init that failed has made."""
    with contextlib.suppress(OSError):
        (folder / ANNOUNCED.format(CONFIG)).unlink(missing_ok=True)
    if created:
        shutil.rmtree(folder, ignore_errors=True)
    elif embedded:
        _remove_database(folder)


def _remove_database(folder: Path) -> None:
    for name in _DATABASE_FILES:
        with contextlib.suppress(OSError):
            (folder / name).unlink(missing_ok=True)
