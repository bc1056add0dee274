"""A patch that is written tensor by tensor has the bytes of one that is made in memory."""

import io
from pathlib import Path

import torch

from patches.deltas import Dense, LowRank, Sparse
from patches.patch import Change, PatchHeader, encode_patch
from patches.patch_writer import PatchWriter

HEADER = PatchHeader(base="b", method="m", hyperparameters={"x": [1]}, turn=3, parent="p")
MASK = torch.tensor([[True, False, True], [False, True, False]])
CHANGES = {
    "z.weight": Change(delta=Dense(delta=torch.arange(6.0).reshape(2, 3).double())),
    "a.weight": Change(
        delta=LowRank(A=torch.ones(2, 5, dtype=torch.bfloat16), B=torch.ones(2, 4)),
        transposed=True,
    ),
    "m.bias": Change(delta=Sparse.of(torch.arange(6.0).reshape(2, 3), MASK)),
}


def test_the_bytes_are_the_same_in_any_order(tmp_path: Path) -> None:
    for names in (list(CHANGES), sorted(CHANGES), sorted(CHANGES, reverse=True)):
        file = io.BytesIO()
        with PatchWriter(tmp_path) as writer:
            for name in names:
                writer.add(name, CHANGES[name])
            writer.write(HEADER, file)
        assert file.getvalue() == encode_patch(HEADER, CHANGES)


def test_large_tensors_are_copied_whole(tmp_path: Path) -> None:
    changes = {"w": Change(delta=Dense(delta=torch.randn(900, 700)))}
    file = io.BytesIO()
    with PatchWriter(tmp_path) as writer:
        writer.add("w", changes["w"])
        writer.write(HEADER, file)
    assert file.getvalue() == encode_patch(HEADER, changes)


def test_nothing_is_left_in_the_folder(tmp_path: Path) -> None:
    with PatchWriter(tmp_path) as writer:
        writer.add("w", CHANGES["z.weight"])
        assert list(tmp_path.iterdir()) == []
    assert list(tmp_path.iterdir()) == []
