"""Where a checkpoint may be written, and what a write that fails or is killed leaves behind."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from patches.checkpoint import Checkpoint, open_checkpoint
from patches.checkpoint_writer import recover, write_checkpoint
from patches.errors import CheckpointError


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    tensors = {"a": torch.ones(5, 3, dtype=torch.bfloat16), "b": torch.ones(4), "d": torch.ones(3)}
    save_file(tensors, folder / "model.safetensors")
    return open_checkpoint(folder)


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative name."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def new(base: Checkpoint, name: str) -> Callable[[], bytes]:
    """A function that gives new bytes for a tensor, as the writer wants it."""
    return lambda: b"\x11" * base.tensors[name].size


def write(base: Checkpoint, target: Path, *names: str, owner: str = "me") -> None:
    patched = {name: new(base, name) for name in names}
    write_checkpoint(base, target, patched=patched, provenance={"turn": 3}, owner=owner)


def strays(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


@pytest.mark.parametrize("where", [".", "inside", "..", "../base", "link", "link/inside"])
def test_the_base_is_refused_as_a_target_by_whatever_path(
    base: Checkpoint, tmp_path: Path, where: str
) -> None:
    (tmp_path / "base" / "link").symlink_to(tmp_path / "base")
    before = content(base.folder)
    with pytest.raises(CheckpointError, match="never written"):
        write(base, base.folder / where, "a")
    assert content(base.folder) == before


def test_a_base_reached_through_a_link_is_refused_as_well(base: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(base.folder)
    with pytest.raises(CheckpointError, match="never written"):
        write(open_checkpoint(tmp_path / "alias"), base.folder, "a")


@pytest.mark.parametrize("owner", ["somebody else", None])
def test_a_folder_of_another_ledger_is_refused_and_left_alone(
    base: Checkpoint, tmp_path: Path, owner: str | None
) -> None:
    out = tmp_path / "out"
    write(base, out, "a")
    (out / "ledger.json").write_text(json.dumps({"owner": owner, "files": []}))
    before = content(out)
    with pytest.raises(CheckpointError, match="written by another ledger; choose another"):
        write(base, out)
    assert content(out) == before


def test_a_file_and_a_folder_that_no_ledger_wrote_are_refused(
    base: Checkpoint, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="is a file"):
        write(base, tmp_path / "file")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"no ledger\.json"):
        write(base, tmp_path / "own")
    with pytest.raises(CheckpointError, match="Not a directory"):
        write(base, tmp_path / "file" / "out")
    assert content(tmp_path / "own") == {"thesis.txt": b"x"}


def test_a_refused_folder_that_appears_during_the_write_is_left_alone(
    base: Checkpoint, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def intrude() -> bytes:
        out.mkdir()
        (out / "thesis.txt").write_text("x")
        return bytes(base.tensors["a"].size)

    with pytest.raises(CheckpointError, match=r"no ledger\.json"):
        write_checkpoint(base, out, patched={"a": intrude}, provenance={}, owner="me")
    assert content(out) == {"thesis.txt": b"x"}
    assert strays(tmp_path) == []


def test_an_empty_folder_a_missing_parent_and_a_link_are_good_targets(
    base: Checkpoint, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    write(base, tmp_path / "empty", "a")
    write(base, tmp_path / "x" / "y" / "out", "a")
    (tmp_path / "alias").symlink_to(tmp_path / "elsewhere")
    write(base, tmp_path / "alias", "a")
    assert (tmp_path / "alias").is_symlink()
    for name in ("empty", "x/y/out", "elsewhere"):
        assert open_checkpoint(tmp_path / name).read("a") == b"\x11" * 30


def test_an_update_keeps_who_may_enter_the_folder(base: Checkpoint, tmp_path: Path) -> None:
    write(base, tmp_path / "out", "a")
    (tmp_path / "out").chmod(0o750)
    write(base, tmp_path / "out", "b")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750


@pytest.mark.parametrize("existing", [False, True])
def test_new_bytes_of_the_wrong_length_are_refused_and_nothing_is_left(
    base: Checkpoint, tmp_path: Path, existing: bool
) -> None:
    out = tmp_path / "out"
    if existing:
        write(base, out, "b")
    before = content(out)
    patched = {"a": new(base, "a"), "d": lambda: b"short"}
    with pytest.raises(CheckpointError, match=r"tensor 'd': 5 new bytes .* \[3\], which has 12"):
        write_checkpoint(base, out, patched=patched, provenance={}, owner="me")
    assert content(out) == before
    assert out.exists() == existing
    assert strays(tmp_path) == []


def test_an_unknown_tensor_is_refused_before_anything_is_written(
    base: Checkpoint, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match="no tensor named 'nope'"):
        write_checkpoint(
            base, tmp_path / "new" / "out", patched={"nope": bytes}, provenance={}, owner="me"
        )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FileNotFoundError("a patch"), ValueError()])
def test_errors_of_the_producing_functions_pass_through_and_leave_nothing(
    base: Checkpoint, tmp_path: Path, error: BaseException
) -> None:
    def fail() -> bytes:
        raise error

    with pytest.raises(type(error)) as raised:
        write_checkpoint(base, tmp_path / "out", patched={"a": fail}, provenance={}, owner="me")
    assert raised.value is error
    assert strays(tmp_path) == []
    assert not (tmp_path / "out").exists()


def test_a_disk_too_small_is_noticed_before_copying(tmp_path: Path) -> None:
    size = shutil.disk_usage(tmp_path).free + 2**30
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    header = {"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        try:
            file.truncate(8 + len(text) + size)  # a hole: takes no space
        except OSError:
            pytest.skip("the filesystem has no files as large as its free space")
    with pytest.raises(CheckpointError, match=r"[\d,]+ bytes are needed .* [\d,]+ are free"):
        write(open_checkpoint(folder), tmp_path / "out")
    assert list(tmp_path.iterdir()) == [folder]


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A program of its own, to be limited or killed."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


LIMITED = """
import resource, sys
from pathlib import Path
from patches.checkpoint import open_checkpoint
from patches.checkpoint_writer import write_checkpoint
from patches.errors import CheckpointError
base = open_checkpoint(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
try:
    write_checkpoint(base, Path(sys.argv[2]), patched={}, provenance={}, owner="me")
except CheckpointError as error:
    print(error)
"""


def test_a_disk_that_refuses_more_bytes_in_the_middle_leaves_the_old_folder(
    base: Checkpoint, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write(base, out, "a")
    before = content(out)
    said, _ = run(LIMITED, base.folder, out).communicate(timeout=60)
    assert "cannot write" in said
    assert "free some space" in said
    assert content(out) == before
    assert strays(tmp_path) == []


SLEEPING = """
import sys, time
from pathlib import Path
from patches.checkpoint import open_checkpoint
from patches.checkpoint_writer import write_checkpoint
base = open_checkpoint(Path(sys.argv[1]))
def produce():
    print("writing", flush=True)
    time.sleep(600)
patched = {"a": lambda: bytes(base.tensors["a"].size), "d": produce}
write_checkpoint(base, Path(sys.argv[2]), patched=patched, provenance={}, owner="me")
"""


@pytest.mark.parametrize("existing", [False, True])
def test_a_killed_write_leaves_the_old_state_and_the_next_one_cleans_up(
    base: Checkpoint, tmp_path: Path, existing: bool
) -> None:
    out = tmp_path / "out"
    if existing:
        write(base, out, "b")
    before = content(out)
    process = run(SLEEPING, base.folder, out)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    # A writer that lives is left alone.
    assert not recover(out)
    assert len(strays(tmp_path)) == 1
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    process.stdout.close()
    assert content(out) == before
    assert out.exists() == existing
    assert len(strays(tmp_path)) == 1
    write(base, out, "a")
    assert open_checkpoint(out).read("a") == b"\x11" * 30
    assert strays(tmp_path) == []


def test_the_next_write_puts_a_moved_away_folder_back_before_it_looks(
    base: Checkpoint, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write(base, out, "a")
    (out / "notes.txt").write_text("mine")
    out.rename(tmp_path / ".out.previous-4194311-00000000")  # no process has so large an id
    with pytest.raises(CheckpointError, match="another ledger"):
        write(base, out, owner="somebody else")
    write(base, out, "d")
    assert (out / "notes.txt").read_text() == "mine"
