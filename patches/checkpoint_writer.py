"""Writing a patched copy of a model folder: streamed, atomic, and without touching the base.

Everything but the patched tensors is taken over byte for byte, by reflink where the filesystem
can; in a shard with patched tensors, just their byte ranges are written anew, so that header,
order and size stay. Copies are made while the new bytes are computed. The finished folder then
takes the target's place in one step.
"""

import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from patches.checkpoint import Checkpoint
from patches.errors import CheckpointError
from patches.file_copying import clone, copy, link, make_empty
from patches.folder_swap import building, check_room, put_in_place, recover, sync, translated
from patches.strict_json import read_strict_json
from patches.tensor_file import StoredTensor

__all__ = ["PROVENANCE_FILE", "Written", "read_provenance", "recover", "write_checkpoint"]

PROVENANCE_FILE = "ledger.json"

# Other forms of the weights: the edits are not in them, and a program that prefers one of them
# would load the model unedited.
_STALE_ENDINGS = (
    *(".bin", ".pth", ".pt", ".gguf", ".h5", ".msgpack", ".onnx", ".onnx_data"),
    *(".bin.index.json", ".h5.index.json", ".msgpack.index.json"),
)
_STALE_SAFETENSORS = ("model", "consolidated", "pytorch_model")


@dataclass(frozen=True, kw_only=True)
class Written:
    """What a write did.

    folder: the target as it was given.
    files: number of files written or taken over, `ledger.json` among them.
    bytes_written: bytes of patched tensors, of `ledger.json` and of further files beside it.
    bytes_taken_over: bytes that are the base's.
    tensors: names of the patched tensors, in the order of writing.
    left_out: names of the base's files that the copy lacks, other forms of the weights.
    """

    folder: Path
    files: int
    bytes_written: int
    bytes_taken_over: int
    tensors: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What goes into the new folder: file name → (real path in the base, bytes)."""

    files: Mapping[str, tuple[Path, int]]
    left_out: tuple[str, ...]
    tensors: tuple[StoredTensor, ...]

    @property
    def base_bytes(self) -> int:
        return sum(size for _, size in self.files.values())

    @property
    def patched_bytes(self) -> int:
        return sum(tensor.size for tensor in self.tensors)


class _Progress:
    """Counts bytes for a callback of (done, total), which two threads never call at once."""

    def __init__(self, total: int, report: Callable[[int, int], None] | None) -> None:
        self.total, self.done, self.report = total, 0, report
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.done += count
            if self.report is not None:
                self.report(self.done, self.total)


def write_checkpoint(
    base: Checkpoint,
    target: Path,
    *,
    patched: Mapping[str, Callable[[], bytes | bytearray | memoryview]],
    provenance: Mapping[str, object],
    owner: str,
    beside: Mapping[str, bytes] | None = None,
    link: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write a copy of `base` with other bytes for some tensors to the folder `target`.

    patched: by tensor name, a function that produces its new bytes; they are called one after
        the other in file order, so one tensor at a time is in memory.
    provenance: JSON values for `ledger.json`, which also gets `files` and `owner`.
    owner: identifies the ledger; a folder that another one wrote is refused.
    beside: further files by plain name; one of the base's by that name is refused.
    link: hard links instead of copies, for files without a patched tensor.
    progress: receives (bytes done, bytes in all); called from any thread, never from two at once.

    A target that this owner wrote is updated, and files that somebody else put into it stay.
    Killed at any instant, the target is as before or complete; after an exception it is as before.

    Raises CheckpointError when the target is refused, the disk is full or fails, or new bytes do
    not have the size of their tensor. Exceptions of the functions in `patched` pass through.
    """
    place = Path(os.path.realpath(target))
    recover(place)
    _check_target(base, target, place, owner)
    plan = _plan(base, patched)
    beside = beside or {}
    for name in beside:
        if name in plan.files:
            raise CheckpointError(
                f"{base.folder / name}: the base has a file of the name that side memories need; "
                "give the base without it"
            )
    files = sorted({*plan.files, *beside, PROVENANCE_FILE})
    notes = _as_json({**provenance, "files": files, "owner": owner})
    counted = _Progress(plan.base_bytes + plan.patched_bytes, progress)
    with building(place) as folder:
        to_copy = _take_over(plan, folder, linked=link, counted=counted)
        _fill(plan, folder, to_copy, patched, counted)
        for name, content in {**beside, PROVENANCE_FILE: notes}.items():
            _write_whole(folder / name, content)
        # Again, since a long time may have passed.
        _check_target(base, target, place, owner)
        _carry_over(place, folder, mine=set(files))
        _sync_tree(folder)
        put_in_place(folder, place)
    return Written(
        folder=target,
        files=len(files),
        bytes_written=plan.patched_bytes + len(notes) + sum(map(len, beside.values())),
        bytes_taken_over=plan.base_bytes - plan.patched_bytes,
        tensors=tuple(tensor.name for tensor in plan.tensors),
        left_out=plan.left_out,
    )


def check_target(base: Checkpoint, target: Path, *, owner: str) -> None:
    """CheckpointError, with the way out, if `write_checkpoint` would refuse this target."""
    place = Path(os.path.realpath(target))
    recover(place)
    _check_target(base, target, place, owner)
    check_room(place)


def read_provenance(folder: Path) -> dict[str, object] | None:
    """The content of `ledger.json`, or None when there is none.

    Raises CheckpointError when there is one that cannot be understood.
    """
    path = folder / PROVENANCE_FILE
    try:
        value = read_strict_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise CheckpointError(
            f"{path}: not JSON ({error}); restore or remove the folder"
        ) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object; restore or remove the folder")
    return value


def _check_target(base: Checkpoint, target: Path, place: Path, owner: str) -> None:
    """Refuse a target that is not this owner's to replace."""
    with translated("look at", target):
        _check_apart(base.folder, target, place)
        if not os.path.lexists(place):
            return
        if not place.is_dir():
            raise CheckpointError(f"{target}: is a file; give a folder to write the model to")
        if not any(place.iterdir()):
            return
    found = read_provenance(place)
    if found is None:
        raise CheckpointError(
            f"{target}: holds files but no {PROVENANCE_FILE}, so no ledger wrote it; "
            "choose another folder or empty this one"
        )
    if found.get("owner") != owner:
        raise CheckpointError(
            f"{target}: written by another ledger; choose another folder or remove it"
        )


def _check_apart(base: Path, target: Path, place: Path) -> None:
    """Neither folder may be the other or lie in it, by whatever path they are reached."""
    home = Path(os.path.realpath(base))
    inside = any(_is_same(above, home) for above in (place, *place.parents))
    if inside or any(_is_same(above, place) for above in home.parents):
        raise CheckpointError(
            f"{target}: is, contains or lies in the base model's folder {base}, which is never "
            "written; choose another folder"
        )


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False


def _plan(base: Checkpoint, patched: Mapping[str, object]) -> _Plan:
    """Decide what the new folder holds; nothing is written yet."""
    wanted = {base.tensor(name).name for name in patched}
    files: dict[str, tuple[Path, int]] = {}
    left_out: list[str] = []
    with translated("read", base.folder):
        for name in _base_files(base.folder):
            path = Path(os.path.realpath(base.folder / name))
            if name == PROVENANCE_FILE:
                continue
            if _is_stale(name, base.shards):
                left_out.append(name)
            elif path.is_file():
                files[name] = (path, path.stat().st_size)
            else:
                raise CheckpointError(
                    f"{base.folder / name}: leads to no file; download the model again"
                )
    tensors = tuple(tensor for name, tensor in base.tensors.items() if name in wanted)
    return _Plan(files=files, left_out=tuple(left_out), tensors=tensors)


def _base_files(folder: Path, above: tuple[Path, ...] = ()) -> Iterator[str]:
    """Relative names of a folder's files, sorted, without hidden ones; links are followed."""
    home = Path(os.path.realpath(folder))
    if home in above:  # a link to a folder that contains it
        return
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            for name in _base_files(Path(entry.path), (*above, home)):
                yield f"{entry.name}/{name}"
        else:
            yield entry.name


def _is_stale(name: str, shards: tuple[str, ...]) -> bool:
    """Whether a base file holds, or leads to, weights that the edits do not reach."""
    if name.lower().endswith(_STALE_ENDINGS):
        return True
    if name in shards or not name.startswith(_STALE_SAFETENSORS) or "/" in name:
        return False
    if name == "model.safetensors.index.json":
        return shards == ("model.safetensors",)
    return name.endswith((".safetensors", ".safetensors.index.json"))


def _take_over(plan: _Plan, folder: Path, *, linked: bool, counted: _Progress) -> list[str]:
    """Bring those of the base's files into `folder` that need no space; the names of the others,
    for which there are empty files."""
    patched = {tensor.file for tensor in plan.tensors}
    to_copy: list[str] = []
    for name, (source, size) in plan.files.items():
        goal = folder / name
        with translated("write", goal):
            goal.parent.mkdir(parents=True, exist_ok=True)
            # A file that is about to be overwritten in part must be no link.
            if (linked and name not in patched and link(source, goal)) or clone(source, goal):
                counted.add(size)
            else:
                make_empty(goal, size)
                to_copy.append(name)
    # Cloned blocks get space of their own once they are overwritten.
    needed = sum(tensor.size for tensor in plan.tensors if tensor.file not in to_copy)
    _check_space(folder, needed + sum(plan.files[name][1] for name in to_copy))
    return to_copy


def _fill(
    plan: _Plan,
    folder: Path,
    to_copy: list[str],
    patched: Mapping[str, Callable[[], bytes | bytearray | memoryview]],
    counted: _Progress,
) -> None:
    """Write the patched tensors, and beside that, in a thread, copy all that is around them."""
    stopped = threading.Event()

    def copy_all() -> None:
        for name in to_copy:
            source, size = plan.files[name]
            with translated("write", folder / name):
                copy(
                    source,
                    folder / name,
                    size,
                    without=[(t.start, t.end) for t in plan.tensors if t.file == name],
                    copied=counted.add,
                    stopped=stopped.is_set,
                )

    with ThreadPoolExecutor(max_workers=1) as pool:
        copying = pool.submit(copy_all)
        try:
            for tensor in plan.tensors:
                if copying.done():  # if it failed, this raises
                    copying.result()
                _overwrite(folder, tensor, patched[tensor.name]())
                counted.add(tensor.size)
            copying.result()
        finally:
            stopped.set()
    for name in sorted({tensor.file for tensor in plan.tensors}):
        with translated("write", folder / name):
            sync(folder / name)


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CheckpointError(
            f"{folder.parent}: {needed:,} bytes are needed for the model and {free:,} are free; "
            "free some space there or write to another disk"
        )


def _overwrite(folder: Path, tensor: StoredTensor, data: bytes | bytearray | memoryview) -> None:
    """Put the new bytes of one tensor where its old ones are."""
    view = memoryview(data)
    if view.nbytes != tensor.size:
        raise CheckpointError(
            f"tensor {tensor.name!r}: {view.nbytes} new bytes for a {tensor.dtype} tensor of shape "
            f"{list(tensor.shape)}, which has {tensor.size}; the patch belongs to another model"
        )
    path = folder / tensor.file
    with translated("write", path), path.open("r+b") as file:
        file.seek(tensor.start)
        if view.nbytes:  # an empty view cannot be cast
            file.write(view.cast("B"))


def _as_json(content: Mapping[str, object]) -> bytes:
    text = json.dumps(content, sort_keys=True, indent=2, allow_nan=False)
    return f"{text}\n".encode("ascii")


def _write_whole(path: Path, content: bytes) -> None:
    with translated("write", path), path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _carry_over(place: Path, folder: Path, *, mine: set[str]) -> None:
    """Bring along what people put into the old folder; a file of ours by that name wins."""
    found = read_provenance(place)
    if found is None:
        return
    listed = found.get("files")
    written = mine.union(listed if isinstance(listed, list) else ())
    with translated("keep your files of", place):
        for name in _all_files(place):
            goal = folder / name
            if name in written or os.path.lexists(goal):
                continue
            goal.parent.mkdir(parents=True, exist_ok=True)
            if not link(place / name, goal):
                shutil.copy2(place / name, goal, follow_symlinks=False)


def _all_files(folder: Path) -> Iterator[str]:
    """Relative names of all files below a folder, hidden ones and links among them."""
    for name, folders, names in os.walk(folder):
        above = Path(name)
        links = [one for one in folders if (above / one).is_symlink()]
        for one in (*links, *names):
            yield (above / one).relative_to(folder).as_posix()


def _sync_tree(folder: Path) -> None:
    """Make the names of all files reach the disk; their content has been synced already."""
    with translated("write", folder):
        for above, _, _ in os.walk(folder):
            sync(Path(above))
