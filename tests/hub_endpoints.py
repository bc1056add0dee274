"""The endpoints of the loopback Hub: what each request asks of the repositories, and the answer.

`ENDPOINTS` lists them all. Errors carry the codes by which the client tells them apart.
"""

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_repository import (
    Blob,
    Commit,
    Json,
    LargeFiles,
    Refused,
    Repository,
    card_problem,
    is_large,
    push,
)

TOKEN = "hf_" + "s3cret" * 5  # the one token that the Hub accepts
GITATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass
class Request:
    """One request, as it came; `status` is None as long as no answer was sent."""

    method: str
    path: str
    headers: dict[str, str]
    status: int | None = None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the Hub says to a request."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Call:
    """A request to one endpoint: the parts of its path, unquoted, and its body."""

    request: Request
    parts: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Json:
        found: Json = json.loads(self.body or b"{}")
        return found

    @property
    def query(self) -> dict[str, list[str]]:
        return parse_qs(urlsplit(self.request.path).query)


class Content:
    """Everything that is on one Hub."""

    def __init__(self, endpoint: str, folder: Path) -> None:
        self.endpoint = endpoint
        self.large = LargeFiles(folder)
        self.expected: dict[str, int] = {}  # SHA-256 and size of uploads that an LFS batch allowed
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lock = threading.RLock()

    def create(
        self,
        name: str,
        *,
        kind: str = "model",
        private: bool = False,
        files: Mapping[str, bytes] = MappingProxyType({}),
        oid: str | None = None,
    ) -> Repository:
        """A new repository with one commit of `files` (whose id is `oid`)."""
        repository = Repository(name, kind, private=private, lock=self.lock, large=self.large)
        blobs = {path: Blob.of(path, data) for path, data in files.items()}
        repository.record(blobs, "initial commit", oid=oid)
        self.repositories[kind, name] = repository
        return repository

    def repository(self, name: str, kind: str = "model") -> Repository:
        """The repository of that name, or KeyError."""
        return self.repositories[kind, name]


def _whoami(_hub: Content, _call: Call) -> Answer:
    return _json({"type": "user", "name": "tester", "orgs": [{"name": "team"}]})


def _create(hub: Content, call: Call) -> Answer:
    kind, name = _named(call.json)
    url = _url(hub, kind, name)
    if (kind, name) in hub.repositories:
        return _json({"error": f"You already created this {kind} repo", "url": url}, status=409)
    private = call.json.get("visibility") == "private"
    hub.create(name, kind=kind, private=private, files={".gitattributes": GITATTRIBUTES})
    return _json({"url": url, "name": name})


def _delete(hub: Content, call: Call) -> Answer:
    if hub.repositories.pop(_named(call.json), None) is None:
        raise Refused(404, "Repository not found", "RepoNotFound")
    return _json({})


def _named(body: Json) -> tuple[str, str]:
    return body.get("type") or "model", f"{body.get('organization') or 'tester'}/{body['name']}"


def _validate(_hub: Content, call: Call) -> Answer:
    problem, warning = card_problem(call.json["content"])
    said = {"errors": [{"message": problem}] if problem else []}
    said["warnings"] = [{"message": warning}] if warning else []
    return _json(said, status=400 if problem else 200)


def _information(hub: Content, call: Call) -> Answer:
    repository, commit = _found(hub, call)
    expand = call.query.get("expand", [])
    return _json(repository.information(commit, with_blobs="blobs" in call.query, expand=expand))


def _tree(hub: Content, call: Call) -> Answer:
    repository, commit = _found(hub, call)
    below = f"{call.parts['path']}/" if call.parts.get("path") else ""
    found = [entry for entry in commit.tree() if entry["path"].startswith(below)]
    if below and not found:
        raise Refused(404, f"{below} does not exist on {commit.oid}", "EntryNotFound")
    if call.query.get("recursive") != ["true"]:
        found = [entry for entry in found if "/" not in entry["path"].removeprefix(below)]
    return _json(_expanded(found, repository, commit, call.query))


def _paths_info(hub: Content, call: Call) -> Answer:
    repository, commit = _found(hub, call)
    form = "form" in call.request.headers.get("content-type", "")
    asked = parse_qs(call.body.decode()) if form else call.json
    found = [entry for entry in commit.tree() if entry["path"] in asked.get("paths", [])]
    return _json(_expanded(found, repository, commit, asked))


def _expanded(found: list[Json], repository: Repository, commit: Commit, asked: Json) -> list[Json]:
    if asked.get("expand") not in (["true"], True):
        return found
    return [{**e, "lastCommit": repository.last_change(e["path"], commit)} for e in found]


def _commits(hub: Content, call: Call) -> Answer:
    repository, commit = _found(hub, call)
    return _json([earlier.entry() for earlier in repository.commits(commit.oid)])


def _references(hub: Content, call: Call) -> Answer:
    return _json(_found(hub, call)[0].references())


def _create_tag(hub: Content, call: Call) -> Answer:
    repository, commit = _found(hub, call)
    return _name(repository.tags, call.json["tag"], commit)


def _create_branch(hub: Content, call: Call) -> Answer:
    repository, _ = _found(hub, call)
    commit = repository.find(call.json.get("startingPoint") or "main")
    return _name(repository.branches, call.parts["new"], commit)


def _name(names: dict[str, str], name: str, commit: Commit) -> Answer:
    if name in names:
        raise Refused(409, "Reference exists already")
    names[name] = commit.oid
    return _json({})


def _delete_tag(hub: Content, call: Call) -> Answer:
    return _forget(_found(hub, call)[0].tags, call.parts["old"])


def _delete_branch(hub: Content, call: Call) -> Answer:
    if call.parts["old"] == "main":
        raise Refused(403, "The main branch cannot be deleted")
    return _forget(_found(hub, call)[0].branches, call.parts["old"])


def _forget(names: dict[str, str], name: str) -> Answer:
    if names.pop(name, None) is None:
        raise Refused(404, f"Invalid rev id: {name}", "RevisionNotFound")
    return _json({})


def _preupload(hub: Content, call: Call) -> Answer:
    blobs = _found(hub, call)[1].blobs
    files: list[Json] = []
    for file in call.json["files"]:
        path = file["path"]
        mode = "lfs" if is_large(path, file["size"]) else "regular"
        files.append({"path": path, "uploadMode": mode, "shouldIgnore": False})
        if path in blobs:
            files[-1]["oid"] = blobs[path].etag
    return _json({"files": files})


def _batch(hub: Content, call: Call) -> Answer:
    objects = []
    for wanted in call.json["objects"]:
        known = {"oid": wanted["oid"], "size": wanted["size"]}
        if hub.large.get(wanted["oid"]) is None:
            hub.expected[wanted["oid"]] = wanted["size"]
            href = f"{hub.endpoint}/storage/{wanted['oid']}"
            known["actions"] = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
        objects.append(known)
    return _json({"transfer": "basic", "objects": objects})


def _store(hub: Content, call: Call) -> Answer:
    oid = call.parts["oid"]
    if oid not in hub.expected:
        raise Refused(403, "no LFS batch has asked for this upload")
    if len(call.body) != hub.expected[oid] or sha256(call.body).hexdigest() != oid:
        raise Refused(400, "the content is not the one announced")
    hub.large.put(oid, call.body)
    return Answer()


def _verify(hub: Content, call: Call) -> Answer:
    data = hub.large.get(call.json["oid"])
    if data is None or len(data) != call.json["size"]:
        raise Refused(404, "the object is not there")
    return _json({})


def _xet_token(hub: Content, _call: Call) -> Answer:
    return _json({"accessToken": "of-no-use", "exp": 2**33, "casUrl": hub.large.new_store()})


def _commit(hub: Content, call: Call) -> Answer:
    repository, _ = _found(hub, call)
    lines = [json.loads(line) for line in call.body.splitlines()]
    commit = push(repository, call.parts["revision"], lines)
    url = _url(hub, repository.kind, repository.name)
    answer = {"success": True, "commitOid": commit.oid, "commitUrl": f"{url}/commit/{commit.oid}"}
    return _json(answer)


def _resolve(hub: Content, call: Call) -> Answer:
    _, commit = _found(hub, call)
    headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
    blob = commit.blobs.get(call.parts["path"])
    if blob is None:
        problem = f"{call.parts['path']} does not exist on {commit.oid}"
        raise Refused(404, problem, "EntryNotFound", **headers)
    headers["ETag"] = f'"{blob.etag}"'
    size = len(blob.data)
    if blob.lfs:
        headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(size)}
    asked = re.fullmatch(r"bytes=(\d*)-(\d*)", call.request.headers.get("range", ""))
    if not asked:
        return Answer(body=blob.data, headers=headers)
    first, last = asked.groups()
    start = int(first) if first else max(size - int(last), 0)
    end = min(int(last) + 1, size) if first and last else size
    if start >= end:
        raise Refused(416, "no such range", **{**headers, "Content-Range": f"bytes */{size}"})
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    return Answer(status=206, body=blob.data[start:end], headers=headers)


API = "/api/(?P<kind>model|dataset|space)s/(?P<name>[^/]+/[^/]+)"
WEB = "(?:/(?P<kind>dataset|space)s)?/(?P<name>[^/]+/[^/]+?)"
REVISION = "(?P<revision>[^/]+)"
# Method, path, what it needs (a token to write, the repository to be visible, or nothing), and who
# answers.
ENDPOINTS: list[tuple[str, str, str, Callable[[Content, Call], Answer]]] = [
    ("GET", "/api/whoami-v2", "write", _whoami),
    ("POST", "/api/repos/create", "write", _create),
    ("DELETE", "/api/repos/delete", "write", _delete),
    ("POST", "/api/validate-yaml", "nothing", _validate),
    ("GET", f"{API}(?:/revision/{REVISION})?", "read", _information),
    ("GET", f"{API}/tree/{REVISION}(?:/(?P<path>.+))?", "read", _tree),
    ("POST", f"{API}/paths-info/{REVISION}", "read", _paths_info),
    ("GET", f"{API}/commits/{REVISION}", "read", _commits),
    ("GET", f"{API}/refs", "read", _references),
    ("POST", f"{API}/tag/{REVISION}", "write", _create_tag),
    ("DELETE", f"{API}/tag/(?P<old>[^/]+)", "write", _delete_tag),
    ("POST", f"{API}/branch/(?P<new>[^/]+)", "write", _create_branch),
    ("DELETE", f"{API}/branch/(?P<old>[^/]+)", "write", _delete_branch),
    ("POST", f"{API}/preupload/{REVISION}", "write", _preupload),
    ("POST", f"{API}/commit/{REVISION}", "write", _commit),
    ("GET", f"{API}/xet-write-token/{REVISION}", "write", _xet_token),
    ("POST", rf"{WEB}\.git/info/lfs/objects/batch", "write", _batch),
    ("PUT", "/storage/(?P<oid>[0-9a-f]{64})", "nothing", _store),
    ("POST", "/storage/[0-9a-f]{64}/verify", "write", _verify),
    ("GET", f"{WEB}/resolve/{REVISION}/(?P<path>.+)", "read", _resolve),
]


def respond(hub: Content, request: Request, body: bytes) -> Answer:
    """Find the endpoint, check that the request may use it, and ask it."""
    method = "GET" if request.method == "HEAD" else request.method
    path = urlsplit(request.path).path
    try:
        for wanted, pattern, need, endpoint in ENDPOINTS:
            if wanted == method and (match := re.fullmatch(pattern, path)):
                parts = {k: unquote(v) for k, v in match.groupdict().items() if v is not None}
                if "name" in parts:
                    parts.setdefault("kind", "model")
                _authorise(hub, request, parts, need)
                return endpoint(hub, Call(request=request, parts=parts, body=body))
        raise Refused(404, "Sorry, we can't find the page you are looking for.")
    except Refused as refused:
        return refusal(refused)


def _authorise(hub: Content, request: Request, parts: Mapping[str, str], need: str) -> None:
    """Refuse as the real Hub does: to who is not logged in, what is absent looks like private."""
    given = request.headers.get("authorization")
    if need == "nothing":
        return
    if given not in (None, f"Bearer {TOKEN}"):
        raise Refused(401, "Invalid credentials in Authorization header")
    if "name" not in parts:
        visible, code = True, None
    else:
        repository = hub.repositories.get((parts["kind"], parts["name"]))
        visible = repository is not None and (given is not None or not repository.private)
        # For such a path the client takes any 401 as this, but over https only.
        code = "RepoNotFound"
    if given is None and (need == "write" or not visible):
        raise Refused(401, "Invalid username or password.", code)
    if not visible:
        raise Refused(404, "Repository not found", code)


def _found(hub: Content, call: Call) -> tuple[Repository, Commit]:
    repository = hub.repositories[call.parts["kind"], call.parts["name"]]
    return repository, repository.find(call.parts.get("revision", "main"))


def _url(hub: Content, kind: str, name: str) -> str:
    return f"{hub.endpoint}/{name}" if kind == "model" else f"{hub.endpoint}/{kind}s/{name}"


def _json(value: object, *, status: int = 200) -> Answer:
    headers = {"Content-Type": "application/json; charset=utf-8"}
    return Answer(status=status, body=json.dumps(value).encode(), headers=headers)


def refusal(refused: Refused) -> Answer:
    answer = _json({"error": refused.message}, status=refused.status)
    headers = {**answer.headers, **refused.headers}
    headers["X-Error-Message"] = refused.message.encode("ascii", "replace").decode()
    if refused.code:
        headers["X-Error-Code"] = refused.code
    return Answer(status=refused.status, body=answer.body, headers=headers)
