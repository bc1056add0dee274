"""The Hub, through its own client: the one place where its errors become ours.

Tokens are the client's (``hf auth login``, or HF_TOKEN): this program never takes, stores or
prints one. The client is imported when a Hub is first asked.
"""

import errno
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patches.errors import HubError

_REPO = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
# Tokens, of OAuth too; what follows "Bearer"; and a password in an address.
_SECRET = re.compile(
    r"\bhf_oauth_[\w.-]{20,}|\b(?:hf|api_org)_[A-Za-z0-9]{20,}"
    r"|(?i:bearer)\s+\S+|(?<=://)[^/@\s]+@"
)
# Who has the query of an address in the Hub's storage may read or write there.
_QUERY = re.compile(r"(?<=://)([^\s?'\"]+)\?[^\s'\"]*")
_LONGEST_REASON = 300
_ADVICE = {
    400: "the Hub does not accept what was sent",
    401: "log in with: hf auth login, or set HF_TOKEN",
    403: "your token may not do that here; check its permissions and the repository's owner",
    404: "check the name, and that you have access",
    409: "it exists already, or is being changed; try again",
    412: "someone else has committed meanwhile; look at what changed, then run the command again",
    413: "a file is larger than the Hub takes",
    416: "the file on the Hub has changed; run the command again",
    429: "the Hub asks to wait{wait}; run the command again then",
}


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file of a repository. digest: its SHA-256 if it is stored as LFS, else git's blob id."""

    size: int
    digest: str
    lfs: bool


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A branch of a repository, or another revision, as it was when it was asked for."""

    commit: str
    files: Mapping[str, RemoteFile]


class Hub:
    """Repositories of models on the Hub."""

    def __init__(self) -> None:
        from huggingface_hub import HfApi

        self._api = HfApi(library_name="edit-ledger")

    def look(self, repo: str, revision: str) -> Remote | None:
        """What is at a revision of a repository; None if there is no such repository or revision,
        or nothing was ever committed."""
        from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

        with asking(repo):
            try:
                info = self._api.model_info(repo, revision=revision, files_metadata=True)
            except RevisionNotFoundError:
                return None
            except RepositoryNotFoundError as error:
                # An address that does not exist and one that is private look the same to it.
                if error.response is not None and error.response.status_code == 401:
                    raise
                return None
        if info.sha is None:
            return None
        files = {}
        for sibling in info.siblings or ():
            lfs = sibling.lfs
            digest = lfs.sha256 if lfs else sibling.blob_id
            files[sibling.rfilename] = RemoteFile(
                size=sibling.size or 0, digest=digest or "", lfs=bool(lfs)
            )
        return Remote(commit=info.sha, files=files)

    def create(self, repo: str, *, private: bool) -> None:
        """Make the repository if it is not there."""
        with asking(repo):
            self._api.create_repo(repo, private=private or None, exist_ok=True)

    def create_branch(self, repo: str, branch: str, *, commit: str) -> None:
        """Make a branch that begins at `commit`, if it is not there."""
        with asking(repo):
            self._api.create_branch(repo, branch=branch, revision=commit, exist_ok=True)

    def tags(self, repo: str) -> dict[str, str]:
        """Tag → the commit that it names."""
        with asking(repo):
            refs = self._api.list_repo_refs(repo)
        return {tag.name: tag.target_commit for tag in refs.tags}

    def create_tag(self, repo: str, tag: str, *, commit: str, message: str) -> None:
        with asking(repo):
            self._api.create_tag(repo, tag=tag, revision=commit, tag_message=message)

    def commit(
        self,
        repo: str,
        branch: str,
        *,
        parent: str | None,
        files: Mapping[str, Path | bytes],
        deletions: Sequence[str],
        message: str,
        told: Callable[[int], None] = lambda _sent: None,
    ) -> str:
        """One commit with all of it, on top of `parent` or not at all; its id.

        told: gets the bytes of large files that are there by now; from any thread, never from two
        at once.
        """
        from huggingface_hub import CommitOperationDelete

        from ledger.uploading import Addition, Read, counting

        read = Read(told)
        operations: list[Any] = [
            Addition(path_in_repo=name, path_or_fileobj=content, read=read)
            for name, content in files.items()
        ]
        operations += [CommitOperationDelete(path_in_repo=name) for name in deletions]
        title, _, description = message.strip().partition("\n")
        with asking(repo), counting(told):
            made = self._api.create_commit(
                repo,
                operations,
                commit_message=title,
                commit_description=description.strip(),
                revision=branch,
                parent_commit=parent,
            )
        return str(made.oid)

    def download(self, repo: str, commit: str, name: str, folder: Path, *, again: bool) -> Path:
        """Bring one file into `folder`, under its own name, unless it is there already.

        again: do not trust what is there from an earlier time.
        """
        with asking(repo, name):
            return Path(
                self._api.hf_hub_download(
                    repo, name, revision=commit, local_dir=folder, force_download=again
                )
            )


def check_address(address: str) -> None:
    """HubError, without showing it, if a token or a password is in it where a name is expected."""
    # Where a password ends in a URL, a revision seems to begin: what is left is not recognised.
    if "://" in address or scrubbed(address) != address:
        raise HubError(
            "what should be the name of a repository is a URL, or has a token in it; log in with "
            "hf auth login, and write OWNER/NAME"
        )


def check_repo(repo: str) -> str:
    """The id of a repository; HubError if it is none."""
    check_address(repo)
    if not _REPO.fullmatch(repo) or ".." in repo or "--" in repo or repo.endswith(".git"):
        raise HubError(f"{repo}: not the id of a repository; write OWNER/NAME")
    return repo


@contextmanager
def asking(repo: str, name: str | None = None) -> Iterator[None]:
    """Inside, whatever the client raises becomes a HubError that says what to do."""
    try:
        yield
    # The client raises its own errors, OSError, ValueError and those of its HTTP library, which is
    # another one from version to version: no shorter list covers them.
    except Exception as error:
        what = repo if name is None else f"{repo}, file {name}"
        raise HubError(f"{what}: {hub_reason(error)}") from None


def hub_reason(error: BaseException) -> str:
    """What the client's error means and what to do, in one sentence without secrets."""
    from huggingface_hub.errors import HFValidationError, OfflineModeIsEnabled

    refusal = _refusal(error)
    if refusal is not None:
        return _refused(refusal)
    if isinstance(error, OSError) and error.errno is not None:
        reason = f"{error.strerror or error} ({error.filename or 'on this machine'})"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason += "; free some space and run the command again"
        elif error.errno == errno.ENOENT:
            reason += "; another command may have removed it, run this one again"
        return scrubbed(reason)
    if isinstance(error, OfflineModeIsEnabled):
        return "the Hub is switched off by HF_HUB_OFFLINE; unset it and run the command again"
    if isinstance(error, HFValidationError):
        return scrubbed(f"{_first_line(error)}; write OWNER/NAME")
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    found = f"{type(root).__name__}: {_first_line(root)}"
    if isinstance(root, ValueError | LookupError | TypeError):
        return scrubbed(f"the client cannot use what the Hub answers ({found}); is it a Hub?")
    return scrubbed(
        f"the Hub does not answer ({found}); check the network and run the command again"
    )


def _refusal(error: BaseException) -> BaseException | None:
    """The error with the Hub's answer, of all that led to this one."""
    seen: set[int] = set()
    one: BaseException | None = error
    while one is not None and id(one) not in seen:
        if getattr(one, "response", None) is not None:
            return one
        seen.add(id(one))
        one = one.__cause__ or one.__context__
    return None


def _refused(error: Any) -> str:
    """What the answer says, and what its status asks for."""
    status = int(error.response.status_code)
    if status in _ADVICE:
        advice = _ADVICE[status].format(wait=_wait(error.response.headers))
    elif status >= 500:
        advice = "the Hub has a problem of its own; run the command again later"
    else:
        advice = "check the name and your access"
    said = str(getattr(error, "server_message", None) or "").strip()
    # Storage answers in XML.
    reason = _first_line(error) if not said or said.startswith("<") else said.splitlines()[0]
    reason = scrubbed(reason)[:_LONGEST_REASON].rstrip(".")
    return f"the Hub answers {status} ({reason}): {advice}"


def _wait(headers: Mapping[str, str]) -> str:
    """How long the Hub asks to wait."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    limit, said = parse_ratelimit_headers(headers), headers.get("Retry-After", "")
    if limit is not None and limit.remaining == 0:
        said = str(limit.reset_in_seconds)
    return f" {said} s" if said.isdecimal() else said and f" until {said}"


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def scrubbed(text: str) -> str:
    """`text` without anything that could be a token or a password."""
    from huggingface_hub import get_token

    token = get_token()
    if token:
        text = text.replace(token, "***")
    return _QUERY.sub(r"\1", _SECRET.sub("***", text))
