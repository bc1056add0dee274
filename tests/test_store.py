"""The patch store: whole files under their digests, or a clear error."""

import os
import resource
import shutil
import signal
import time
from pathlib import Path

import pytest

from ledger.store import Store
from patches.canonical import sha256
from patches.errors import StoreError
from tests.processes import Report, Running

CONTENT = b"what a turn does to the weights"
DIGEST = sha256(CONTENT)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(folder=tmp_path / "patches")


def put_many(report: Report, folder: Path, size: int) -> None:
    """In a process of its own, which is killed: write blobs until then."""
    report("ready")
    for number in range(10_000):
        Store(folder=folder).put(number.to_bytes(4, "little") * (size // 4))


def test_a_blob_lies_under_its_digest_and_is_found_again(store: Store) -> None:
    assert store.put(CONTENT) == DIGEST
    path = store.open(DIGEST)
    assert path == store.folder / DIGEST[:2] / f"{DIGEST}.safetensors" == store.path(DIGEST)
    assert path.read_bytes() == CONTENT
    assert store.problem(DIGEST) is None


def test_an_empty_store_has_no_blobs_and_many_are_listed_in_order(store: Store) -> None:
    assert list(store.digests()) == []
    digests = [store.put(bytes([number])) for number in range(20)]
    assert list(store.digests()) == sorted(digests)


def test_a_blob_that_is_there_is_not_written_again(store: Store) -> None:
    store.put(CONTENT)
    before = store.path(DIGEST).stat()
    assert store.put(CONTENT) == DIGEST
    after = store.path(DIGEST).stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_damaged_blob_is_replaced_when_it_is_put_again(store: Store) -> None:
    store.put(CONTENT)
    store.path(DIGEST).write_bytes(CONTENT[:-1])
    store.put(CONTENT)
    assert store.open(DIGEST).read_bytes() == CONTENT


def test_nothing_but_blobs_is_left_after_writing(store: Store) -> None:
    store.put(CONTENT)
    assert [path for path in store.folder.rglob("*") if path.is_file()] == [store.path(DIGEST)]


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT + b"\0", CONTENT.upper()])
def test_a_damaged_blob_is_never_opened(store: Store, damage: bytes) -> None:
    store.put(CONTENT)
    store.path(DIGEST).write_bytes(damage)
    with pytest.raises(StoreError, match=rf"{DIGEST}.*damaged.*{sha256(damage)}.*restore it"):
        store.open(DIGEST)
    assert "damaged" in str(store.problem(DIGEST))


def test_a_missing_blob_is_an_error_that_names_its_file(store: Store) -> None:
    with pytest.raises(StoreError, match=rf"{DIGEST}.safetensors: the file is missing; restore"):
        store.open(DIGEST)


def test_a_blob_that_cannot_be_read_is_an_error(store: Store) -> None:
    store.path(DIGEST).mkdir(parents=True)
    with pytest.raises(StoreError, match="cannot be read"):
        store.open(DIGEST)


def test_a_store_that_cannot_be_written_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreError, match=r"cannot write 31 bytes.*nothing was recorded"):
        Store(folder=tmp_path / "file" / "patches").put(CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_disk_that_takes_no_more_is_an_error_and_leaves_no_partial_file(store: Store) -> None:
    store.put(CONTENT)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(StoreError, match=r"cannot write 3,145,728 bytes \(File too large\)"):
            store.put(bytes(3 << 20))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path for path in store.folder.rglob("*") if path.is_file()] == [store.path(DIGEST)]


def test_a_writer_killed_at_any_instant_leaves_only_whole_blobs_under_their_names(
    store: Store,
) -> None:
    written = 0
    for attempt in range(5):
        running = Running(put_many, store.folder, 1 << 18)
        assert running.message() == "ready"
        time.sleep(0.01 + 0.02 * attempt)
        running.send(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
        for digest in store.digests():
            written += 1
            assert store.problem(digest) is None
        shutil.rmtree(store.folder, ignore_errors=True)
    assert written


def test_the_name_of_a_blob_depends_on_nothing_but_its_bytes(tmp_path: Path) -> None:
    stores = [Store(folder=tmp_path / name) for name in ("a", "b")]
    assert {store.put(CONTENT) for store in stores} == {DIGEST}
    os.utime(stores[0].path(DIGEST), (0, 0))
    assert stores[0].put(CONTENT) == DIGEST
