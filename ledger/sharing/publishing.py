"""Push a state to the Hub: prepared as a folder, compared with what is there, sent as one commit.

Nothing is on the Hub before the commit, and all of it is there after it. A push that was cut off
can be run again: what has been uploaded already is not sent twice, and what is there already makes
no new commit.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import select

from ledger import chain, database, history, journal
from ledger.hub import Hub, Remote, RemoteFile, check_repo
from ledger.models import split_revision
from ledger.orm import PublicationRow, TurnRow
from ledger.progress import Progress, silent
from ledger.sharing.signing import SIGNATURE, require_signing_library, signer
from ledger.sharing.staging import CARD, Push, staged
from ledger.turn import Turn
from ledger.turn import turns as turns_of
from ledger.workspace import MAIN, Ledger
from patches.checkpoint_writer import PROVENANCE_FILE
from patches.errors import DatabaseError, HubError
from patches.folder_swap import building, recover, translated
from patches.strict_json import read_strict_json

# What may lie in a repository to which nothing was pushed yet.
_HARMLESS = {".gitattributes", ".gitignore", CARD, "LICENSE", "LICENSE.md", "LICENSE.txt"}


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A push that can be sent. files: name → where its bytes are. changed, deleted: names.

    remote: what is there now; None: the repository is made first. new_branch: the branch is.
    """

    push: Push
    repo: str
    revision: str
    turn: TurnRow
    tag: str
    files: Mapping[str, Path]
    remote: Remote | None
    new_branch: bool
    changed: Sequence[str]
    deleted: Sequence[str]
    notes: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger push --dry-run --json``."""
        return {
            **self._common(),
            "dry_run": True,
            "new_repository": self.remote is None,
            "list": [
                {"name": name, "bytes": path.stat().st_size, "changed": name in self.changed}
                for name, path in self.files.items()
            ],
            "deleted": list(self.deleted),
        }

    def _common(self) -> dict[str, Any]:
        return {
            "repo": self.repo,
            "form": self.push.form,
            "revision": self.revision,
            "turn": self.turn.number,
            "hash": self.turn.hash,
            "tag": self.tag,
            "files": len(self.files),
            "bytes": sum(path.stat().st_size for path in self.files.values()),
            "changed_files": len(self.changed),
            "changed_bytes": sum(self.files[name].stat().st_size for name in self.changed),
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Pushed:
    """A push that was made. new: whether it needed a commit."""

    commit: str
    new: bool
    content: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger push --json``."""
        return {**self.content, "dry_run": False, "commit": self.commit, "new_commit": self.new}


@contextmanager
def prepared_push(ledger: Ledger, push: Push, *, progress: Progress = silent) -> Iterator[Prepared]:
    """Build what is to be pushed, and compare it with what is there; nothing is sent.

    HubError if the repository holds something else, or cannot be looked at; errors as of `apply`.
    The files are gone after the block.
    """
    if push.key is not None:
        require_signing_library()
    name, revision = split_revision(push.repo)
    repo, revision = check_repo(name), revision or ledger.branch
    with database.reading(ledger.engine) as session:
        turns = turns_of(session, ledger.branch)
        line = [turn.step for turn in turns]
        at = len(turns)
        if push.at is not None:
            at = history.number_on(session, ledger.branch, line, push.at)
    turn = history.find_turn(turns, at)
    tag = push.tag or _default_tag(ledger, turn.number)
    hub = Hub()
    remote = hub.look(repo, revision)
    # A new branch begins with what is on the main one.
    is_new = remote is None
    remote = remote or hub.look(repo, MAIN)
    with _stage(ledger) as stage:
        there = _Earlier()
        if remote is not None:
            there = _earlier(ledger, hub, repo, remote, push, turns, turn.number, stage / "there")
        if push.base_model is None and ledger.base.revision is None:
            push = replace(push, base_model=there.base_model)
        here = stage / "here"
        with translated("prepare the push in", ledger.folder):
            files, notes = staged(
                ledger, push, turns, turn.number, here, repo=repo, tag=tag, progress=progress
            )
        changed, deleted = _difference(files, remote, there.files, progress)
        # A signature is another one each time; only that of another key is a change.
        if remote is not None and changed == [SIGNATURE] and SIGNATURE in remote.files:
            earlier = hub.download(repo, remote.commit, SIGNATURE, stage / "there", again=False)
            changed = [] if signer(earlier) == signer(files[SIGNATURE]) else changed
        if push.private and remote is not None:
            notes = [*notes, "--private has a meaning only for a new repository; it was left as is"]
        found = Prepared(
            push=push,
            repo=repo,
            revision=revision,
            turn=turn.row,
            tag=tag,
            files=files,
            remote=remote,
            new_branch=is_new,
            changed=changed,
            deleted=deleted,
            notes=notes,
        )
        _check_tag(hub, found)
        yield found


@contextmanager
def _stage(ledger: Ledger) -> Iterator[Path]:
    """A folder to prepare a push in, gone after it; those of pushes that were killed go, too."""
    place = ledger.folder / "pushing"
    recover(place)
    with building(place) as folder:
        yield folder


def push(ledger: Ledger, what: Push, *, progress: Progress = silent) -> Pushed:
    """Prepare and send."""
    with prepared_push(ledger, what, progress=progress) as prepared:
        return send(ledger, prepared, progress=progress)


def send(ledger: Ledger, prepared: Prepared, *, progress: Progress = silent) -> Pushed:
    """Make the repository if need be, commit what has changed, tag it, and record the push.

    HubError if the Hub refuses, or somebody has committed meanwhile: then nothing of it is there.
    """
    hub = Hub()
    push, repo, revision = prepared.push, prepared.repo, prepared.revision
    remote = prepared.remote or _create(hub, repo, private=push.private)
    if prepared.new_branch and revision != MAIN:
        hub.create_branch(repo, revision, commit=remote.commit)
    commit = remote.commit
    new = bool(prepared.changed or prepared.deleted)
    if new:
        commit = _commit(hub, prepared, remote, progress)
    try:
        notes = [*prepared.notes, *_tag(hub, prepared, commit)]
        _record(ledger, prepared, commit)
    except (HubError, DatabaseError) as error:
        raise type(error)(
            f"{error}. Commit {commit[:12]} is on the Hub, but not tagged and recorded yet: the "
            "same command again does that, and sends nothing twice"
        ) from error
    content = {**prepared._common(), "notes": notes}
    return Pushed(commit=commit, new=new, content=content)


def _default_tag(ledger: Ledger, number: int) -> str:
    return f"turn-{number}" if ledger.branch == MAIN else f"{ledger.branch}-turn-{number}"


def _create(hub: Hub, repo: str, *, private: bool) -> Remote:
    hub.create(repo, private=private)
    made = hub.look(repo, MAIN)
    if made is None:
        raise HubError(f"{repo}: the Hub does not show it yet; run the command again")
    strangers = sorted(set(made.files) - _HARMLESS)
    if strangers:
        raise HubError(
            f"{repo} has got files meanwhile ({strangers[0]}); look at them, then run the command "
            "again"
        )
    return made


def _commit(hub: Hub, prepared: Prepared, remote: Remote, progress: Progress) -> str:
    turn = prepared.turn
    size = sum(prepared.files[name].stat().st_size for name in prepared.changed)
    progress("upload", 0, size)
    try:
        return hub.commit(
            prepared.repo,
            prepared.revision,
            parent=remote.commit,
            files={name: prepared.files[name] for name in prepared.changed},
            deletions=prepared.deleted,
            message=prepared.push.message or f"Turn {turn.number}: {turn.message or turn.kind}",
            told=lambda sent: progress("upload", min(sent, size), size),
        )
    except HubError:
        # An answer that got lost: the commit may be there all the same.
        now = None
        with suppress(HubError):
            now = hub.look(prepared.repo, prepared.revision)
        if now is not None and now.commit != remote.commit:
            changed, _ = _difference(prepared.files, now, frozenset(), silent)
            if not changed and not set(prepared.deleted) & set(now.files):
                return now.commit
        raise


def _tag(hub: Hub, prepared: Prepared, commit: str) -> list[str]:
    """Tag the commit, unless there is a tag of that name; what to tell about it."""
    tags = hub.tags(prepared.repo)
    if prepared.tag not in tags:
        try:
            hub.create_tag(
                prepared.repo, prepared.tag, commit=commit, message=prepared.turn.message
            )
            return []
        except HubError:
            # As above; or another push was faster.
            tags = hub.tags(prepared.repo)
            if prepared.tag not in tags:
                raise
    found = tags[prepared.tag]
    return [] if found == commit else [f"tag {prepared.tag} stays at commit {found[:12]}"]


@dataclass(frozen=True, kw_only=True)
class _Earlier:
    """What an earlier push has put into the repository, and the base model that it named."""

    files: frozenset[str] = frozenset()
    base_model: str | None = None


def _earlier(
    ledger: Ledger,
    hub: Hub,
    repo: str,
    remote: Remote,
    push: Push,
    turns: Sequence[Turn],
    at: int,
    folder: Path,
) -> _Earlier:
    """What is there already; HubError unless it came from this history, in this form."""
    if PROVENANCE_FILE not in remote.files:
        strangers = sorted(set(remote.files) - _HARMLESS)
        if strangers:
            raise HubError(
                f"{repo} holds files that no ledger has pushed ({strangers[0]}); push to a "
                "repository of its own"
            )
        return _Earlier()
    path = hub.download(repo, remote.commit, PROVENANCE_FILE, folder, again=False)
    try:
        content = read_strict_json(path)
        form, found, number = content.get("form", "model"), content["hash"], content["turn"]
        uri, revision = content["base"]["uri"], content["base"]["revision"]
        files = frozenset(str(name) for name in content["files"])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise HubError(f"{repo}: its {PROVENANCE_FILE} is damaged ({error!r})") from error
    if form != push.form:
        raise HubError(
            f"{repo} holds what was pushed --as {form}; push each form to a repository of its own"
        )
    with database.reading(ledger.engine) as session:
        known = session.scalar(select(TurnRow.id).where(TurnRow.hash == str(found)))
    if known is None:
        raise HubError(
            f"{repo} holds turn {number} of a history that is not in this ledger "
            f"({str(found)[:12]}…): ledger pull it first, or push to another repository"
        )
    if form == "patch" and found not in [turn.row.hash for turn in turns[:at]]:
        raise HubError(
            f"{repo} holds turn {number} already, which does not lead to turn {at}: what is "
            "published of a history is only added to; push to another repository or branch"
        )
    base_model = None if uri is None else f"{uri}@{revision}" if revision else str(uri)
    return _Earlier(files=files, base_model=base_model)


def _difference(
    files: Mapping[str, Path], remote: Remote | None, listed: Set[str], progress: Progress
) -> tuple[list[str], list[str]]:
    """Names of the files that are not there in this form, and of those to delete."""
    there = {} if remote is None else dict(remote.files)
    sizes = {name: path.stat().st_size for name, path in files.items()}
    alike = [name for name, size in sizes.items() if name in there and there[name].size == size]
    done, total = 0, sum(sizes[name] for name in alike)
    same = set()
    for name in alike:
        progress("digest", done, total)
        if _is_same(files[name], there[name]):
            same.add(name)
        done += sizes[name]
    return [name for name in files if name not in same], sorted((listed & set(there)) - set(files))


def _is_same(path: Path, there: RemoteFile) -> bool:
    """Whether a file of the same size has the same bytes."""
    size = there.size
    running = hashlib.sha256() if there.lfs else hashlib.sha1(f"blob {size}\0".encode())
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            running.update(piece)
    return running.hexdigest() == there.digest


def _check_tag(hub: Hub, prepared: Prepared) -> None:
    """HubError if a tag that was asked for names another commit already."""
    if prepared.push.tag is None or prepared.remote is None:
        return
    commit = hub.tags(prepared.repo).get(prepared.tag)
    stays = not prepared.changed and not prepared.deleted and commit == prepared.remote.commit
    if commit is not None and not stays:
        raise HubError(
            f"{prepared.repo} has a tag {prepared.tag} already, at commit {commit[:12]}; choose "
            "another --tag"
        )


def _record(ledger: Ledger, prepared: Prepared, commit: str) -> None:
    """Remember the push; one that changed nothing, and is known, is not recorded again."""
    row = PublicationRow(
        turn_id=prepared.turn.id,
        form=prepared.push.form,
        repo=prepared.repo,
        revision=prepared.revision,
        commit=commit,
        tag=prepared.tag,
        created_at=datetime.now(UTC),
    )
    same = select(PublicationRow.id).where(
        PublicationRow.turn_id == row.turn_id,
        PublicationRow.repo == row.repo,
        PublicationRow.revision == row.revision,
        PublicationRow.commit == commit,
        PublicationRow.tag == row.tag,
    )
    with database.writing(ledger.engine) as session:
        if session.scalar(same) is None:
            content = chain.publication_content(row, turn=prepared.turn.hash)
            row.hash = chain.content_hash(content)
            session.add(row)
            journal.record(session, journal.PUBLISH, [row], at=row.created_at)
