"""How fast a state is written to disk, and reached in a model that is already in memory."""

import os
import shutil
import statistics
import subprocess
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ledger.applying import apply_to_folder, apply_to_model, choose_state
from ledger.importing import import_adapter
from ledger.initialising import init
from ledger.models import load_model
from ledger.workspace import Ledger, open_ledger
from patches.adapter import encode_adapter
from patches.deltas import LowRank
from patches.kept_weights import KeptWeights
from tests.benchmarks.command import ledger as run
from tests.benchmarks.measurement import Measurement, seconds

_RUNS = 5
_SHARD = "60MB"
_SHARDED = "model.layers.29.mlp.down_proj"
_RANK = 120


def measure(model: Path, folder: Path, scratch: Path) -> list[Measurement]:
    """folder: a ledger with three turns on `model`."""
    with open_ledger(folder) as ledger:
        whole = _write(ledger, folder, scratch)
        undone = _undo(ledger, scratch / "loaded")
    return [*whole, _write_one_shard(model, scratch), *undone]


def _write(ledger: Ledger, folder: Path, scratch: Path) -> list[Measurement]:
    """Alternating with the copy, so that a slower moment of the machine meets both."""
    target = scratch / "applied"
    shards = _rewritten(ledger)
    by_library = partial(apply_to_folder, ledger, target)
    by_command = partial(run, "apply", "--to", str(target), folder=folder)
    copy = partial(_copy, shards, target)
    took = _alternating([by_library, by_command, copy], target)
    return [
        Measurement(
            what=f"apply to a new folder, 3 turns ({what})",
            value=statistics.median(one),
            unit="s",
            beside="cp of the shards it rewrites, with fsync",
            other=statistics.median(took[2]),
            ceiling=ceiling,
        )
        for what, one, ceiling in (("library", took[0], 1.5), ("command", took[1], None))
    ]


def _write_one_shard(model: Path, scratch: Path) -> Measurement:
    """The model in shards, of which a turn changes one."""
    sharded, adapter, target = (scratch / name for name in ("sharded", "adapter", "applied"))
    whole: Any = load_model(model, dtype=None, device="cpu")
    whole.save_pretrained(sharded, max_shard_size=_SHARD)
    d_out, d_in = whole.get_parameter(f"{_SHARDED}.weight").shape
    draw = torch.Generator().manual_seed(1)
    factors = LowRank(
        A=torch.randn(_RANK, d_in, generator=draw),
        B=torch.randn(_RANK, d_out, generator=draw) / 1000,
    )
    adapter.mkdir()
    files = encode_adapter(
        {_SHARDED: factors}, base_model=None, revision=None, conv1d=False, metadata={}
    )
    for name, content in files.items():
        (adapter / name).write_bytes(content)
    with init(str(sharded), folder=scratch / "ledger-of-shards").ledger as ledger:
        import_adapter(ledger, str(adapter))
        shards = _rewritten(ledger)
        link = partial(apply_to_folder, ledger, target, link=True)
        took = _alternating([link, partial(_copy, shards, target)], target)
        count = len(ledger.checkpoint.shards)
    return Measurement(
        what=f"apply --link, {len(shards)} of {count} shards changes",
        value=statistics.median(took[0]),
        unit="s",
        beside="cp of that shard, with fsync",
        other=statistics.median(took[1]),
        ceiling=1.5,
    )


def _rewritten(ledger: Ledger) -> list[Path]:
    """The base's files that hold a tensor that the state of the branch changes."""
    changed = choose_state(ledger, None).recorded
    return sorted({ledger.checkpoint.folder / ledger.checkpoint.tensor(n).file for n in changed})


def _alternating(actions: Sequence[Callable[[], object]], target: Path) -> list[list[float]]:
    """Seconds of each, by turns; each fills the folder `target`, which is removed every time."""
    took: list[list[float]] = [[] for _ in actions]
    for _ in range(_RUNS):
        for action, its in zip(actions, took, strict=True):
            its.append(seconds(action))
            shutil.rmtree(target)
    return took


def _copy(files: Sequence[Path], to: Path) -> None:
    to.mkdir()
    subprocess.run(["cp", "-L", *map(str, files), str(to)], check=True)
    for file in (*to.iterdir(), to):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _undo(ledger: Ledger, written: Path) -> list[Measurement]:
    """From three turns to two and back, by turns, in one model: computed, and with weights kept.

    Reloading: the written checkpoint into a new model, and its bytes read, since those of a mapped
    file come only when they are used.
    """
    apply_to_folder(ledger, written)
    model = load_model(written, dtype=None, device="cpu")
    kept = KeptWeights()
    for at in (2, 3):
        apply_to_model(ledger, model, at=at, kept=kept)
    computed, put_back, mapped, read = [], [], [], []
    for at in (2, 3) * _RUNS:
        computed.append(seconds(partial(apply_to_model, ledger, model, at=at)))
        put_back.append(seconds(partial(apply_to_model, ledger, model, at=5 - at, kept=kept)))
        mapped.append(seconds(partial(load_model, written, dtype=None, device="cpu")))
        read.append(seconds(partial(_read_all, written)))
    return [
        Measurement(
            what=f"reloading beside undoing a turn in a live model{how}",
            value=statistics.median(reloaded),
            unit="s",
            beside=f"undo, {what}",
            other=statistics.median(undone),
            limit=limit,
        )
        for how, reloaded, what, undone, limit in (
            ("", read, "weights kept", put_back, 20.0),
            ("", read, "computed, digests checked", computed, None),
            (" (mapped only)", mapped, "weights kept", put_back, None),
        )
    ]


def _read_all(folder: Path) -> None:
    """Load, and touch every byte."""
    model: nn.Module = load_model(folder, dtype=None, device="cpu")
    for parameter in model.parameters():
        parameter.detach().view(-1).view(torch.uint8).max()
