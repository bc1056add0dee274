"""Remove files that nobody needs: what interrupted runs left, keyframes of states that no branch or
tag goes through any more, and, where that is asked for, patches that a squash has replaced.

A patch that goes is marked in the database first, and its file removed then; killed in between, the
ledger is as recorded, and the next run ends what this one began. A mark is taken back wherever the
file is there and needed again.
"""

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from ledger import database, history
from ledger.history import Lines, Step, chunks
from ledger.needed import Unneeded, heads, unneeded
from ledger.orm import BlobRow, KeyframeRow, RefRow
from ledger.pruned import given_up
from ledger.sharing.published_source import INCOMING
from ledger.workspace import Ledger

# A blob lies in the store before its turn is recorded: younger files may belong to a running one.
# A branch that was deleted a moment ago may have been deleted by mistake.
_GRACE_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Heap:
    """Files that go for one reason."""

    files: tuple[Path, ...] = ()
    bytes: int = 0

    def to_json(self) -> dict[str, int]:
        return {"count": len(self.files), "bytes": self.bytes}


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Files that nobody needs, by reason.

    heaps: ``strays`` (no turn refers to them), ``keyframes`` (no branch or tag goes through their
    states, or they are damaged), ``squashed`` (patches whose place a squash or merge has taken
    everywhere), ``unreachable`` (of turns that no branch or tag leads to). prunable: what is left
    there of the last two, since nobody asked for it to go.
    """

    heaps: Mapping[str, Heap]
    prunable: Heap
    removed: bool

    @property
    def files(self) -> list[Path]:
        return [path for heap in self.heaps.values() for path in heap.files]

    @property
    def bytes(self) -> int:
        return sum(heap.bytes for heap in self.heaps.values())

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger gc --json``; fields are only ever added."""
        return {
            "files": [str(path) for path in self.files],
            "bytes": self.bytes,
            "removed": self.removed,
            "reasons": {reason: heap.to_json() for reason, heap in self.heaps.items()},
            "prunable": self.prunable.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class _Survey:
    """What the database says. marked: files that were given up. stale: keyframes that can go, key →
    digest. recorded: the files of turns, and of the other keyframes."""

    unneeded: Unneeded
    marked: frozenset[str]
    stale: Mapping[str, str]
    recorded: frozenset[str]

    def going(self, *, prune: bool) -> frozenset[str]:
        """The files of turns that go; without `prune`, those that an earlier run has marked."""
        could = self.unneeded.squashed | self.unneeded.unreachable
        return could if prune else could & self.marked


def collect_garbage(
    ledger: Ledger, *, prune: bool = False, dry_run: bool = False, grace: float = _GRACE_SECONDS
) -> Garbage:
    """Remove (or only list) the files that nobody needs.

    prune: also the patches that are kept only for the case that a squash is rolled back, and the
    files of turns that no branch or tag leads to. grace: seconds in which stray files, and turns
    that a branch or tag has left, are not touched.
    """
    damaged = _damaged_keyframes(ledger)
    left_before = datetime.fromtimestamp(time.time() - grace, UTC)
    with database.reading(ledger.engine) as session:
        survey = _survey(session, ledger, damaged, left_before)
    if not dry_run and (prune or survey.marked or survey.stale):
        with database.writing(ledger.engine) as session:
            # Whoever records a turn waits here, or has recorded it before the look around.
            branches = select(RefRow.name).where(RefRow.kind == "branch").order_by(RefRow.name)
            session.execute(branches.with_for_update()).all()
            survey = _survey(session, ledger, damaged, left_before)
            _mark(session, ledger, survey, prune=prune)
    going = survey.going(prune=prune)
    store = ledger.store
    frames = sorted({*survey.stale.values()} - survey.recorded)
    garbage = Garbage(
        heaps={
            "strays": _heap(_strays(ledger, survey.recorded | {*frames}), grace=grace),
            "keyframes": _heap(map(store.path, frames)),
            "squashed": _heap(map(store.path, sorted(going & survey.unneeded.squashed))),
            "unreachable": _heap(map(store.path, sorted(going & survey.unneeded.unreachable))),
        },
        prunable=_heap(map(store.path, sorted(survey.going(prune=True) - going))),
        removed=not dry_run,
    )
    if not dry_run:
        _remove(ledger, garbage, going)
    return garbage


def _survey(
    session: Session, ledger: Ledger, damaged: Collection[str], left_before: datetime
) -> _Survey:
    lines = Lines(session)
    blobs = session.execute(select(BlobRow.digest, BlobRow.pruned_at)).all()
    frames: dict[str, str] = dict(
        session.execute(select(KeyframeRow.key, KeyframeRow.digest)).all()
    )
    stale = {*frames} - _used_keys(session, ledger, lines) if frames else set()
    stale |= {*frames} & {*damaged}
    kept = {digest for key, digest in frames.items() if key not in stale}
    return _Survey(
        unneeded=unneeded(session, lines, left_before=left_before),
        marked=frozenset(digest for digest, pruned_at in blobs if pruned_at is not None),
        stale={key: frames[key] for key in stale},
        recorded=frozenset(kept | {digest for digest, _ in blobs}),
    )


def _used_keys(session: Session, ledger: Ledger, lines: Lines) -> set[str]:
    """The keys of every beginning of what makes up the heads of branches and tags."""
    from ledger import keyframes

    found: set[str] = set()
    for line in {line[-1].id: line for line in heads(session, lines).values()}.values():
        weights = [step.patch_digest or "" for step in history.patches_in_force(line)]
        found.update(keyframes.keys("weights", ledger.base.fingerprint, weights))
        for method, states in _editor_states(line).items():
            found.update(keyframes.keys("statistics", method, states))
    return found


def _editor_states(line: Sequence[Step]) -> dict[str, list[str]]:
    """Editing method → the editor states that its next turn would go on from."""
    found: dict[str, list[str]] = {}
    for step in history.edits_in_force(line):
        if step.method is not None and step.editor_state_digest is not None:
            found.setdefault(step.method, []).append(step.editor_state_digest)
    return found


def _damaged_keyframes(ledger: Ledger) -> set[str]:
    """Keys of the keyframes whose file is missing or damaged."""
    with database.reading(ledger.engine) as session:
        frames = session.execute(select(KeyframeRow.key, KeyframeRow.digest)).all()
    return {key for key, digest in frames if ledger.store.problem(digest) is not None}


def _mark(session: Session, ledger: Ledger, survey: _Survey, *, prune: bool) -> None:
    """Write down which files go, before they do."""
    now = datetime.now(UTC)
    for some in chunks(sorted(survey.going(prune=prune) - survey.marked)):
        session.execute(update(BlobRow).where(BlobRow.digest.in_(some)).values(pruned_at=now))
    for blob in given_up(session, sorted(survey.marked - survey.going(prune=True))):
        if ledger.store.problem(blob.digest) is None:
            blob.pruned_at = None
    for keys in chunks(sorted(survey.stale)):
        session.execute(delete(KeyframeRow).where(KeyframeRow.key.in_(keys)))


def _remove(ledger: Ledger, garbage: Garbage, going: Collection[str]) -> None:
    for reason in ("strays", "keyframes"):
        for path in garbage.heaps[reason].files:
            path.unlink(missing_ok=True)
    _remove_empty(ledger.folder / INCOMING)
    there = [digest for digest in sorted(going) if ledger.store.path(digest).exists()]
    # Others may write in between. Somebody may have taken one of them into use again meanwhile, and
    # no longer can while they go.
    for some in chunks(there):
        with database.writing(ledger.engine) as session:
            for blob in given_up(session, some):
                ledger.store.path(blob.digest).unlink(missing_ok=True)


def _strays(ledger: Ledger, recorded: Collection[str]) -> Iterator[Path]:
    """Files that no turn and no keyframe refers to: in the patch store, and of pulls."""
    store = ledger.store
    yield from (store.path(digest) for digest in store.digests() if digest not in recorded)
    yield from sorted(store.folder.glob(".writing-*"))
    yield from sorted(p for p in (ledger.folder / INCOMING).rglob("*") if p.is_file())


def _heap(paths: Iterable[Path], *, grace: float | None = None) -> Heap:
    """Those of the files that exist, and are older than `grace` seconds."""
    oldest = time.time() - (grace or 0.0)
    files, size = [], 0
    for path in paths:
        try:
            found = path.stat()
        except FileNotFoundError:
            continue
        if grace is None or found.st_mtime <= oldest:
            files.append(path)
            size += found.st_size
    return Heap(files=tuple(files), bytes=size)


def _remove_empty(folder: Path) -> None:
    """Remove folders that hold no file, `folder` itself too."""
    for above, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(above).rmdir()
