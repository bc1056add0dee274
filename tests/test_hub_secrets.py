"""What must not get out, and what must not get in: tokens, and files that nobody asked for."""

import json
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ledger import load_patched
from ledger.hub import scrubbed
from ledger.importing import import_adapter
from ledger.initialising import init
from ledger.sharing.pulling import clone, pull
from ledger.workspace import Ledger
from patches.errors import EditLedgerError
from tests.command_line import call, done
from tests.faults import Command
from tests.hub_scenes import (
    REPO,
    check_pulled,
    failing,
    kept,
    make_ledgers,
    no_waiting,
)
from tests.ledgers import copied
from tests.loopback_hub import TOKEN, Hub, serve_hub
from tests.test_push import push

WRONG = "hf_" + "wr0ng" * 6
PASSWORD = "correct-horse"
PICKLES = ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "evil.pkl", "states.pt")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    return make_ledgers(tmp_path_factory.mktemp("made"), tiny_llama)


@pytest.fixture
def ledger(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    """Two turns."""
    with copied(made / "full", tmp_path / "ledger") as ledger:
        yield ledger


@pytest.fixture
def other(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    """No turns."""
    with copied(made / "empty", tmp_path / "other") as ledger:
        yield ledger


@contextmanager
def elsewhere(hub: Hub) -> Iterator[tuple[str, Hub]]:
    """Another host with what is on the Hub, and its address."""
    with serve_hub() as second:
        second.repositories = hub.repositories
        second.large = hub.large
        yield f"http://localhost:{urlsplit(second.endpoint).port}", second


def holding(secret: str, folder: Path) -> list[Path]:
    """The files below the folder in which the secret is."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in found if secret.encode() in path.read_bytes()]


def asked(hub: Hub) -> set[str]:
    """The names of the files that were asked for."""
    paths = [urlsplit(request.path).path for request in hub.requests]
    return {path.split("/resolve/")[1].partition("/")[2] for path in paths if "/resolve/" in path}


def strays(folder: Path) -> list[Path]:
    """Files that a repository with evil names has put into the folder, or just outside."""
    return [*folder.rglob("*evil*"), *folder.parent.glob("*evil*")]


def of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_token_is_in_nothing_that_is_written_or_said(
    hub: Hub,
    ledger: Ledger,
    other: Ledger,
    tiny_llama: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("push", REPO, "--as", "patch", "--json", "--ledger", str(ledger.folder))
    pushed = Command(words=words, folder=ledger.folder, endpoint=hub.endpoint).run()
    assert pushed.status == 0
    clone_to = ("--ledger", str(tmp_path / "clone"), "--model", str(tiny_llama))
    pulled = done(capsys, "pull", REPO, "--json", "--ledger", str(other.folder))
    cloned = done(capsys, "clone", REPO, "--json", *clone_to)
    for said in (pushed.said, pulled.out, cloned.out):
        assert json.loads(said)
        assert TOKEN not in said
    assert f"Bearer {TOKEN}" in [r.headers.get("authorization") for r in hub.requests]
    assert holding(TOKEN, tmp_path) == []
    for name, content in hub.repository(REPO).files().items():
        assert TOKEN.encode() not in content, name
    assert not [r for r in hub.requests if TOKEN in r.path]


@pytest.mark.usefixtures("hub")
def test_a_wrong_token_is_not_told_back(
    ledger: Ledger,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRONG)
    ended = call(capsys, "push", REPO, "--ledger", str(ledger.folder))
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == (
        f"error: {REPO}: the Hub answers 401 (Invalid credentials in Authorization header): "
        "log in with: hf auth login, or set HF_TOKEN\n"
    )
    assert holding(WRONG, tmp_path) == []


@pytest.mark.parametrize(
    ("path", "token"),
    [("/revision/", TOKEN), ("/manifest.json", TOKEN), ("/revision/", "s3cret-of-another-form")],
)
def test_a_token_that_the_hub_repeats_is_not_told(
    hub: Hub,
    ledger: Ledger,
    other: Ledger,
    tmp_path: Path,
    path: str,
    token: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    no_waiting(monkeypatch)
    push(ledger, REPO, "patch")
    monkeypatch.setenv("HF_TOKEN", token)
    said = {"X-Error-Message": f"Authorization: Bearer {token}, {'x' * 250} {token} is no good"}
    calls: list[Callable[[], object]] = [lambda: pull(other, REPO)]
    calls.append(lambda: clone(REPO, folder=tmp_path / "clone"))
    if path == "/revision/":
        calls.append(lambda: push(ledger, REPO, "patch"))
    for status, one in product((401, 403, 429, 500), calls):
        fault = failing(hub, "GET", path, status=status, headers=said)
        with fault, pytest.raises(EditLedgerError) as error:
            one()
        shown = "".join(traceback.format_exception(error.value))
        assert "is no good" in shown or "***" in shown
        assert "s3cret" not in shown + repr(error.value)


@pytest.mark.parametrize("command", ["push", "pull", "clone", "init", "import"])
def test_a_secret_in_the_name_of_a_repository_is_neither_sent_nor_told_nor_kept(
    hub: Hub,
    ledger: Ledger,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    command: str,
) -> None:
    before = kept(ledger)
    folder = tmp_path / "new" if command in ("clone", "init") else ledger.folder
    for repo in (
        f"https://user:{TOKEN}@host/me/model",
        f"https://user:{PASSWORD}@host/me/model",
        f"https://{TOKEN}@host/me/model",
        f"{TOKEN}/model",
        f"me/{TOKEN}",
        f"{WRONG}/model",
    ):
        words = ["init", "--model", repo] if command == "init" else [command, repo]
        ended = call(capsys, *words, "--ledger", str(folder))
        assert (ended.status, ended.out) == (1, ""), repo
        assert ended.err.startswith("error: ")
        assert "write OWNER/NAME" in ended.err
        assert not [secret for secret in (TOKEN, WRONG, PASSWORD) if secret in ended.err]
    assert hub.requests == []
    assert kept(ledger) == before


def test_the_address_of_an_upload_is_told_without_what_allows_it() -> None:
    told = scrubbed("Server error '500' for url 'https://s3.host/key?X-Amz-Signature=12ab&x=3' (y)")
    assert told == "Server error '500' for url 'https://s3.host/key' (y)"


@pytest.mark.parametrize("path", ["/resolve/.*safetensors", "/resolve/", "/api/models/"])
def test_another_host_that_the_hub_sends_a_pull_to_gets_no_token(
    hub: Hub, ledger: Ledger, other: Ledger, path: str
) -> None:
    push(ledger, REPO, "patch")
    with elsewhere(hub) as (address, second):
        hub.redirect(path, address)
        assert pull(other, REPO).turns == [1, 2]
    check_pulled(ledger, other)
    assert "GET" in [request.method for request in second.requests]
    assert not [request for request in second.requests if TOKEN in str(request.headers)]


def test_another_host_that_holds_the_weights_gets_no_token(hub: Hub, ledger: Ledger) -> None:
    from transformers import AutoModelForCausalLM

    push(ledger, REPO)
    with elsewhere(hub) as (address, second):
        hub.redirect("/resolve/.*safetensors", address)
        load_patched(REPO, device="cpu")
        AutoModelForCausalLM.from_pretrained(REPO, revision="turn-2")
    assert "GET" in [request.method for request in second.requests]
    assert not [request for request in second.requests if TOKEN in str(request.headers)]


@pytest.mark.parametrize("path", ["/repos/create", "/preupload/", "/objects/batch", "/commit/"])
def test_another_host_that_the_hub_sends_a_push_to_gets_no_token(
    hub: Hub, ledger: Ledger, path: str
) -> None:
    with elsewhere(hub) as (address, second):
        hub.redirect(path, address)
        with pytest.raises(EditLedgerError, match=REPO):
            push(ledger, REPO)
    assert second.requests
    assert not [request for request in second.requests if TOKEN in str(request.headers)]


def test_storage_gets_the_files_without_a_token(hub: Hub, ledger: Ledger) -> None:
    push(ledger, REPO)
    sent = [request for request in hub.requests if request.method == "PUT"]
    assert sent
    assert not [request for request in sent if TOKEN in str(request.headers)]


def evil(folder: Path) -> dict[str, bytes]:
    """Names that lead out of the folder that a repository is put into."""
    names = (f"{folder}/evil.json", "../evil.safetensors", "a/../../evil.json", "..\\evil.json")
    return dict.fromkeys(names, b"{}")


@pytest.mark.parametrize("number", range(4))
def test_a_model_with_names_that_lead_elsewhere_is_refused(
    hub: Hub, tiny_llama: Path, ledger: Ledger, tmp_path: Path, number: int
) -> None:
    name, content = list(evil(tmp_path).items())[number]
    hub.create("me/base", files={**of(tiny_llama), name: content})
    push(ledger, REPO)
    hub.repository(REPO).commit({name: content})
    for load in (lambda: init("me/base", folder=tmp_path / "new"), lambda: load_patched(REPO)):
        with pytest.raises(EditLedgerError, match="Invalid filename"):
            load()
    assert strays(tmp_path) == []
    assert not (tmp_path / "new").exists()


def test_of_a_history_only_what_its_manifest_names_is_asked_for(
    hub: Hub, ledger: Ledger, other: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    hub.create("me/base", files={**of(tiny_llama), **dict.fromkeys(PICKLES, b"evil")})
    push(ledger, REPO, "patch", base_model="me/base")
    listed = json.loads(hub.repository(REPO).files()["manifest.json"])["files"]
    more = dict.fromkeys([*PICKLES, "config.json", "patches/more.safetensors"], b"evil")
    hub.repository(REPO).commit({**more, **evil(tmp_path)})
    del hub.requests[:]
    pull(other, REPO)
    assert asked(hub) <= {"manifest.json", *listed}
    cloned, _ = clone(REPO, folder=tmp_path / "clone")
    cloned.close()
    assert asked(hub) <= {"manifest.json", *listed, *of(tiny_llama)}
    assert strays(tmp_path) == []


def test_pickles_are_never_asked_for(
    hub: Hub, ledger: Ledger, other: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    pickles: Mapping[str, bytes] = dict.fromkeys(PICKLES, b"evil")
    hub.create("me/base", files={**of(tiny_llama), **pickles})
    hub.create("me/old", files={"config.json": b"{}", **pickles})
    push(ledger, REPO)
    push(ledger, "me/lora", "adapter")
    for repo in (REPO, "me/lora"):
        hub.repository(repo).commit(pickles)
    init("me/base", folder=tmp_path / "new").ledger.close()
    load_patched(REPO, device="cpu")
    import_adapter(other, "me/lora")
    for refused in (
        lambda: init("me/old", folder=tmp_path / "old"),
        lambda: load_patched("me/old"),
        lambda: import_adapter(other, "me/old"),
    ):
        with pytest.raises(EditLedgerError):
            refused()
    assert {"model.safetensors", "adapter_model.safetensors"} <= asked(hub)
    assert not asked(hub) & set(PICKLES)
