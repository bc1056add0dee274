"""Bring a published history into a ledger, or start a ledger with it.

Everything is fetched and checked first (base, chain of hashes, the bytes of every file, signature),
then one transaction records all turns.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import database
from ledger.edit_values import EditValues
from ledger.history import active_turns
from ledger.hub import check_repo
from ledger.initialising import init
from ledger.orm import RefRow, TurnRow
from ledger.progress import Progress, silent
from ledger.pruned import all_given_up
from ledger.recording import Blob
from ledger.refs import check_name
from ledger.sharing.manifest import EDITS, Manifest, PublishedTurn
from ledger.sharing.published_edits import read_published_edits
from ledger.sharing.published_source import INCOMING, PublishedSource
from ledger.sharing.receiving import Received, receive
from ledger.sharing.signing import require_signing_library
from ledger.turn import turns as turns_of
from ledger.workspace import CONFIG, FOLDER, MAIN, Ledger
from patches.errors import HistoryError, ManifestError
from patches.patch import PatchFile, read_state


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """What a pull brought. turns: numbers of the new ones, which have so many edits.

    completed: edits of other turns whose texts came now. withheld: of the new ones, without texts.

    bytes: of the patches and editor states that came: those of the new turns, and any that had been
    pruned here and are needed again.
    """

    source: str
    commit: str | None
    branch: str
    turn: int
    hash: str
    turns: list[int]
    edits: int
    completed: int
    withheld: int
    bytes: int
    signed: bool

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def pull(
    ledger: Ledger,
    source: str,
    *,
    branch: str | None = None,
    key: Path | None = None,
    progress: Progress = silent,
) -> Pulled:
    """Bring the history published at `source` (``owner/name[@rev]``, or a folder) into a branch.

    branch: a new one, or one that what is published goes on from; default, the repository's name.
    key: a public key; what is published must be signed with its other half. ManifestError if it is
    damaged, altered or for another base, HistoryError if the branch has turns that are not part of
    it, SettingError if a branch cannot be called so, HubError if it cannot be had; nothing is
    recorded then, and what was fetched is kept.
    """
    if key is not None:
        require_signing_library()
    opened = PublishedSource(source, ledger.folder)
    manifest = opened.manifest()
    _check_base(ledger, manifest, opened.where)
    name = branch or opened.name
    check_name(name)
    found = _compare(ledger, manifest, name)
    if key is not None:
        opened.check_signature(manifest, key)
    blobs = _fetch(ledger, opened, [*found.new, *found.given_up], progress)
    edits = _edits(opened, manifest)
    received = Received(blobs=blobs, edits=edits, head=found.head, moves=not found.is_ahead)
    completed = receive(ledger, manifest, found.new, name, received)
    opened.forget()
    counts = {turn.number: int(turn.content["edits"][0]) for turn in found.new}
    return Pulled(
        source=source,
        commit=opened.commit,
        branch=name,
        turn=manifest.turns[-1].number,
        hash=manifest.head,
        turns=list(counts),
        edits=sum(counts.values()),
        completed=completed,
        withheld=sum(count for number, count in counts.items() if number not in edits),
        bytes=sum(blob.bytes for blob in blobs.values()),
        signed=key is not None,
    )


def clone(
    source: str,
    *,
    folder: Path | None = None,
    model: str | None = None,
    database_url: str | None = None,
    store: str | None = None,
    key: Path | None = None,
    progress: Progress = silent,
) -> tuple[Ledger, Pulled]:
    """Start a ledger in `folder` (default: ``.ledger`` here) with a published history as its main.

    model: where the base model is; default, the Hub id that was published with it. Errors as of
    `init` and `pull`; nothing is left behind then.
    """
    folder = (folder or Path.cwd() / FOLDER).expanduser().resolve()
    if (folder / CONFIG).exists():
        # Perhaps of a clone that was killed, all but its turns.
        raise HistoryError(
            f"{folder} is a ledger already: bring the history into it with ledger pull {source} "
            f"--branch {MAIN}, or choose another folder with --ledger"
        )
    with TemporaryDirectory(prefix="ledger-") as temporary:
        opened = PublishedSource(source, Path(temporary))
        base = opened.manifest().base
    if model is None:
        if base["uri"] is None:
            raise ManifestError(
                f"{opened.where}: does not say where its base model is; name a copy of it with "
                f"--model (fingerprint {base['fingerprint']})"
            )
        model = check_repo(base["uri"]) + (f"@{base['revision']}" if base["revision"] else "")
    made = init(model, folder=folder, database_url=database_url, store=store, progress=progress)
    try:
        return made.ledger, pull(made.ledger, source, branch=MAIN, key=key, progress=progress)
    except BaseException:
        made.undo()
        # Still there if the folder was: in it, no ledger could be made again.
        shutil.rmtree(folder / INCOMING, ignore_errors=True)
        raise


def _check_base(ledger: Ledger, manifest: Manifest, where: str) -> None:
    """ManifestError, with what differs, unless the history is for the ledger's base model."""
    if manifest.base["fingerprint"] == ledger.base.fingerprint:
        return
    theirs = {name: (d, tuple(s), h) for name, (d, s, h) in manifest.base["tensors"].items()}
    ours = ledger.base.tensors
    differing = sorted(n for n in {*theirs, *ours} if theirs.get(n) != ours.get(n))
    name = manifest.base["uri"] or manifest.base["architecture"]
    raise ManifestError(
        f"{where}: is for another base model ({name}, fingerprint "
        f"{manifest.base['fingerprint'][:12]}…) than this ledger's {ledger.base.uri} "
        f"({ledger.base.fingerprint[:12]}…): {len(differing)} of {len(theirs)} tensors differ, "
        f"the first is {differing[0]}. Start a ledger for it: ledger clone"
    )


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """A published history beside a branch. new: turns that this ledger lacks. given_up: turns whose
    files were pruned here, though the state that is published needs them. head: row id of the
    branch's last turn. is_ahead: the branch has all of them, and perhaps more."""

    new: Sequence[PublishedTurn]
    given_up: Sequence[PublishedTurn]
    head: int | None
    is_ahead: bool


def _compare(ledger: Ledger, manifest: Manifest, branch: str) -> _Compared:
    """HistoryError if the branch has turns that are not part of the history, nor go on from it."""
    hashes = {turn.hash for turn in manifest.turns}
    with database.reading(ledger.engine) as session:
        ref = session.get(RefRow, branch)
        if ref is not None and ref.kind != "branch":
            raise HistoryError(f"{branch} is a tag; choose another name with --branch")
        turns = [] if ref is None else turns_of(session, branch)
        known = set(session.scalars(select(TurnRow.hash).where(TurnRow.hash.in_(hashes))))
        _check_places(session, ledger, manifest)
        ours = [turn.row.hash for turn in turns]
        head = turns[-1].row.id if turns else None
        pruned = all_given_up(session)
    is_ahead = manifest.head in ours
    if ours and not is_ahead and ours[-1] not in hashes:
        raise HistoryError(
            f"branch {branch} has turns that are not published there, from turn "
            f"{1 + sum(mine in hashes for mine in ours)} on; pull into another: --branch NAME"
        )
    new = [turn for turn in manifest.turns if turn.hash not in known]
    given_up = [
        turn
        for turn in _in_use(manifest)
        if not is_ahead and turn.hash in known and pruned & {*turn.blobs().values()}
    ]
    return _Compared(new=new, given_up=given_up, head=head, is_ahead=is_ahead)


def _in_use(manifest: Manifest) -> list[PublishedTurn]:
    """The turns that the published state is made from."""
    active = active_turns({turn.number: turn.content["undoes"] for turn in manifest.turns})
    replaced = {
        number
        for turn in manifest.turns
        if turn.number in active
        for number in turn.content.get("replaces", [])
    }
    return [turn for turn in manifest.turns if turn.number in active - replaced]


def _check_places(session: Session, ledger: Ledger, manifest: Manifest) -> None:
    """Of one ledger, branch and number there is one turn; and all of those made here are here."""
    origins = {turn.origin for turn in manifest.turns}
    query = select(TurnRow.origin, TurnRow.branch, TurnRow.number, TurnRow.hash)
    found = session.execute(query.where(TurnRow.origin.in_(origins)))
    made = {(origin, branch, number): known for origin, branch, number, known in found}
    for turn in manifest.turns:
        known = made.get((turn.origin, turn.content["branch"], turn.number))
        if known is None and turn.origin == ledger.base.ledger_id:
            raise HistoryError(
                f"turn {turn.number} there says that it was made in this ledger, which has "
                "no such turn; was this ledger restored from a backup?"
            )
        if known is not None and known != turn.hash:
            raise HistoryError(
                f"turn {turn.number} there is another one than the turn {turn.number} that is "
                f"here ({known[:12]}…), though both say that they were made in one ledger on "
                f"branch {turn.content['branch']}: that history was written anew. Clone it into a "
                "ledger of its own"
            )


def _fetch(
    ledger: Ledger, source: PublishedSource, new: Sequence[PublishedTurn], progress: Progress
) -> dict[str, Blob]:
    """Every patch and editor state of the new turns, checked and put into the store; by digest."""
    wanted = {name: digest for turn in new for name, digest in turn.blobs().items()}
    blobs = {}
    for done, (name, digest) in enumerate(wanted.items()):
        progress("fetch", done, len(wanted))
        path = ledger.store.checked(digest) or source.checked(name, digest)
        changes = _changes(ledger, path, source.where) if name.startswith("patches/") else {}
        content = path.read_bytes()
        if not changes:
            read_state(path)
        ledger.store.put(content)
        blobs[digest] = Blob(digest=digest, bytes=len(content), changes=changes)
    progress("fetch", len(wanted), len(wanted))
    return blobs


def _changes(ledger: Ledger, path: Path, where: str) -> dict[str, Any]:
    """What a patch says of itself; every delta is read, and must fit the base."""
    patch = PatchFile(path)
    if patch.header.base != ledger.base.fingerprint:
        raise ManifestError(
            f"{where}: patch {path.name} is for another base model "
            f"({patch.header.base[:12]}…, this is {ledger.base.fingerprint[:12]}…)"
        )
    described = {**patch.changes, **patch.memories}
    for name, info in described.items():
        recorded = ledger.base.tensors.get(name)
        if recorded is None or prod(recorded[1]) != prod(info.shape):
            raise ManifestError(
                f"{where}: patch {path.name} changes tensor {name} as {info.shape}, the base has "
                f"{'none' if recorded is None else recorded[1]}"
            )
        patch.delta(name)
    return {name: info.to_json() for name, info in described.items()}


def _edits(source: PublishedSource, manifest: Manifest) -> dict[int, list[EditValues]]:
    if EDITS not in manifest.files:
        return {}
    path = source.checked(EDITS, str(manifest.files[EDITS]["sha256"]))
    return read_published_edits(path, manifest.turns)
