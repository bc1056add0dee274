"""Writing a patched copy: what is taken over, what is new, and what the result says of itself."""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from patches.checkpoint import Checkpoint, open_checkpoint
from patches.checkpoint_writer import Written, read_provenance, write_checkpoint
from patches.errors import CheckpointError

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
STALE = (
    *("consolidated.safetensors", "extra/model.onnx", "model.fp16.safetensors"),
    "pytorch_model.bin",
)
LEFT_OUT = (*STALE, ".gitattributes", ".cache/x")


def shards() -> dict[str, dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(3)
    return {
        FIRST: {
            "a": torch.randn(5, 3, generator=draw).to(torch.bfloat16),
            "b": torch.randn(4, generator=draw).to(torch.bfloat16),
            "empty": torch.zeros(0, 2),
        },
        SECOND: {"c": torch.randn(2, 2, generator=draw), "d": torch.randn(3, generator=draw)},
    }


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    """A sharded model with a tokenizer, a sub-folder, hidden files and other weight formats."""
    folder = tmp_path / "base"
    (folder / "extra" / "deep").mkdir(parents=True)
    (folder / ".cache").mkdir()
    for file, tensors in shards().items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
    weight_map = {name: file for file, tensors in shards().items() for name in tensors}
    texts = {
        "config.json": "{}",
        "model.safetensors.index.json": json.dumps({"weight_map": weight_map}),
        "tokenizer.json": '{"añb": 1}',
        "extra/deep/notes.txt": "deep",
        "extra/model.safetensors": "a part of its own, not a copy of the weights",
        "adapter_model.safetensors": "an adapter",
        "pytorch_model.bin": "stale",
        "extra/model.onnx": "stale",
        "consolidated.safetensors": "stale",
        "model.fp16.safetensors": "stale",
        "ledger.json": '{"owner": "an older ledger"}',
        ".gitattributes": "hidden",
        ".cache/x": "hidden",
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return open_checkpoint(folder)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def new(base: Checkpoint, name: str, value: int = 0x11) -> Callable[[], bytes]:
    """A function that gives new bytes for a tensor, as the writer wants it."""
    return lambda: bytes([value]) * base.tensors[name].size


def write(
    base: Checkpoint,
    target: Path,
    *names: str,
    value: int = 0x11,
    owner: str = "me",
    link: bool = False,
    provenance: Mapping[str, object] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write a copy whose named tensors consist of one repeated byte."""
    return write_checkpoint(
        base,
        target,
        patched={name: new(base, name, value) for name in names},
        provenance=provenance or {"turn": 3},
        owner=owner,
        link=link,
        progress=progress,
    )


def strays(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_only_the_bytes_of_patched_tensors_differ_from_the_base(
    base: Checkpoint, tmp_path: Path
) -> None:
    before = content(base.folder)
    write(base, tmp_path / "out", "a", "d")
    written = open_checkpoint(tmp_path / "out")
    assert list(written.tensors.items()) == list(base.tensors.items())
    for name, tensor in base.tensors.items():
        expected = bytes([0x11]) * tensor.size if name in "ad" else base.read(name)
        assert written.read(name) == expected
    for shard in (FIRST, SECOND):
        start = min(one.start for one in base.tensors.values() if one.file == shard)
        assert (tmp_path / "out" / shard).read_bytes()[:start] == before[shard][:start]
    assert content(base.folder) == before


def test_the_result_is_read_by_the_safetensors_library(base: Checkpoint, tmp_path: Path) -> None:
    replacement = torch.full((5, 3), 1.5, dtype=torch.bfloat16)
    data = replacement.view(torch.uint8).numpy().data  # of two dimensions
    write_checkpoint(base, tmp_path / "out", patched={"a": lambda: data}, provenance={}, owner="me")
    loaded = load_file(tmp_path / "out" / FIRST)
    assert torch.equal(loaded["a"], replacement)
    assert torch.equal(loaded["b"], shards()[FIRST]["b"])


def test_everything_is_taken_over_but_hidden_files_stale_weights_and_the_old_provenance(
    base: Checkpoint, tmp_path: Path
) -> None:
    written = write(base, tmp_path / "out")
    assert written.left_out == STALE
    found = content(tmp_path / "out")
    expected = content(base.folder)
    for name in LEFT_OUT:
        del expected[name]
    assert set(found) == set(expected)
    for name in set(expected) - {"ledger.json"}:
        assert found[name] == expected[name], name


def test_an_index_that_the_single_weight_file_overrides_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"w": torch.zeros(2)}, folder / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"w": "gone"}}')
    written = write(open_checkpoint(folder), tmp_path / "out", "w")
    assert written.left_out == ("model.safetensors.index.json",)
    assert set(content(tmp_path / "out")) == {"config.json", "model.safetensors", "ledger.json"}


def test_provenance_is_stored_with_the_files_and_the_owner(
    base: Checkpoint, tmp_path: Path
) -> None:
    write(base, tmp_path / "out", "a", provenance={"turn": 3, "hash": "é"})
    found = read_provenance(tmp_path / "out")
    assert found == {
        "turn": 3,
        "hash": "é",
        "owner": "me",
        "files": sorted(content(tmp_path / "out")),
    }
    text = (tmp_path / "out" / "ledger.json").read_text()
    assert text == json.dumps(found, indent=2, sort_keys=True) + "\n"


def test_a_folder_without_provenance_has_none_and_a_damaged_one_is_refused(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) is None
    assert read_provenance(tmp_path / "absent") is None
    for damaged in (b"{", b"[]", b"\xff", b"[" * 100_000):
        (tmp_path / "ledger.json").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"ledger\.json: not "):
            read_provenance(tmp_path)


def test_the_counts_and_the_progress_agree_with_what_lies_on_disk(
    base: Checkpoint, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    written = write(
        base, tmp_path / "out", "c", "a", progress=lambda done, total: seen.append((done, total))
    )
    found = content(tmp_path / "out")
    patched = base.tensors["a"].size + base.tensors["c"].size
    assert written.tensors == ("a", "c")
    assert written.files == len(found)
    assert written.bytes_written == patched + len(found["ledger.json"])
    assert written.bytes_written + written.bytes_taken_over == sum(map(len, found.values()))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (written.bytes_taken_over + 2 * patched,) * 2


def test_new_bytes_are_asked_for_one_after_the_other_in_file_order(
    base: Checkpoint, tmp_path: Path
) -> None:
    asked: list[str] = []

    def produce(name: str) -> Callable[[], bytes]:
        def produced() -> bytes:
            asked.append(name)
            return bytes(base.tensors[name].size)

        return produced

    patched = {name: produce(name) for name in sorted(base.tensors, reverse=True)}
    write_checkpoint(base, tmp_path / "out", patched=patched, provenance={}, owner="me")
    assert asked == list(base.tensors)


def test_an_update_replaces_the_whole_folder_and_goes_back_to_the_base(
    base: Checkpoint, tmp_path: Path
) -> None:
    write(base, tmp_path / "out", "a", "c")
    write(base, tmp_path / "out", "d", value=0x22)
    written = open_checkpoint(tmp_path / "out")
    assert written.read("a") == base.read("a")
    assert written.read("d") == b"\x22" * 12
    write(base, tmp_path / "out")
    for shard in (FIRST, SECOND):
        assert content(tmp_path / "out")[shard] == content(base.folder)[shard]
    assert strays(tmp_path) == []


def test_a_file_that_the_base_no_longer_has_does_not_stay(base: Checkpoint, tmp_path: Path) -> None:
    write(base, tmp_path / "out")
    (base.folder / "tokenizer.json").unlink()
    write(base, tmp_path / "out")
    assert not (tmp_path / "out" / "tokenizer.json").exists()


def test_own_files_of_a_user_survive_an_update(base: Checkpoint, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(base, out)
    (out / "runs").mkdir()
    (out / "runs" / "notes.txt").write_text("mine")
    (out / ".gitattributes").write_text("mine too")
    (out / "latest").symlink_to("runs", target_is_directory=True)
    (out / "broken").symlink_to("nowhere")
    (out / "config.json").write_text("changed by hand")
    write(base, out, "a")
    assert (out / "runs" / "notes.txt").read_text() == "mine"
    assert (out / ".gitattributes").read_text() == "mine too"
    assert (out / "latest").readlink() == Path("runs")
    assert (out / "broken").readlink() == Path("nowhere")
    assert (out / "config.json").read_text() == "{}"
    found = read_provenance(out)
    assert found is not None
    assert found["files"] == sorted(set(content(base.folder)) - set(LEFT_OUT))


def test_links_of_a_hugging_face_cache_become_real_files(base: Checkpoint, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in ("config.json", "model.safetensors.index.json", FIRST, SECOND):
        (snapshot / name).symlink_to(base.folder / name)
    (snapshot / "sub").symlink_to(base.folder / "extra", target_is_directory=True)
    (base.folder / "extra" / "round").symlink_to(base.folder / "extra")
    for link in (False, True):
        out = tmp_path / f"out-{link}"
        write(open_checkpoint(snapshot), out, "a", link=link)
        assert not any(path.is_symlink() for path in out.rglob("*"))
        assert (out / "sub" / "deep" / "notes.txt").read_text() == "deep"
        assert content(out)[SECOND] == content(base.folder)[SECOND]
        assert out.joinpath(SECOND).samefile(base.folder / SECOND) == link
        assert not out.joinpath(FIRST).samefile(base.folder / FIRST)


def test_a_dangling_link_in_the_base_is_named(base: Checkpoint, tmp_path: Path) -> None:
    (base.folder / "vocab.json").symlink_to("nowhere")
    with pytest.raises(CheckpointError, match=r"vocab\.json: leads to no file"):
        write(base, tmp_path / "out")


def test_hard_links_are_made_only_on_demand_and_never_for_a_patched_shard(
    base: Checkpoint, tmp_path: Path
) -> None:
    before = content(base.folder)
    write(base, tmp_path / "copied", "a")
    write(base, tmp_path / "linked", "a", link=True)
    for name in ("config.json", FIRST, SECOND):
        assert not (tmp_path / "copied" / name).samefile(base.folder / name)
    assert (tmp_path / "linked" / SECOND).samefile(base.folder / SECOND)
    assert not (tmp_path / "linked" / FIRST).samefile(base.folder / FIRST)
    # Updating a linked folder must not write through the links into the base.
    write(base, tmp_path / "linked", "a", "c", "d")
    assert content(base.folder) == before


def test_hard_links_across_devices_become_copies(base: Checkpoint, tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second filesystem")
    out = shared / f"edit-ledger-test-{os.getpid()}"
    try:
        write(base, out, "a", link=True)
        assert content(out)[SECOND] == content(base.folder)[SECOND]
        assert (out / SECOND).stat().st_nlink == 1
    finally:
        shutil.rmtree(out, ignore_errors=True)


MEASURED = """
import sys, tracemalloc
from pathlib import Path
from patches.checkpoint import open_checkpoint
from patches.checkpoint_writer import write_checkpoint
def resident():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
base = open_checkpoint(Path(sys.argv[1]))
before = resident()
tracemalloc.start()
patched = {"small": lambda: bytes([9]) * base.tensors["small"].size}
write_checkpoint(base, Path(sys.argv[2]), patched=patched, provenance={}, owner="me")
print(tracemalloc.get_traced_memory()[1], resident() - before)
"""


def test_a_big_checkpoint_is_written_in_little_memory(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    big = torch.zeros(200 * 1024 * 1024, dtype=torch.uint8)
    save_file({"big": big, "small": torch.zeros(1000)}, folder / "model.safetensors")
    command = [sys.executable, "-c", MEASURED, str(folder), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    traced, resident = map(int, done.stdout.split())
    assert traced < 4 * 1024 * 1024
    assert resident < 24 * 1024 * 1024
    assert open_checkpoint(tmp_path / "out").read("small") == b"\x09" * 4000


def test_copying_works_where_the_kernel_does_not_help(
    base: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refused)
    monkeypatch.setattr(fcntl, "ioctl", refused)
    write(base, tmp_path / "out", "a")
    assert content(tmp_path / "out")[SECOND] == content(base.folder)[SECOND]
    assert open_checkpoint(tmp_path / "out").read("a") == b"\x11" * 30
