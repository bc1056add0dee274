"""An opened ledger: its database, its patch store and its base model.

On disk a ledger is a folder (``.ledger``) with ``config.json``, and by default the database and
the store inside it:

    format      1
    database    URL without password, relative SQLite paths are relative to the folder
    store       folder of the patch store, likewise, or the address of one elsewhere
    model       where this machine finds the base model: a folder, or a Hub id
    revision    commit of a Hub model, else null

and ``HEAD``, the name of the branch that commands work on, if it is not main; and ``cache``, copies
of files of a store that is elsewhere.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from sqlalchemy import Connection, Engine, event, select
from sqlalchemy.engine import URL

from ledger import database
from ledger.orm import BaseRow
from ledger.stores import store_at
from ledger.waiting import Waiting
from patches.checkpoint import Checkpoint, open_checkpoint, tensor_digests
from patches.errors import CheckpointError, DatabaseError, HistoryError
from patches.strict_json import strict_json

FOLDER = ".ledger"
CONFIG = "config.json"
MAIN = "main"
HEAD_FILE = "HEAD"
ANNOUNCED = ".{}.writing"
_FORMAT = 1
_LARGEST = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Config:
    """What ``config.json`` says."""

    database: str
    store: str
    model: str
    revision: str | None

    def write(self, folder: Path) -> None:
        """Write it into `folder`, atomically."""
        self.announce(folder).replace(folder / CONFIG)

    def announce(self, folder: Path) -> Path:
        """Write it beside where it belongs: what an interrupted `init` has left is known by it."""
        content = {
            "format": _FORMAT,
            "database": self.database,
            "store": self.store,
            "model": self.model,
            "revision": self.revision,
        }
        return _write_beside(folder / CONFIG, json.dumps(content, indent=2))

    @classmethod
    def read(cls, folder: Path) -> "Config":
        path = folder / CONFIG
        try:
            content = strict_json(_read_bytes(path))
            if content["format"] != _FORMAT:
                raise HistoryError(
                    f"{path}: format {content['format']!r:.40}, this program reads {_FORMAT}; "
                    "update edit-ledger"
                )
            return cls(
                database=_text(content, "database"),
                store=_text(content, "store"),
                model=_text(content, "model"),
                revision=None if content["revision"] is None else _text(content, "revision"),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise HistoryError(
                f"{path}: cannot be read ({error}); restore it, or make a new ledger elsewhere"
            ) from error


def _text(content: Mapping[str, object], name: str) -> str:
    value = content[name]
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError(f"{name} is {value!r:.80}")
    return value


def _read_bytes(path: Path) -> bytes:
    """What is in a file that people may edit, if it is not so large that it is another one."""
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST:,} bytes")
    return data


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
    """An opened ledger; every use case takes one. Cheap: the base is only looked at when needed.

    branch: the one to work on. waiting: how long writers wait for others; set both before use.
    """

    def __init__(self, folder: Path, config: Config) -> None:
        self.folder = folder
        self.config = config
        self.branch = current_branch(folder)
        self.url = resolve_database(folder, config.database)
        self.waiting = Waiting()
        self.store = store_at(folder, config.store)

    @cached_property
    def engine(self) -> Engine:
        """The database, checked to have the right schema."""
        self.check_database_file()
        engine = database.connect(self.url, waiting=self.waiting)
        # Whatever runs for long connects again, when the file may be gone.
        event.listen(engine, "do_connect", lambda *_: self.check_database_file())
        database.check_schema(engine)
        if database.environment_url() is None:
            event.listen(engine, "begin", self._refuse_moved)
        return engine

    def _refuse_moved(self, connection: Connection) -> None:
        """Whoever writes holds the database's lock by now, as does who moves the ledger away."""
        if connection.get_execution_options().get("writing", False):
            now = Config.read(self.folder).database
            if now != self.config.database:
                raise DatabaseError(
                    f"the ledger has moved to {now} meanwhile. Nothing was changed; run again"
                )

    def check_database_file(self) -> None:
        """DatabaseError if the file of an SQLite database is missing: to connect would make one."""
        if self.url.get_backend_name() == "sqlite":
            path = Path(self.url.database or "")
            if not path.is_file():
                raise DatabaseError(f"{path}: the ledger's database is missing; restore it")

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
        name = _read_bytes(folder / HEAD_FILE).decode("utf-8-sig").strip()
        if not name.isprintable():
            raise ValueError("it is not one name")
        return name or MAIN
    except FileNotFoundError:
        return MAIN
    except (OSError, ValueError) as error:
        raise HistoryError(
            f"{folder / HEAD_FILE}: cannot be read ({error}); write the name of a branch into it"
        ) from error


def switch_to(folder: Path, branch: str) -> None:
    """Make `branch` the one that commands work on by default, atomically."""
    path = folder / HEAD_FILE
    _write_beside(path, branch).replace(path)


def _write_beside(path: Path, text: str) -> Path:
    """A temporary file with this text, durably, to take the place of `path`."""
    temporary = path.with_name(ANNOUNCED.format(path.name))
    with temporary.open("w", encoding="utf-8") as file:
        file.write(f"{text}\n")
        file.flush()
        os.fsync(file.fileno())
    return temporary


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
