"""An opened ledger: its database, its patch store and its base model.

On disk a ledger is a folder (``.ledger``) with ``config.json``, and by default the database and
the store inside it:

    format      1
    database    URL without password, relative SQLite paths are relative to the folder
    store       folder of the patch store, likewise
    model       where this machine finds the base model: a folder, or a Hub id
    revision    commit of a Hub model, else null

and ``HEAD``, the name of the branch that commands work on, if it is not main.
"""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.engine import URL

from ledger import database
from ledger.orm import BaseRow
from ledger.store import Store
from patches.checkpoint import Checkpoint, open_checkpoint, tensor_digests
from patches.errors import CheckpointError, DatabaseError, HistoryError

FOLDER = ".ledger"
CONFIG = "config.json"
MAIN = "main"
HEAD_FILE = "HEAD"
_FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Config:
    """What ``config.json`` says."""

    database: str
    store: str
    model: str
    revision: str | None

    def write(self, folder: Path) -> None:
        """Write it into `folder`, atomically."""
        content = {
            "format": _FORMAT,
            "database": self.database,
            "store": self.store,
            "model": self.model,
            "revision": self.revision,
        }
        _write_text(folder / CONFIG, json.dumps(content, indent=2))

    @classmethod
    def read(cls, folder: Path) -> "Config":
        path = folder / CONFIG
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if content["format"] != _FORMAT:
                raise HistoryError(
                    f"{path}: format {content['format']}, this program reads {_FORMAT}; "
                    "update edit-ledger"
                )
            return cls(
                database=content["database"],
                store=content["store"],
                model=content["model"],
                revision=content["revision"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HistoryError(
                f"{path}: cannot be read ({error}); restore it, or make a new ledger elsewhere"
            ) from error


@dataclass(frozen=True)
class Base:
    """The base model as the ledger recorded it. tensors: name → (dtype, shape, SHA-256)."""

    ledger_id: str
    fingerprint: str
    uri: str
    revision: str | None
    architecture: str
    licence: str | None
    tensors: dict[str, tuple[str, tuple[int, ...], str]]


class Ledger:
    """An opened ledger; every use case takes one. Cheap: the base is only looked at when needed."""

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config
        self.branch = current_branch(folder)
        self.url = resolve_database(folder, config.database)
        self.store = Store(folder=_inside(folder, config.store))

    @cached_property
    def engine(self) -> Engine:
        """The database, checked to have the right schema."""
        if self.url.get_backend_name() == "sqlite":
            path = Path(self.url.database or "")
            if not path.is_file():
                raise DatabaseError(f"{path}: the ledger's database is missing; restore it")
        engine = database.connect(self.url)
        database.check_schema(engine)
        return engine

    @cached_property
    def base(self) -> Base:
        with database.reading(self.engine) as session:
            row = session.scalars(select(BaseRow)).one_or_none()
            if row is None:
                raise DatabaseError(
                    f"database {database.masked(self.url)} holds no base model: its creation was "
                    "interrupted; remove it and run ledger init again"
                )
            return Base(
                ledger_id=row.ledger_id,
                fingerprint=row.fingerprint,
                uri=row.uri,
                revision=row.revision,
                architecture=row.architecture,
                licence=row.licence,
                tensors={
                    name: (dtype, tuple(shape), digest)
                    for name, (dtype, shape, digest) in row.tensors.items()
                },
            )

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The base's files, checked to have the recorded tensors (names, dtypes, shapes)."""
        from ledger.models import resolve_model

        folder, _ = resolve_model(self.config.model, self.config.revision)
        checkpoint = open_checkpoint(folder)
        recorded = {name: (dtype, shape) for name, (dtype, shape, _) in self.base.tensors.items()}
        found = {name: (t.dtype, t.shape) for name, t in checkpoint.tensors.items()}
        if found != recorded:
            name = min(n for n in {*found, *recorded} if found.get(n) != recorded.get(n))
            raise CheckpointError(
                f"{folder} is not the model of this ledger: tensor {name} is "
                f"{found.get(name, 'missing')}, recorded as {recorded.get(name, 'missing')}. "
                "Restore the base, or point 'model' in "
                f"{self.folder / CONFIG} to it"
            )
        return checkpoint

    def check_base_tensors(self, names: list[str]) -> None:
        """CheckpointError if one of these tensors of the base has other bytes than recorded."""
        unknown = [name for name in names if name not in self.base.tensors]
        if unknown:
            raise CheckpointError(f"the base model has no tensor {unknown[0]}")
        for name, digest in tensor_digests(self.checkpoint, names=names).items():
            if digest != self.base.tensors[name][2]:
                raise CheckpointError(
                    f"{self.checkpoint.folder}: tensor {name} is not what was recorded at init "
                    f"(SHA-256 {digest[:12]}…, recorded {self.base.tensors[name][2][:12]}…). The "
                    "base must never change: restore it, then run again"
                )

    def close(self) -> None:
        """Give database connections back."""
        if "engine" in self.__dict__:
            self.engine.dispose()

    def __enter__(self) -> "Ledger":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def current_branch(folder: Path) -> str:
    """The branch that `switch_to` has written down, main at first."""
    try:
        return (folder / HEAD_FILE).read_text(encoding="utf-8").strip() or MAIN
    except FileNotFoundError:
        return MAIN
    except (OSError, ValueError) as error:
        raise HistoryError(
            f"{folder / HEAD_FILE}: cannot be read ({error}); write the name of a branch into it"
        ) from error


def switch_to(folder: Path, branch: str) -> None:
    """Make `branch` the one that commands work on by default, atomically."""
    _write_text(folder / HEAD_FILE, branch)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def find_folder(start: Path | None = None) -> Path:
    """The ledger folder in `start` (default: here) or the nearest parent that has one."""
    here = (start or Path.cwd()).resolve()
    for folder in (here, *here.parents):
        if (folder / FOLDER / CONFIG).is_file():
            return folder / FOLDER
    raise HistoryError(
        f"no ledger in {here} or above it; create one with: ledger init --model MODEL, "
        "or name one with --ledger DIR"
    )


def open_ledger(folder: str | Path | None = None) -> Ledger:
    """Open a ledger: the folder itself, the one holding it, or (None) the nearest from here up.

    Raises HistoryError if there is none.
    """
    if folder is None:
        found = find_folder()
    else:
        given = Path(folder).expanduser().resolve()
        candidates = [path for path in (given, given / FOLDER) if (path / CONFIG).is_file()]
        if not candidates:
            raise HistoryError(f"{given} is not a ledger; create one with: ledger init")
        found = candidates[0]
    return Ledger(found, Config.read(found))


def resolve_database(folder: Path, address: str) -> URL:
    """The URL to connect to: LEDGER_DATABASE if set, else as configured."""
    override = database.environment_url()
    url = database.parse_url(override or address)
    relative = url.get_backend_name() == "sqlite" and not Path(url.database or "").is_absolute()
    if relative and not override:
        url = url.set(database=str(folder / (url.database or "")))
    return url


def _inside(folder: Path, path: str) -> Path:
    return (folder / Path(path).expanduser()).resolve()
