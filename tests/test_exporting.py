"""States without their base: adapters that PEFT loads, and sums of deltas; whole or not at all."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ledger.applying import apply_to_folder
from ledger.exporting import DELTA_FILE, export, state_adapter
from ledger.importing import import_adapter, import_difference
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger
from patches.adapter import CONFIG_FILE, WEIGHTS_FILE, read_adapter
from patches.errors import EditLedgerError
from patches.memory_file import MEMORY_FILE, read_memories
from tests.ledgers import add, contents, copied, facts, files, new_ledger, write_facts
from tests.peft_models import FILTER, logits, with_adapter
from tests.side_memories import add_memories
from tests.tiny_models import build, load

pytestmark = pytest.mark.filterwarnings(FILTER)
MODULES = {"llama": ("*down_proj", "*q_proj"), "gpt2": ("*mlp.c_proj", "*c_attn")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_facts(tmp_path_factory.mktemp("facts") / "facts.json", facts(6))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, source: str) -> Path:
    """The ledger of the next fixture; read only."""
    with new_ledger(tmp_path_factory.mktemp("made") / "ledger", tiny_llama) as ledger:
        add(ledger, source, evaluate=False)
    return ledger.folder


@pytest.fixture
def ledger(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    """Two turns, of three facts each."""
    with copied(made, tmp_path / "ledger") as ledger:
        yield ledger


def config(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / CONFIG_FILE).read_text())
    return found


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-5), (torch.bfloat16, 0.1875)])
@pytest.mark.parametrize("family", MODULES)
def test_peft_loads_an_adapter_that_gives_the_logits_of_the_applied_model(
    family: str, dtype: torch.dtype, tolerance: float, tmp_path: Path, source: str
) -> None:
    """Logits are up to 6 in size. At 16 bits the applied weights are rounded and PEFT's are not:
    six units in the last place of such a logit, since processors differ in how they multiply."""
    base = build(tmp_path / "base", family, dtype=dtype)
    with new_ledger(tmp_path / "ledger", base) as ledger:
        add(ledger, source, evaluate=False, modules=MODULES[family], learning_rate=0.01)
        done = export(ledger, "peft", tmp_path / "adapter")
        assert len(done.ranks) == 6
        assert set(done.errors.values()) == {0.0}
        apply_to_folder(ledger, tmp_path / "out")
    assert config(tmp_path / "adapter")["fan_in_fan_out"] is (family == "gpt2")
    applied = logits(load(tmp_path / "out"))
    found = logits(with_adapter(base, tmp_path / "adapter"))
    assert found.dtype == applied.dtype
    torch.testing.assert_close(found, applied, rtol=0, atol=tolerance)
    # What is compared is not the base with itself.
    assert float((applied - logits(load(base))).abs().max()) > 10 * tolerance


def test_an_exported_adapter_that_is_imported_gives_the_same_bytes(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    export(ledger, "peft", tmp_path / "adapter")
    apply_to_folder(ledger, tmp_path / "one")
    with new_ledger(tmp_path / "other", tiny_llama) as other:
        import_adapter(other, str(tmp_path / "adapter"))
        apply_to_folder(other, tmp_path / "two")
    name = "model.safetensors"
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_the_same_state_gives_the_same_bytes_and_says_where_it_is_from(
    ledger: Ledger, tmp_path: Path
) -> None:
    export(ledger, "peft", tmp_path / "one")
    export(ledger, "peft", tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")
    with safe_open(tmp_path / "one" / WEIGHTS_FILE, framework="pt") as file:
        assert file.metadata() == {
            "format": "pt",
            "base": ledger.base.fingerprint,
            "turn": "2",
            "hash": log(ledger)[-1].row.hash,
        }


def test_an_earlier_state_can_be_exported(ledger: Ledger, tmp_path: Path) -> None:
    rollback_turn(ledger, 2)
    first = export(ledger, "peft", tmp_path / "first", at=1)
    assert (first.turn, first.in_force) == (1, [1])
    both = export(ledger, "peft", tmp_path / "both", at=2)
    assert both.in_force == [1, 2]
    now = export(ledger, "peft", tmp_path / "now")
    assert (now.turn, now.in_force, now.ranks) == (3, [1], first.ranks)
    assert sum(both.ranks.values()) > sum(now.ranks.values())


def test_a_rank_or_an_error_makes_the_adapter_smaller_and_is_told(
    ledger: Ledger, tmp_path: Path
) -> None:
    whole = state_adapter(ledger)
    close = state_adapter(ledger, max_error=0.1)
    assert all(0 < error <= 0.1 for error in close.errors.values())
    assert all(close.ranks[name] < rank for name, rank in whole.ranks.items())
    small = state_adapter(ledger, rank=2)
    assert set(small.ranks.values()) == {2}
    done = export(ledger, "peft", tmp_path / "adapter", max_error=0.1)
    assert done.errors == close.errors
    name = next(iter(close.errors))
    module = name.removesuffix(".weight")
    for part in (WEIGHTS_FILE, CONFIG_FILE):
        (tmp_path / part).write_bytes(whole.files[part])
    exact, found = (
        read_adapter(folder).modules[module] for folder in (tmp_path, tmp_path / "adapter")
    )
    wanted = exact.B.double().T @ exact.A.double()
    missed = found.B.double().T @ found.A.double() - wanted
    assert float(missed.norm() / wanted.norm()) == pytest.approx(close.errors[name], rel=1e-5)


def test_a_rank_that_misses_the_error_is_refused(ledger: Ledger) -> None:
    with pytest.raises(EditLedgerError, match=r"at rank 1 the error is .*, more than --max-error"):
        state_adapter(ledger, rank=1, max_error=0.01)
    with pytest.raises(EditLedgerError, match="the factors of an adapter are float32"):
        state_adapter(ledger, max_error=1e-12)


def test_dense_changes_are_factored_exactly(tiny_llama: Path, tmp_path: Path) -> None:
    other = finetuned(tiny_llama, tmp_path / "edited", "model.layers.1.mlp.down_proj.weight")
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        import_difference(ledger, str(other))
        done = export(ledger, "peft", tmp_path / "adapter")
        assert done.ranks == {"model.layers.1.mlp.down_proj.weight": 32}
        assert done.errors == {"model.layers.1.mlp.down_proj.weight": 0.0}
    found = logits(with_adapter(tiny_llama, tmp_path / "adapter"))
    torch.testing.assert_close(found, logits(load(other)), rtol=0, atol=0.07)


def finetuned(model: Path, folder: Path, *names: str) -> Path:
    folder.mkdir()
    for path in model.glob("*.json"):
        (folder / path.name).write_bytes(path.read_bytes())
    tensors = load_file(model / "model.safetensors")
    draw = torch.Generator().manual_seed(1)
    for name in names:
        change = torch.randn(tensors[name].shape, generator=draw) / 16
        tensors[name] = (tensors[name].float() + change).to(tensors[name].dtype)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("model.norm.weight", {}, "turn 1 changes model.norm.weight, which is not a linear"),
        ("model.embed_tokens.weight", {}, "which is not a linear module's weight"),
        (
            "model.embed_tokens.weight",
            {"tie_word_embeddings": True},
            "which is tied (model.embed_tokens.weight, lm_head.weight)",
        ),
    ],
)
def test_a_tensor_that_an_adapter_cannot_carry_is_named(
    name: str, settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    base = build(tmp_path / "base", **settings)
    with new_ledger(tmp_path / "ledger", base) as ledger:
        import_difference(ledger, str(finetuned(base, tmp_path / "edited", name)))
        with pytest.raises(EditLedgerError) as caught:
            export(ledger, "peft", tmp_path / "out")
        assert reason in str(caught.value)
        assert "--format safetensors" in str(caught.value)
        assert not (tmp_path / "out").exists()
        export(ledger, "safetensors", tmp_path / "out")


def test_the_base_is_named_where_it_has_a_name(ledger: Ledger, tmp_path: Path) -> None:
    unnamed = export(ledger, "peft", tmp_path / "one")
    assert "does not name its base" in unnamed.notes[0]
    assert config(tmp_path / "one")["base_model_name_or_path"] is None
    named = export(ledger, "peft", tmp_path / "two", base_model="owner/name@abc")
    assert named.notes == ()
    found = config(tmp_path / "two")
    assert (found["base_model_name_or_path"], found["revision"]) == ("owner/name", "abc")
    with pytest.raises(EditLedgerError, match="write OWNER/NAME"):
        export(ledger, "peft", tmp_path / "three", base_model="/home/me/model")


def test_a_rank_beyond_what_servers_take_is_told(tmp_path: Path) -> None:
    base = build(tmp_path / "base", hidden_size=520, intermediate_size=520, num_hidden_layers=1)
    name = "model.layers.0.mlp.down_proj.weight"
    with new_ledger(tmp_path / "ledger", base) as ledger:
        import_difference(ledger, str(finetuned(base, tmp_path / "edited", name)))
        assert any(
            "the rank is 520; some servers take 512" in n for n in state_adapter(ledger).notes
        )
        assert not any("servers" in note for note in state_adapter(ledger, rank=8).notes)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning")
def test_conv1d_and_linear_modules_in_one_adapter_are_told_and_work(tmp_path: Path) -> None:
    base = build(tmp_path / "base", "gpt2", dtype=torch.float32, tie_word_embeddings=False)
    names = ("lm_head.weight", "transformer.h.1.mlp.c_fc.weight")
    other = finetuned(base, tmp_path / "edited", *names)
    with new_ledger(tmp_path / "ledger", base) as ledger:
        import_difference(ledger, str(other))
        done = export(ledger, "peft", tmp_path / "adapter")
    assert any("Conv1D and Linear modules" in note for note in done.notes)
    found = logits(with_adapter(base, tmp_path / "adapter"))
    torch.testing.assert_close(found, logits(load(other)), rtol=0, atol=5e-5)


def test_side_memories_are_refused_as_an_adapter_and_beside_the_sums(
    ledger: Ledger, tmp_path: Path
) -> None:
    add_memories(ledger, write_facts(tmp_path / "more.json", facts(3, start=6)), layer=1)
    with pytest.raises(EditLedgerError) as caught:
        export(ledger, "peft", tmp_path / "out")
    assert "side memories (WISE) are in force, of turn 3" in str(caught.value)
    assert "ledger rollback turn 3" in str(caught.value)
    assert not (tmp_path / "out").exists()
    done = export(ledger, "safetensors", tmp_path / "out")
    assert set(done.files) == {DELTA_FILE, MEMORY_FILE}
    assert "side memories are in force" in done.notes[0]
    assert [memory.turn for memory in read_memories(tmp_path / "out" / MEMORY_FILE).memories] == [3]
    rollback_turn(ledger, 1)
    rollback_turn(ledger, 2)
    assert set(export(ledger, "safetensors", tmp_path / "alone").files) == {MEMORY_FILE}
    rollback_turn(ledger, 3)
    rollback_turn(ledger, 4)
    assert export(ledger, "peft", tmp_path / "after").in_force == [1]


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_sums_added_to_the_base_are_the_state(family: str, tmp_path: Path, source: str) -> None:
    """In the checkpoint's own layout and shapes; to 1e-6, since they are float32."""
    base = build(tmp_path / "base", family, dtype=torch.float32)
    norm = "model.norm.weight" if family == "llama" else "transformer.ln_f.bias"
    with new_ledger(tmp_path / "ledger", base) as ledger:
        add(ledger, source, evaluate=False, modules=MODULES[family])
        import_difference(ledger, str(finetuned(base, tmp_path / "edited", norm)))
        done = export(ledger, "safetensors", tmp_path / "sums")
        apply_to_folder(ledger, tmp_path / "out")
        with safe_open(tmp_path / "sums" / DELTA_FILE, framework="pt") as file:
            assert file.metadata() == {
                "format": "edit-ledger-delta",
                "version": "1",
                "base": ledger.base.fingerprint,
                "turn": "3",
                "hash": done.hash,
            }
    sums = load_file(tmp_path / "sums" / DELTA_FILE)
    assert set(sums) == set(done.tensors)
    assert norm in sums
    before = load_file(base / "model.safetensors")
    for name, after in load_file(tmp_path / "out" / "model.safetensors").items():
        if name in sums:
            assert sums[name].dtype == torch.float32
            torch.testing.assert_close(before[name] + sums[name], after, rtol=1e-6, atol=1e-6)
        else:
            assert torch.equal(before[name], after)


@pytest.mark.parametrize("form", ["peft", "safetensors"])
def test_nothing_in_force_is_nothing_to_export(form: str, ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(EditLedgerError, match="nothing changes the weights at turn 0"):
        export(ledger, form, tmp_path / "out", at=0)
    with pytest.raises(EditLedgerError, match="there is no turn 9"):
        export(ledger, form, tmp_path / "out", at=9)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["peft", "safetensors"])
def test_a_folder_with_files_is_left_alone(
    form: str, ledger: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "notes.txt").write_text("mine")
    before = contents(ledger)
    for out, reason in (
        (mine, "holds files; choose a new or empty folder"),
        (mine / "notes.txt", "is a file"),
        (tiny_llama, "is in the folder of the base model"),
        (tiny_llama / "new", "is in the folder of the base model"),
    ):
        with pytest.raises(EditLedgerError, match=reason):
            export(ledger, form, out)
    assert files(mine) == {"notes.txt": files(mine)["notes.txt"]}
    (mine / "notes.txt").unlink()
    export(ledger, form, mine)
    assert contents(ledger) == before


@pytest.mark.parametrize("form", ["peft", "safetensors"])
def test_an_export_that_fails_leaves_nothing(
    form: str, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, _target: Path) -> None:
        raise OSError(28, "No space left on device", str(folder))

    monkeypatch.setattr("ledger.exporting.put_in_place", full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(EditLedgerError, match="No space left on device"):
        export(ledger, form, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rank": 0}, "--rank must be at least 1"),
        ({"max_error": 0.0}, "--max-error is between 0 and 1"),
        ({"max_error": float("nan")}, "--max-error is between 0 and 1"),
        ({"format": "gguf"}, "--format is one of peft, safetensors"),
        ({"format": "safetensors", "rank": 3}, "are for --format peft"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    changes: dict[str, Any], reason: str, ledger: Ledger, tmp_path: Path
) -> None:
    settings = {"format": "peft", **changes}
    with pytest.raises(EditLedgerError, match=reason):
        export(ledger, out=tmp_path / "out", **settings)
