"""A chart as a file: where it goes, and in which format."""

import contextlib
import os
from pathlib import Path

from ledger.plots import FORMATS
from patches.errors import SettingError


def format_of(path: Path) -> str:
    """What the name's ending says; SettingError if no chart is written in that format."""
    form = path.suffix.removeprefix(".").lower()
    if form not in FORMATS:
        endings = ", ".join(f".{known}" for known in FORMATS)
        raise SettingError(f"{path}: a chart's file ends in one of {endings}; choose one of these")
    return form


def check_place(path: Path) -> None:
    """SettingError if no chart can be written there: the ending, or the folder, is wrong."""
    format_of(path)
    check_folder(path)


def check_folder(path: Path) -> None:
    """SettingError if there is no folder for the file, or a folder in its place."""
    if path.is_dir():
        raise SettingError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise SettingError(f"{path}: there is no folder {path.parent}; create it first")


def write(path: Path, content: bytes) -> None:
    """Write the file, or put it in the place of the one that is there, atomically."""
    goal = path.resolve()
    temporary = goal.with_name(f".{goal.name}.{os.getpid()}.writing")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(goal)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
