"""Record what other tools have made as turns: LoRA adapters, and differences of checkpoints."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger.import_turn import Found, Import, Imported, record_import
from ledger.models import (
    module_outline,
    names_of,
    resolve_adapter,
    resolve_model,
    split_revision,
)
from ledger.progress import Progress, silent
from ledger.wording import public_name
from ledger.workspace import Ledger
from patches.adapter import CONFIG_FILE, WEIGHTS_FILE, Adapter, read_adapter
from patches.canonical import sha256
from patches.checkpoint import Checkpoint, fingerprint, open_checkpoint, tensor_digests
from patches.checkpoint_writer import read_provenance
from patches.difference import Difference, changed_tensors, check_form, difference
from patches.errors import EditingError, ModelError, PatchError, SettingError
from patches.modules import editable_modules, is_conv1d, targets_for
from patches.patch import Change

LORA, DIFFERENCE = "lora", "difference"


def import_adapter(
    ledger: Ledger, source: str, *, message: str = "", progress: Progress = silent
) -> Imported:
    """Record a LoRA adapter in PEFT's form as a turn on top of the branch.

    source: a folder, or a Hub id with optional ``@revision``. Raises PatchError if the adapter is
    more than products added to linear modules, ModelError if the model lacks a module of it,
    EditingError if it changes nothing or gives numbers that are not finite; with nothing recorded.
    """
    started = time.perf_counter()
    folder, commit = resolve_adapter(source)
    adapter = read_adapter(folder)
    changes, notes = _adapter_changes(ledger, folder, adapter)
    settings = {
        "source": public_name(source),
        "commit": commit,
        "config_sha256": sha256((folder / CONFIG_FILE).read_bytes()),
        "weights_sha256": sha256((folder / WEIGHTS_FILE).read_bytes()),
        **adapter.settings,
        "base_model": adapter.base_model and public_name(adapter.base_model),
        "base_revision": adapter.revision,
        "modules": sorted(adapter.modules),
    }
    notes += _adapter_notes(ledger, adapter)
    what = Import(
        method=LORA,
        source=source,
        hyperparameters=settings,
        message=message or f"import the adapter {public_name(source)}",
        notes=notes,
    )
    return record_import(
        ledger, what, changes, count=len(changes), started=started, progress=progress
    )


def import_difference(
    ledger: Ledger,
    edited: str,
    *,
    base: str | None = None,
    max_error: float | None = None,
    message: str = "",
    progress: Progress = silent,
) -> Imported:
    """Record the difference of two checkpoints, `edited` − `base`, as a turn on top of the branch.

    Both are folders or Hub ids; base: default, that of the ledger. max_error: tensors may be
    recorded as low-rank factors with this relative error, where that is smaller. One tensor is in
    memory at a time. Raises CheckpointError, naming the tensor, if the two do not fit together or
    hold numbers that are not finite, EditingError if nothing differs; with nothing recorded.
    """
    started = time.perf_counter()
    if max_error is not None and not 0 < max_error < 1:
        raise SettingError(f"--max-error is between 0 and 1, not {max_error}")
    pair = _compared(ledger, edited, base, progress)
    transposed = _transposed(ledger)
    notes: list[str] = []
    expected = {name: pair.new[name] for name in pair.changed}

    def changes() -> Iterator[Found]:
        for name in pair.changed:
            flag = name in transposed
            found = difference(pair.before, pair.after, name, transposed=flag, max_error=max_error)
            if found.unlike:
                notes.append(_unlike(found))
                del expected[name]
            if found.change is not None:
                yield Found(name, found.change, found.error)

    what = Import(
        method=DIFFERENCE,
        source=edited,
        hyperparameters={**pair.settings, "max_error": max_error},
        message=message or f"import the difference of {public_name(edited)}",
        notes=notes,
        expected=expected,
    )
    return record_import(
        ledger, what, changes(), count=len(pair.changed), started=started, progress=progress
    )


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Two checkpoints of the base's form. new: tensor → SHA-256 in `after`. changed: those that
    differ, sorted. settings: what they are, for the record."""

    before: Checkpoint
    after: Checkpoint
    new: Mapping[str, str]
    changed: list[str]
    settings: dict[str, Any]


def _compared(ledger: Ledger, edited: str, base: str | None, progress: Progress) -> _Pair:
    """Open both, and find what differs; CheckpointError or EditingError if that cannot be used."""
    after, after_commit = _checkpoint(edited)
    before, before_commit = ledger.checkpoint, ledger.base.revision
    if base is None:
        _refuse_own_state(ledger, after)
    else:
        before, before_commit = _checkpoint(base)
    for one in (before, after):
        check_form(ledger.checkpoint, one)
    new = _digests(after, "read edited", progress)
    old = {name: known[2] for name, known in ledger.base.tensors.items()}
    if base is not None:
        old = _digests(before, "read base", progress)
    changed = changed_tensors(before, base_digests=old, edited_digests=new)
    if not changed:
        raise EditingError(f"{edited} has the same tensors as the base, to the byte: no difference")
    if base is None:
        # So far their digests were taken from the record.
        ledger.check_base_tensors(changed)
    settings = {
        "edited": public_name(edited),
        "edited_commit": after_commit,
        "edited_fingerprint": fingerprint(after, new),
        "base": None if base is None else public_name(base),
        "base_commit": before_commit,
        "base_fingerprint": fingerprint(before, old),
    }
    return _Pair(before=before, after=after, new=new, changed=changed, settings=settings)


def _adapter_changes(
    ledger: Ledger, folder: Path, adapter: Adapter
) -> tuple[list[Found], list[str]]:
    """The adapter's deltas by tensor, checked against the model; with notes."""
    model = module_outline(ledger.checkpoint)
    found: list[Found] = []
    idle = 0
    for name, delta in sorted(adapter.modules.items()):
        where = f"{folder / WEIGHTS_FILE}: module {name}"
        try:
            (target,) = targets_for(model, ledger.checkpoint, [name])
        except ModelError as error:
            raise ModelError(
                f"{where}: {error}. Was the adapter made for this architecture?"
            ) from error
        shape = ledger.checkpoint.tensor(target.tensor).shape
        if delta.shape != (shape[::-1] if target.transposed else shape):
            raise PatchError(
                f"{where} changes a {list(delta.shape)} matrix, but the model's {target.tensor} is "
                f"{list(shape)}; was the adapter made for a model of another size?"
            )
        if not delta.A.any() or not delta.B.any():
            idle += 1
            continue
        if len(names := names_of(model, target.module.weight)) > 1:
            raise PatchError(
                f"{where} has a weight that is tied ({', '.join(names)}): the adapter changes one "
                "use of it, a turn would change all. Untie it, merge the adapter with PEFT, and "
                "make a ledger for a base that is untied too"
            )
        change = Change(delta=delta, transposed=target.transposed)
        found.append(Found(target.tensor, change, 0.0))
    if not found:
        raise EditingError(f"{folder}: every product of the adapter is zero: it changes nothing")
    if idle:
        return found, [f"{idle} modules of the adapter have a factor that is zero: left out"]
    return found, []


def _adapter_notes(ledger: Ledger, adapter: Adapter) -> Iterator[str]:
    if adapter.base_model is not None and adapter.base_model != ledger.base.uri:
        yield (
            f"the adapter names {public_name(adapter.base_model)} as its base, this ledger's is "
            f"{public_name(ledger.base.uri)}: the shapes fit, nothing else was compared"
        )
    for option in adapter.unknown:
        yield (
            f"{CONFIG_FILE} sets {option}, which this program does not know and did not take into "
            "account"
        )


def _unlike(found: Difference) -> str:
    return (
        f"tensor {found.tensor}: {found.unlike:,} elements have bits that no sum gives, zeros with "
        "a minus sign or numbers too small beside the base's; they come out as the nearest"
    )


def _checkpoint(address: str) -> tuple[Checkpoint, str | None]:
    folder, commit = resolve_model(*split_revision(address))
    return open_checkpoint(folder), commit


def _digests(checkpoint: Checkpoint, phase: str, progress: Progress) -> dict[str, str]:
    return tensor_digests(checkpoint, progress=lambda done, total: progress(phase, done, total))


def _refuse_own_state(ledger: Ledger, edited: Checkpoint) -> None:
    """A folder that this ledger wrote has turns in it that are in the ledger already."""
    found = read_provenance(edited.folder) or {}
    if found.get("owner") == ledger.base.ledger_id and found.get("in_force"):
        raise SettingError(
            f"{edited.folder} was written by this ledger at turn {found.get('turn')}: its "
            "difference from the base has that state's turns in it, which are recorded already. "
            "Name the state that was edited further: ledger apply --to FOLDER "
            f"--at {found.get('turn')}, then ledger import --base FOLDER --edited {edited.folder}"
        )


def _transposed(ledger: Ledger) -> set[str]:
    """The tensors that a model of this kind stores transposed; none where it cannot be built."""
    checkpoint = ledger.checkpoint
    try:
        model = module_outline(checkpoint)
        turned = [name for name, one in editable_modules(model).items() if is_conv1d(one)]
        return {target.tensor for target in targets_for(model, checkpoint, turned)}
    except ModelError:
        return set()
