"""Files for people, which are there as a whole or not at all."""

import contextlib
import os
from pathlib import Path

from patches.errors import SettingError


def check_folder(path: Path) -> None:
    """SettingError if there is no folder for the file, or a folder in its place."""
    if path.is_dir():
        raise SettingError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise SettingError(f"{path}: there is no folder {path.parent}; create it first")


def write_whole(path: Path, content: bytes) -> None:
    """Write the file, or put it in the place of the one that is there, in one step."""
    if path.exists() and not path.is_file():
        # Such as /dev/stdout, which nothing can take the place of.
        path.write_bytes(content)
        return
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
