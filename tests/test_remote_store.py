"""Patches in a store elsewhere: the same ledger, whatever becomes of the copies on this machine,
and a plain error where the store is gone, refuses or holds other bytes."""

import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from ledger import remote_folder
from ledger.cleaning import collect_garbage
from ledger.editing import AddEdits, add_edits
from ledger.initialising import init
from ledger.reporting import status
from ledger.rolling_back import rollback_turn
from ledger.squashing import squash
from ledger.store import Store
from ledger.stores import CACHE, store_at
from ledger.verifying import verify
from ledger.workspace import CONFIG, Config, Ledger, open_ledger
from patches.canonical import sha256
from patches.errors import StoreError
from tests.command_line import call, done
from tests.ledgers import add as add_facts
from tests.ledgers import blobs, contents, facts, files, write_facts
from tests.loopback_s3 import S3, serve_s3
from tests.plain_ledgers import (
    add_several,
    build,
    line,
    new_ledger,
    recorded,
    state,
)

Capture = pytest.CaptureFixture[str]
CONTENT = b"what a turn does to the weights"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint; read only."""
    return build(tmp_path_factory.mktemp("models") / "plain")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: Path, s3_server: S3) -> Path:
    """The ledger of the next fixture; read only, as its place in S3 is."""
    folder = tmp_path_factory.mktemp("made") / "ledger"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        with new_ledger(folder, model, store=s3_server.place()) as ledger:
            add_several(ledger, 3)
    return folder


@pytest.fixture
def ledger(made: Path, tmp_path: Path, s3: S3) -> Iterator[Ledger]:
    """Three turns, whose patches are in S3."""
    folder, place = Path(shutil.copytree(made, tmp_path / "ledger")), s3.place()
    config = Config.read(folder)
    for name in s3.names(config.store):
        s3.files.copy(name, name.replace(config.store, place))
    replace(config, store=place).write(folder)
    with open_ledger(folder) as ledger:
        yield ledger


@pytest.fixture
def own_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An S3 of the test's own, which it may stop."""
    with serve_s3() as served:
        for name, value in served.environment().items():
            monkeypatch.setenv(name, value)
        yield served


def digests(ledger: Ledger) -> list[str]:
    """The patch of every turn."""
    return [step.patch_digest or "" for step in line(ledger)]


def forget_copies(ledger: Ledger) -> None:
    shutil.rmtree(ledger.folder / CACHE)


def test_a_whole_run_works_with_patches_in_s3(
    capsys: Capture, s3: S3, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_facts(tmp_path / "facts.json", facts(5))
    address = s3.place()
    made = done(capsys, "init", "--model", str(tiny_llama), "--store", address + "/", "--json")
    assert made.json()["store"] == address
    added = done(capsys, "add-edits", "facts.json", "--turn-size", "3", "--json").json()
    assert [turn["edits"] for turn in added["turns"]] == [3, 2]
    done(capsys, "apply", "--to", "patched")
    shutil.rmtree(tmp_path / ".ledger" / CACHE)
    done(capsys, "apply", "--to", "again")
    assert files(tmp_path / "again") == files(tmp_path / "patched")
    done(capsys, "rollback", "turn", "1", "--to", "patched")
    assert done(capsys, "verify", "--model", "patched", "--json").json()["ok"]
    done(capsys, "gc")
    done(capsys, "rollback", "to", "0", "--to", "patched")
    assert {name: files(tmp_path / "patched")[name] for name in files(tiny_llama)} == files(
        tiny_llama
    )
    assert address in done(capsys, "status").out
    with open_ledger(tmp_path) as ledger:
        expected = blobs(ledger, "patch") + blobs(ledger, "editor-state")
        assert s3.names(address) == sorted(map(ledger.store.where, expected))


def test_copies_can_be_deleted_at_any_time(ledger: Ledger) -> None:
    before = state(ledger)
    assert before == recorded(ledger)
    forget_copies(ledger)
    assert state(ledger) == before
    forget_copies(ledger)
    assert verify(ledger).problems == []
    # It asks the store, and has no need of copies.
    assert not (ledger.folder / CACHE).exists()
    rollback_turn(ledger, 2)
    forget_copies(ledger)
    add_several(ledger, 1, start=7)
    assert state(ledger) == recorded(ledger)


def test_a_damaged_copy_is_never_used_and_is_fetched_again(ledger: Ledger) -> None:
    before = state(ledger)
    for number, digest in enumerate(digests(ledger)):
        content = ledger.store.path(digest).read_bytes()
        ledger.store.path(digest).write_bytes([b"", content[:-1], content[:-1] + b"x"][number])
    assert verify(ledger).problems == []
    assert state(ledger) == before
    assert all(sha256(ledger.store.path(d).read_bytes()) == d for d in digests(ledger))


def test_another_machine_has_the_same_states_from_the_database_and_the_store(
    ledger: Ledger, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(ledger.folder, other, ignore=shutil.ignore_patterns(CACHE))
    with open_ledger(other) as there:
        assert state(there) == state(ledger)
        assert there.store.path(digests(there)[0]).is_relative_to(other)


def test_a_damaged_object_is_found_by_verify_although_its_copy_is_whole(
    ledger: Ledger, s3: S3
) -> None:
    where = ledger.store.where(digests(ledger)[1])
    content = s3.files.cat_file(where)
    s3.files.pipe_file(where, content[:-1] + bytes([content[-1] ^ 1]))
    [problem] = verify(ledger).problems
    assert "turn 2" in problem.subject
    assert "the object is damaged" in problem.what
    assert where in problem.what
    forget_copies(ledger)
    with pytest.raises(StoreError, match=f"^{where}: the object is damaged.*restore it"):
        state(ledger)
    s3.files.pipe_file(where, content)
    assert state(ledger) == recorded(ledger)
    assert verify(ledger).problems == []


def test_a_vanished_object_is_found_by_verify_and_named(ledger: Ledger, s3: S3) -> None:
    where = ledger.store.where(digests(ledger)[2])
    s3.files.rm_file(where)
    [problem] = verify(ledger).problems
    assert "turn 3" in problem.subject
    assert problem.what == f"the object is missing: {where}"
    # Work goes on with the copy as long as there is one.
    assert state(ledger) == recorded(ledger)
    forget_copies(ledger)
    with pytest.raises(StoreError, match=f"^{where}: the object is missing; restore it"):
        state(ledger)


def empty_bucket(s3: S3) -> None:
    s3.files.rm(s3.bucket, recursive=True)


def stop(s3: S3) -> None:
    s3.server.stop()


@pytest.mark.parametrize(
    ("gone", "said"),
    [(stop, "Could not connect.*Check that it can be reached"), (empty_bucket, "bucket does not")],
)
def test_a_store_that_vanishes_while_edits_are_added_leaves_the_turns_before_and_no_more(
    own_s3: S3, tmp_path: Path, tiny_llama: Path, gone: Callable[[S3], None], said: str
) -> None:
    source = write_facts(tmp_path / "facts.json", facts(6))
    made = init(str(tiny_llama), folder=tmp_path / "ledger", store=own_s3.place())
    with made.ledger as ledger:
        turns = add_edits(ledger, AddEdits(source=source, turn_size=2, evaluate=False)).turns
        next(turns)
        before = contents(ledger)
        gone(own_s3)
        with pytest.raises(StoreError, match=rf"patch store {ledger.store.address}: .*{said}"):
            next(turns)
        assert contents(ledger) == before
        assert len(line(ledger)) == 1


def test_edits_go_on_where_they_stopped_once_the_store_is_back(
    s3: S3, tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_facts(tmp_path / "facts.json", facts(4))
    place = s3.place()
    with init(str(tiny_llama), folder=tmp_path / "ledger", store=place).ledger as ledger:
        with monkeypatch.context() as wrong:
            wrong.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
            ledger.store = store_at(ledger.folder, place)
            with pytest.raises(StoreError, match="Could not connect"):
                add_facts(ledger, source, turn_size=2, evaluate=False)
        assert line(ledger) == []
        ledger.store = store_at(ledger.folder, place)
        assert len(add_facts(ledger, source, turn_size=2, evaluate=False)) == 2
        assert verify(ledger).problems == []


def test_gc_removes_old_strays_from_the_store_and_copies_that_nobody_needs(
    ledger: Ledger, s3: S3
) -> None:
    store = ledger.store
    needed = {store.where(digest) for digest in digests(ledger)}
    young, old = store.put(b"young"), store.put(b"old")
    s3.age(store.where(old), days=2)
    for digest in needed:
        s3.age(digest, days=400)
    assert collect_garbage(ledger, dry_run=True).files == [store.where(old)]
    garbage = collect_garbage(ledger)
    assert (garbage.files, garbage.bytes) == ([store.where(old)], 3)
    assert {*s3.names(store.address)} == needed | {store.where(young)}
    assert not store.path(old).exists()
    # Whoever was about to record it is long gone, and so is what another machine has removed.
    s3.files.rm_file(store.where(young))
    copies = collect_garbage(ledger, grace=-1).heaps["copies"]
    assert copies.files == (str(store.path(young)),)
    assert not store.path(young).exists()
    assert verify(ledger).problems == []


def test_gc_prunes_objects_and_their_copies_and_the_state_stays(ledger: Ledger, s3: S3) -> None:
    store, originals = ledger.store, digests(ledger)
    squash(ledger, 1, 3)
    before = state(ledger)
    found = collect_garbage(ledger, prune=True, grace=-1)
    assert [*found.heaps["squashed"].files] == sorted(map(store.where, originals))
    assert s3.names(store.address) == [store.where(digests(ledger)[3])]
    assert not any(store.path(digest).exists() for digest in originals)
    assert state(ledger) == before
    assert verify(ledger).checked["pruned patches"] == 3
    with pytest.raises(StoreError, match=f"was pruned.*Restore {store.where(originals[0])} from"):
        state(ledger, 1)


def test_gc_with_the_store_gone_gives_up_nothing(own_s3: S3, tmp_path: Path, model: Path) -> None:
    with new_ledger(tmp_path / "ledger", model, store=own_s3.place()) as ledger:
        add_several(ledger, 2)
        squash(ledger, 1, 2)
        before = contents(ledger)
        stop(own_s3)
        with pytest.raises(StoreError, match="cannot list its files"):
            collect_garbage(ledger, prune=True, grace=-1)
        assert contents(ledger) == before


def test_two_who_write_the_same_at_once_do_no_harm(s3: S3, tmp_path: Path) -> None:
    place = s3.place()
    stores = [store_at(tmp_path / name, place) for name in ("here", "here", "there", "there")]

    def work(number: int) -> str:
        store = stores[number % 4]
        digest = store.put(CONTENT)
        assert store.open(digest).read_bytes() == CONTENT
        return digest

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(12))) == {sha256(CONTENT)}
    assert s3.names(place) == [stores[0].where(sha256(CONTENT))]


class Forgetful(MemoryFileSystem):  # type: ignore[misc]  # it has no types
    """A store that loses the last byte of what it is given, and says nothing."""

    protocol = "forgetful"
    store: dict[str, Any] = {}  # noqa: RUF012 (as of its parent)
    pseudo_dirs = [""]  # noqa: RUF012

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes()[:-1])


def test_what_the_store_has_not_kept_whole_is_not_recorded(tmp_path: Path) -> None:
    fsspec.register_implementation("forgetful", Forgetful, clobber=True)
    store = store_at(tmp_path, "forgetful://place/patches")
    store.prepare()
    with pytest.raises(StoreError, match=r"it was written, but the object is damaged.*run again"):
        store.put(CONTENT)


def test_a_store_without_checksums_is_read_back(tmp_path: Path) -> None:
    store = store_at(tmp_path, "memory://read-back")
    store.prepare()
    digest = store.put(CONTENT)
    assert store.problem(digest) is None
    assert list(store.listed()) == [digest]


def test_large_files_arrive_in_pieces(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.remote_store._PIECE", 1000)
    content = bytes(range(256)) * 16
    place = s3.place()
    digest = store_at(tmp_path / "here", place).put(content)
    assert store_at(tmp_path / "there", place).open(digest).read_bytes() == content


def test_a_cache_that_cannot_be_written_is_an_error_of_this_machine(s3: S3, tmp_path: Path) -> None:
    (tmp_path / CACHE).write_text("in the way")
    with pytest.raises(StoreError, match=rf"{CACHE}: cannot write 31 bytes.*nothing was recorded"):
        store_at(tmp_path, s3.place()).put(CONTENT)


@pytest.mark.parametrize(
    ("address", "expected"),
    [("patches", "here/patches"), ("file:///a/b", "/a/b"), ("/a/../b", "/b"), ("../c", "c")],
)
def test_a_path_or_a_file_address_is_a_folder(address: str, expected: str, tmp_path: Path) -> None:
    store = store_at(tmp_path / "here", address)
    assert isinstance(store, Store)
    assert store.folder == tmp_path / expected


SECRET = "pass-of-nobody"


@pytest.mark.parametrize(
    "address",
    [
        f"s3://AKIA:{SECRET}@bucket/prefix",
        f"sftp://me:{SECRET}@host/patches",
        f"abfs://box/patches?sig={SECRET}",
        f"s3://bucket/prefix#{SECRET}",
        f"sftp://me:slash/{SECRET}@host/patches",
        f"sftp://me:{SECRET}?{SECRET}@host/patches",
    ],
)
def test_an_address_with_a_secret_is_refused_and_never_shown_or_written(
    capsys: Capture, address: str, model: Path, tmp_path: Path
) -> None:
    words = ["init", "--model", str(model), "--ledger", str(tmp_path / "new"), "--store", address]
    outcome = call(capsys, *words)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert "holds a password or options" in outcome.err
    assert SECRET not in outcome.err + outcome.out
    assert not (tmp_path / "new").exists()
    with new_ledger(tmp_path / "old", model) as ledger:
        replace(ledger.config, store=address).write(ledger.folder)
    outcome = call(capsys, "status", "--ledger", str(tmp_path / "old"))
    assert (outcome.status, outcome.err.count("\n")) == (1, 1)
    assert SECRET not in outcome.err + outcome.out


def test_credentials_of_the_environment_are_neither_stored_nor_shown(ledger: Ledger) -> None:
    written = (ledger.folder / CONFIG).read_text()
    assert json.loads(written)["store"] == ledger.store.address
    told = written + json.dumps(status(ledger).to_json())
    assert "AKIALOOPBACK" not in told
    assert "not-a-secret" not in told


def refused(tmp_path: Path, model: Path, store: str) -> str:
    """What `init` says; nothing is left behind."""
    with pytest.raises(StoreError) as caught:
        init(str(model), folder=tmp_path / "new", store=store)
    assert not (tmp_path / "new").exists()
    return str(caught.value)


def test_init_says_what_keeps_it_from_the_store(
    s3: S3, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "bucket does not exist. Make the place" in refused(tmp_path, model, "s3://nowhere/x")
    assert "not known: nope" in refused(tmp_path, model, "nope://place/x")
    assert "no place to keep files at" in refused(tmp_path, model, "s3://")
    with monkeypatch.context() as unset:
        unset.delenv("AWS_ACCESS_KEY_ID")
        unset.delenv("AWS_SECRET_ACCESS_KEY")
        said = refused(tmp_path, model, s3.place())
        assert "Unable to locate credentials. Check the credentials" in said
    with monkeypatch.context() as secret:
        secret.setenv("AWS_ENDPOINT_URL", f"http://me:{SECRET}@127.0.0.1:1")
        assert SECRET not in refused(tmp_path, model, s3.place())
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3")
    assert "pip install 'edit-ledger[s3]'" in refused(tmp_path, model, s3.place())


def test_a_store_that_does_not_answer_is_not_waited_for_for_ever(
    s3: S3, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_folder, "_PATIENCE", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert "no answer in 1 s. Try again" in refused(tmp_path, model, s3.place())


def test_reading_commands_do_not_load_the_stores_client(ledger: Ledger) -> None:
    code = (
        "import sys; from cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print({'fsspec', 's3fs', 'torch'} & set(sys.modules))"
    )
    words = ["log", "--ledger", str(ledger.folder)]
    ended = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "set()"
