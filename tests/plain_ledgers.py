"""Ledgers on a checkpoint of a few small tensors, without a language model: patches of all kinds,
recorded as turns, and what a state must be, computed from the files alone."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ledger import database, history
from ledger.applying import choose_state
from ledger.history import Step
from ledger.initialising import init
from ledger.recording import Blob, NewTurn, RecordedEdit, record_turn
from ledger.states import open_state
from ledger.workspace import Ledger
from patches.application import patched_bytes
from patches.canonical import sha256
from patches.deltas import Delta, Dense, LowRank, Sparse
from patches.edit import Edit
from patches.patch import Change, PatchFile, PatchHeader, describe, encode_patch

Matrix = np.ndarray[tuple[int, ...], np.dtype[np.float64]]

FIRST, SECOND, TURNED = "first.weight", "second.weight", "turned.weight"
TENSORS = (FIRST, SECOND, TURNED)
# As (d_out, d_in); the last is stored the other way round.
SHAPES = {FIRST: (24, 20), SECOND: (6, 5), TURNED: (10, 14)}
DTYPES = {FIRST: torch.bfloat16, SECOND: torch.float32, TURNED: torch.bfloat16}


def build(folder: Path) -> Path:
    """Save the checkpoint in `folder`; returns `folder`."""
    folder.mkdir(parents=True)
    random = torch.Generator().manual_seed(11)
    tensors = {
        name: torch.randn(shape[::-1] if name == TURNED else shape, generator=random).to(
            DTYPES[name]
        )
        for name, shape in SHAPES.items()
    }
    save_file({**tensors, "left.alone": torch.ones(3)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "plain"}), encoding="utf-8")
    return folder


def new_ledger(
    folder: Path, model: Path, url: str | None = None, store: str | None = None
) -> Ledger:
    return init(str(model), folder=folder, database_url=url, store=store).ledger


def change(name: str, kind: str, seed: int, *, rank: int = 2) -> Change:
    """A random change of tensor `name`: ``low-rank``, ``dense`` or ``sparse``.

    Its numbers are those of bfloat16, of one magnitude: sums of them are exact in float64.
    """
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random).bfloat16()

    d_out, d_in = SHAPES[name]
    delta: Delta
    if kind == "low-rank":
        delta = LowRank(A=draw(rank, d_in), B=draw(rank, d_out))
    elif kind == "dense":
        delta = Dense(delta=draw(d_out, d_in).float())
    else:
        matrix = draw(d_out, d_in)
        delta = Sparse.of(matrix, torch.rand(d_out, d_in, generator=random) < 0.3)
    return Change(delta=delta, transposed=name == TURNED)


def add(
    ledger: Ledger, changes: Mapping[str, Change], *, edits: Iterable[Edit] = (), method: str = "x"
) -> int:
    """Record a turn with these changes on the ledger's branch; its number."""
    record_turn(ledger, new_turn(ledger, changes, edits=edits, method=method))
    return len(line(ledger))


def new_turn(
    ledger: Ledger, changes: Mapping[str, Change], *, edits: Iterable[Edit] = (), method: str = "x"
) -> NewTurn:
    """A turn with these changes, to be recorded; its patch is in the store."""
    turns = line(ledger)
    used = history.patches_in_force(turns)
    header = PatchHeader(
        base=ledger.base.fingerprint,
        method=method,
        hyperparameters={},
        turn=len(turns) + 1,
        parent=used[-1].patch_digest if used else None,
    )
    content = encode_patch(header, changes)
    digest = ledger.store.put(content)
    patches = [*open_state(ledger, turns, used).patches, PatchFile(ledger.store.path(digest))]
    recorded = [RecordedEdit(edit=edit, row=None) for edit in edits]
    return NewTurn(
        parent=turns[-1].id if turns else None,
        kind="edit" if recorded else "import",
        method=method,
        seed=0,
        message="",
        edits=recorded,
        patch=Blob(
            digest=digest,
            bytes=len(content),
            changes={name: describe(one).to_json() for name, one in changes.items()},
        ),
        tensors={
            name: sha256(make()) for name, make in patched_bytes(ledger.checkpoint, patches).items()
        },
    )


def add_several(ledger: Ledger, count: int, *, start: int = 0) -> None:
    """Turns of low-rank changes of one tensor."""
    for seed in range(start, start + count):
        add(ledger, {FIRST: change(FIRST, "low-rank", seed)})


def line(ledger: Ledger) -> list[Step]:
    with database.reading(ledger.engine) as session:
        return history.line(session, ledger.branch)


def recorded(ledger: Ledger) -> dict[str, str]:
    """The digests recorded with the newest turn of the branch."""
    with database.reading(ledger.engine) as session:
        return history.tensors_at(session, history.line(session, ledger.branch))


def state(ledger: Ledger, at: int | str | None = None, *, whole: bool = False) -> dict[str, str]:
    """SHA-256 of the tensors that the state's patches change, as `apply` would write them."""
    chosen = choose_state(ledger, at, whole=whole)
    builders = patched_bytes(ledger.checkpoint, chosen.state.patches)
    return {name: sha256(build()) for name, build in builders.items()}


def deltas(path: Path) -> dict[str, Matrix]:
    """What a patch file adds to every tensor, (d_out, d_in), read without this project's code."""
    with safe_open(path, framework="pt") as file:
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    found: dict[str, Matrix] = {}
    for name in sorted({part.rpartition("/")[0] for part in parts}):
        own = {p.rpartition("/")[2]: t for p, t in parts.items() if p.rpartition("/")[0] == name}
        if "delta" in own:
            found[name] = own["delta"].double().numpy()
        elif "A" in own:
            found[name] = own["B"].double().numpy().T @ own["A"].double().numpy()
        else:
            rows, columns = own["shape"].tolist()
            bits = np.unpackbits(own["mask"].numpy(), bitorder="little")[: rows * columns]
            matrix = np.zeros(rows * columns)
            matrix[bits.astype(bool)] = own["values"].double().numpy()
            found[name] = matrix.reshape(rows, columns)
    return found


def summed(model: Path, parts: Sequence[Mapping[str, Matrix]]) -> dict[str, str]:
    """SHA-256 of the tensors that come out as base + Σ parts, added up in order from zero."""
    with safe_open(model / "model.safetensors", framework="pt") as file:
        base = {name: file.get_tensor(name).double().numpy() for name in TENSORS}
    found = {}
    for name in sorted({name for part in parts for name in part}):
        total = np.zeros(SHAPES[name])
        for part in parts:
            if name in part:
                total = total + part[name]
        whole = base[name] + (total.T if name == TURNED else total)
        data = _bfloat16(whole) if DTYPES[name] == torch.bfloat16 else whole.astype("<f4").tobytes()
        found[name] = hashlib.sha256(data).hexdigest()
    return found


def _bfloat16(values: Matrix) -> bytes:
    """Rounded once, to the nearest, ties to even; on the bits themselves."""
    bits = np.ascontiguousarray(values).view(np.uint64)
    odd = (bits >> np.uint64(45)) & np.uint64(1)
    kept = (bits + np.uint64((1 << 44) - 1) + odd) >> np.uint64(45) << np.uint64(45)
    single = kept.view(np.float64).astype("<f4")
    return (single.view("<u4") >> 16).astype("<u2").tobytes()
