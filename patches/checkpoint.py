"""Model folders: where each tensor's bytes lie, their digests, and the fingerprint of a model.

Only safetensors is read, and only its headers are parsed: 8 bytes little-endian with the length
of the header, the header as JSON, then the tensors' bytes without gaps. No tensor library is
needed, so commands that never compute answer at once.
"""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TypeGuard

from patches.canonical import canonical_json, sha256
from patches.errors import CheckpointError

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# Bits of one element, by the names that the safetensors format uses.
BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
}

# The format's own limit; a longer one is a damaged length, not a header.
_LONGEST_HEADER = 100_000_000
_PIECE = 2 * 1024 * 1024
_OTHER_WEIGHTS = (".bin", ".pth", ".pt", ".gguf", ".h5", ".msgpack", ".onnx")
_AGAIN = "copy or download the model again"


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where the bytes of one tensor lie.

    dtype: safetensors' name of it, e.g. ``BF16``.
    file: name of the weight file in its folder.
    start, end: absolute byte offsets in that file.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.end - self.start


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
        filled = 0
        for piece in _pieces(self.folder, tensor):
            data[filled : filled + len(piece)] = piece
            filled += len(piece)
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
    path = folder / tensor.file
    piece = memoryview(bytearray(min(_PIECE, tensor.size)))
    with _reading(path), path.open("rb", buffering=0) as file:
        file.seek(tensor.start)
        left = tensor.size
        while left:
            count = file.readinto(piece[: min(len(piece), left)])
            if not count:
                raise CheckpointError(f"{path}: ends inside tensor {tensor.name!r}; {_AGAIN}")
            left -= count
            yield piece[:count]


def _read_shards(folder: Path) -> dict[str, list[StoredTensor]]:
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
        index = _parse_json(path.read_bytes(), path)
    found = index.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{path}: has no weight_map; {_AGAIN}")
    weight_map: dict[str, str] = {}
    for name, file in found.items():
        if not isinstance(file, str) or not _is_plain(file):
            raise CheckpointError(
                f"{path}: places tensor {name!r} in {file!r}, which is not a plain file name; "
                "do not use this model unless you trust where it comes from, and correct the index"
            )
        weight_map[name] = file
    return weight_map


def _is_plain(file: str) -> bool:
    """Whether a name stays in its folder."""
    return file not in ("", ".", "..") and not any(mark in file for mark in "/\\\0")


def _read_header(folder: Path, file: str) -> list[StoredTensor]:
    """The tensors of one safetensors file in the order of their bytes, which leave no gap."""
    path = folder / file
    with _reading(path), path.open("rb") as opened:
        size = os.fstat(opened.fileno()).st_size
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise CheckpointError(
                f"{path}: {size} bytes long, its header says {length}: not safetensors, "
                f"or cut off; {_AGAIN}"
            )
        header = _parse_json(opened.read(length), path)
    _check_metadata(header.pop("__metadata__", None), path)
    tensors = [_stored(name, entry, path, 8 + length) for name, entry in header.items()]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end, tensor.name))
    reached = 8 + length
    for tensor in tensors:
        if tensor.start != reached:
            raise _damaged(path, tensor.name, "leaves a gap or overlaps another")
        reached = tensor.end
    if reached != size:
        raise CheckpointError(
            f"{path}: {size} bytes long where its header describes {reached}; {_AGAIN}"
        )
    return tensors


def _check_metadata(value: object, path: Path) -> None:
    """Free text about the file may be absent, but not anything else than text."""
    if value is None:
        return
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise CheckpointError(f"{path}: __metadata__ in its header is not text; {_AGAIN}")


def _stored(name: str, entry: object, path: Path, origin: int) -> StoredTensor:
    """Check one entry of a header; its offsets count from `origin`, the header's end."""
    if not isinstance(entry, dict):
        raise _damaged(path, name, "has no description")
    dtype, shape, offsets = (entry.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _damaged(path, name, f"has the unknown dtype {dtype!r}")
    if not _are_counts(shape):
        raise _damaged(path, name, "has no valid shape")
    if not _are_counts(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _damaged(path, name, "has no valid data_offsets")
    # Elements of less than a byte are packed, and must fill whole bytes.
    if prod(shape) * BITS[dtype] != (offsets[1] - offsets[0]) * 8:
        raise _damaged(path, name, f"has data_offsets that do not fit {dtype} {shape}")
    start, end = origin + offsets[0], origin + offsets[1]
    return StoredTensor(
        name=name, dtype=dtype, shape=tuple(shape), file=path.name, start=start, end=end
    )


def _are_counts(value: object) -> TypeGuard[list[int]]:
    """Whether a JSON value is a list of whole numbers from 0 on (true and false are not)."""
    return isinstance(value, list) and all(type(one) is int and one >= 0 for one in value)


def _parse_json(data: bytes, path: Path) -> dict[str, object]:
    """A JSON object without repeated keys; CheckpointError names `path` otherwise."""
    try:
        value = json.loads(
            data.decode("utf-8"), object_pairs_hook=_without_repeats, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: header or index is not JSON ({error}); {_AGAIN}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: header or index is not a JSON object; {_AGAIN}")
    return value


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Two entries of one name would let two readers see two different tensors."""
    for key, _ in pairs:
        key.encode("utf-8")  # half a surrogate pair is no text: UnicodeEncodeError, a ValueError
    if len(values := dict(pairs)) < len(pairs):
        raise ValueError("a key occurs twice")
    return values


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


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


def _damaged(path: Path, name: str, problem: str) -> CheckpointError:
    return CheckpointError(f"{path}: tensor {name!r} {problem}; {_AGAIN}")


def _few(names: list[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the operating system's errors into one that names the file."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from error
