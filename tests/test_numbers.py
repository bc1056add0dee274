"""Numbers: equal bits on every path, and nothing that is not finite recorded or written."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ledger.applying import apply_to_folder, apply_to_model
from ledger.importing import import_difference
from ledger.loading import load_patched
from ledger.workspace import Ledger, open_ledger
from patches.application import patched_bytes
from patches.canonical import sha256
from patches.checkpoint import open_checkpoint
from patches.checkpoint_writer import write_checkpoint
from patches.deltas import Delta, Dense, LowRank, Sparse
from patches.dtypes import tensor_bytes
from patches.errors import CheckpointError, EditingError
from patches.finite import is_finite
from patches.live import LiveModel
from patches.patch import Change, PatchFile, PatchHeader, encode_patch
from patches.rounding import round_to
from tests import plain_ledgers, processes
from tests.ledgers import add, contents, facts, files, new_ledger, write_facts
from tests.plain_ledgers import Matrix
from tests.tiny_models import build, load

NAN, INF = float("nan"), float("inf")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
UP = "transformer.h.0.mlp.c_fc.weight"
DOWN = "transformer.h.1.mlp.c_proj.weight"
PLACES = "transformer.wpe.weight"
# As (d_out, d_in); the first two are stored the other way round, as GPT-2 does. Large enough for
# torch to share the work among threads.
SHAPES = {UP: (384, 96), DOWN: (96, 384), PLACES: (64, 96)}


def named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


# Equal bits


def drawn(name: str, kind: str, seed: int) -> Change:
    """A random change; its numbers are a few bits long, so that float64 sums of them are exact."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randint(-255, 256, shape, generator=random).float() / 1024

    d_out, d_in = SHAPES[name]
    delta: Delta
    if kind == "low-rank":
        delta = LowRank(A=draw(3, d_in).bfloat16(), B=draw(3, d_out))
    elif kind == "dense":
        delta = Dense(delta=draw(d_out, d_in))
    else:
        delta = Sparse.of(draw(d_out, d_in), torch.rand(d_out, d_in, generator=random) < 0.3)
    return Change(delta=delta, transposed=name != PLACES)


@pytest.fixture(scope="module", params=DTYPES, ids=named)
def state(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Ledger]:
    """A ledger with three turns of all kinds of changes of a base in each dtype."""
    folder = tmp_path_factory.mktemp("numbers")
    model = build(folder / "model", "gpt2", dtype=request.param, n_embd=96, n_layer=2)
    with new_ledger(folder / "ledger", model) as ledger:
        plain_ledgers.add(ledger, {UP: drawn(UP, "low-rank", 1), PLACES: drawn(PLACES, "dense", 2)})
        plain_ledgers.add(ledger, {UP: drawn(UP, "sparse", 3), DOWN: drawn(DOWN, "dense", 4)})
        plain_ledgers.add(ledger, {n: drawn(n, "low-rank", 5 + i) for i, n in enumerate(SHAPES)})
        yield ledger


def computed(ledger: Ledger) -> dict[str, str]:
    """SHA-256 of round(base + Σ Δ), by numpy in float64 from the files alone."""
    with safe_open(ledger.checkpoint.folder / "model.safetensors", framework="pt") as file:
        base = {name: file.get_tensor(name) for name in SHAPES}
    parts = [
        plain_ledgers.deltas(ledger.store.path(step.patch_digest or ""))
        for step in plain_ledgers.line(ledger)
    ]
    found = {}
    for name, tensor in base.items():
        total = np.zeros(SHAPES[name])
        for part in parts:
            total = total + part.get(name, 0)
        whole = tensor.double().numpy() + (total if name == PLACES else total.T)
        found[name] = hashlib.sha256(numpy_bytes(whole, tensor.dtype)).hexdigest()
    return found


def numpy_bytes(whole: Matrix, dtype: torch.dtype) -> bytes:
    if dtype == torch.bfloat16:
        return plain_ledgers._bfloat16(whole)
    return whole.astype("<f2" if dtype == torch.float16 else "<f4").tobytes()


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("piece", [None, 1, 1000, 1 << 30])
def test_threads_and_pieces_do_not_show_in_the_bits(
    state: Ledger, monkeypatch: pytest.MonkeyPatch, piece: int | None
) -> None:
    if piece is not None:
        monkeypatch.setattr("patches.row_pieces.PIECE", piece)
    for count in (1, 2, 4):
        torch.set_num_threads(count)
        assert plain_ledgers.state(state, whole=True) == computed(state)


def test_a_folder_the_model_loaded_from_it_and_a_live_model_have_the_same_bits(
    state: Ledger, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    expected = computed(state)
    assert apply_to_folder(state, out).tensors == expected
    written = load_file(out / "model.safetensors")
    assert {name: sha256(tensor_bytes(written[name])) for name in SHAPES} == expected
    assert digests(load_patched(out, device="cpu")[0]) == expected
    live = load(state.checkpoint.folder)
    # From another state, and not from the base alone.
    apply_to_model(state, live, at=1)
    assert apply_to_model(state, live).tensors == expected
    assert digests(live) == expected


def digests(model: nn.Module) -> dict[str, str]:
    return {name: sha256(tensor_bytes(model.get_parameter(name))) for name in SHAPES}


def test_a_fresh_process_computes_the_same_bits(state: Ledger) -> None:
    assert processes.finish(report_state, str(state.folder)) == [computed(state)]


def report_state(report: processes.Report, folder: str) -> None:
    """In a process of its own."""
    with open_ledger(folder) as ledger:
        report(plain_ledgers.state(ledger))


# Bases that are not finite


def with_values(folder: Path, source: Path, **values: float) -> Path:
    """A copy of a checkpoint in which some tensors, by alias, begin with other numbers."""
    names = {"first": plain_ledgers.FIRST, "alone": "left.alone", "second": plain_ledgers.SECOND}
    folder.mkdir()
    for path in source.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(source / "model.safetensors")
    for alias, value in values.items():
        tensors[names.get(alias, alias)].view(-1)[:2] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_an_edited_tensor_of_the_base_must_be_finite_and_others_need_not(
    tmp_path: Path, value: float
) -> None:
    plain = plain_ledgers.build(tmp_path / "plain")
    base = with_values(tmp_path / "base", plain, first=value, alone=value)
    bad = with_values(tmp_path / "bad", base, first=1.0)
    good = with_values(tmp_path / "good", base, second=1.0)
    with plain_ledgers.new_ledger(tmp_path / "ledger", base) as ledger:
        before = contents(ledger), files(ledger.folder / "store")
        reason = r"tensor first\.weight holds 2 numbers that are not finite"
        with pytest.raises(CheckpointError, match=reason):
            import_difference(ledger, str(bad))
        assert (contents(ledger), files(ledger.folder / "store")) == before
        import_difference(ledger, str(good))
        out = tmp_path / "out"
        apply_to_folder(ledger, out)
    written = load_file(out / "model.safetensors")
    assert not is_finite(written["left.alone"])
    assert torch.equal(written["second.weight"].view(-1)[:2], torch.ones(2))


@pytest.mark.parametrize("value", [NAN, INF])
def test_applying_to_a_tensor_that_is_not_finite_names_it_and_writes_nothing(
    tmp_path: Path, value: float
) -> None:
    plain = plain_ledgers.build(tmp_path / "plain")
    base = open_checkpoint(with_values(tmp_path / "base", plain, first=value))
    change = plain_ledgers.change(plain_ledgers.FIRST, "dense", 1)
    patch = patch_file(tmp_path / "patch", {plain_ledgers.FIRST: change})
    with pytest.raises(CheckpointError, match=r"tensor first\.weight of the base holds 2 numbers"):
        write_checkpoint(
            base,
            tmp_path / "out",
            patched=patched_bytes(base, [patch]),
            provenance={},
            owner="me",
        )
    assert not (tmp_path / "out").exists()


def patch_file(path: Path, changes: dict[str, Change], turn: int = 7) -> PatchFile:
    header = PatchHeader(base="b", method="x", hyperparameters={}, turn=turn, parent=None)
    path.write_bytes(encode_patch(header, changes))
    return PatchFile(path)


LLAMA_DOWN = "model.layers.1.mlp.down_proj"


@pytest.mark.parametrize("method", ["ultraedit", "wise"])
def test_adding_edits_to_a_tensor_that_is_not_finite_names_it_and_records_nothing(
    tiny_llama: Path, tmp_path: Path, method: str
) -> None:
    base = with_values(tmp_path / "base", tiny_llama, **{f"{LLAMA_DOWN}.weight": NAN})
    source = write_facts(tmp_path / "facts.json", facts(2))
    with new_ledger(tmp_path / "ledger", base) as ledger:
        before = contents(ledger), files(ledger.folder / "store")
        reason = rf"tensor {LLAMA_DOWN}\.weight of the base holds 2 numbers .*--modules"
        with pytest.raises(CheckpointError, match=reason):
            add(ledger, source, method=method, modules=(LLAMA_DOWN,), evaluate=False)
        assert (contents(ledger), files(ledger.folder / "store")) == before


def test_a_weight_that_only_the_dtype_of_the_run_cannot_hold_is_told_apart(tmp_path: Path) -> None:
    base = build(tmp_path / "base", dtype=torch.float32)
    tensors = load_file(base / "model.safetensors")
    tensors[f"{LLAMA_DOWN}.weight"][0, 0] = 1e5
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    live = LiveModel(load(base, torch.float16), open_checkpoint(base))
    with pytest.raises(EditingError, match=rf"{LLAMA_DOWN}\.weight holds 1 number .* in float16"):
        live.check_editable([f"{LLAMA_DOWN}.weight"])


# Sums that are not finite, or change nothing


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float16, "65504"), (torch.bfloat16, r"3\.3895e\+38")]
)
def test_a_sum_beyond_the_dtype_names_tensor_and_turn(
    tmp_path: Path, dtype: torch.dtype, most: str
) -> None:
    """Rounding would make it infinite."""
    folder = tmp_path / "base"
    folder.mkdir()
    largest = torch.full((2, 2), torch.finfo(dtype).max, dtype=dtype)
    save_file({"w": largest}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    base = open_checkpoint(folder)
    delta = torch.zeros(2, 2, dtype=torch.float64)
    delta[1, 0] = largest[0, 0].double() / 100
    patch = patch_file(tmp_path / "patch", {"w": Change(delta=Dense(delta=delta))})
    reason = rf"tensor w would hold 1 number that is not finite with the patch of turn 7.*{most}"
    with pytest.raises(EditingError, match=reason):
        patched_bytes(base, [patch])["w"]()
    holder = nn.Module()
    holder.w = nn.Parameter(largest.clone())
    with pytest.raises(EditingError, match=reason):
        LiveModel(holder, base).set_state([patch])
    with pytest.raises(EditingError, match=reason):
        LiveModel(holder, base).advance(patch)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_largest_number_that_is_not_too_large_is_written(dtype: torch.dtype) -> None:
    """What rounds to the largest number is not refused: half a unit above it is the bound."""
    most = torch.finfo(dtype).max
    unit = torch.finfo(dtype).eps * 2.0 ** math.floor(math.log2(most))
    below, above = (torch.tensor([most + unit * part], dtype=torch.float64) for part in (0.49, 0.5))
    assert round_to(below, dtype).item() == most
    assert not is_finite(round_to(above, dtype))


def test_edits_that_no_weight_feels_after_rounding_are_refused(
    tiny_llama: Path, tmp_path: Path
) -> None:
    source = write_facts(tmp_path / "facts.json", facts(2))
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        before = contents(ledger)
        with pytest.raises(EditingError, match=r"turn 1 \(rows 0 to 1 .*lost in the rounding"):
            add(ledger, source, learning_rate=1e-12, evaluate=False)
        assert contents(ledger) == before
