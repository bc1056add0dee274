"""Adapters become turns: with what PEFT would merge, undone exactly, or refused whole."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ledger.applying import apply_to_folder
from ledger.importing import import_adapter
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.adapter import CONFIG_FILE, WEIGHTS_FILE
from patches.deltas import LowRank
from tests.command_line import call, done
from tests.exchanged import DOWN, adapter, ones, refused, weights
from tests.ledgers import contents, files, new_ledger
from tests.loopback_hub import COMMIT, Hub
from tests.peft_models import FILTER, logits, trained
from tests.tiny_models import build, load

pytestmark = pytest.mark.filterwarnings(FILTER)


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        yield ledger


@pytest.mark.parametrize(("family", "module"), [("llama", "down_proj"), ("gpt2", "c_proj")])
def test_an_adapter_of_peft_gives_what_peft_merges(
    family: str, module: str, tmp_path: Path
) -> None:
    """Weights within 1e-6 and logits within 1e-4 of PEFT's own merge, which is in float32."""
    base = build(tmp_path / "base", family, dtype=torch.float32)
    model = trained(base, module, r=6, lora_alpha=16, use_rslora=True, rank_pattern={module: 3})
    model.save_pretrained(tmp_path / "adapter")
    unmerged = logits(model)
    merged = dict(model.merge_and_unload().named_parameters())
    with new_ledger(tmp_path / "ledger", base) as ledger:
        done = import_adapter(ledger, str(tmp_path / "adapter"), message="LoRA")
        assert set(done.ranks.values()) == {3}
        apply_to_folder(ledger, tmp_path / "out")
        got = load(tmp_path / "out")
        for name, weight in got.named_parameters():
            torch.testing.assert_close(weight, merged[name], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(logits(got), unmerged, rtol=0, atol=1e-4)
        assert verify(ledger).problems == []
        rollback_turn(ledger, 1)
        apply_to_folder(ledger, tmp_path / "out")
        assert weights(tmp_path / "out") == weights(base)


def test_the_turn_of_an_adapter_has_its_scales_and_digests(ledger: Ledger, tmp_path: Path) -> None:
    source = adapter(
        tmp_path / "adapter",
        {DOWN: ones()},
        lora_alpha=2,
        base_model_name_or_path="/home/someone/secret/base",
        quantum=True,
    )
    done = import_adapter(ledger, source)
    row = log(ledger)[0].row
    assert (row.kind, row.method, row.message) == (
        "import",
        "lora",
        f"import the adapter {Path(source).name}",
    )
    assert row.hyperparameters["weights_sha256"] == files(Path(source))[WEIGHTS_FILE]
    assert row.hyperparameters["config_sha256"] == files(Path(source))[CONFIG_FILE]
    assert row.hyperparameters["lora_alpha"] == 2
    assert row.hyperparameters["modules"] == [DOWN]
    assert "secret" not in json.dumps([row.hyperparameters, row.notes])
    assert done.notes == row.notes
    assert "the adapter names base as its base, this ledger's is tiny-llama" in done.notes[0]
    assert "sets quantum, which this program does not know" in done.notes[1]


def test_modules_that_an_adapter_leaves_as_they_are_are_told(
    ledger: Ledger, tmp_path: Path
) -> None:
    idle = "model.layers.0.mlp.down_proj"
    source = adapter(tmp_path / "adapter", {DOWN: ones(), idle: ones(size=0)})
    done = import_adapter(ledger, source)
    assert list(done.ranks) == [f"{DOWN}.weight"]
    assert done.notes == ["1 modules of the adapter have a factor that is zero: left out"]


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ({"model.layers.9.mlp.down_proj": ones()}, "has no linear module model.layers.9.mlp.down"),
        ({"model.norm": ones()}, "has no linear module model.norm"),
        ({DOWN: ones(48, 32)}, "changes a [48, 32] matrix, but the model's"),
        ({DOWN: ones(size=0)}, "every product of the adapter is zero"),
        ({DOWN: ones(size=1e-30)}, "the change is lost in the rounding of every weight"),
        ({DOWN: ones(size=3.3e38)}, ""),
    ],
)
def test_adapters_that_cannot_be_used_leave_the_ledger_as_it_was(
    ledger: Ledger, tmp_path: Path, modules: dict[str, LowRank], reason: str
) -> None:
    source = adapter(tmp_path / "adapter", modules)
    if not reason:
        reason, source = "", adapter(tmp_path / "large", modules, lora_alpha=2)
        reason = f"tensor {DOWN}.weight would hold 1,536 numbers that are not finite"
    refused(ledger, reason, lambda: import_adapter(ledger, source))


def test_an_adapter_of_a_tied_weight_is_refused(tmp_path: Path) -> None:
    base = build(tmp_path / "base", tie_word_embeddings=True)
    source = adapter(tmp_path / "adapter", {"lm_head": ones(400, 32)})
    with new_ledger(tmp_path / "ledger", base) as ledger:
        refused(
            ledger,
            "has a weight that is tied (model.embed_tokens.weight, lm_head.weight)",
            lambda: import_adapter(ledger, source),
        )


def test_a_source_that_is_nowhere_is_an_error(ledger: Ledger, tmp_path: Path) -> None:
    refused(ledger, "no such folder", lambda: import_adapter(ledger, str(tmp_path / "absent")))
    refused(ledger, "not a Hub id like owner/name", lambda: import_adapter(ledger, "absent"))


def test_an_adapter_of_the_hub_is_pinned_and_only_two_files_are_fetched(
    hub: Hub, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = Path(adapter(tmp_path / "adapter", {DOWN: ones()}))
    stored = {path.name: path.read_bytes() for path in local.iterdir()}
    stored |= {"adapter_model.bin": b"not wanted", "README.md": b"not wanted"}
    hub.create("team/lora", files=stored, oid=COMMIT)
    done(capsys, "import", "team/lora@main", "--ledger", str(ledger.folder), "--json")
    settings = log(ledger)[0].row.hyperparameters
    assert (settings["source"], settings["commit"]) == ("team/lora@main", COMMIT)
    fetched = {path.name for path in (tmp_path / "hub-cache").rglob("*") if path.is_file()}
    assert {CONFIG_FILE, WEIGHTS_FILE} <= fetched
    assert not fetched & {"adapter_model.bin", "README.md"}


def test_a_pickle_of_the_hub_is_not_even_fetched(
    hub: Hub, ledger: Ledger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local = Path(adapter(tmp_path / "adapter", {DOWN: ones()}))
    stored = {CONFIG_FILE: (local / CONFIG_FILE).read_bytes(), "adapter_model.bin": b"\x80\x02."}
    hub.create("team/lora", files=stored)
    before = contents(ledger)
    pickled = call(capsys, "import", "team/lora", "--ledger", str(ledger.folder))
    absent = call(capsys, "import", "team/absent", "--ledger", str(ledger.folder))
    assert pickled.status == 1
    assert "A .bin is a pickle, which can run code and is never read" in pickled.err
    assert absent.status == 1
    assert absent.err.startswith("error: team/absent: not a folder here, and the Hub")
    assert contents(ledger) == before
    assert not list((tmp_path / "hub-cache").rglob("adapter_model.bin"))
