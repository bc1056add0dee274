"""What other tools made becomes a turn: with its bytes, undone exactly, or refused whole."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ledger.applying import apply_to_folder, apply_to_model
from ledger.importing import import_difference
from ledger.models import empty_model
from ledger.reporting import log, show
from ledger.rolling_back import rollback_turn
from ledger.verifying import verify
from ledger.verifying_checkpoint import verify_checkpoint
from ledger.workspace import Ledger, open_ledger
from patches.checkpoint import fingerprint, open_checkpoint, tensor_digests
from patches.dtypes import tensor_bytes
from patches.errors import EditLedgerError
from tests.exchanged import DOWN, Edit, edited, refused, shifted, weights
from tests.ledgers import add, contents, facts, new_ledger, write_facts
from tests.processes import Report, finish
from tests.test_apply_resources import memory
from tests.tiny_models import build, load


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        yield ledger


def finetuned(tensors: dict[str, Tensor]) -> None:
    """Matrices, norms and biases change; some of one matrix only, and embeddings stay."""
    draw = torch.Generator().manual_seed(1)
    for name, tensor in tensors.items():
        if "embed" in name or "wte" in name or "wpe" in name:
            continue
        change = torch.randn(tensor.shape, generator=draw) / 64
        tensors[name] = (tensor.float() + change).to(tensor.dtype)
    one = next(name for name, tensor in tensors.items() if tensor.dim() == 2)
    tensors[one][0, 0] = 1.5


def live_weights(model: torch.nn.Module) -> dict[str, bytes]:
    return {name: tensor_bytes(weight) for name, weight in model.named_parameters()}


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        ("llama", torch.bfloat16),
        ("gpt2", torch.bfloat16),
        ("gpt2", torch.float32),
        ("qwen2", torch.float32),
    ],
)
def test_a_difference_gives_the_edited_model_and_its_rollback_the_base(
    family: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    base = build(tmp_path / "base", family, dtype=dtype)
    other = edited(base, tmp_path / "edited", finetuned)
    with new_ledger(tmp_path / "ledger", base) as ledger:
        done = import_difference(ledger, str(other))
        assert not any(done.errors.values())
        assert done.notes == []
        apply_to_folder(ledger, tmp_path / "out")
        assert weights(tmp_path / "out") == weights(other)
        result = verify(ledger)
        verify_checkpoint(ledger, tmp_path / "out", result)
        assert result.problems == []
        model = load(base)
        apply_to_model(ledger, model)
        assert live_weights(model) == live_weights(load(other))
        rollback_turn(ledger, 1)
        apply_to_folder(ledger, tmp_path / "out")
        stored = (base / "model.safetensors").read_bytes()
        assert (tmp_path / "out" / "model.safetensors").read_bytes() == stored
        apply_to_model(ledger, model)
        assert live_weights(model) == live_weights(load(base))


def test_the_turn_says_what_it_is_and_where_it_came_from(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    other = edited(tiny_llama, tmp_path / "edited", shifted)
    done = import_difference(ledger, str(other), message="Tuned in May")
    turn = log(ledger)[0]
    assert (turn.row.kind, turn.row.method, turn.row.edits) == ("import", "difference", 0)
    assert turn.row.message == "Tuned in May"
    assert turn.in_force
    assert turn.patch is not None
    assert (
        turn.patch.bytes == done.patch_bytes == ledger.store.path(turn.patch.digest).stat().st_size
    )
    checkpoint = open_checkpoint(other)
    digests = tensor_digests(checkpoint)
    settings = turn.row.hyperparameters
    assert settings["edited"] == other.name
    assert settings["edited_fingerprint"] == fingerprint(checkpoint, digests)
    assert settings["base_fingerprint"] == ledger.base.fingerprint
    assert turn.row.tensors == {f"{DOWN}.weight": digests[f"{DOWN}.weight"]}
    assert done.to_json().keys() == {
        *("turn", "method", "source", "ranks", "errors", "patch_bytes", "notes", "seconds")
    }


def test_an_import_comes_on_top_of_turns_that_change_the_same_tensors(tmp_path: Path) -> None:
    """GPT-2 stores them transposed, of which the checkpoint alone says nothing."""
    base = build(tmp_path / "base", "gpt2")
    other = edited(base, tmp_path / "edited", finetuned)
    with new_ledger(tmp_path / "ledger", base) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(6)), evaluate=False)
        apply_to_folder(ledger, tmp_path / "before")
        done = import_difference(ledger, str(other))
        assert "do not come out with the bytes they have in" in done.notes[0]
        add(ledger, write_facts(tmp_path / "more.json", facts(3, start=6)), evaluate=False)
        assert [turn.row.kind for turn in log(ledger)] == ["edit", "edit", "import", "edit"]
        assert log(ledger)[2].row.tensors.keys() >= log(ledger)[1].row.tensors.keys()
        for number in (4, 3):
            rollback_turn(ledger, number)
        apply_to_folder(ledger, tmp_path / "after")
        assert weights(tmp_path / "after") == weights(tmp_path / "before")
        for number in (1, 2, 6):
            rollback_turn(ledger, number)
        apply_to_folder(ledger, tmp_path / "alone")
        assert weights(tmp_path / "alone") == weights(other)
        assert verify(ledger).problems == []


def test_a_difference_of_a_written_state_needs_that_state_as_its_base(
    ledger: Ledger, tmp_path: Path
) -> None:
    add(ledger, write_facts(tmp_path / "facts.json", facts(3)), evaluate=False)
    apply_to_folder(ledger, tmp_path / "state")
    other = edited(tmp_path / "state", tmp_path / "edited", shifted)
    before = contents(ledger)
    with pytest.raises(EditLedgerError, match=r"written by this ledger at turn 1.*--at 1, then"):
        import_difference(ledger, str(other))
    assert contents(ledger) == before
    done = import_difference(ledger, str(other), base=str(tmp_path / "state"))
    assert list(done.ranks) == [f"{DOWN}.weight"]
    assert done.notes == []
    apply_to_folder(ledger, tmp_path / "out")
    assert weights(tmp_path / "out") == weights(other)


def test_a_tensor_that_does_not_come_out_as_it_was_is_told(ledger: Ledger, tmp_path: Path) -> None:
    """Below their old size numbers have finer digits, and the state before its rounding shows."""
    add(ledger, write_facts(tmp_path / "facts.json", facts(3)), evaluate=False)
    apply_to_folder(ledger, tmp_path / "state")
    changed = next(iter(log(ledger)[0].row.tensors))

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[changed] = (tensors[changed].float() / 8).to(torch.bfloat16)

    other = edited(tmp_path / "state", tmp_path / "edited", change)
    done = import_difference(ledger, str(other), base=str(tmp_path / "state"))
    assert done.notes[0].startswith(f"1 of 1 tensors ({changed} …) do not come out with the bytes")


def test_an_error_that_is_allowed_is_told_and_recorded(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        weight = tensors[f"{DOWN}.weight"]
        product = torch.ones(32, 1) @ torch.linspace(0.5, 1, 48).unsqueeze(0)
        tensors[f"{DOWN}.weight"] = (weight.float() + product).to(weight.dtype)
        tensors["model.norm.weight"] += 0.5

    other = edited(tiny_llama, tmp_path / "edited", change)
    done = import_difference(ledger, str(other), max_error=0.05)
    assert done.ranks == {f"{DOWN}.weight": 1, "model.norm.weight": None}
    assert 0 < done.errors[f"{DOWN}.weight"] < 0.05
    assert done.errors["model.norm.weight"] == 0
    details = show(ledger, 1).to_json()
    assert details["figures"] == {"errors": [done.errors[name] for name in sorted(done.errors)]}
    assert verify(ledger).problems == []


def test_signs_of_zeros_are_told(ledger: Ledger, tiny_llama: Path, tmp_path: Path) -> None:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[f"{DOWN}.weight"][:, :2] = -0.0

    done = import_difference(ledger, str(edited(tiny_llama, tmp_path / "edited", change)))
    assert done.notes == [
        f"tensor {DOWN}.weight: 64 elements have bits that no sum gives, zeros with a minus sign "
        "or numbers too small beside the base's; they come out as the nearest"
    ]


def replaced(norm: Tensor, tensors: dict[str, Tensor]) -> None:
    tensors["model.norm.weight"] = norm


def test_signs_of_zeros_alone_are_nothing_to_record(tiny_llama: Path, tmp_path: Path) -> None:
    zero = torch.zeros(32, dtype=torch.bfloat16)
    base, other = (
        edited(tiny_llama, tmp_path / name, partial(replaced, one))
        for name, one in (("plus", zero), ("minus", -zero))
    )
    with new_ledger(tmp_path / "ledger", base) as ledger:
        refused(ledger, "signs of zeros only", lambda: import_difference(ledger, str(other)))


def nan(tensors: dict[str, Tensor]) -> None:
    tensors["model.norm.weight"][3] = float("nan")


def renamed(tensors: dict[str, Tensor]) -> None:
    tensors["other"] = tensors.pop("model.norm.weight")


def widened(tensors: dict[str, Tensor]) -> None:
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: None, "has the same tensors as the base, to the byte"),
        (nan, "tensor model.norm.weight holds 1 number that is not finite"),
        (renamed, "tensor model.norm.weight is in "),
        (widened, "tensor model.norm.weight is BF16 [32] in "),
    ],
)
def test_checkpoints_that_cannot_be_compared_leave_the_ledger_as_it_was(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path, change: Edit, reason: str
) -> None:
    other = edited(tiny_llama, tmp_path / "edited", change)
    refused(ledger, reason, lambda: import_difference(ledger, str(other)))


def test_a_base_of_another_form_is_refused(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    larger = build(tmp_path / "larger", intermediate_size=64)
    other = edited(larger, tmp_path / "edited", shifted)
    refused(
        ledger,
        "tensor model.layers.0.mlp.down_proj.weight is BF16 [32, 48] in",
        lambda: import_difference(ledger, str(other), base=str(larger)),
    )
    refused(ledger, "--max-error is", lambda: import_difference(ledger, str(other), max_error=1.5))
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text("{}")
    (pickled / "pytorch_model.bin").write_bytes(b"\x80")
    refused(
        ledger,
        "its weights are pytorch_model.bin, not safetensors",
        lambda: import_difference(ledger, str(pickled)),
    )
    assert tiny_llama.exists()


def import_measured(report: Report, folder: Path, other: Path) -> None:
    """Report how many bytes the process has grown by at most."""
    with open_ledger(folder) as ledger:
        ledger.check_base_tensors([f"{DOWN}.weight"])
        empty_model(ledger.checkpoint.folder)  # with what it imports
        resident = memory("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
        import_difference(ledger, str(other))
        report(memory("VmHWM") - resident)


@pytest.mark.slow
def test_a_difference_needs_memory_for_a_tensor_and_not_for_the_model(
    tiny_llama: Path, tmp_path: Path
) -> None:
    count, size = 80, 1 << 18  # elements of two bytes

    def larger(value: float) -> Edit:
        large = {f"large.{n}": torch.full((size // 128, 128), value) for n in range(count)}
        return lambda tensors: tensors.update({n: t.bfloat16() for n, t in large.items()})

    base = edited(tiny_llama, tmp_path / "base", larger(1.0))
    other = edited(tiny_llama, tmp_path / "edited", larger(1.5))
    with new_ledger(tmp_path / "ledger", base) as ledger:
        [grown] = finish(import_measured, ledger.folder, other)
        assert log(ledger)[0].patch is not None
        apply_to_folder(ledger, tmp_path / "out")
    assert weights(tmp_path / "out") == weights(other)
    assert isinstance(grown, int)
    assert 0 < grown < count * size * 2 * 0.7
