"""A state without its base: as a LoRA adapter in PEFT's form, or as the sums of its deltas."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ledger.adapting import AdapterExport, nothing_to_export, origin_of, state_adapter
from ledger.applying import Chosen, choose_state, memory_files
from ledger.hub import check_repo
from ledger.models import split_revision
from ledger.progress import Progress, silent
from ledger.refs import Rev
from ledger.workspace import Ledger
from patches.application import summed, total_change
from patches.canonical_tensors import safetensors_head
from patches.dtypes import tensor_view
from patches.errors import CheckpointError, HistoryError, ModelError, SettingError
from patches.finite import is_finite
from patches.folder_swap import building, put_in_place, recover, sync, translated
from patches.patch import PatchFile, tensors_changed
from patches.row_pieces import row_pieces

__all__ = ["AdapterExport", "Exported", "export", "state_adapter"]

FORMATS = ("peft", "safetensors")
DELTA_FILE = "delta.safetensors"
DELTA_FORMAT = "edit-ledger-delta"
_VERSION = "1"


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A folder that was written. files: name → bytes. ranks, errors: of an adapter, else empty."""

    folder: Path
    format: str
    turn: int
    hash: str
    in_force: list[int]
    files: dict[str, int]
    tensors: list[str]
    ranks: dict[str, int]
    errors: dict[str, float]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger export --json``; fields are only ever added."""
        return {
            "folder": str(self.folder),
            "format": self.format,
            "turn": self.turn,
            "hash": self.hash,
            "in_force": self.in_force,
            "files": self.files,
            "tensors": self.tensors,
            "ranks": self.ranks,
            "errors": self.errors,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, kw_only=True)
class Adapting:
    """How a state becomes an adapter. base_model: ``owner/name`` with optional ``@revision``."""

    rank: int | None = None
    max_error: float | None = None
    base_model: str | None = None


def export(
    ledger: Ledger,
    format: str,  # noqa: A002 (the option's name)
    out: Path,
    *,
    at: Rev | None = None,
    rank: int | None = None,
    max_error: float | None = None,
    base_model: str | None = None,
    progress: Progress = silent,
) -> Exported:
    """Write the state after turn `at` (default: the head) into the new or empty folder `out`.

    format: ``peft``, see `state_adapter` (base_model: ``owner/name`` with optional ``@revision``);
    or ``safetensors``: Σ Δ of every tensor. Raises CheckpointError if the folder may not be
    written, HistoryError if there is nothing to export, and what `state_adapter` raises; the folder
    is complete or as it was.
    """
    if format not in FORMATS:
        raise SettingError(f"--format is one of {', '.join(FORMATS)}, not {format!r}")
    adapter = Adapting(rank=rank, max_error=max_error, base_model=base_model)
    if format == "peft":
        return _export_adapter(ledger, out, at, adapter, progress)
    if adapter != Adapting():
        raise SettingError("--rank, --max-error and --base-model are for --format peft")
    return _export_sums(ledger, out, at, progress)


def _export_adapter(
    ledger: Ledger, out: Path, at: Rev | None, how: Adapting, progress: Progress
) -> Exported:
    base, revision = None, None
    if how.base_model is not None:
        base, revision = split_revision(how.base_model)
        check_repo(base)
    place = _checked_place(ledger, out)
    made = state_adapter(
        ledger,
        at=at,
        rank=how.rank,
        max_error=how.max_error,
        base_model=base,
        revision=revision,
        progress=progress,
    )
    with _replacing(place) as folder:
        for name, content in made.files.items():
            (folder / name).write_bytes(content)
    return Exported(
        folder=out,
        format="peft",
        turn=made.turn,
        hash=made.hash,
        in_force=made.in_force,
        files={name: len(content) for name, content in made.files.items()},
        tensors=sorted(made.ranks),
        ranks=made.ranks,
        errors=made.errors,
        notes=made.notes,
    )


def _export_sums(ledger: Ledger, out: Path, at: Rev | None, progress: Progress) -> Exported:
    """Σ Δ of every tensor, in float32 and in the checkpoint's layout, and beside it the file of
    side memories."""
    place = _checked_place(ledger, out)
    chosen = choose_state(ledger, at)
    patches = chosen.state.patches
    layout = tensors_changed(patches)
    beside = memory_files(ledger, chosen.state)
    if not layout and not beside:
        raise HistoryError(nothing_to_export(chosen))
    with _replacing(place) as folder:
        if layout:
            _write_sums(ledger, chosen, layout, folder / DELTA_FILE, progress)
        for name, content in beside.items():
            (folder / name).write_bytes(content)
        sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    note = (
        f"side memories are in force: {', '.join(beside)} holds them, and means something beside "
        "the weights only; load them with ledger.load_patched from a folder that ledger apply wrote"
    )
    return Exported(
        folder=out,
        format="safetensors",
        turn=chosen.turn,
        hash=chosen.hash,
        in_force=[turn.number for turn in chosen.in_force],
        files=sizes,
        tensors=sorted(layout),
        ranks={},
        errors={},
        notes=(note,) if beside else (),
    )


def _write_sums(
    ledger: Ledger, chosen: Chosen, layout: Mapping[str, bool], path: Path, progress: Progress
) -> None:
    """Tensor by tensor; the header can be written first, since all shapes are known."""
    shapes = {name: ledger.checkpoint.tensor(name).shape for name in layout}
    metadata = {"format": DELTA_FORMAT, "version": _VERSION, **origin_of(ledger, chosen)}
    head, order = safetensors_head({n: (torch.float32, s) for n, s in shapes.items()}, metadata)
    with path.open("wb") as file:
        file.write(head)
        for done, name in enumerate(order, start=1):
            for total in _stored_rows(chosen.state.patches, name, transposed=layout[name]):
                rounded = total.float()
                if not is_finite(rounded):
                    raise ModelError(f"tensor {name}: its change is too large for float32")
                file.write(tensor_view(rounded))
            progress("write sums", done, len(order))


def _stored_rows(patches: Sequence[PatchFile], name: str, *, transposed: bool) -> Iterator[Tensor]:
    """Σ Δ of a tensor in the checkpoint's layout, float64, a few rows at a time."""
    if not transposed:
        yield from summed(patches, name)
        return
    total = total_change(patches, name)
    assert total is not None
    turned = total.T
    yield from (turned[rows] for rows in row_pieces(turned.shape))


def _checked_place(ledger: Ledger, out: Path) -> Path:
    """Where `out` is; CheckpointError unless it is new or empty, and not part of the base."""
    place = Path(os.path.realpath(out.expanduser()))
    recover(place)
    base = ledger.checkpoint.folder.resolve()
    if place == base or base in place.parents:
        raise CheckpointError(f"{out}: is in the folder of the base model; choose another")
    with translated("look at", out):
        if place.exists() and not place.is_dir():
            raise CheckpointError(f"{out}: is a file; give a folder to write to")
        if place.exists() and any(place.iterdir()):
            raise CheckpointError(f"{out}: holds files; choose a new or empty folder")
    return place


@contextmanager
def _replacing(place: Path) -> Iterator[Path]:
    """Inside, a folder to be filled, which then takes its place in one step."""
    with translated("write", place), building(place) as folder:
        yield folder
        for path in folder.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync(folder)
        put_in_place(folder, place)
