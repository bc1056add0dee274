"""States of the model: the patches that make one up, and a live model brought to it."""

from collections.abc import Sequence

from ledger.history import Turn
from ledger.models import load_model
from ledger.progress import Progress, silent
from ledger.workspace import Ledger
from patches.errors import HistoryError
from patches.live import LiveModel
from patches.patch import PatchFile


def open_patches(ledger: Ledger, in_force: Sequence[Turn]) -> list[PatchFile]:
    """The patches of these turns, their bytes checked, and the base's tensors under them too."""
    digests = [turn.row.patch_digest for turn in in_force if turn.row.patch_digest]
    patches = [PatchFile(ledger.store.open(digest)) for digest in digests]
    for patch in patches:
        if patch.header.base != ledger.base.fingerprint:
            raise HistoryError(
                f"{patch.path} was made for another base model ({patch.header.base[:12]}…)"
            )
    names = {name for patch in patches for name in patch.changes}
    ledger.check_base_tensors(sorted(names))
    return patches


def live_state(
    ledger: Ledger,
    in_force: Sequence[Turn],
    *,
    device: str,
    dtype: str | None,
    progress: Progress = silent,
) -> LiveModel:
    """The base model loaded, with the patches of these turns applied."""
    progress("load", 0, 1)
    patches = open_patches(ledger, in_force)
    model = load_model(ledger.checkpoint.folder, dtype=dtype, device=device)
    live = LiveModel(model, ledger.checkpoint)
    live.set_state(patches)
    progress("load", 1, 1)
    return live
