"""Where a published history is read from: a repository of the Hub, or a folder.

From the Hub, files are fetched one by one into ``incoming/`` of the ledger, by names that the
manifest may use; those that came before a fetch was cut off are still there the next time.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ledger.hub import Hub, check_repo, scrubbed
from ledger.models import split_revision
from ledger.sharing.manifest import MANIFEST, Manifest, parse_manifest
from ledger.sharing.signing import SIGNATURE, check_signature
from patches.errors import HubError, ManifestError

_LARGEST_MANIFEST = 1 << 30
INCOMING = "incoming"


class PublishedSource:
    """A published history that can be read file by file. name: what to call its branch.

    commit: of the repository; None for a folder. where: for messages.
    """

    def __init__(self, source: str, ledger_folder: Path) -> None:
        self.name, revision = split_revision(source)
        self.commit: str | None = None
        self._hub: Hub | None = None
        self._names: frozenset[str] = frozenset()
        local = Path(self.name).expanduser()
        if local.is_dir():
            self.folder = local.resolve()
            self.name = self.folder.name
            self.where = str(self.folder)
            return
        check_repo(self.name)
        self._hub = Hub()
        remote = self._hub.look(self.name, revision or "main")
        if remote is None:
            raise HubError(
                f"{scrubbed(source)}: no such folder here, and the Hub has no such repository or "
                "revision, or you have no access to it"
            )
        self.commit, self._names = remote.commit, frozenset(remote.files)
        self.where = f"{self.name}@{remote.commit[:12]}"
        place = self.name.replace("/", "--")
        self.folder = ledger_folder / INCOMING / place / remote.commit

    def forget(self) -> None:
        """Remove what was fetched of the repository; it has been taken over."""
        if self._hub is None:
            return
        shutil.rmtree(self.folder.parent, ignore_errors=True)
        with contextlib.suppress(OSError):  # of another repository, something may wait there
            self.folder.parent.parent.rmdir()

    def manifest(self) -> Manifest:
        """ManifestError if it is missing, malformed, or contradicts itself."""
        if not self._has(MANIFEST):
            raise ManifestError(
                f"{self.where}: holds no {MANIFEST}; is it a history, published with: "
                "ledger push --as patch?"
            )
        path = self.path(MANIFEST)
        if path.stat().st_size > _LARGEST_MANIFEST:
            raise ManifestError(f"{self.where}: {MANIFEST} is too large to be one")
        return parse_manifest(path.read_bytes(), f"{self.where}: {MANIFEST}")

    def _has(self, name: str) -> bool:
        """Whether there is a file `name`, good or not."""
        return name in self._names if self._hub is not None else (self.folder / name).exists()

    def path(self, name: str, *, again: bool = False) -> Path:
        """File `name` on this machine, fetched if it is not there yet. again: anew."""
        if self._hub is not None and self.commit is not None:
            return self._hub.download(self.name, self.commit, name, self.folder, again=again)
        path = self.folder / name
        # A link would let another file be read, though not be taken for this one.
        if not path.is_file() or path.is_symlink() or path.parent.is_symlink():
            raise ManifestError(f"{path}: is missing, or a link")
        return path

    def checked(self, name: str, digest: str) -> Path:
        """File `name`, whose bytes have this SHA-256; ManifestError if they have not."""
        path = self.path(name)
        found = _digest(path)
        if found != digest and self._hub is not None:
            # What an earlier, interrupted run has left may be at fault.
            path = self.path(name, again=True)
            found = _digest(path)
        if found != digest:
            raise ManifestError(
                f"{self.where}: file {name} is damaged or was altered: its SHA-256 is "
                f"{found[:12]}…, it should be {digest[:12]}…"
            )
        return path

    def check_signature(self, manifest: Manifest, key: Path) -> None:
        """ManifestError unless all files of the history are signed with that key's other half."""
        if not self._has(SIGNATURE):
            raise ManifestError(f"{self.where}: is not signed: it holds no {SIGNATURE}")
        signature = self.path(SIGNATURE)
        with self._only(manifest) as folder:
            check_signature(folder, signature, key, self.where)

    @contextmanager
    def _only(self, manifest: Manifest) -> Iterator[Path]:
        """A folder with the files of the history, and nothing else."""
        if self._hub is None:
            yield self.folder
            return
        with tempfile.TemporaryDirectory(dir=self.folder.parent) as temporary:
            folder = Path(temporary)
            names = {name: str(file["sha256"]) for name, file in manifest.files.items()}
            for name in (MANIFEST, *names):
                path = self.checked(name, names[name]) if name in names else self.path(name)
                goal = folder / name
                goal.parent.mkdir(exist_ok=True)
                os.link(path, goal)
            yield folder


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
