"""Taking over a file: as a link, by sharing its blocks, or byte for byte, in part, with holes."""

import errno
import fcntl
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from patches.errors import CheckpointError

_FICLONE = 0x40049409
_PIECE = 4 * 1024 * 1024
# What systems answer that cannot link, clone or copy inside the kernel; plain copying remains.
_CANNOT = {
    *(errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EINVAL, errno.ENOSYS),
    *(errno.EOPNOTSUPP, errno.ENOTTY, errno.EBADF, errno.EISDIR, errno.ETXTBSY),
}


def link(source: Path, goal: Path) -> bool:
    """Hard link a file; False where the filesystem cannot."""
    try:
        os.link(source, goal, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False
    return True


def clone(source: Path, goal: Path) -> bool:
    """Let two files share their blocks until one is written to; False where that cannot be."""
    with source.open("rb") as read, goal.open("wb") as write:
        try:
            fcntl.ioctl(write.fileno(), _FICLONE, read.fileno())
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            return False
        os.fsync(write.fileno())
    return True


def make_empty(goal: Path, size: int) -> None:
    """A file of `size` bytes without content, for `copy` and others to fill."""
    with goal.open("wb") as file:
        file.truncate(size)


def copy(
    source: Path,
    goal: Path,
    size: int,
    *,
    without: Iterable[tuple[int, int]] = (),
    copied: Callable[[int], None],
    stopped: Callable[[], bool],
) -> None:
    """Fill `goal`, which `make_empty` made, with `source`, inside the kernel where that can be.

    without: ranges of bytes that stay as they are, in order; another may write them meanwhile.
    copied: receives the bytes done, those of holes and of `without` among them. stopped: asked
    after every piece whether to leave off. CheckpointError if the source has become shorter.
    """
    with source.open("rb", buffering=0) as read, goal.open("r+b", buffering=0) as write:
        done = 0
        for start, end in _between(without, size):
            for first, last in _extents(read.fileno(), start, end):
                at = first
                while at < last:
                    if stopped():
                        return
                    count = _copy_piece(read.fileno(), write.fileno(), at, min(last - at, _PIECE))
                    if not count:
                        raise _shorter(source)
                    at += count
                    copied(at - done)
                    done = at
        if os.fstat(read.fileno()).st_size < size:
            raise _shorter(source)
        copied(size - done)
        os.fsync(write.fileno())


def _shorter(source: Path) -> CheckpointError:
    return CheckpointError(f"{source}: became shorter while it was copied; try again")


def _between(without: Iterable[tuple[int, int]], size: int) -> Iterator[tuple[int, int]]:
    """The ranges of a file beside those in `without`."""
    reached = 0
    for start, end in (*without, (size, size)):
        if reached < start:
            yield reached, start
        reached = end


def _extents(file: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of a range that hold data. A hole is read as zeros, and stays one in the copy."""
    try:
        while start < end:
            start = min(os.lseek(file, start, os.SEEK_DATA), end)
            hole = min(os.lseek(file, start, os.SEEK_HOLE), end) if start < end else end
            if start < hole:
                yield start, hole
            start = hole
    except OSError as error:
        if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
            return
        if error.errno not in _CANNOT:
            raise
        yield start, end


def _copy_piece(read: int, write: int, at: int, most: int) -> int:
    """Copy up to `most` bytes from the place `at`; 0 at the end of the file."""
    try:
        # Some filesystems answer 0 in the middle of a file, so 0 is not trusted.
        if count := os.copy_file_range(read, write, most, at, at):
            return count
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
    piece = memoryview(os.pread(read, min(most, 1024 * 1024), at))
    left = piece
    while left:
        left = left[os.pwrite(write, left, at + len(piece) - len(left)) :]
    return len(piece)
