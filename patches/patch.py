"""Patch files: what one turn does to the weights, as canonical safetensors.

A patch describes itself without a database. Its metadata hold, all as text:

    format, version     "edit-ledger-patch", "1"
    base                fingerprint of the base model
    method              the editor, e.g. "ultraedit"
    hyperparameters     canonical JSON
    turn                the turn's number
    parent              digest of the patch before it on the branch, or ""
    changes             canonical JSON: tensor name → kind, shape (d_out, d_in), transposed, and for
                        a side memory its routing

and the tensors are named ``<tensor name>/<part of the delta>``. An editor state is a file of the
same make with format "edit-ledger-state".
"""

import re
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from patches.canonical import Piece, canonical_json
from patches.canonical_tensors import safetensors_pieces
from patches.deltas import KINDS, Delta, Sparse
from patches.dtypes import DTYPES
from patches.errors import PatchError
from patches.finite import is_finite
from patches.side_memory import SIDE_MEMORY, Routing, SideMemory
from patches.strict_json import strict_json
from patches.tensor_file import TensorFile, read_tensor_file

PATCH_FORMAT = "edit-ledger-patch"
STATE_FORMAT = "edit-ledger-state"
VERSION = "1"
# Of a file of ours: a few hundred bytes for each tensor, and the hyperparameters.
_LONGEST_HEADER = 1 << 24
_COUNT = re.compile(r"0|[1-9][0-9]{0,17}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Change:
    """The delta of one tensor. `transposed`: the checkpoint stores (d_in, d_out), as GPT-2 does.

    routing: makes it a side memory: not added to the weight, but put beside it.
    """

    delta: Delta
    transposed: bool = False
    routing: Routing | None = None


@dataclass(frozen=True, kw_only=True)
class ChangeInfo:
    """What the header of a patch says of one tensor, without reading it."""

    kind: str
    shape: tuple[int, int]
    transposed: bool
    rank: int | None
    routing: Routing | None = None

    def to_json(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            "kind": self.kind,
            "shape": list(self.shape),
            "transposed": self.transposed,
            "rank": self.rank,
        }
        if self.routing is not None:
            content["routing"] = self.routing.to_json()
        return content

    @classmethod
    def from_json(cls, found: Any) -> "ChangeInfo":
        """The inverse of `to_json`; KeyError, TypeError or ValueError for anything else."""
        d_out, d_in = found["shape"]
        info = cls(
            kind=found["kind"],
            shape=(d_out, d_in),
            transposed=found["transposed"],
            rank=found["rank"],
            routing=Routing.from_json(found["routing"]) if "routing" in found else None,
        )
        counts = info.shape if info.rank is None else (*info.shape, info.rank)
        if (type(info.kind), type(info.transposed)) != (str, bool) or {*map(type, counts)} != {int}:
            raise TypeError(f"a change described as {found!r}")
        if min(info.shape) < 1 or min(counts) < 0:
            raise ValueError(f"a change of the shape {info.shape} and rank {info.rank}")
        if (info.kind == SIDE_MEMORY) != (info.routing is not None):
            raise ValueError(f"a change of the kind {info.kind} described as {found!r}")
        return info


@dataclass(frozen=True, kw_only=True)
class PatchHeader:
    """Where a patch comes from."""

    base: str
    method: str
    hyperparameters: Mapping[str, Any]
    turn: int
    parent: str | None


class PatchFile:
    """A patch on disk; deltas are read when asked for, one tensor at a time.

    changes: what it adds to weights. memories: what it puts beside weights.
    """

    def __init__(self, path: Path, *, held: bool = False) -> None:
        """held: keep the file open, for one that may be removed while it is in use."""
        self.path = path
        file = _read_file(path, PATCH_FORMAT)
        self._held = _open(path) if held else None
        metadata = file.metadata
        try:
            self.header = PatchHeader(
                base=metadata["base"],
                method=metadata["method"],
                hyperparameters=_object(metadata["hyperparameters"]),
                turn=_count(metadata["turn"]),
                parent=metadata["parent"] or None,
            )
            described = {
                name: ChangeInfo.from_json(info)
                for name, info in _object(metadata["changes"]).items()
            }
            _check_owners(file, described)
        except (KeyError, ValueError, TypeError, PatchError) as error:
            raise PatchError(
                f"{path}: the header of the patch is damaged ({error!r:.300})"
            ) from error
        self.changes = {n: info for n, info in described.items() if info.routing is None}
        self.memories = {n: info for n, info in described.items() if info.routing is not None}

    def delta(self, tensor: str) -> Delta:
        """The delta of `tensor`; PatchError if the file does not hold what its header says, or a
        number that is not finite."""
        info = self.changes.get(tensor) or self.memories[tensor]
        kind = Sparse.kind if info.kind == SIDE_MEMORY else info.kind
        if kind not in KINDS:
            raise PatchError(
                f"{self.path}: tensor {tensor} has a delta of the unknown kind {info.kind!r:.80}; "
                f"this program knows {', '.join(KINDS)}. A newer edit-ledger may have written it"
            )
        try:
            with nullcontext(self._held) if self._held else _open(self.path) as file:
                names = [name for name in file.keys() if name.rpartition("/")[0] == tensor]  # noqa: SIM118 (no mapping)
                parts = {name.rpartition("/")[2]: file.get_tensor(name) for name in names}
        except (SafetensorError, OSError) as error:
            raise PatchError(f"{self.path}: cannot be read ({error})") from error
        check_finite(self.path, {f"{tensor}/{part}": found for part, found in parts.items()})
        try:
            delta = KINDS[kind].from_tensors(parts)
        except PatchError as error:
            raise PatchError(f"{self.path}: tensor {tensor}: {error}") from error
        if delta.shape != info.shape:
            raise PatchError(
                f"{self.path}: the delta of {tensor} is {delta.shape}, its header says {info.shape}"
            )
        if delta.rank != info.rank:
            raise PatchError(
                f"{self.path}: the delta of {tensor} has rank {delta.rank}, its header says "
                f"{info.rank}"
            )
        return delta

    def memory(
        self, tensor: str, *, main: Tensor | None = None, turn: int | None = None
    ) -> SideMemory:
        """The side memory beside `tensor`. main: as in `SideMemory`. turn: that it is part of, if
        not the one that the header names."""
        info = self.memories[tensor]
        delta = self.delta(tensor)
        if not isinstance(delta, Sparse) or info.routing is None:
            raise PatchError(f"{self.path}: tensor {tensor} has no side memory")
        return SideMemory(
            turn=self.header.turn if turn is None else turn,
            tensor=tensor,
            transposed=info.transposed,
            delta=delta,
            routing=info.routing,
            main=main,
        )


class PatchInMemory(PatchFile):
    """A patch that is not on disk yet, as its file will say it."""

    def __init__(self, header: PatchHeader, changes: Mapping[str, Change]) -> None:
        self.path = Path("the patch in memory")
        self.header = header
        self._held = None
        self._made = changes
        infos = {name: describe(change) for name, change in changes.items()}
        self.changes = {n: info for n, info in infos.items() if info.routing is None}
        self.memories = {n: info for n, info in infos.items() if info.routing is not None}

    def delta(self, tensor: str) -> Delta:
        delta = self._made[tensor].delta
        check_finite(self.path, {f"{tensor}/{part}": t for part, t in delta.tensors().items()})
        return delta


def _open(path: Path) -> Any:
    """The tensors of a file, as the library reads them; PatchError if it cannot be read."""
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise PatchError(f"{path}: cannot be read ({error})") from error


def describe(change: Change) -> ChangeInfo:
    """The header's view of a change in memory."""
    delta = change.delta
    return ChangeInfo(
        kind=delta.kind if change.routing is None else SIDE_MEMORY,
        shape=delta.shape,
        transposed=change.transposed,
        rank=delta.rank,
        routing=change.routing,
    )


def encode_patch(header: PatchHeader, changes: Mapping[str, Change]) -> bytes:
    """The bytes of a patch: equal header and tensors give equal bytes."""
    return b"".join(patch_pieces(header, changes))


def patch_pieces(header: PatchHeader, changes: Mapping[str, Change]) -> list[Piece]:
    """The bytes of a patch one after the other, those of its tensors where they are."""
    metadata = patch_metadata(header, {name: describe(one) for name, one in changes.items()})
    tensors = {
        f"{name}/{part}": tensor
        for name, change in changes.items()
        for part, tensor in change.delta.tensors().items()
    }
    return safetensors_pieces(tensors, metadata)


def patch_metadata(header: PatchHeader, changes: Mapping[str, ChangeInfo]) -> dict[str, str]:
    """What the header of a patch file says."""
    described = {name: info.to_json() for name, info in changes.items()}
    return {
        "format": PATCH_FORMAT,
        "version": VERSION,
        "base": header.base,
        "method": header.method,
        "hyperparameters": canonical_json(dict(header.hyperparameters)).decode(),
        "turn": str(header.turn),
        "parent": header.parent or "",
        "changes": canonical_json(described).decode(),
    }


def encode_state(method: str, tensors: Mapping[str, Tensor]) -> bytes:
    """The bytes of what an editor carries from a turn to the next."""
    return b"".join(state_pieces(method, tensors))


def state_pieces(method: str, tensors: Mapping[str, Tensor]) -> list[Piece]:
    """The same one after the other."""
    return safetensors_pieces(
        tensors, {"format": STATE_FORMAT, "version": VERSION, "method": method}
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of an editor state; PatchError if it is damaged, or a number is not finite."""
    read_metadata(path, STATE_FORMAT)
    return read_tensors(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of ours whose metadata have been read; PatchError as above."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise PatchError(f"{path}: cannot be read ({error})") from error
    check_finite(path, tensors)
    return tensors


def check_finite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """PatchError if one of `tensors`, read from `path`, holds a number that is not finite."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not is_finite(tensor):
            raise PatchError(
                f"{path}: {name} holds numbers that are not finite; get the file again from where "
                "it came from"
            )


def tensors_changed(patches: Iterable[PatchFile]) -> dict[str, bool]:
    """Every tensor that one of `patches` changes, in order of first change, → transposed.

    PatchError if two disagree about the layout.
    """
    changed: dict[str, bool] = {}
    for patch in patches:
        for name, info in patch.changes.items():
            if changed.setdefault(name, info.transposed) != info.transposed:
                raise PatchError(f"{patch.path}: {name} is stored in another layout than before")
    return changed


def read_metadata(path: Path, expected: str) -> Mapping[str, str]:
    """The metadata of a file of ours; PatchError unless it is of the format `expected`."""
    return _read_file(path, expected).metadata


def _read_file(path: Path, expected: str) -> TensorFile:
    """The header of a file of ours, with tensors of dtypes that we write."""
    try:
        file = read_tensor_file(path, longest=_LONGEST_HEADER)
    except FileNotFoundError as error:
        raise PatchError(f"{path}: no such file") from error
    except (ValueError, OSError) as error:
        raise PatchError(f"{path}: not a readable safetensors file ({error})") from error
    if file.metadata.get("format") != expected:
        raise PatchError(f"{path}: not an {expected} file")
    version = file.metadata.get("version")
    if version != VERSION:
        raise PatchError(
            f"{path}: format version {version!s:.40}, this program reads {VERSION}; update "
            "edit-ledger"
        )
    for tensor in file.tensors:
        if tensor.dtype not in DTYPES:
            raise PatchError(
                f"{path}: {tensor.name:.200} is stored as {tensor.dtype}; edit-ledger writes "
                f"{', '.join(sorted(DTYPES))}"
            )
    return file


def _object(text: str) -> dict[str, Any]:
    """A JSON object among the metadata."""
    value = strict_json(text)
    if not isinstance(value, dict):
        raise TypeError(f"{text[:40]} is not a JSON object")
    return value


def _count(text: str) -> int:
    """A whole number as `str` writes it."""
    if not _COUNT.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a number")
    return int(text)


def _check_owners(file: TensorFile, described: Mapping[str, ChangeInfo]) -> None:
    """Bytes that belong to no change would be carried along unseen."""
    for tensor in file.tensors:
        if tensor.name.rpartition("/")[0] not in described:
            raise ValueError(f"the tensor {tensor.name!r:.200} belongs to no change")
