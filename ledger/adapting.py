"""A state as a LoRA adapter in PEFT's form: exact, or smaller with the error stated."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ledger.applying import Chosen, choose_state
from ledger.models import module_outline, names_of
from ledger.progress import Progress, silent
from ledger.refs import Rev
from ledger.workspace import Ledger
from patches.adapter import encode_adapter
from patches.application import total_change
from patches.compaction import compacted, concatenated, factored
from patches.deltas import LowRank
from patches.errors import HistoryError, ModelError, SettingError
from patches.modules import is_conv1d, linear_modules_by_tensor
from patches.patch import PatchFile, tensors_changed

# What vLLM takes at the most.
_COMMON_LIMIT = 512


@dataclass(frozen=True, kw_only=True)
class AdapterExport:
    """A state as an adapter. files: name → content. ranks, errors: per tensor of the checkpoint.

    errors: ‖Δ − Δ′‖ / ‖Δ‖ of the adapter's product Δ′, its rounding to float32 included.
    """

    turn: int
    hash: str
    in_force: list[int]
    files: dict[str, bytes]
    ranks: dict[str, int]
    errors: dict[str, float]
    notes: tuple[str, ...]


class _Module(NamedTuple):
    """A linear module of the model: its name, and whether it stores its weight transposed."""

    name: str
    conv1d: bool


def state_adapter(
    ledger: Ledger,
    *,
    at: Rev | None = None,
    rank: int | None = None,
    max_error: float | None = None,
    base_model: str | None = None,
    revision: str | None = None,
    progress: Progress = silent,
) -> AdapterExport:
    """The state after turn `at` (default: the head) as the files of a LoRA adapter.

    rank, max_error: as in `patches.compaction.compacted`; neither: exact. base_model, revision:
    what the adapter names as its base (default: that of the ledger, if it is on the Hub). Raises
    HistoryError if side memories are in force or nothing is, ModelError if a tensor is not that of
    a linear module alone, SettingError if `rank` does not reach `max_error`.
    """
    _check_settings(rank, max_error)
    chosen = choose_state(ledger, at, whole=True)
    if chosen.state.memories:
        raise HistoryError(_memories_in_force(chosen))
    layout = tensors_changed(chosen.state.patches)
    modules = _modules(ledger, chosen, list(layout))
    deltas: dict[str, LowRank] = {}
    errors: dict[str, float] = {}
    for done, name in enumerate(sorted(layout), start=1):
        delta, error = _factors(chosen.state.patches, name, rank, max_error)
        if not math.isfinite(error):
            raise ModelError(f"tensor {name}: its change is too large for an adapter's float32")
        if max_error is not None and error > max_error:
            raise SettingError(_not_reached(name, delta, error, rank, max_error))
        if delta.A.shape[0]:
            deltas[name], errors[name] = delta, error
        progress("factor", done, len(layout))
    if not deltas:
        raise HistoryError(nothing_to_export(chosen))
    if base_model is None and ledger.base.revision is not None:
        base_model, revision = ledger.base.uri, ledger.base.revision
    files = encode_adapter(
        {modules[name].name: delta for name, delta in deltas.items()},
        base_model=base_model,
        revision=revision,
        conv1d=any(modules[name].conv1d for name in deltas),
        metadata=origin_of(ledger, chosen),
    )
    ranks = {name: delta.A.shape[0] for name, delta in deltas.items()}
    kinds = {modules[name].conv1d for name in deltas}
    return AdapterExport(
        turn=chosen.turn,
        hash=chosen.hash,
        in_force=[turn.number for turn in chosen.in_force],
        files=files,
        ranks=ranks,
        errors=errors,
        notes=tuple(_notes(ranks, base_model, mixed=len(kinds) > 1)),
    )


def _check_settings(rank: int | None, max_error: float | None) -> None:
    if rank is not None and rank < 1:
        raise SettingError(f"--rank must be at least 1, not {rank}")
    if max_error is not None and not 0 < max_error < 1:
        raise SettingError(f"--max-error is between 0 and 1, not {max_error}")


def _modules(ledger: Ledger, chosen: Chosen, names: Sequence[str]) -> dict[str, _Module]:
    """The linear module of each tensor; ModelError if an adapter cannot change it."""
    model = module_outline(ledger.checkpoint)
    found = {}
    for name in names:
        digest = next(p.path.stem for p in chosen.state.patches if name in p.changes)
        numbers = [turn.number for turn in chosen.used if turn.patch_digest == digest]
        what = f"turn {numbers[0]} changes {name}"
        instead = "export it with --format safetensors, or write the model: ledger apply --to DIR"
        try:
            module_name, module = linear_modules_by_tensor(model, [name])[name]
        except ModelError as error:
            raise ModelError(
                f"{what}, which is not a linear module's weight, so a LoRA adapter cannot carry "
                f"it; {instead}"
            ) from error
        if len(tied := names_of(model, module.weight)) > 1:
            raise ModelError(
                f"{what}, which is tied ({', '.join(tied)}); a LoRA adapter would change one use "
                f"of it only; {instead}"
            )
        found[name] = _Module(module_name, is_conv1d(module))
    return found


def _factors(
    patches: Sequence[PatchFile], name: str, rank: int | None, max_error: float | None
) -> tuple[LowRank, float]:
    """Σ Δ of tensor `name` as one product."""
    deltas = [patch.delta(name) for patch in patches if name in patch.changes]
    low = [delta for delta in deltas if isinstance(delta, LowRank)]
    if len(low) == len(deltas):
        return compacted(concatenated(low), rank=rank, max_error=max_error)
    total = total_change(patches, name)
    assert total is not None
    return factored(total, rank=rank, max_error=max_error)


def _not_reached(
    name: str, delta: LowRank, error: float, rank: int | None, max_error: float
) -> str:
    if rank is None:
        return (
            f"tensor {name}: the factors of an adapter are float32, which has an error of "
            f"{error:.2g} here; --max-error {max_error:g} is less"
        )
    return (
        f"tensor {name}: at rank {delta.A.shape[0]} the error is {error:.3g}, more than "
        f"--max-error {max_error:g}; allow a higher --rank or a larger error"
    )


def _memories_in_force(chosen: Chosen) -> str:
    numbers = [memory.turn for memory in chosen.state.memories]
    return (
        f"side memories (WISE) are in force, of turn {', '.join(map(str, numbers))}: they are "
        "routed prompt by prompt, which a LoRA adapter cannot do. Write the model with them "
        "(ledger apply --to DIR), export with --format safetensors, or undo them first: ledger "
        f"rollback turn {numbers[-1]}"
    )


def origin_of(ledger: Ledger, chosen: Chosen) -> dict[str, str]:
    """What the metadata of an exported file say of where it comes from."""
    return {"base": ledger.base.fingerprint, "turn": str(chosen.turn), "hash": chosen.hash}


def nothing_to_export(chosen: Chosen) -> str:
    """The sentence for a state without a change."""
    return (
        f"nothing changes the weights at turn {chosen.turn}: there is nothing to export (see: "
        "ledger log)"
    )


def _notes(ranks: Mapping[str, int], base_model: str | None, *, mixed: bool) -> Iterator[str]:
    largest = max(ranks.values())
    if largest > _COMMON_LIMIT:
        yield (
            f"the rank is {largest}; some servers take {_COMMON_LIMIT} at the most (vLLM). --rank "
            "or --max-error make it smaller"
        )
    if base_model is None:
        yield (
            "the adapter does not name its base, which is a folder here; --base-model OWNER/NAME "
            "does"
        )
    if mixed:
        yield "it changes Conv1D and Linear modules, of which PEFT warns when it loads them"
