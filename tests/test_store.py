"""The patch store: whole files under their digests, or a clear error."""

import os
import resource
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger.store import Store
from ledger.stores import PatchStore, store_at
from patches.canonical import sha256
from patches.errors import StoreError
from tests.loopback_s3 import S3
from tests.processes import Report, Running

CONTENT = b"what a turn does to the weights"
DIGEST = sha256(CONTENT)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(folder=tmp_path / "patches")


@dataclass(frozen=True, kw_only=True)
class Place:
    """A store, and what is done to its files behind its back."""

    store: PatchStore
    s3: S3 | None = None

    def write(self, digest: str, content: bytes) -> None:
        if self.s3 is None:
            self.store.path(digest).write_bytes(content)
        else:
            self.s3.files.pipe_file(self.store.where(digest), content)

    def age(self, digest: str, days: float) -> None:
        if self.s3 is None:
            then = time.time() - days * 24 * 3600
            os.utime(self.store.path(digest), (then, then))
        else:
            self.s3.age(self.store.where(digest), days)

    def names(self) -> list[str]:
        """The files that lie in the store."""
        if self.s3 is None:
            return [str(path) for path in self.store.folder.rglob("*") if path.is_file()]
        return self.s3.names(self.store.address)

    def elsewhere(self, folder: Path) -> PatchStore:
        """The same store as another machine sees it."""
        return self.store if self.s3 is None else store_at(folder, self.store.address)


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty store: the test runs once with a folder, once with S3."""
    if request.param == "folder":
        return Place(store=store_at(tmp_path, "patches"))
    s3: S3 = request.getfixturevalue("s3")
    return Place(store=store_at(tmp_path, s3.place()), s3=s3)


def put_many(report: Report, folder: Path, size: int) -> None:
    """In a process of its own, which is killed: write blobs until then."""
    report("ready")
    for number in range(10_000):
        Store(folder=folder).put(number.to_bytes(4, "little") * (size // 4))


def test_a_blob_lies_under_its_digest_and_is_found_again(place: Place, tmp_path: Path) -> None:
    assert place.store.put(CONTENT) == DIGEST
    name = f"{place.store.address}/{DIGEST[:2]}/{DIGEST}.safetensors"
    assert place.names() == [name] == [place.store.where(DIGEST)]
    for store in (place.store, place.elsewhere(tmp_path / "other")):
        assert store.problem(DIGEST) is None
        assert store.beginning(DIGEST, 4) == CONTENT[:4]
        assert store.checked(DIGEST) == store.open(DIGEST) == store.path(DIGEST)
        assert store.path(DIGEST).read_bytes() == CONTENT


def test_a_folder_of_blobs_is_what_it_says(store: Store) -> None:
    store.put(CONTENT)
    assert store.path(DIGEST) == store.folder / DIGEST[:2] / f"{DIGEST}.safetensors"


def test_an_empty_store_has_no_blobs_and_many_are_listed_in_order(place: Place) -> None:
    place.store.prepare()
    assert place.store.listed() == {}
    digests = [place.store.put(bytes(number)) for number in range(6)]
    listed = place.store.listed()
    assert list(listed) == sorted(digests)
    assert [listed[digest].bytes for digest in digests] == list(range(6))
    assert listed[digests[3]] == place.store.stored(digests[3])
    assert all(abs(time.time() - file.modified) < 60 for file in listed.values())


def test_a_finished_file_becomes_a_blob_and_an_unfinished_one_is_gone(place: Place) -> None:
    with place.store.arriving() as path:
        path.write_bytes(CONTENT)
        assert place.store.keep(path) == DIGEST
    with place.store.arriving() as path:
        path.write_bytes(CONTENT[:5])
    assert place.names() == [place.store.where(DIGEST)]
    assert list(place.store.folder.glob(".writing-*")) == []


def test_a_blob_that_is_there_is_not_written_again(store: Store) -> None:
    store.put(CONTENT)
    before = store.path(DIGEST).stat().st_ino
    assert store.put(CONTENT) == DIGEST
    assert store.path(DIGEST).stat().st_ino == before


def test_a_blob_that_is_put_again_is_no_longer_as_old_as_garbage(place: Place) -> None:
    place.store.put(CONTENT)
    for again in (put, kept):
        place.age(DIGEST, days=3)
        old = place.store.stored(DIGEST)
        assert old is not None
        assert old.modified < time.time() - 2 * 24 * 3600
        assert again(place.store) == DIGEST
        young = place.store.stored(DIGEST)
        assert young is not None
        assert young.modified > time.time() - 3600


def put(store: PatchStore) -> str:
    return store.put(CONTENT)


def kept(store: PatchStore) -> str:
    with store.arriving() as path:
        path.write_bytes(CONTENT)
        return store.keep(path)


def test_a_removed_blob_is_gone_and_may_be_removed_again(place: Place) -> None:
    other = place.store.put(b"other")
    place.store.put(CONTENT)
    for _ in range(2):
        place.store.remove(DIGEST)
        assert place.store.stored(DIGEST) is None
        assert place.store.checked(DIGEST) is None
    assert list(place.store.listed()) == [other]


def test_a_damaged_blob_is_replaced_when_it_is_put_again(place: Place, tmp_path: Path) -> None:
    place.store.put(CONTENT)
    place.write(DIGEST, CONTENT[:-1])
    place.store.put(CONTENT)
    assert place.store.problem(DIGEST) is None
    assert place.elsewhere(tmp_path / "other").open(DIGEST).read_bytes() == CONTENT


def test_nothing_but_blobs_is_left_after_writing(place: Place) -> None:
    place.store.prepare()
    place.store.put(CONTENT)
    assert place.names() == [place.store.where(DIGEST)]
    assert [p for p in place.store.folder.rglob("*") if p.is_file()] == [place.store.path(DIGEST)]


@pytest.mark.parametrize("damage", [b"", CONTENT[:-1], CONTENT + b"\0", CONTENT.upper()])
def test_a_damaged_blob_is_never_opened(place: Place, damage: bytes, tmp_path: Path) -> None:
    place.store.put(CONTENT)
    place.write(DIGEST, damage)
    assert "damaged" in str(place.store.problem(DIGEST))
    store = place.elsewhere(tmp_path / "other")
    with pytest.raises(StoreError, match=rf"{DIGEST}.*damaged.*{sha256(damage)}.*restore it"):
        store.open(DIGEST)
    assert store.checked(DIGEST) is None


def test_a_missing_blob_is_an_error_that_names_its_file(place: Place) -> None:
    with pytest.raises(StoreError, match=rf"{DIGEST}.safetensors: the \w+ is missing; restore"):
        place.store.open(DIGEST)
    assert place.store.checked(DIGEST) is None
    assert place.store.stored(DIGEST) is None
    assert "is missing" in str(place.store.problem(DIGEST))


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
