"""Remove what interrupted runs have left: in the patch store, and of pulls that never ended."""

import contextlib
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from ledger import database
from ledger.orm import BlobRow
from ledger.sharing.published_source import INCOMING
from ledger.workspace import Ledger

# A blob lies in the store before its turn is recorded: younger files may belong to a running one.
_GRACE_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Files that no turn refers to."""

    files: list[Path]
    bytes: int
    removed: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "files": [str(path) for path in self.files],
            "bytes": self.bytes,
            "removed": self.removed,
        }


def collect_garbage(
    ledger: Ledger, *, dry_run: bool = False, grace: float = _GRACE_SECONDS
) -> Garbage:
    """Remove stray files older than `grace` seconds (or only list them)."""
    with database.reading(ledger.engine) as session:
        known = set(session.scalars(select(BlobRow.digest)))
    store = ledger.store
    stray = [store.path(digest) for digest in store.digests() if digest not in known]
    stray += sorted(store.folder.glob(".writing-*"))
    stray += sorted(p for p in (ledger.folder / INCOMING).rglob("*") if p.is_file())
    oldest = time.time() - grace
    files, size = [], 0
    for path in stray:
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        if found.st_mtime > oldest:
            continue
        files.append(path)
        size += found.st_size
        if not dry_run:
            path.unlink(missing_ok=True)
    if not dry_run:
        _remove_empty(ledger.folder / INCOMING)
    return Garbage(files=files, bytes=size, removed=not dry_run)


def _remove_empty(folder: Path) -> None:
    """Remove folders that hold no file, `folder` itself too."""
    for above, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(above).rmdir()
