"""Exact application: states equal the formula, undo is exact, and no setting shows in the bits."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from patches.application import (
    base_tensor,
    patched,
    patched_bytes,
    rebuilt,
    summed,
    total_change,
)
from patches.canonical import sha256
from patches.checkpoint import Checkpoint, open_checkpoint
from patches.checkpoint_writer import write_checkpoint
from patches.deltas import Delta, Dense, LowRank, Sparse
from patches.dtypes import tensor_bytes
from patches.errors import CheckpointError, PatchError
from patches.patch import Change, PatchFile, PatchHeader, encode_patch
from patches.rounding import round_to

# Stored name → (d_out, d_in), stored transposed.
LAYOUT = {"plain": ((6, 5), False), "turned": ((4, 7), True), "float": ((3, 3), False)}
COUNT = 5


def fractions(draw: torch.Generator, *shape: int) -> Tensor:
    """Multiples of 1/512, whose sums of products are exact in float64 in any order."""
    return torch.randint(-300, 300, shape, generator=draw) / 512


def header(turn: int = 1) -> PatchHeader:
    return PatchHeader(base="b", method="m", hyperparameters={}, turn=turn, parent=None)


def written(path: Path, changes: dict[str, Change], turn: int = 1) -> PatchFile:
    path.write_bytes(encode_patch(header(turn), changes))
    return PatchFile(path)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("base")
    draw = torch.Generator().manual_seed(1)
    tensors = {"untouched": torch.ones(2, 2), "counts": torch.ones(2, 2, dtype=torch.int64)}
    for name, (shape, transposed) in LAYOUT.items():
        stored = shape[::-1] if transposed else shape
        dtype = torch.float32 if name == "float" else torch.bfloat16
        tensors[name] = torch.randn(stored, generator=draw).to(dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text("{}")
    return open_checkpoint(folder)


@pytest.fixture(scope="module")
def patches(tmp_path_factory: pytest.TempPathFactory) -> list[PatchFile]:
    """Patches of both kinds; each leaves one tensor out."""
    folder = tmp_path_factory.mktemp("patches")
    draw = torch.Generator().manual_seed(2)
    made = []
    for turn in range(COUNT):
        changes = {}
        for at, (name, ((d_out, d_in), transposed)) in enumerate(LAYOUT.items()):
            if at == turn % (len(LAYOUT) + 1):
                continue
            low = LowRank(A=fractions(draw, 2, d_in), B=fractions(draw, 2, d_out))
            full = Dense(delta=fractions(draw, d_out, d_in))
            delta: Delta = full if (turn + at) % 2 else low
            changes[name] = Change(delta=delta, transposed=transposed)
        made.append(written(folder / str(turn), changes, turn))
    return made


@pytest.fixture
def threads() -> Iterator[None]:
    """Put the number of torch's threads back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def reference(checkpoint: Checkpoint, name: str, used: Sequence[PatchFile]) -> bytes:
    """round(W + Σ Δ) written out in float64."""
    base = base_tensor(checkpoint, name)
    total = torch.zeros(base.shape, dtype=torch.float64)
    for patch in used:
        if name not in patch.changes:
            continue
        parts = patch.delta(name).tensors()
        full = (
            parts["delta"].double()
            if "delta" in parts
            else parts["B"].double().T @ parts["A"].double()
        )
        total += full.T if LAYOUT[name][1] else full
    return tensor_bytes(round_to(base.double() + total, base.dtype))


def state(checkpoint: Checkpoint, used: Sequence[PatchFile]) -> dict[str, bytes]:
    return {name: bytes(build()) for name, build in patched_bytes(checkpoint, used).items()}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chosen=st.lists(st.integers(0, COUNT - 1), unique=True))
def test_any_subset_of_patches_gives_the_state_of_the_formula(
    checkpoint: Checkpoint, patches: list[PatchFile], chosen: list[int]
) -> None:
    used = [patches[i] for i in chosen]
    changed = {name for patch in used for name in patch.changes}
    assert state(checkpoint, used) == {name: reference(checkpoint, name, used) for name in changed}


def test_rolling_back_everything_gives_the_base_s_files(
    checkpoint: Checkpoint, patches: list[PatchFile], tmp_path: Path
) -> None:
    stored = (checkpoint.folder / "model.safetensors").read_bytes()
    for used, equal in ((patches, False), ([], True)):
        bytes_of = patched_bytes(checkpoint, used)
        write_checkpoint(checkpoint, tmp_path / "out", patched=bytes_of, provenance={}, owner="me")
        assert ((tmp_path / "out" / "model.safetensors").read_bytes() == stored) is equal


def test_undoing_a_middle_patch_leaves_no_trace_of_it(
    checkpoint: Checkpoint, patches: list[PatchFile]
) -> None:
    without = [patch for i, patch in enumerate(patches) if i != 2]
    assert state(checkpoint, without) != state(checkpoint, patches)
    for name, data in state(checkpoint, without).items():
        assert data == reference(checkpoint, name, without)


def test_a_sum_that_is_continued_equals_one_from_the_start(patches: list[PatchFile]) -> None:
    for name in LAYOUT:
        whole = total_change(patches, name)
        continued = total_change(patches[2:], name, start=total_change(patches[:2], name))
        assert whole is not None
        assert continued is not None
        assert torch.equal(whole, continued)
    assert total_change(patches, "untouched") is None


def test_small_changes_are_summed_before_they_are_rounded(tmp_path: Path) -> None:
    """Half a unit in the last place, four times: rounding after each would lose all of them."""
    base = torch.ones(1, 1, dtype=torch.bfloat16)
    change = {"w": Change(delta=Dense(delta=torch.full((1, 1), 2.0**-9)))}
    patch = written(tmp_path / "patch", change)
    total = total_change([patch] * 4, "w")
    assert total is not None
    assert patched(base, total, transposed=False, dtype=base.dtype).item() == 1 + 2**-7


def large_state(folder: Path) -> str:
    draw = torch.Generator().manual_seed(5)
    base = torch.randn(301, 403, generator=draw).to(torch.bfloat16)
    files = [
        written(
            folder / f"{turn}",
            {
                "w": Change(
                    delta=LowRank(
                        A=torch.randn(50, 403, generator=draw).to(torch.bfloat16),
                        B=torch.randn(50, 301, generator=draw) / 1000,
                    )
                )
            },
        )
        for turn in range(4)
    ]
    total = total_change(files, "w")
    assert total is not None
    return sha256(tensor_bytes(patched(base, total, transposed=False, dtype=base.dtype)))


@pytest.mark.usefixtures("threads")
def test_the_digest_is_the_same_for_one_thread_and_two(tmp_path: Path) -> None:
    digests = set()
    for count in (1, 2):
        torch.set_num_threads(count)
        digests.add(large_state(tmp_path))
    assert len(digests) == 1


@pytest.mark.parametrize("piece", [1, 7, 12, 1 << 30])
def test_the_size_of_the_pieces_does_not_show_in_the_result(
    checkpoint: Checkpoint,
    patches: list[PatchFile],
    monkeypatch: pytest.MonkeyPatch,
    piece: int,
) -> None:
    expected = state(checkpoint, patches)
    monkeypatch.setattr("patches.row_pieces.PIECE", piece)
    assert state(checkpoint, patches) == expected


def test_a_transposed_tensor_gets_the_transposed_change(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    delta = torch.arange(28.0).reshape(4, 7)
    changes = {"turned": Change(delta=Dense(delta=delta), transposed=True)}
    (data,) = state(checkpoint, [written(tmp_path / "patch", changes)]).values()
    expected = round_to(
        base_tensor(checkpoint, "turned").double() + delta.double().T, torch.bfloat16
    )
    assert data == tensor_bytes(expected)


def test_the_result_may_have_another_dtype_than_the_base() -> None:
    base = torch.ones(1, 1, dtype=torch.bfloat16)
    total = torch.full((1, 1), 2.0**-20, dtype=torch.float64)
    assert patched(base, total, transposed=False, dtype=torch.float32).item() == 1 + 2**-20
    assert patched(base, total, transposed=False, dtype=torch.bfloat16).item() == 1


def test_building_bytes_is_put_off_until_they_are_asked_for(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    changes = {"absent": Change(delta=Dense(delta=torch.ones(2, 2)))}
    bytes_of = patched_bytes(checkpoint, [written(tmp_path / "patch", changes)])
    with pytest.raises(PatchError, match=r"has no tensor absent, which a patch changes"):
        bytes_of["absent"]()


def test_a_tensor_of_counts_cannot_be_edited(checkpoint: Checkpoint) -> None:
    with pytest.raises(CheckpointError, match="tensor counts is stored as I64"):
        base_tensor(checkpoint, "counts")


def test_a_change_that_does_not_fit_its_tensor_is_refused(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    wide = written(tmp_path / "wide", {"plain": Change(delta=Dense(delta=torch.ones(5, 6)))})
    with pytest.raises(PatchError, match=r"a change of shape \(5, 6\) on a \(6, 5\) tensor"):
        patched_bytes(checkpoint, [wide])["plain"]()


def test_patches_that_disagree_about_a_shape_are_refused(tmp_path: Path) -> None:
    pair = [
        written(tmp_path / f"{size}", {"w": Change(delta=Dense(delta=torch.ones(1, size)))})
        for size in (2, 3)
    ]
    with pytest.raises(PatchError, match=r"3: changes w as \(1, 3\), earlier patches as \(1, 2\)"):
        total_change(pair, "w")


@pytest.mark.parametrize(
    ("size", "reason"), [(10**9, "its header says"), (-1, "header of the patch is damaged")]
)
def test_a_false_shape_in_a_header_is_found_before_memory_is_taken(
    tmp_path: Path, size: int, reason: str
) -> None:
    data = encode_patch(header(), {"w": Change(delta=Dense(delta=torch.ones(1, 1)))})
    told, shape = b'[1,1],\\"transposed', b"[%d,%d]" % (size, size)
    assert told in data
    longer = data[8:].replace(told, shape + told[5:], 1)
    path = tmp_path / "patch"
    path.write_bytes(_relength(data, longer))
    with pytest.raises(PatchError, match=reason):
        total_change([PatchFile(path)], "w")


def _relength(before: bytes, after: bytes) -> bytes:
    """A safetensors file whose header has become longer or shorter."""
    length = int.from_bytes(before[:8], "little") + len(after) - len(before[8:])
    return length.to_bytes(8, "little") + after


@pytest.mark.parametrize("piece", [1, 40, 1 << 16])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_sum_by_rows_has_the_bits_of_the_whole_one(
    transposed: bool, piece: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    draw = torch.Generator().manual_seed(4)
    shape = (21, 5)
    made = []
    for turn in range(3):
        delta = torch.randn(shape, generator=draw)
        mask = torch.rand(shape, generator=draw) < 0.3
        change = Sparse.of(delta, mask) if turn else Dense(delta=delta.bfloat16())
        changes = {"w": Change(delta=change, transposed=transposed)}
        made.append(written(tmp_path / str(turn), changes, turn))
    base = torch.randn(shape[::-1] if transposed else shape, generator=draw).bfloat16()
    base[0, 0] = -0.0
    total = total_change(made, "w")
    assert total is not None
    whole = patched(base, total, transposed=transposed, dtype=base.dtype)
    monkeypatch.setattr("patches.row_pieces.PIECE", piece)
    found = rebuilt(base, made, "w", transposed=transposed)
    assert tensor_bytes(found) == tensor_bytes(whole)
    assert torch.equal(torch.cat(list(summed(made, "w"))), total)


def test_a_base_of_float64_is_not_touched() -> None:
    base = torch.ones(2, 2, dtype=torch.float64)
    patched(base, torch.ones(2, 2).double(), transposed=False, dtype=base.dtype)
    assert torch.equal(base, torch.ones(2, 2).double())
