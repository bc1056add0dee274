"""Differences of checkpoints: B's bytes come back exactly, in the smallest form that does it."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from patches.application import patched_bytes
from patches.checkpoint import Checkpoint, open_checkpoint, tensor_digests
from patches.deltas import Dense, LowRank, Sparse
from patches.difference import Difference, changed_tensors, check_form, difference
from patches.dtypes import tensor_bytes
from patches.errors import CheckpointError
from patches.patch import PatchFile, PatchHeader
from patches.patch_writer import PatchWriter

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
HEADER = PatchHeader(base="b", method="difference", hyperparameters={}, turn=1, parent=None)


def checkpoint(folder: Path, tensors: Mapping[str, Tensor]) -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    save_file(dict(tensors), folder / "model.safetensors", metadata={"format": "pt"})
    return open_checkpoint(folder)


def drawn(seed: int, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def found(
    tmp_path: Path,
    before: Tensor,
    after: Tensor,
    *,
    transposed: bool = False,
    max_error: float | None = None,
) -> Difference:
    """The difference of one tensor, which must give B's bytes back but for what it tells."""
    base = checkpoint(tmp_path / "base", {"w": before})
    edited = checkpoint(tmp_path / "edited", {"w": after})
    one = difference(base, edited, "w", transposed=transposed, max_error=max_error)
    if one.change is not None and one.unlike is not None:
        data = rebuilt(tmp_path, base, {"w": one})["w"]
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[before.element_size()]
        got = torch.frombuffer(bytearray(data), dtype=bits)
        assert int((got != after.contiguous().reshape(-1).view(bits)).sum()) == one.unlike
    return one


def rebuilt(
    tmp_path: Path, base: Checkpoint, changes: Mapping[str, Difference]
) -> dict[str, bytes]:
    """What base + changes gives, by way of a patch file."""
    path = tmp_path / "patch.safetensors"
    with PatchWriter(tmp_path) as writer, path.open("wb") as file:
        for name, one in changes.items():
            assert one.change is not None
            writer.add(name, one.change)
        writer.write(HEADER, file)
    return {name: bytes(build()) for name, build in patched_bytes(base, [PatchFile(path)]).items()}


@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    dtype=st.sampled_from(FLOATS),
    shape=st.sampled_from([(4, 5), (7,), (2, 3, 4), (), (1, 1)]),
    share=st.sampled_from([0.1, 0.5, 1.0]),
    size=st.sampled_from([1e-6, 1e-2, 1.0, 30.0]),
    seed=st.integers(0, 999),
)
def test_the_edited_bytes_come_back_exactly(
    tmp_path: Path,
    dtype: torch.dtype,
    shape: tuple[int, ...],
    share: float,
    size: float,
    seed: int,
) -> None:
    before = drawn(seed, *shape, dtype=dtype)
    where = drawn(seed + 1, *shape, dtype=torch.float32).abs() < share
    after = torch.where(where, before + (drawn(seed + 2, *shape) * size).to(dtype), before)
    one = found(tmp_path, before, after)
    assert one.error == 0
    if not torch.equal(before, after):
        # Float64 numbers may differ by more digits than a float64 has.
        assert one.unlike == 0 or dtype == torch.float64


def test_few_changes_are_stored_sparsely_and_many_densely(tmp_path: Path) -> None:
    before = torch.ones(40, 30, dtype=torch.bfloat16)
    few = before.clone()
    few[3, 4], few[39, 29] = 2, -5
    one = found(tmp_path, before, few)
    assert one.change is not None
    assert isinstance(one.change.delta, Sparse)
    assert one.change.delta.values.tolist() == [1, -6]
    many = found(tmp_path, before, before * 2)
    assert many.change is not None
    assert isinstance(many.change.delta, Dense)


@pytest.mark.parametrize(
    ("before", "after", "dtype"),
    [
        (1.0, 1.5, torch.bfloat16),
        (1.0, 2.0**-6 + 2.0**-13, torch.float32),
        (1.0, 2.0**-30, torch.float64),
    ],
)
def test_the_narrowest_dtype_that_is_exact_is_used(
    before: float, after: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    pair = [torch.full((2, 2), one, dtype=torch.bfloat16) for one in (before, after)]
    one = found(tmp_path, *pair)
    assert one.change is not None
    assert isinstance(one.change.delta, Dense)
    assert one.change.delta.delta.dtype == dtype


def test_what_stays_keeps_its_bits_a_minus_zero_too(tmp_path: Path) -> None:
    before = torch.tensor([[-0.0, 0.0, 1.0]], dtype=torch.bfloat16)
    after = torch.tensor([[-0.0, 0.0, 3.0]], dtype=torch.bfloat16)
    assert found(tmp_path, before, after).unlike == 0


def test_bits_that_no_sum_gives_are_counted(tmp_path: Path) -> None:
    before = torch.tensor([[1.0, 1.0, 0.0, 1.0]], dtype=torch.bfloat16)
    after = torch.tensor([[-0.0, 2.0**-100, -0.0, 2.0]], dtype=torch.bfloat16)
    one = found(tmp_path, before, after)
    assert one.unlike == 3
    assert one.change is not None
    assert one.change.delta.tensors()["values"].dtype == torch.bfloat16


def test_signs_of_zeros_alone_are_no_change(tmp_path: Path) -> None:
    one = found(tmp_path, torch.zeros(2, 2), -torch.zeros(2, 2))
    assert (one.change, one.unlike) == (None, 4)


def low_rank_pair(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    before = drawn(1, 60, 50, dtype=dtype)
    product = drawn(2, 60, 2, dtype=torch.float32) @ drawn(3, 2, 50, dtype=torch.float32)
    return before, (before + product).to(dtype)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_low_rank_change_within_the_error_is_stored_as_factors(
    transposed: bool, tmp_path: Path
) -> None:
    before, after = low_rank_pair(torch.bfloat16)
    one = found(tmp_path, before, after, transposed=transposed, max_error=0.02)
    assert one.change is not None
    assert isinstance(one.change.delta, LowRank)
    assert one.change.delta.rank == 2
    assert one.unlike is None
    total = one.change.delta.B.double().T @ one.change.delta.A.double()
    exact = after.double() - before.double()
    missed = (total.T if transposed else total) - exact
    assert one.error == pytest.approx(float(missed.norm() / exact.norm()), rel=1e-6)
    assert 0 < one.error <= 0.02
    assert one.change.delta.shape == ((50, 60) if transposed else (60, 50))


@pytest.mark.parametrize("allowed", [None, 1e-4])
def test_without_a_large_enough_error_the_change_is_exact(
    allowed: float | None, tmp_path: Path
) -> None:
    one = found(tmp_path, *low_rank_pair(torch.bfloat16), max_error=allowed)
    assert one.change is not None
    assert isinstance(one.change.delta, Dense)
    assert (one.error, one.unlike) == (0, 0)


def test_factors_that_would_not_be_smaller_are_not_used(tmp_path: Path) -> None:
    before = drawn(1, 6, 5)
    after = before + drawn(2, 6, 5)
    one = found(tmp_path, before, after, max_error=0.5)
    assert one.change is not None
    assert isinstance(one.change.delta, Dense)
    vector = found(tmp_path, drawn(1, 40), drawn(2, 40), max_error=0.5)
    assert vector.error == 0


def test_a_transposed_tensor_has_a_change_in_the_layout_of_a_linear_module(tmp_path: Path) -> None:
    before = torch.ones(8, 6)
    after = before.clone()
    after[5, 1] = 3
    one = found(tmp_path, before, after, transposed=True)
    assert one.change is not None
    assert one.change.delta.shape == (6, 8)
    assert isinstance(one.change.delta, Sparse)
    assert one.change.delta.dense(dtype=torch.float32)[1, 5] == 2


@pytest.mark.parametrize("piece", [1, 7, 1 << 30])
def test_the_size_of_the_pieces_does_not_show(
    piece: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before, after = drawn(1, 9, 8), drawn(2, 9, 8)
    expected = found(tmp_path, before, after)
    monkeypatch.setattr("patches.row_pieces.PIECE", piece)
    one = found(tmp_path, before, after)
    assert one.change is not None
    assert expected.change is not None
    for part, tensor in expected.change.delta.tensors().items():
        assert tensor_bytes(one.change.delta.tensors()[part]) == tensor_bytes(tensor)


def changed(base: Checkpoint, edited: Checkpoint) -> list[str]:
    check_form(base, edited)
    return changed_tensors(
        base, base_digests=tensor_digests(base), edited_digests=tensor_digests(edited)
    )


TENSORS = {"a": torch.ones(2, 3), "b": torch.ones(4), "count": torch.ones(2, dtype=torch.int64)}


def test_only_tensors_with_other_bytes_are_named(tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", TENSORS)
    assert changed(base, checkpoint(tmp_path / "same", TENSORS)) == []
    other = {**TENSORS, "b": torch.zeros(4)}
    assert changed(base, checkpoint(tmp_path / "other", other)) == ["b"]


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"a": TENSORS["a"], "count": TENSORS["count"]}, "tensor b is in "),
        ({**TENSORS, "c": torch.ones(1)}, "tensor c is in "),
        ({**TENSORS, "a": torch.ones(3, 2)}, "tensor a is F32 [2, 3] in "),
        ({**TENSORS, "b": torch.ones(4).half()}, "save the edited model in the base's dtype"),
        ({**TENSORS, "count": TENSORS["count"] + 1}, "tensor count differs and is stored as I64"),
    ],
)
def test_checkpoints_that_do_not_fit_together_are_refused(
    tensors: dict[str, Tensor], reason: str, tmp_path: Path
) -> None:
    base = checkpoint(tmp_path / "base", TENSORS)
    with pytest.raises(CheckpointError) as caught:
        changed(base, checkpoint(tmp_path / "edited", tensors))
    assert reason in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("side", ["base", "edited"])
def test_numbers_that_are_not_finite_are_refused(value: float, side: str, tmp_path: Path) -> None:
    good, bad = torch.ones(2, 2), torch.full((2, 2), value)
    base = checkpoint(tmp_path / "base", {"w": bad if side == "base" else good})
    edited = checkpoint(tmp_path / "edited", {"w": good if side == "base" else bad})
    with pytest.raises(CheckpointError, match=rf"{side}: tensor w holds 4 numbers that are not f"):
        difference(base, edited, "w")
