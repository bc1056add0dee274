"""Patch files: their bytes, who can read them, and what happens to damaged ones."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from patches.canonical import sha256
from patches.deltas import Dense, LowRank
from patches.errors import PatchError
from patches.patch import (
    Change,
    ChangeInfo,
    PatchFile,
    PatchHeader,
    encode_patch,
    encode_state,
    read_state,
    tensors_changed,
)

HEADER = PatchHeader(
    base="b" * 64,
    method="ultraedit",
    hyperparameters={"ridge": 1.0, "modules": ["up", "down"], "note": "é"},
    turn=7,
    parent="a" * 64,
)
GOLDEN_SHA256 = "a21255526fcd272b3e100630236f7268ef1af7dcb1c9a76d5a606d2d91365d39"
GOLDEN_HEADER = (
    '{"__metadata__":{"base":"' + "b" * 64 + '",'
    r'"changes":"{\"down.weight\":{\"kind\":\"dense\",\"rank\":null,\"shape\":[2,3],'
    r"\"transposed\":false},\"up.weight\":{\"kind\":\"low-rank\",\"rank\":2,\"shape\":[5,3],"
    r'\"transposed\":true}}","format":"edit-ledger-patch",'
    r'"hyperparameters":"{\"modules\":[\"up\",\"down\"],\"note\":\"é\",\"ridge\":1.0}",'
    '"method":"ultraedit","parent":"' + "a" * 64 + '","turn":"7","version":"1"},'
    '"down.weight/delta":{"data_offsets":[0,24],"dtype":"F32","shape":[2,3]},'
    '"up.weight/A":{"data_offsets":[64,76],"dtype":"BF16","shape":[2,3]},'
    '"up.weight/B":{"data_offsets":[24,64],"dtype":"F32","shape":[2,5]}}'
)


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).reshape(shape).to(dtype) / 4 - 1


def changes() -> dict[str, Change]:
    return {
        "up.weight": Change(
            delta=LowRank(A=numbers(2, 3, dtype=torch.bfloat16), B=numbers(2, 5)),
            transposed=True,
        ),
        "down.weight": Change(delta=Dense(delta=numbers(2, 3))),
    }


def written(folder: Path, data: bytes, name: str = "patch.safetensors") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def split(data: bytes) -> tuple[str, bytes]:
    """Header text and the rest of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 : 8 + length].decode(), data[8 + length :]


def with_metadata(**replaced: str | None) -> bytes:
    """The sample patch with other metadata; None takes an entry out."""
    text, tensors = split(encode_patch(HEADER, changes()))
    header = json.loads(text)
    header["__metadata__"] = {
        name: value
        for name, value in {**header["__metadata__"], **replaced}.items()
        if value is not None
    }
    damaged = json.dumps(header).encode()
    damaged += b" " * (-len(damaged) % 8)
    return struct.pack("<Q", len(damaged)) + damaged + tensors


def with_change(tensor: str, **replaced: object) -> bytes:
    """The sample patch whose header says something else of one tensor."""
    text, _ = split(encode_patch(HEADER, changes()))
    described: dict[str, dict[str, object]] = json.loads(
        json.loads(text)["__metadata__"]["changes"]
    )
    described[tensor] = {**described.get(tensor, described["up.weight"]), **replaced}
    return with_metadata(changes=json.dumps(described))


def test_the_bytes_of_a_patch_never_change() -> None:
    data = encode_patch(HEADER, changes())
    assert split(data)[0].rstrip(" ") == GOLDEN_HEADER
    assert sha256(data) == GOLDEN_SHA256


def test_equal_content_gives_equal_bytes_whatever_the_order_of_the_dictionaries() -> None:
    turned = PatchHeader(
        base=HEADER.base,
        method=HEADER.method,
        hyperparameters=dict(reversed(list(HEADER.hyperparameters.items()))),
        turn=HEADER.turn,
        parent=HEADER.parent,
    )
    backwards = dict(reversed(changes().items()))
    assert encode_patch(turned, backwards) == encode_patch(HEADER, changes())


def test_a_tensor_in_another_memory_layout_gives_equal_bytes() -> None:
    moved = numbers(2, 3).T.contiguous().T
    assert not moved.is_contiguous()
    strided = {**changes(), "down.weight": Change(delta=Dense(delta=moved))}
    assert encode_patch(HEADER, strided) == encode_patch(HEADER, changes())


def test_other_content_gives_other_bytes() -> None:
    plain = encode_patch(HEADER, changes())
    other = {**changes(), "down.weight": Change(delta=Dense(delta=numbers(2, 3) + 1))}
    laid_out = {
        **changes(),
        "down.weight": Change(delta=Dense(delta=numbers(2, 3)), transposed=True),
    }
    assert len({plain, encode_patch(HEADER, other), encode_patch(HEADER, laid_out)}) == 3


def test_the_field_s_own_library_reads_a_patch(tmp_path: Path) -> None:
    path = written(tmp_path, encode_patch(HEADER, changes()))
    tensors = load_file(path)
    assert tensors.keys() == {"up.weight/A", "up.weight/B", "down.weight/delta"}
    for name, change in changes().items():
        for part, tensor in change.delta.tensors().items():
            assert tensors[f"{name}/{part}"].dtype == tensor.dtype
            assert torch.equal(tensors[f"{name}/{part}"], tensor)
    with safe_open(path, framework="pt") as file:
        assert file.metadata()["format"] == "edit-ledger-patch"


def test_a_patch_reads_back_as_what_was_written(tmp_path: Path) -> None:
    patch = PatchFile(written(tmp_path, encode_patch(HEADER, changes())))
    assert patch.header == HEADER
    assert patch.changes == {
        "up.weight": ChangeInfo(kind="low-rank", shape=(5, 3), transposed=True, rank=2),
        "down.weight": ChangeInfo(kind="dense", shape=(2, 3), transposed=False, rank=None),
    }
    for name, change in changes().items():
        again = patch.delta(name).tensors()
        assert again.keys() == change.delta.tensors().keys()
        for part, tensor in change.delta.tensors().items():
            assert torch.equal(again[part], tensor)


def test_a_first_patch_has_no_parent(tmp_path: Path) -> None:
    first = PatchHeader(base="b", method="m", hyperparameters={}, turn=1, parent=None)
    assert PatchFile(written(tmp_path, encode_patch(first, changes()))).header == first


def test_one_tensor_s_name_may_be_the_beginning_of_another_s(tmp_path: Path) -> None:
    both = {name: Change(delta=Dense(delta=numbers(1, 1))) for name in ("w", "w/a", "w.a")}
    patch = PatchFile(written(tmp_path, encode_patch(HEADER, both)))
    for name in both:
        assert torch.equal(patch.delta(name).tensors()["delta"], numbers(1, 1))


def test_tensors_changed_keeps_the_order_of_first_change(tmp_path: Path) -> None:
    first = {"z": Change(delta=Dense(delta=numbers(1, 1)))}
    paths = [
        written(tmp_path, encode_patch(HEADER, content), f"{i}.safetensors")
        for i, content in enumerate((first, {**changes(), **first}))
    ]
    changed = tensors_changed([PatchFile(path) for path in paths])
    assert list(changed.items()) == [("z", False), ("down.weight", False), ("up.weight", True)]


def test_patches_that_disagree_about_a_layout_are_refused(tmp_path: Path) -> None:
    pair = [
        written(tmp_path, encode_patch(HEADER, {"w": change}), f"{change.transposed}")
        for change in (
            Change(delta=Dense(delta=numbers(2, 2)), transposed=transposed)
            for transposed in (False, True)
        )
    ]
    with pytest.raises(PatchError, match="True: w is stored in another layout than before"):
        tensors_changed([PatchFile(path) for path in pair])


DAMAGED_METADATA: dict[str, Mapping[str, str | None]] = {
    "no base": {"base": None},
    "no changes": {"changes": None},
    "changes are no JSON": {"changes": "{"},
    "changes are a list": {"changes": "[5]"},
    "changes are a number": {"changes": "5"},
    "a change is a number": {"changes": '{"up.weight": 5}'},
    "a change without shape": {"changes": '{"up.weight": {"kind": "dense"}}'},
    "the turn is no number": {"turn": "seven"},
    "hyperparameters are no JSON": {"hyperparameters": "?"},
    "hyperparameters are a list": {"hyperparameters": "[1]"},
    "nested too deeply": {"changes": "[" * 100_000},
}


@pytest.mark.parametrize("damage", DAMAGED_METADATA)
def test_a_damaged_header_is_named_with_its_file(tmp_path: Path, damage: str) -> None:
    path = written(tmp_path, with_metadata(**DAMAGED_METADATA[damage]))
    with pytest.raises(PatchError, match=rf"{path}: the header of the patch is damaged"):
        PatchFile(path)


@pytest.mark.parametrize(
    "replaced",
    [
        {"shape": ["5", 3]},
        {"shape": [5, None]},
        {"shape": 5},
        {"shape": [5]},
        {"transposed": "no"},
        {"rank": "two"},
        {"kind": ["low-rank"]},
        {"kind": None},
    ],
)
def test_a_change_described_with_wrong_types_is_refused(
    tmp_path: Path, replaced: dict[str, Any]
) -> None:
    path = written(tmp_path, with_change("up.weight", **replaced))
    with pytest.raises(PatchError, match="the header of the patch is damaged"):
        PatchFile(path)


def test_a_header_that_contradicts_the_tensors_is_refused(tmp_path: Path) -> None:
    wrong_shape = PatchFile(written(tmp_path, with_change("up.weight", shape=[3, 5])))
    with pytest.raises(PatchError, match=r"up\.weight is \(5, 3\), its header says \(3, 5\)"):
        wrong_shape.delta("up.weight")
    wrong_kind = PatchFile(written(tmp_path, with_change("up.weight", kind="dense")))
    with pytest.raises(PatchError, match="dense delta has the one part"):
        wrong_kind.delta("up.weight")
    not_there = PatchFile(written(tmp_path, with_change("absent.weight")))
    with pytest.raises(PatchError, match="low-rank delta has the parts A and B"):
        not_there.delta("absent.weight")


def test_a_kind_of_a_newer_program_is_read_about_and_refused_when_used(tmp_path: Path) -> None:
    patch = PatchFile(written(tmp_path, with_change("up.weight", kind="holographic")))
    assert patch.changes["up.weight"].kind == "holographic"
    with pytest.raises(PatchError, match=r"unknown kind 'holographic'.*A newer edit-ledger"):
        patch.delta("up.weight")


def test_another_version_says_to_update(tmp_path: Path) -> None:
    path = written(tmp_path, with_metadata(version="2"))
    with pytest.raises(PatchError, match=r"format version 2, this program reads 1; update"):
        PatchFile(path)


def test_files_that_are_no_patch_are_refused(tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    save_file({"w": torch.zeros(1)}, model)
    state = written(tmp_path, encode_state("ultraedit", {"w": torch.zeros(1)}), "state")
    for path in (model, state):
        with pytest.raises(PatchError, match=rf"{path}: not an edit-ledger-patch file"):
            PatchFile(path)
    with pytest.raises(PatchError, match="no such file"):
        PatchFile(tmp_path / "absent")
    for path in (
        written(tmp_path, b"", "empty"),
        written(tmp_path, b"PK\3\4" * 9, "zip"),
        tmp_path,
    ):
        with pytest.raises(PatchError, match=rf"{path}: not a readable safetensors file"):
            PatchFile(path)


def read_all(path: Path) -> None:
    patch = PatchFile(path)
    for name in patch.changes:
        patch.delta(name)


SLOW_DISK = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300
)


@SLOW_DISK
@given(where=st.floats(0, 1, exclude_max=True))
def test_a_cut_off_patch_is_refused(tmp_path: Path, where: float) -> None:
    data = encode_patch(HEADER, changes())
    with pytest.raises(PatchError):
        read_all(written(tmp_path, data[: int(where * len(data))]))


@SLOW_DISK
@given(
    where=st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=3),
    new=st.binary(min_size=3, max_size=3),
)
def test_flipped_bytes_give_a_patch_error_or_another_patch_and_nothing_else(
    tmp_path: Path, where: list[float], new: bytes
) -> None:
    data = bytearray(encode_patch(HEADER, changes()))
    for place, byte in zip(where, new, strict=False):
        data[int(place * len(data))] = byte
    try:
        read_all(written(tmp_path, bytes(data)))
    except PatchError as error:
        assert str(error)  # noqa: PT017 (both outcomes are right)


def test_an_editor_state_survives_being_written(tmp_path: Path) -> None:
    state = {
        "3x4/count": torch.tensor([12]),
        "3x4/mean": torch.randn(7, dtype=torch.float64),
        "flag": torch.tensor([True, False]),
        "nothing": torch.empty(0, 3, dtype=torch.bfloat16),
    }
    data = encode_state("ultraedit", state)
    assert data == encode_state("ultraedit", dict(reversed(state.items())))
    again = read_state(written(tmp_path, data))
    assert again.keys() == state.keys()
    for name, tensor in state.items():
        assert again[name].dtype == tensor.dtype
        assert torch.equal(again[name], tensor)


def test_a_state_is_no_patch_and_a_cut_off_state_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PatchError, match="not an edit-ledger-state file"):
        read_state(written(tmp_path, encode_patch(HEADER, changes())))
    data = encode_state("ultraedit", {"mean": torch.zeros(9)})
    with pytest.raises(PatchError, match="not a readable safetensors file"):
        read_state(written(tmp_path, data[:-1]))
