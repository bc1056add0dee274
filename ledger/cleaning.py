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
from typing import Any, Self

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from ledger import database, history, journal
from ledger.history import Lines, Step, chunks
from ledger.needed import Unneeded, heads, unneeded
from ledger.orm import BlobRow, KeyframeRow
from ledger.pruned import given_up, restore
from ledger.sharing.published_source import INCOMING
from ledger.store import Stored
from ledger.workspace import Ledger

# A blob lies in the store before its turn is recorded: younger files may belong to a running one.
# A branch that was deleted a moment ago may have been deleted by mistake.
_GRACE_SECONDS = 24 * 3600


@dataclass(frozen=True, kw_only=True)
class Heap:
    """Files that go for one reason. files: their paths, or their addresses in a store elsewhere."""

    files: tuple[str, ...] = ()
    bytes: int = 0

    @classmethod
    def of(cls, files: Iterable[Stored]) -> Self:
        found = list(files)
        return cls(
            files=tuple(file.name for file in found), bytes=sum(file.bytes for file in found)
        )

    def to_json(self) -> dict[str, int]:
        return {"count": len(self.files), "bytes": self.bytes}


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """Files that nobody needs, by reason.

    heaps: ``strays`` (no turn refers to them), ``copies`` (on this machine, of files that nobody
    needs in a store elsewhere), ``keyframes`` (no branch or tag goes through their states, or they
    are damaged), ``squashed`` (patches whose place a squash or merge has taken everywhere),
    ``unreachable`` (of turns that no branch or tag leads to). prunable: what is left there of the
    last two, since nobody asked for it to go.
    """

    heaps: Mapping[str, Heap]
    prunable: Heap
    removed: bool

    @property
    def files(self) -> list[str]:
        return [name for heap in self.heaps.values() for name in heap.files]

    @property
    def bytes(self) -> int:
        return sum(heap.bytes for heap in self.heaps.values())

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger gc --json``; fields are only ever added."""
        return {
            "files": self.files,
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
    # What is listed was there before the database is asked whether a turn refers to it.
    there = ledger.store.listed()
    damaged = _damaged_keyframes(ledger)
    left_before = datetime.fromtimestamp(time.time() - grace, UTC)
    with database.reading(ledger.engine) as session:
        survey = _survey(session, ledger, damaged, left_before)
    if not dry_run and (prune or survey.marked or survey.stale):
        with database.writing(ledger.engine) as session:
            # Whoever records a turn waits, or has recorded it before this look around.
            survey = _survey(session, ledger, damaged, left_before)
            _mark(session, ledger, survey, prune=prune)
    going = survey.going(prune=prune)
    oldest = time.time() - grace
    frames = {*survey.stale.values()} - survey.recorded
    strays = {
        digest: file
        for digest, file in there.items()
        if digest not in survey.recorded | frames and file.modified <= oldest
    }
    unfinished = _old(_unfinished(ledger), oldest)
    copies = ledger.store.copies()
    unused = _old([copies[d] for d in copies if d not in survey.recorded - going], oldest)
    garbage = Garbage(
        heaps={
            "strays": Heap.of([*strays.values(), *unfinished]),
            "copies": Heap.of(unused),
            "keyframes": _among(there, frames),
            "squashed": _among(there, going & survey.unneeded.squashed),
            "unreachable": _among(there, going & survey.unneeded.unreachable),
        },
        prunable=_among(there, survey.going(prune=True) - going),
        removed=not dry_run,
    )
    if not dry_run:
        for file in [*unfinished, *unused]:
            Path(file.name).unlink(missing_ok=True)
        _remove_empty(ledger.folder / INCOMING)
        _remove_strays(ledger, sorted(strays), oldest)
        for digest in frames & there.keys():
            ledger.store.remove(digest)
        _remove_given_up(ledger, sorted(going & there.keys()))
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
        journal.record(session, journal.PRUNE, list(given_up(session, some)), at=now)
    there = [
        blob.digest
        for blob in given_up(session, sorted(survey.marked - survey.going(prune=True)))
        if ledger.store.problem(blob.digest) is None
    ]
    restore(session, there)
    for keys in chunks(sorted(survey.stale)):
        session.execute(delete(KeyframeRow).where(KeyframeRow.key.in_(keys)))


def _remove_strays(ledger: Ledger, strays: Sequence[str], oldest: float) -> None:
    # Somebody may have put one of them again meanwhile, for a turn that is about to be recorded,
    # and will look whether it is there once nobody else writes.
    for some in chunks(strays):
        with database.writing(ledger.engine) as session:
            session.connection()
            for digest in some:
                file = ledger.store.stored(digest)
                if file is not None and file.modified <= oldest:
                    ledger.store.remove(digest)


def _remove_given_up(ledger: Ledger, digests: Sequence[str]) -> None:
    # Others may write in between. Somebody may have taken one of them into use again meanwhile, and
    # no longer can while they go.
    for some in chunks(digests):
        with database.writing(ledger.engine) as session:
            for blob in given_up(session, some):
                ledger.store.remove(blob.digest)


def _unfinished(ledger: Ledger) -> Iterator[Path]:
    """Files that writers are at, or that pulls have fetched and not recorded; or did until they
    were killed."""
    yield from sorted(ledger.store.folder.glob(".writing-*"))
    yield from sorted(p for p in (ledger.folder / INCOMING).rglob("*") if p.is_file())


def _old(paths: Iterable[Path], oldest: float) -> list[Stored]:
    """Those of the files that are still there, and were written before `oldest`."""
    found = (Stored.at(path) for path in paths)
    return [file for file in found if file is not None and file.modified <= oldest]


def _among(there: Mapping[str, Stored], digests: Collection[str]) -> Heap:
    """Those of the blobs that are there."""
    return Heap.of(there[digest] for digest in sorted(digests) if digest in there)


def _remove_empty(folder: Path) -> None:
    """Remove folders that hold no file, `folder` itself too."""
    for above, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            Path(above).rmdir()
