"""Verify a written checkpoint: its tensors against the turn that its ``ledger.json`` names."""

from pathlib import Path
from typing import Any

from ledger import database, history
from ledger.history import Step
from ledger.progress import Progress, silent
from ledger.verifying import Problem, Verified
from ledger.workspace import Ledger
from patches.checkpoint import Checkpoint, open_checkpoint, tensor_digests
from patches.checkpoint_writer import PROVENANCE_FILE, read_provenance
from patches.errors import CheckpointError, EditLedgerError

_STRAY = 1e-6


def verify_checkpoint(
    ledger: Ledger, folder: Path, result: Verified, *, progress: Progress = silent
) -> None:
    """Add to `result` what is wrong with the checkpoint in `folder`.

    Patched tensors must have the digests recorded with the turn, all others those of the base. A
    patched tensor that differs is rebuilt, to tell a stray rounding from damage.
    """
    try:
        checkpoint = open_checkpoint(folder)
        content = read_provenance(folder)
    except CheckpointError as error:
        result.found(str(folder), str(error))
        return
    turn = _turn(ledger, folder, content, result)
    if turn is None:
        return
    number, turns, recorded = turn
    expected = {name: recorded.get(name, t[2]) for name, t in ledger.base.tensors.items()}
    for name in sorted(set(expected) ^ set(checkpoint.tensors)):
        result.found(f"{folder}, tensor {name}", "missing or not part of the model")
    names = [name for name in checkpoint.tensors if name in expected]
    digests = tensor_digests(
        checkpoint, names=names, progress=lambda done, total: progress("model", done, total)
    )
    for name, digest in digests.items():
        if digest != expected[name]:
            _explain(ledger, checkpoint, name, turns, number, result)
    result.count("model tensors", len(digests))
    _verify_beside(ledger, folder, turns, number, result)


def _verify_beside(
    ledger: Ledger, folder: Path, turns: list[Step], number: int, result: Verified
) -> None:
    """The side memories beside the weights are those of turn `number`, to the byte."""
    from ledger.applying import memory_files
    from ledger.states import open_state
    from patches.memory_file import MEMORY_FILE

    used = history.patches_in_force(turns, number)
    path = folder / MEMORY_FILE
    if not path.exists() and not any(turn.has_memory for turn in used):
        return
    try:
        state = open_state(ledger, turns, used)
    except EditLedgerError as error:
        result.found(f"{folder}/{MEMORY_FILE}", f"cannot be compared: {error}")
        return
    expected = memory_files(ledger, state).get(MEMORY_FILE)
    found = path.read_bytes() if path.is_file() else None
    if found is None:
        result.found(str(path), f"is missing: turn {number} has side memories")
    elif expected is None:
        result.found(str(path), f"does not belong there: turn {number} has no side memories")
    elif found != expected:
        result.found(str(path), f"is not that of turn {number}")
    else:
        result.count("side memories", len(state.memories))


def _turn(
    ledger: Ledger, folder: Path, content: dict[str, Any] | None, result: Verified
) -> tuple[int, list[Step], dict[str, str]] | None:
    subject = f"{folder}/{PROVENANCE_FILE}"
    if content is None:
        result.found(str(folder), f"has no {PROVENANCE_FILE}: it was not written by a ledger")
        return None
    if content.get("owner") != ledger.base.ledger_id:
        result.found(subject, "names another ledger")
        return None
    number = content.get("turn")
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch)
        named = history.by_hash(session, str(content.get("hash")))
        if named is not None and named.id not in {turn.id for turn in turns}:
            # It was written on another branch.
            turns = history.line_to(session, named.id)
        if not isinstance(number, int) or not 0 <= number <= len(turns):
            result.found(subject, f"names turn {number!r}, which this ledger does not have")
            return None
        recorded = history.tensors_at(session, turns[:number])
    if content.get("hash") != history.state_hash(turns, number):
        result.found(subject, f"its hash is not that of turn {number}")
    if number < len(turns):
        what = f"was written at turn {number}, the ledger is at {len(turns)}: ledger apply --to it"
        result.notes.append(Problem(subject=str(folder), what=what))
    return number, turns, recorded


def _explain(
    ledger: Ledger,
    checkpoint: Checkpoint,
    name: str,
    turns: list[Step],
    number: int,
    result: Verified,
) -> None:
    """Say how tensor `name` differs from the state of turn `number`."""
    from ledger.states import open_state
    from patches.application import base_tensor, patched_bytes
    from patches.dtypes import tensor_from_bytes

    subject = f"{checkpoint.folder}, tensor {name}"
    stored = checkpoint.tensors[name]
    known = ledger.base.tensors[name]
    if (stored.dtype, stored.shape) != known[:2]:
        result.found(subject, f"is {stored.dtype} {stored.shape}, should be {known[0]} {known[1]}")
        return
    try:
        state = open_state(ledger, turns, history.patches_in_force(turns, number))
        build = patched_bytes(ledger.checkpoint, state.patches).get(name)
        expected = (
            base_tensor(ledger.checkpoint, name)
            if build is None
            else tensor_from_bytes(
                bytearray(build()), dtype=stored.dtype, shape=stored.shape, name=name
            )
        )
    except EditLedgerError as error:
        result.found(subject, f"is not that of turn {number}, and cannot be rebuilt: {error}")
        return
    elements, units = _distance(base_tensor(checkpoint, name), expected)
    count = f"{elements} of {expected.numel()} elements differ from turn {number}"
    # At 32 bits another order of summation shows in about one element of 10^8.
    stray = max(1, int(expected.numel() * _STRAY)) if stored.dtype in ("F32", "F64") else 1
    if build is not None and elements <= stray and units <= 1:
        what = f"{count}, by one unit in the last place: a rounding on another machine"
        if not elements:
            what = f"is what this machine computes for turn {number}, not what was recorded"
        result.notes.append(Problem(subject=subject, what=what))
    else:
        result.found(subject, f"{count}, by up to {units} units in the last place")


def _distance(found: Any, expected: Any) -> tuple[int, int]:
    """Elements that differ, and the largest distance in units of the last place."""
    import torch

    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}[found.element_size()]

    def ordered(tensor: Any) -> Any:
        """Integers in the order of the floats, one apart for neighbours."""
        bits = tensor.contiguous().view(integers).to(torch.int64)
        smallest = torch.iinfo(integers).min
        return torch.where(bits < 0, smallest - bits, bits)

    distance = (ordered(found) - ordered(expected)).abs()
    differing = found.contiguous().view(integers) != expected.contiguous().view(integers)
    return int(differing.sum()), int(distance.max())
