"""Keyframes: what a long row of patches adds up to, kept so that no state has to read them all.

A state is the sum of its patches in their order, from zero. A keyframe is that sum, in float64,
after some of them; to go on from it gives the same bits as to begin at zero. It is kept under a key
that says what it is the sum of,

    key(p₁ … pₙ) = sha256(kind, what the row belongs to, digest of p₁, …, digest of pₙ)

so it is never out of date: a history in which one of the patches is undone has other keys from
there on. The file is a patch of dense float64 deltas; for editor states, an editor state. All of
them are disposable: whatever is missing or damaged is added up anew.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sqlalchemy import delete, select
from torch import Tensor

from ledger import database, journal
from ledger.history import Step, chunks
from ledger.orm import KeyframeRow
from ledger.pruned import opened
from ledger.workspace import Ledger
from patches.application import total_change
from patches.deltas import Dense
from patches.errors import DatabaseError, StoreError
from patches.live import LiveModel
from patches.patch import Change, PatchFile, PatchHeader, encode_state, read_state, tensors_changed
from patches.patch_writer import write_patch

if TYPE_CHECKING:
    # Editors load transformers, which takes seconds; states that are written need none.
    from patches.editors import Editor

Kind = Literal["weights", "statistics"]
METHOD = "keyframe"
# A keyframe is worth its bytes once so many patches, as large as it is together, came since the
# last one; and at the latest after so many.
_EVERY, _AT_MOST = 64, 512
_EXACT = 8


class Key:
    """The key of a row of digests that grows."""

    def __init__(self, kind: Kind, owner: str) -> None:
        """owner: what the row belongs to: the base's fingerprint, or the editing method."""
        self._running = hashlib.sha256(f"{kind}\0{owner}\0".encode())

    def add(self, digest: str) -> str:
        """The key of the row with one more in it."""
        self._running.update(digest.encode())
        return self._running.copy().hexdigest()


def keys(kind: Kind, owner: str, digests: Iterable[str]) -> list[str]:
    """The key of every beginning of a row of digests."""
    key = Key(kind, owner)
    return [key.add(digest) for digest in digests]


@dataclass(frozen=True, kw_only=True)
class Found:
    """The keyframe of the first `count` of a row. path: of its file, which has been checked."""

    count: int
    path: Path


def find(ledger: Ledger, kind: Kind, row: Sequence[str]) -> Found | None:
    """The longest beginning of the row with these keys that has a keyframe."""
    with database.reading(ledger.engine) as session:
        known: dict[str, str] = {}
        # From the end: the newest keyframe is the one that is wanted.
        for some in chunks(list(reversed(row))):
            query = select(KeyframeRow.key, KeyframeRow.digest).where(
                KeyframeRow.key.in_(some), KeyframeRow.kind == kind
            )
            known |= dict(session.execute(query).all())
            if known:
                break
    for count in range(len(row), 0, -1):
        digest = known.get(row[count - 1])
        path = None if digest is None else ledger.store.checked(digest)
        if path is not None:
            return Found(count=count, path=path)
    return None


def due(patches: int, patch_bytes: int, frame_bytes: int) -> bool:
    """Whether a keyframe of `frame_bytes` is worth it after so many patches since the last one."""
    return patches >= _AT_MOST or (patches >= _EVERY and patch_bytes >= frame_bytes)


class Growing:
    """A row of patches that grows by a turn at a time, each of which may be due for a keyframe."""

    def __init__(self, ledger: Ledger, used: Sequence[Step]) -> None:
        self._ledger = ledger
        self._key = Key("weights", ledger.base.fingerprint)
        row = [self._key.add(step.patch_digest or "") for step in used]
        found = find(ledger, "weights", row)
        rest = used[0 if found is None else found.count :]
        self._patches = len(rest)
        self._bytes = sum(step.patch_bytes for step in rest)

    def grow(self, digest: str, patch_bytes: int, live: LiveModel) -> None:
        """The patch was added, and `live` is at the sum."""
        key = self._key.add(digest)
        self._patches += 1
        self._bytes += patch_bytes
        # Another device may sum to other last bits, which every later state would take over.
        on_cpu = live.device.type == "cpu"
        if on_cpu and due(self._patches, self._bytes, frame_bytes(live.shapes())):
            keep_weights(self._ledger, key, live.sums())
            self._patches = self._bytes = 0


def frame_bytes(shapes: Iterable[tuple[int, ...]]) -> int:
    """How large a keyframe of tensors of these shapes is, but for its header."""
    return sum(prod(shape) * _EXACT for shape in shapes)


def summed(patches: Sequence[PatchFile]) -> Iterator[tuple[str, Change]]:
    """The sums of `patches`, tensor by tensor, each built when asked for."""
    for name, transposed in tensors_changed(patches).items():
        total = total_change(patches, name)
        assert total is not None
        yield name, Change(delta=Dense(delta=total), transposed=transposed)


def keep_weights(ledger: Ledger, key: str, sums: Iterable[tuple[str, Change]]) -> str | None:
    """Keep a keyframe of the weights; the digest of its file, or None if it cannot be written.

    sums: tensor → its sum as a dense float64 change; one at a time is in memory.
    """
    header = PatchHeader(
        base=ledger.base.fingerprint, method=METHOD, hyperparameters={}, turn=0, parent=None
    )
    try:
        with ledger.store.arriving("a keyframe") as path:
            write_patch(path, header, sums)
            size = path.stat().st_size
            digest = ledger.store.keep(path)
        _record(ledger, "weights", key, digest, size)
    except (StoreError, DatabaseError):
        return None
    return digest


def folded_states(
    ledger: Ledger, editor: type["Editor"], digests: Sequence[str]
) -> list[Mapping[str, Tensor]]:
    """The editor states with these digests, the first of them folded into one if that was kept."""
    row = keys("statistics", editor.method, digests)
    found = find(ledger, "statistics", row)
    count = 0 if found is None else found.count
    states: list[Mapping[str, Tensor]] = []
    if found is not None:
        states.append(read_state(found.path))
    states += [read_state(opened(ledger, digest)) for digest in digests[count:]]
    if len(digests) - count >= _EVERY:
        states = [editor.folded(states)]
        keep_statistics(ledger, row[-1], editor.method, states[0])
    return states


def keep_statistics(ledger: Ledger, key: str, method: str, state: Mapping[str, Tensor]) -> None:
    """Keep what a row of editor states adds up to; nothing happens if it cannot be written."""
    data = encode_state(method, state)
    try:
        _record(ledger, "statistics", key, ledger.store.put(data), len(data))
    except (StoreError, DatabaseError):
        return


def _record(ledger: Ledger, kind: Kind, key: str, digest: str, size: int) -> None:
    now = datetime.now(UTC)
    with database.writing(ledger.engine) as session:
        # One that is there was damaged or lost, or someone else has just kept the same.
        session.execute(delete(KeyframeRow).where(KeyframeRow.key == key))
        row = KeyframeRow(key=key, kind=kind, digest=digest, bytes=size, created_at=now)
        session.add(row)
        journal.record(session, journal.KEYFRAME, [row], at=now)
