"""Replacing a whole folder in one step.

A folder is built beside its target, as `.<name>.writing-<pid>-<random>`, and then takes the
target's place. Killed at any instant, the target is the old folder or the new one. Where the
system cannot exchange two folders, the old one is `.<name>.previous-<pid>-<random>` for a moment;
`recover` puts it back if the program died just then.
"""

import ctypes
import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from patches.errors import CheckpointError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# What a kernel, a filesystem or a sandbox answers that has no exchange.
_NO_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}
_TAKEN = {errno.ENOTEMPTY, errno.EEXIST}


@contextmanager
def translated(action: str, path: Path) -> Iterator[None]:
    """Turn the operating system's errors into a CheckpointError: "cannot <action> <path>"."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            reason += "; free some space there or write to another disk"
        raise CheckpointError(f"cannot {action} {path}: {reason}") from error


def check_room(target: Path) -> None:
    """CheckpointError if nothing can be made beside `target`, a resolved path, for want of rights.

    What else `building` meets, as a full disk, shows only when it is tried.
    """
    with translated("write", target):
        above = next(one for one in target.parents if one.exists())
    if not os.access(above, os.W_OK | os.X_OK):
        raise CheckpointError(
            f"{target}: {above} cannot be written to (permission denied); choose another folder"
        )


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """An empty folder beside `target`, to be filled and put in place; removed in the end.

    After `put_in_place` the old folder lies there, and is removed in its stead. `target` must be
    a resolved path. Its parent is created when missing.
    """
    folder = target.parent / f".{target.name}.writing-{os.getpid()}-{secrets.token_hex(4)}"
    with translated("create", folder):
        target.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        handle = os.open(folder, os.O_RDONLY)
    try:
        # Tells other writers that this one lives, where their process ids say nothing: in
        # another container, or after a restart that gave out the same id. Not every filesystem
        # can; then the process id alone decides.
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield folder
    finally:
        os.close(handle)
        shutil.rmtree(folder, ignore_errors=True)


def put_in_place(folder: Path, target: Path) -> None:
    """Let `folder` take the place of `target`; what was there, if anything, lies at `folder`.

    Everything in `folder` must have reached the disk. Raises CheckpointError when the target
    cannot be replaced; it is then as it was.
    """
    with translated("replace", target):
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in _TAKEN:
                raise
            shutil.copymode(target, folder)
            if not exchange(folder, target):
                _replace_in_two_steps(folder, target)
        sync(target.parent)


def recover(target: Path) -> bool:
    """Clean up after writers that died: put a moved-away folder back, remove stray ones.

    True when the folder at `target` had to be put back. Folders of writers that still run are
    left alone.
    """
    place = Path(os.path.realpath(target))
    put_back = False
    with translated("put back the previous folder at", place):
        # Newest first, so that the latest state is the one that is put back.
        for previous in sorted(_strays(place, "previous"), key=_changed, reverse=True):
            if os.path.lexists(place):
                shutil.rmtree(previous, ignore_errors=True)
            else:
                previous.rename(place)
                sync(place.parent)
                put_back = True
    for stray in _strays(place, "writing"):
        shutil.rmtree(stray, ignore_errors=True)
    return put_back


def exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; False where the system has no such call."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    paths = ctypes.c_char_p(os.fsencode(one)), ctypes.c_char_p(os.fsencode(other))
    if renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


def sync(folder: Path) -> None:
    """Make the names in one folder reach the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace_in_two_steps(folder: Path, target: Path) -> None:
    """For systems without an exchange: between two renames there is no target."""
    ending = f"previous-{os.getpid()}-{secrets.token_hex(4)}"
    previous = target.with_name(f".{target.name}.{ending}")
    target.rename(previous)
    try:
        folder.rename(target)
    except BaseException:
        previous.rename(target)
        raise
    previous.rename(folder)


def _strays(target: Path, kind: str) -> list[Path]:
    """Folders that writers of `target` left behind when they died."""
    prefix = f".{target.name}.{kind}-"
    if not target.parent.is_dir():
        return []
    with translated("look for unfinished copies in", target.parent):
        found = [entry for entry in target.parent.iterdir() if entry.name.startswith(prefix)]
    return [entry for entry in found if _is_abandoned(entry, entry.name[len(prefix) :])]


def _is_abandoned(folder: Path, ending: str) -> bool:
    """Whether the writer of a folder, named `<pid>-<random>` at its end, has died."""
    pid, _, mark = ending.partition("-")
    if not (pid.isascii() and pid.isdecimal() and mark) or folder.is_symlink():
        return False
    # An own process id is another's: a container hands out the same one after a restart.
    if int(pid) != os.getpid() and _is_alive(int(pid)):
        return False
    return not _is_locked(folder)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def _is_locked(folder: Path) -> bool:
    """Whether a running writer holds the folder; False where that cannot be asked."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _changed(folder: Path) -> float:
    return folder.stat().st_ctime  # renaming a folder counts as a change of it
