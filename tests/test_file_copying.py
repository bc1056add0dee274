"""Copies in part and with holes."""

import os
from pathlib import Path

import pytest

from patches.errors import CheckpointError
from patches.file_copying import copy, make_empty

MEGA = 1 << 20


def copied(source: Path, goal: Path, **given: object) -> int:
    """Copy; the bytes that were reported."""
    done: list[int] = []
    size = source.stat().st_size
    make_empty(goal, size)
    copy(source, goal, size, copied=done.append, stopped=lambda: False, **given)  # type: ignore[arg-type]
    return sum(done)


def test_holes_stay_holes_and_read_as_zeros(tmp_path: Path) -> None:
    source, goal = tmp_path / "source", tmp_path / "goal"
    with source.open("wb") as file:
        file.write(b"begin")
        file.seek(20 * MEGA)
        file.write(b"middle")
        file.truncate(40 * MEGA)
    assert copied(source, goal) == 40 * MEGA
    assert goal.read_bytes() == source.read_bytes()
    if source.stat().st_blocks * 512 < MEGA:  # the filesystem knows holes
        assert goal.stat().st_blocks * 512 < MEGA


def test_what_another_writes_is_left_alone(tmp_path: Path) -> None:
    source, goal = tmp_path / "source", tmp_path / "goal"
    content = os.urandom(1000)
    source.write_bytes(content)
    assert copied(source, goal, without=[(0, 10), (10, 10), (500, 600), (990, 1000)]) == 1000
    expected = bytes(10) + content[10:500] + bytes(100) + content[600:990] + bytes(10)
    assert goal.read_bytes() == expected


def test_a_source_that_became_shorter_is_refused(tmp_path: Path) -> None:
    source, goal = tmp_path / "source", tmp_path / "goal"
    source.write_bytes(b"short")
    make_empty(goal, 10)
    with pytest.raises(CheckpointError, match="became shorter"):
        copy(source, goal, 10, copied=lambda _: None, stopped=lambda: False)


def test_a_stopped_copy_leaves_off(tmp_path: Path) -> None:
    source, goal = tmp_path / "source", tmp_path / "goal"
    source.write_bytes(b"content")
    make_empty(goal, 7)
    copy(source, goal, 7, copied=lambda _: None, stopped=lambda: True)
    assert goal.read_bytes() == bytes(7)
