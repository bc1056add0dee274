"""Digests of the tensors of a state, rebuilt from its patches: what is recorded with a turn.

One tensor at a time is in memory. Sums go in turn order, from zero, so to go on from the sum of the
turns before gives the same bits as to begin anew.
"""

from collections.abc import Sequence

from ledger.progress import Progress, silent
from ledger.workspace import Ledger
from patches.application import (
    base_tensor,
    patched,
    patched_bytes,
    rebuilt,
    total_change,
)
from patches.canonical import sha256
from patches.dtypes import tensor_view
from patches.finite import check_weight
from patches.patch import PatchFile, tensors_changed


def digests_of(
    ledger: Ledger, patches: Sequence[PatchFile], progress: Progress = silent
) -> dict[str, str]:
    """SHA-256 of every tensor that `patches` change together."""
    builders = patched_bytes(ledger.checkpoint, patches)
    digests = {}
    for done, (name, build) in enumerate(builders.items(), start=1):
        digests[name] = sha256(build())
        progress("rebuild", done, len(builders))
    return digests


def digests_after(
    ledger: Ledger,
    patches: Sequence[PatchFile],
    added: Sequence[PatchFile],
    progress: Progress = silent,
) -> list[dict[str, str]]:
    """For each patch of `added`, one after the other on top of `patches`: SHA-256 of the tensors
    that it changes, as they are then.

    EditingError if one would hold a number that is not finite, CheckpointError if it does already.
    """
    transposed = tensors_changed([*patches, *added])
    names = [name for name in transposed if any(name in patch.changes for patch in added)]
    ledger.check_base_tensors(sorted(names))
    digests: list[dict[str, str]] = [{} for _ in added]
    for done, name in enumerate(names, start=1):
        base = base_tensor(ledger.checkpoint, name)
        if len(added) == 1:
            weight = rebuilt(base, [*patches, *added], name, transposed=transposed[name])
            check_weight(name, weight, base=base, turn=added[0].header.turn)
            digests[0][name] = sha256(tensor_view(weight))
            progress("rebuild", done, len(names))
            continue
        total = total_change(patches, name)
        for patch, found in zip(added, digests, strict=True):
            if name not in patch.changes:
                continue
            total = total_change([patch], name, start=total)
            assert total is not None
            weight = patched(base, total, transposed=transposed[name], dtype=base.dtype)
            check_weight(name, weight, base=base, turn=patch.header.turn)
            found[name] = sha256(tensor_view(weight))
        progress("rebuild", done, len(names))
    return digests
