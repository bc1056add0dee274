"""Model folders: where each tensor's bytes lie, their digests, and the fingerprint of a model.

Only safetensors is read, and only its headers are parsed. No tensor library is needed, so commands
that never compute answer at once.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from patches.canonical import canonical_json, sha256
from patches.errors import CheckpointError
from patches.strict_json import read_strict_json
from patches.tensor_file import StoredTensor, read_tensor_file

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

_LONGEST_NAME = 255
_PIECE = 2 * 1024 * 1024
_OTHER_WEIGHTS = (".bin", ".pth", ".pt", ".gguf", ".h5", ".msgpack", ".onnx")
_AGAIN = "copy or download the model again"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model folder whose weight files have been found sound.

    tensors: by name, in the order in which they lie in the files.
    shards: names of the weight files, sorted.
    """

    folder: Path
    tensors: Mapping[str, StoredTensor]
    shards: tuple[str, ...]

    def tensor(self, name: str) -> StoredTensor:
        """Where the tensor `name` lies. Raises CheckpointError when there is none."""
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(
                f"{self.folder}: no tensor named {name!r} in it; is this the right model?"
            ) from None

    def read(self, name: str) -> bytearray:
        """The bytes of one tensor, in a buffer of its own that may be written to.

        Raises CheckpointError when there is no such tensor or its file has become too short.
        """
        tensor = self.tensor(name)
        data = bytearray(tensor.size)
        left = memoryview(data)
        with _reading(self.folder / tensor.file), _at_start(self.folder, tensor) as file:
            while left:
                left = left[_fill(left, file, tensor) :]
        return data


def open_checkpoint(folder: Path) -> Checkpoint:
    """Find the tensors of a model folder and check its headers; no tensor bytes are read.

    As in transformers, `model.safetensors` wins over `model.safetensors.index.json`. Symbolic
    links, of which a Hugging Face cache consists, are followed.

    Raises CheckpointError when the folder is missing, is not a model, or its weights are not
    safetensors, incomplete or damaged.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such folder; give the folder of a saved model")
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder}: no config.json in it, so it is not a model folder; "
            "give the folder that save_pretrained wrote"
        )
    if (folder / SINGLE_FILE).is_file():
        parts = {SINGLE_FILE: _read_header(folder, SINGLE_FILE)}
    elif (folder / INDEX_FILE).is_file():
        parts = _read_shards(folder)
    else:
        raise CheckpointError(_nothing_to_read(folder))
    tensors = {tensor.name: tensor for name in sorted(parts) for tensor in parts[name]}
    return Checkpoint(folder=folder, tensors=tensors, shards=tuple(sorted(parts)))


def tensor_digests(
    checkpoint: Checkpoint,
    *,
    names: Iterable[str] | None = None,
    threads: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, str]:
    """SHA-256 (hex) of the bytes of each tensor, or of those in `names`.

    The bytes are streamed, so memory does not depend on the size of the model; nor does the
    result on `threads`. `progress` receives (bytes done, bytes in all) and may be called from
    any thread, but never from two at once.

    Raises CheckpointError for an unknown name or a file that has become too short.
    """
    wanted = [checkpoint.tensor(name) for name in (checkpoint.tensors if names is None else names)]
    total = sum(tensor.size for tensor in wanted)
    lock = threading.Lock()
    done = 0

    def digest(tensor: StoredTensor) -> str:
        nonlocal done
        running = hashlib.sha256()
        for piece in _pieces(checkpoint.folder, tensor):
            running.update(piece)
            with lock:
                done += len(piece)
                if progress is not None:
                    progress(done, total)
        return running.hexdigest()

    pool = ThreadPoolExecutor(max_workers=max(1, threads))
    try:
        digests = list(pool.map(digest, wanted))
    finally:
        # After an error or Ctrl-C, the tensors still waiting need not be read.
        pool.shutdown(cancel_futures=True)
    return {tensor.name: hexadecimal for tensor, hexadecimal in zip(wanted, digests, strict=True)}


def fingerprint(checkpoint: Checkpoint, digests: Mapping[str, str]) -> str:
    """SHA-256 (hex) over names, dtypes, shapes and digests of all tensors, sorted by name.

    Equal for two folders with equal tensors, however they are split into files and ordered.
    Raises CheckpointError when `digests` lacks a tensor.
    """
    missing = sorted(set(checkpoint.tensors) - set(digests))
    if missing:
        raise CheckpointError(f"{checkpoint.folder}: no digest of {_few(missing)}; digest them all")
    return fingerprint_of(
        {name: (t.dtype, t.shape, digests[name]) for name, t in checkpoint.tensors.items()}
    )


def fingerprint_of(tensors: Mapping[str, tuple[str, tuple[int, ...], str]]) -> str:
    """The same from what is known of a model. tensors: name → (dtype, shape, SHA-256)."""
    rows = [[name, dtype, list(shape), d] for name, (dtype, shape, d) in sorted(tensors.items())]
    return sha256(canonical_json(rows))


def _pieces(folder: Path, tensor: StoredTensor) -> Iterator[memoryview]:
    """The tensor's bytes in pieces; each is overwritten by the next."""
    piece = memoryview(bytearray(min(_PIECE, tensor.size)))
    with _reading(folder / tensor.file), _at_start(folder, tensor) as file:
        left = tensor.size
        while left:
            count = _fill(piece[: min(len(piece), left)], file, tensor)
            left -= count
            yield piece[:count]


@contextmanager
def _at_start(folder: Path, tensor: StoredTensor) -> Iterator[FileIO]:
    """The file of a tensor, open where its bytes begin."""
    with (folder / tensor.file).open("rb", buffering=0) as file:
        file.seek(tensor.start)
        yield file


def _fill(piece: memoryview, file: FileIO, tensor: StoredTensor) -> int:
    """Read into `piece`; how many bytes have come. CheckpointError if there are no more."""
    count = file.readinto(piece)
    if not count:
        raise CheckpointError(f"{file.name}: ends inside tensor {tensor.name!r}; {_AGAIN}")
    return count


def _read_shards(folder: Path) -> dict[str, tuple[StoredTensor, ...]]:
    """The tensors of every shard that the index names, each checked against the index."""
    listed: dict[str, set[str]] = {}
    for name, file in _read_weight_map(folder / INDEX_FILE).items():
        listed.setdefault(file, set()).add(name)
    missing = sorted(file for file in listed if not (folder / file).is_file())
    if missing:
        raise CheckpointError(
            f"{folder}: {_few(missing)} named in {INDEX_FILE} but not there; {_AGAIN}"
        )
    parts = {file: _read_header(folder, file) for file in sorted(listed)}
    for file, tensors in parts.items():
        found = {tensor.name for tensor in tensors}
        if absent := sorted(listed[file] - found):
            problem = f"lacks {_few(absent)}, which {INDEX_FILE} says it holds"
        elif extra := sorted(found - listed[file]):
            problem = f"holds {_few(extra)}, which {INDEX_FILE} does not place there"
        else:
            continue
        raise CheckpointError(f"{folder / file}: {problem}; {_AGAIN}")
    return parts


def _read_weight_map(path: Path) -> dict[str, str]:
    """Tensor name → shard name, from an index; every shard name is a plain file name."""
    with _reading(path):
        index = read_strict_json(path)
    found = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{path}: has no weight_map; {_AGAIN}")
    weight_map: dict[str, str] = {}
    for name, file in found.items():
        if not isinstance(file, str) or not _is_plain(file):
            raise CheckpointError(
                f"{path}: places tensor {name!r:.200} in {file!r:.200}, which is not a plain file "
                "name; do not use this model unless you trust where it comes from, and correct the "
                "index"
            )
        weight_map[name] = file
    return weight_map


def _is_plain(file: str) -> bool:
    """Whether a name stays in its folder."""
    short = len(file.encode("utf-8")) <= _LONGEST_NAME
    return short and file not in ("", ".", "..") and not any(mark in file for mark in "/\\\0")


def _read_header(folder: Path, file: str) -> tuple[StoredTensor, ...]:
    """The tensors of one safetensors file in the order of their bytes, which leave no gap."""
    path = folder / file
    with _reading(path):
        return read_tensor_file(path).tensors


def _nothing_to_read(folder: Path) -> str:
    """The message for a folder without safetensors weights, with what to do about it."""
    names = sorted(entry.name for entry in folder.iterdir())
    others = [name for name in names if name.lower().endswith(_OTHER_WEIGHTS)]
    gguf = next((name for name in others if name.lower().endswith(".gguf")), None)
    if others:
        option = f", gguf_file={gguf!r}" if gguf else ""
        return (
            f"{folder}: its weights are {_few(others)}, not safetensors; convert them once with "
            f"transformers: AutoModelForCausalLM.from_pretrained({str(folder)!r}{option})"
            ".save_pretrained(NEW_FOLDER), the tokenizer likewise, and use NEW_FOLDER"
        )
    if strays := [name for name in names if name.endswith(".safetensors")]:
        return (
            f"{folder}: holds {_few(strays)}, but neither {SINGLE_FILE} nor {INDEX_FILE}; "
            "rename the file or fetch the missing index"
        )
    return f"{folder}: no weights in it ({SINGLE_FILE} or {INDEX_FILE}); {_AGAIN}"


def _few(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the operating system's errors, and what is wrong with a file, into one that names it."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}; {_AGAIN}") from error
