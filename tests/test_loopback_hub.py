"""The loopback Hub, driven with the real client: if this fails, no test against it means much."""

import json
import socket
import time
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    close_session,
    constants,
)
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils._http import get_session, http_backoff

from tests.loopback_hub import TOKEN, Hub, run_against, serve_hub

REPO = "team/model"
WEIGHTS = b"weights" * 1000
LARGE = "model.safetensors"

# The client passes a file to its HTTP library in a way that this calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")


@pytest.fixture(autouse=True)
def quick_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The client of this process: LFS, no waiting between tries, no request to the real Hub."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setitem(http_backoff.__kwdefaults__ or {}, "base_wait_time", 0)
    yield
    close_session()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub() as hub:
        yield hub


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.endpoint, token=TOKEN)


def add(**files: bytes) -> list[CommitOperationAdd]:
    """Operations that add files; ``__`` stands for a dot."""
    named = {name.replace("__", "."): data for name, data in files.items()}
    return [CommitOperationAdd(path_in_repo=name, path_or_fileobj=b) for name, b in named.items()]


def asked(hub: Hub, method: str, path: str) -> list[int | None]:
    """Status of every request with that method and part of a path."""
    return [r.status for r in hub.requests if r.method == method and path in r.path]


def test_a_created_repository_begins_with_gitattributes_and_is_deleted(
    hub: Hub, api: HfApi
) -> None:
    assert api.create_repo(REPO, repo_type="dataset", private=True).repo_id == REPO
    assert api.create_repo(REPO, repo_type="dataset", exist_ok=True).repo_type == "dataset"
    with pytest.raises(HfHubHTTPError, match="already created"):
        api.create_repo(REPO, repo_type="dataset")
    assert hub.repository(REPO, "dataset").private
    assert set(hub.repository(REPO, "dataset").files()) == {".gitattributes"}
    api.delete_repo(REPO, repo_type="dataset")
    assert not api.repo_exists(REPO, repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(REPO, repo_type="dataset")


def test_a_commit_has_its_files_message_and_parent(hub: Hub, api: HfApi) -> None:
    repository = hub.create(REPO, files={"old.txt": b"old", "folder/a": b"a", "folder/b": b"b"})
    before = repository.branches["main"]
    card = b"---\nlicense: mit\n---\n"
    info = api.create_commit(
        REPO,
        [
            *add(README__md=card, model__safetensors=WEIGHTS, empty__safetensors=b""),
            CommitOperationDelete("old.txt"),
            CommitOperationDelete("folder/"),
        ],
        commit_message="title",
        commit_description="more\nof it",
        parent_commit=before,
    )
    expected = {"README.md": card, LARGE: WEIGHTS, "empty.safetensors": b""}
    assert repository.files() == repository.files(info.oid) == expected
    newest, oldest = repository.commits()
    assert (newest.oid, newest.title, newest.description) == (info.oid, "title", "more\nof it")
    assert (newest.parent, oldest.oid, oldest.parent) == (before, before, None)
    assert [c.commit_id for c in api.list_repo_commits(REPO)] == [info.oid, before]
    assert info.commit_url == f"{hub.endpoint}/{REPO}/commit/{info.oid}"


def test_what_is_there_already_is_not_sent_again(hub: Hub, api: HfApi) -> None:
    files = {LARGE: WEIGHTS, "config.json": b"{}"}
    hub.create(REPO, files=files)
    first = api.create_commit(
        REPO, add(model__safetensors=WEIGHTS, config__json=b"{}"), commit_message="the same"
    )
    assert first.oid == hub.repository(REPO).branches["main"]
    assert not asked(hub, "POST", "/commit/")
    hub.create("team/other")
    for name in (REPO, "team/other", "team/other"):
        api.create_commit(name, add(new__safetensors=b"new", c=name.encode()), commit_message="new")
    assert len(asked(hub, "PUT", "/storage/")) == 1
    assert len(hub.repository("team/other").commits()) == 2


def test_a_commit_on_a_stale_parent_is_refused(hub: Hub, api: HfApi) -> None:
    repository = hub.create(REPO)
    parent = repository.branches["main"]
    hub.after("POST", "/preupload/", partial(repository.commit, {"theirs": b"1"}))
    with pytest.raises(HfHubHTTPError) as refused:
        api.create_commit(REPO, add(ours=b"2"), commit_message="ours", parent_commit=parent)
    assert refused.value.response.status_code == 412
    assert repository.files() == {"theirs": b"1"}
    assert [commit.title for commit in repository.commits()] == ["by hand", "initial commit"]


def test_only_content_that_was_stored_can_be_committed(hub: Hub, api: HfApi) -> None:
    hub.create(REPO, files={"a": b"a"})
    operation = add(model__safetensors=WEIGHTS)[0]
    operation._upload_mode, operation._is_uploaded = "lfs", True
    with pytest.raises(BadRequestError, match="LFS pointer"):
        api.create_commit(REPO, [operation], commit_message="never stored")
    url = f"{hub.endpoint}/storage/{sha256(WEIGHTS).hexdigest()}"
    assert get_session().put(url, content=WEIGHTS).status_code == 403
    hub.fail("PUT", "/storage/", status=400)
    with pytest.raises(RuntimeError, match="Error while uploading"):
        api.create_commit(REPO, add(model__safetensors=WEIGHTS), commit_message="not stored")
    assert get_session().put(url, content=WEIGHTS[:-1] + b"?").status_code == 400
    assert get_session().put(url, content=WEIGHTS).status_code == 200
    with pytest.raises(RemoteEntryNotFoundError, match="doesn't exist"):
        api.delete_file("absent", REPO)
    assert hub.repository(REPO).files() == {"a": b"a"}


def test_revisions_are_branches_tags_and_commits(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    repository = hub.create(REPO, files={"a": b"1"})
    first = repository.branches["main"]
    api.create_branch(REPO, branch="tests/one")
    api.create_tag(REPO, tag="turn/1", revision=first[:7], tag_message="the first")
    second = repository.commit({"a": b"2"})
    third = api.create_commit(REPO, add(a=b"3"), commit_message="3", revision="tests/one").oid
    assert repository.branches == {"main": second, "tests/one": third}
    assert repository.tags == {"turn/1": first}
    refs = api.list_repo_refs(REPO)
    assert {b.name: b.target_commit for b in refs.branches} == repository.branches
    assert {t.name: t.target_commit for t in refs.tags} == repository.tags
    for revision, data in [("turn/1", b"1"), (second, b"2"), (third[:8], b"3"), ("main", b"2")]:
        path = api.hf_hub_download(REPO, "a", revision=revision, cache_dir=tmp_path)
        assert Path(path).read_bytes() == data
    for again in (
        partial(api.create_branch, REPO, branch="main"),
        partial(api.create_tag, REPO, tag="turn/1"),
    ):
        again(exist_ok=True)
        with pytest.raises(HfHubHTTPError, match="409"):
            again()
    api.delete_branch(REPO, branch="tests/one")
    api.delete_tag(REPO, tag="turn/1")
    with pytest.raises(RevisionNotFoundError):
        api.delete_tag(REPO, tag="turn/1")
    with pytest.raises(RevisionNotFoundError):
        api.create_commit(REPO, add(a=b"4"), commit_message="4", revision="tests/one")
    assert (list(repository.branches), repository.tags) == (["main"], {})


def test_listings_tell_ids_that_the_client_computes_itself(hub: Hub, api: HfApi) -> None:
    readme = b"---\nlicense: mit\ntags: [edited]\n---\n"
    repository = hub.create(REPO, files={"README.md": readme, "a/b/c.txt": b"hello\n"})
    first = repository.branches["main"]
    repository.commit({LARGE: WEIGHTS})
    info = api.model_info(REPO, files_metadata=True)
    assert (info.sha, info.tags) == (repository.branches["main"], ["edited"])
    assert info.card_data is not None
    assert info.card_data["license"] == "mit"
    siblings = {s.rfilename: s for s in info.siblings or []}
    assert siblings["a/b/c.txt"].blob_id == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert siblings["a/b/c.txt"].lfs is None
    lfs = siblings[LARGE].lfs
    assert lfs is not None
    assert (lfs.sha256, lfs.size) == (sha256(WEIGHTS).hexdigest(), len(WEIGHTS))
    assert api.model_info(REPO, revision=first, expand=["sha"]).siblings is None
    top = [e.path for e in api.list_repo_tree(REPO)]
    assert top == ["a", "README.md", LARGE]
    assert [e.path for e in api.list_repo_tree(REPO, "a/b")] == ["a/b/c.txt"]
    assert set(api.list_repo_files(REPO)) == set(repository.files())
    found = api.get_paths_info(REPO, ["a", LARGE, "absent"], expand=True)
    oids = [e.last_commit.oid for e in found if e.last_commit]
    assert oids == [first, repository.branches["main"]]
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(REPO, "absent"))


def test_downloads_are_the_bytes_also_in_parts(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    files = {LARGE: WEIGHTS, "a/b.txt": b"hello"}
    oid = hub.create(REPO, files=files).branches["main"]
    folder = Path(api.snapshot_download(REPO, local_dir=tmp_path / "all"))
    assert {name: (folder / name).read_bytes() for name in files} == files
    url = f"{hub.endpoint}/{REPO}/resolve/main/{LARGE}"
    head = get_session().head(url)
    assert (head.headers["X-Repo-Commit"], head.content) == (oid, b"")
    assert head.headers["X-Linked-Etag"] == f'"{sha256(WEIGHTS).hexdigest()}"'
    assert head.headers["X-Linked-Size"] == head.headers["Content-Length"] == str(len(WEIGHTS))
    for wanted, part in [("2-4", WEIGHTS[2:5]), ("6990-", WEIGHTS[6990:]), ("-3", WEIGHTS[-3:])]:
        got = get_session().get(url, headers={"Range": f"bytes={wanted}"})
        assert (got.status_code, got.content) == (206, part)
    assert get_session().get(url, headers={"Range": "bytes=7000-"}).status_code == 416
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(REPO, "absent", cache_dir=tmp_path)
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(REPO, LARGE, revision="absent", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("token", "private", "reading", "writing"),
    [
        (False, False, None, RepositoryNotFoundError),
        (False, True, RepositoryNotFoundError, RepositoryNotFoundError),
        ("hf_wrong", False, HfHubHTTPError, HfHubHTTPError),
        ("hf_wrong", True, HfHubHTTPError, HfHubHTTPError),
        (TOKEN, True, None, None),
    ],
)
def test_only_the_token_writes_and_sees_what_is_private(
    hub: Hub,
    token: str | bool,
    private: bool,
    reading: type[Exception] | None,
    writing: type[Exception] | None,
) -> None:
    hub.create(REPO, private=private, files={"a": b"a"})
    api = HfApi(endpoint=hub.endpoint, token=token)
    assert refused(partial(api.model_info, REPO)) is reading
    commit = partial(api.create_commit, REPO, add(b=b"b"), commit_message="b")
    assert refused(commit) is refused(partial(api.create_tag, REPO, tag="t")) is writing
    changing = HfHubHTTPError if writing else None
    assert refused(partial(api.create_repo, "team/new")) is changing
    assert refused(partial(api.delete_repo, REPO)) is changing
    assert set(hub.repositories) == {("model", REPO if writing else "team/new")}


def refused(call: Callable[[], object]) -> type[Exception] | None:
    """The client's error, if there is one."""
    try:
        call()
    except HfHubHTTPError as error:
        return type(error)
    return None


def test_a_redirect_leads_to_another_server_without_the_token(tmp_path: Path) -> None:
    with serve_hub() as hub, serve_hub() as storage:
        for server in (hub, storage):
            server.create(REPO, files={LARGE: WEIGHTS})
        hub.redirect(r"/resolve/.*safetensors", storage.endpoint)
        api = HfApi(endpoint=hub.endpoint, token=TOKEN)
        path = api.hf_hub_download(REPO, LARGE, cache_dir=tmp_path)
    assert Path(path).read_bytes() == WEIGHTS
    assert [(r.method, r.status) for r in hub.requests] == [("HEAD", 302)]
    assert [(r.method, r.status) for r in storage.requests] == [("GET", 200)]
    assert "authorization" in hub.requests[0].headers
    assert "authorization" not in storage.requests[0].headers


def test_failures_come_as_often_as_told(hub: Hub, api: HfApi) -> None:
    repository = hub.create(REPO)
    hub.fail("POST", "/preupload/", status=503, times=2)
    hub.fail("POST", "objects/batch", status=429, headers={"Retry-After": "7"}, times=6)
    hub.fail("PUT", "/storage/", drop=True)
    hub.fail("PUT", "/storage/", drop=True, after_bytes=3)
    hub.fail("POST", "/commit/", status=500)
    waited: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", waited.append)
        with pytest.raises(HfHubHTTPError, match="429"):
            api.create_commit(REPO, add(model__safetensors=WEIGHTS), commit_message="1")
    assert asked(hub, "POST", "/preupload/") == [503, 503, 200]
    assert waited == [0, 0, 8, 8, 8, 8, 8]
    with pytest.raises(HfHubHTTPError, match="500"):
        api.create_commit(REPO, add(model__safetensors=WEIGHTS), commit_message="2")
    assert asked(hub, "PUT", "/storage/") == [None, None, 200]
    api.create_commit(REPO, add(model__safetensors=WEIGHTS), commit_message="3")
    assert [commit.title for commit in repository.commits()] == ["3", "initial commit"]


def test_an_answer_can_get_lost_when_all_is_done(hub: Hub, api: HfApi) -> None:
    repository = hub.create(REPO)
    hub.fail("POST", "/commit/", drop=True, handled=True)
    with pytest.raises(Exception, match="disconnected"):
        api.create_commit(REPO, add(a=b"a"), commit_message="lost")
    assert repository.files() == {"a": b"a"}


def test_an_upload_of_a_client_that_is_gone_does_nothing(hub: Hub) -> None:
    repository = hub.create(REPO)
    head = f"POST /api/models/{REPO}/commit/main HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n"
    lines = b'{"key": "header", "value": {"summary": "half"}}\n{"key'
    with socket.create_connection(("127.0.0.1", urlsplit(hub.endpoint).port)) as connection:
        connection.sendall(head.encode() + b"Content-Length: 999\r\n\r\n" + lines)
    while not hub.requests:
        time.sleep(0.01)
    assert len(repository.commits()) == 1


def test_a_download_that_breaks_off_is_tried_again(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    hub.create(REPO, files={LARGE: WEIGHTS})
    hub.fail("GET", "/resolve/", drop=True, after_bytes=1234)
    path = api.hf_hub_download(REPO, LARGE, cache_dir=tmp_path)
    assert Path(path).read_bytes() == WEIGHTS
    assert asked(hub, "GET", "/resolve/") == [200, 200]


def test_the_hub_tells_of_its_own_mistakes(hub: Hub, api: HfApi) -> None:
    hub.create(REPO)
    hub.before("GET", REPO, partial(hub.repository, "team/absent"))
    with pytest.raises(Exception, match="disconnected"):
        api.model_info(REPO)
    assert [type(error) for error in hub.errors] == [KeyError]
    hub.errors.clear()  # else it would be raised when the Hub is closed


# Uploads a folder, then single files, and prints where they are downloaded to.
ROUND_TRIP = """
import sys
from huggingface_hub import CommitOperationAdd, HfApi, constants
assert constants.HF_HUB_DISABLE_XET == (sys.argv[2] == "False")
api, folder = HfApi(), sys.argv[1]
api.create_repo("team/new")
parent = api.upload_folder(repo_id="team/new", folder_path=folder).oid
files = {"x.safetensors": b"x" * 100_000, "y.safetensors": b"y", "notes.txt": b"z"}
operations = [CommitOperationAdd(name, data) for name, data in files.items()]
operations.append(CommitOperationAdd("again.safetensors", f"{folder}/model.safetensors"))
api.create_commit("team/new", operations, commit_message="m", parent_commit=parent)
print(api.snapshot_download("team/new"))
"""


@pytest.mark.parametrize("xet", [False, True])
def test_the_client_uploads_and_downloads_by_either_way(
    hub: Hub, tmp_path: Path, xet: bool
) -> None:
    weights = sha256().digest() * 5000  # longer than one of Xet's chunks, with repetitions
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / LARGE).write_bytes(weights)
    (tmp_path / "folder" / "config.json").write_text(json.dumps({"a": 1}))
    arguments = ["-c", ROUND_TRIP, str(tmp_path / "folder"), str(xet)]
    done = run_against(hub.endpoint, tmp_path / "home", arguments, token=TOKEN, xet=xet)
    assert done.returncode == 0, done.stderr
    files = hub.repository("team/new").files()
    assert files[LARGE] == files["again.safetensors"] == weights
    assert (files["x.safetensors"], files["y.safetensors"]) == (b"x" * 100_000, b"y")
    assert len(hub.repository("team/new").commits()) == 3
    snapshot = Path(done.stdout.strip())
    assert {name: (snapshot / name).read_bytes() for name in files} == files
    assert bool(asked(hub, "PUT", "/storage/")) != bool(asked(hub, "GET", "/xet-")) == xet
