"""Replacing a folder: at every instant the old one or the new one, and no stray ones for long."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from patches import folder_swap
from patches.errors import CheckpointError
from patches.folder_swap import building, put_in_place, recover

DEAD = 2**22 + 7  # beyond the largest process id of Linux


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def folder(path: Path, *files: str) -> Path:
    path.mkdir()
    for file in files:
        (path / file).touch()
    return path


def replace(target: Path, *files: str) -> None:
    """Put a new folder with the given files in place."""
    with building(target) as new:
        for file in files:
            (new / file).touch()
        put_in_place(new, target)


def build_half(target: Path) -> None:
    with building(target) as new:
        (new / "half").touch()
        raise CheckpointError("interrupted")


@pytest.fixture(params=["one step", "two steps"])
def steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the exchange of this system, and as on one that has none."""
    how = str(request.param)
    if how == "two steps":
        monkeypatch.setattr(folder_swap, "exchange", lambda *_: False)
    return how


@pytest.mark.usefixtures("steps")
def test_a_new_folder_takes_the_place_of_nothing_of_an_empty_and_of_a_full_one(
    tmp_path: Path,
) -> None:
    replace(tmp_path / "absent", "new")
    replace(folder(tmp_path / "empty"), "new")
    replace(folder(tmp_path / "full", "old"), "new")
    assert names(tmp_path) == ["absent", "empty", "full"]
    assert all(names(target) == ["new"] for target in tmp_path.iterdir())


@pytest.mark.usefixtures("steps")
def test_an_unfinished_folder_is_removed_and_the_target_stays(tmp_path: Path) -> None:
    target = folder(tmp_path / "out", "old")
    with pytest.raises(CheckpointError):
        build_half(target)
    assert names(tmp_path) == ["out"]
    assert names(target) == ["old"]


def test_two_folders_change_places_in_one_step(tmp_path: Path) -> None:
    one, two = folder(tmp_path / "one", "1"), folder(tmp_path / "two", "2")
    if not folder_swap.exchange(one, two):
        pytest.skip("no renameat2 here")
    assert (names(one), names(two)) == (["2"], ["1"])
    with pytest.raises(FileNotFoundError):
        folder_swap.exchange(one, tmp_path / "absent")


def test_a_failing_second_step_brings_the_old_folder_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = folder(tmp_path / "out", "old")
    monkeypatch.setattr(folder_swap, "exchange", lambda *_: False)
    rename = Path.rename

    def failing(source: Path, goal: Path) -> Path:
        if ".writing-" in source.name and not target.exists():
            raise OSError(errno.EIO, "Input/output error")
        return rename(source, goal)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(CheckpointError, match=r"cannot replace .*out: Input/output error"):
        replace(target, "new")
    assert names(target) == ["old"]
    assert names(tmp_path) == ["out"]


# Replaces a folder in two steps, and dies right after the given one.
DYING = """
import os, signal, sys
from pathlib import Path
from patches import folder_swap
target, fatal = Path(sys.argv[1]), int(sys.argv[2])
folder_swap.exchange = lambda one, other: False
rename, steps = Path.rename, iter(range(1, 9))
def dying(source, goal):
    rename(source, goal)
    if target.name in (source.name, goal.name) and next(steps) == fatal:
        os.kill(os.getpid(), signal.SIGKILL)
with folder_swap.building(target) as new:
    (new / "new").touch()
    Path.rename = dying
    folder_swap.put_in_place(new, target)
"""


@pytest.mark.parametrize(("step", "survivor"), [(1, "old"), (2, "new")])
def test_a_kill_between_two_steps_is_recovered_from(
    tmp_path: Path, step: int, survivor: str
) -> None:
    target = folder(tmp_path / "out", "old")
    command = [sys.executable, "-c", DYING, str(target), str(step)]
    died = subprocess.run(command, check=False, timeout=60)
    assert died.returncode == -signal.SIGKILL
    assert target.exists() == (step == 2)
    assert recover(target) == (step == 1)
    assert names(target) == [survivor]
    assert names(tmp_path) == ["out"]
    assert not recover(target)


def test_the_folder_of_a_writer_that_lives_is_left_alone(tmp_path: Path) -> None:
    with building(tmp_path / "out") as own:
        other = folder(tmp_path / f".out.writing-{os.getppid()}-00000000")
        recover(tmp_path / "out")
        assert own.exists()
        assert other.exists()


def test_what_dead_writers_left_is_removed_but_nothing_that_only_looks_like_it(
    tmp_path: Path,
) -> None:
    # After a restart, a container gives out the same process ids again.
    for pid in (DEAD, os.getpid()):
        folder(tmp_path / f".out.writing-{pid}-00000000", "half")
    foreign = [f".other.writing-{DEAD}-00000000", ".out.writing-x-1", ".out.writing-", ".out.x"]
    for name in foreign:
        folder(tmp_path / name)
    recover(tmp_path / "out")
    assert names(tmp_path) == sorted(foreign)


def test_recovering_where_nothing_is_does_nothing(tmp_path: Path) -> None:
    assert not recover(tmp_path / "no" / "such" / "folder")
    assert names(tmp_path) == []
