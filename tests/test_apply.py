"""Applying a state: to a folder that transformers loads, and to a model already in memory."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ledger.applying import apply_to_folder, apply_to_model, check_folder
from ledger.reporting import log
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.workspace import Ledger, open_ledger
from patches.canonical import sha256
from patches.checkpoint import open_checkpoint, tensor_digests
from patches.dtypes import tensor_bytes
from patches.errors import CheckpointError, HistoryError, ModelError, StoreError
from patches.kept_weights import KeptWeights
from tests.ledgers import add, contents, facts, files, new_ledger, write_facts
from tests.tiny_models import build, load, tokenizer

NAME = "model.layers.2.mlp.down_proj.weight"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model of our own, to be damaged; in several shards."""
    return build(tmp_path / "model", max_shard_size="30KB")


@pytest.fixture
def ledger(tmp_path: Path, model: Path) -> Iterator[Ledger]:
    """Three turns, of which the second is undone by the fourth."""
    with new_ledger(tmp_path / "ledger", model) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(9)), evaluate=False)
        rollback_turn(ledger, 2)
        yield ledger


def logits(model: torch.nn.Module) -> torch.Tensor:
    ids = tokenizer()("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        found: torch.Tensor = model(ids).logits
    return found


def weights(model: torch.nn.Module) -> dict[str, str]:
    return {name: sha256(tensor_bytes(found)) for name, found in model.state_dict().items()}


def digests(folder: Path) -> dict[str, str]:
    return tensor_digests(open_checkpoint(folder))


def flip_byte(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_the_written_folder_loads_and_answers_as_the_live_model_does(
    ledger: Ledger, model: Path, tmp_path: Path
) -> None:
    apply_to_folder(ledger, tmp_path / "out")
    live = load(model)
    base = logits(live)
    apply_to_model(ledger, live)
    loaded = load(tmp_path / "out")
    assert weights(loaded) == weights(live)
    assert torch.equal(logits(loaded), logits(live))
    assert not torch.equal(logits(loaded), base)


def test_the_recorded_digests_are_those_of_the_bytes_on_disk_at_every_turn(
    ledger: Ledger, model: Path, tmp_path: Path
) -> None:
    base = digests(model)
    for turn in log(ledger):
        applied = apply_to_folder(ledger, tmp_path / "out", at=turn.number)
        written = digests(tmp_path / "out")
        assert applied.tensors == turn.row.tensors == {NAME: written[NAME]}
        assert written == {**base, **applied.tensors}
        assert (applied.turn, applied.hash) == (turn.number, turn.row.hash)
        assert applied.notes == ()
    assert apply_to_folder(ledger, tmp_path / "out").in_force == [1, 3]
    assert apply_to_folder(ledger, tmp_path / "out", at=3).in_force == [1, 2, 3]
    assert apply_to_folder(ledger, tmp_path / "out", at=0).tensors == {}
    assert digests(tmp_path / "out") == base


def test_what_apply_tells_programs_is_complete(ledger: Ledger, tmp_path: Path) -> None:
    told = apply_to_folder(ledger, tmp_path / "out").to_json()
    assert set(told) == {
        *("folder", "turn", "hash", "in_force", "tensors", "files", "bytes_written"),
        *("bytes_taken_over", "left_out", "notes", "memories"),
    }
    assert json.loads(json.dumps(told)) == told
    assert told["files"] == len(files(tmp_path / "out"))


def test_ledger_json_names_base_turn_patches_and_digests(ledger: Ledger, tmp_path: Path) -> None:
    apply_to_folder(ledger, tmp_path / "out")
    content = json.loads((tmp_path / "out" / "ledger.json").read_text())
    turns = log(ledger)
    assert content["base"]["fingerprint"] == ledger.base.fingerprint
    assert content["owner"] == ledger.base.ledger_id
    assert (content["turn"], content["hash"]) == (4, turns[3].row.hash)
    assert content["in_force"] == [1, 3]
    assert content["patches"] == [turns[0].row.patch_digest, turns[2].row.patch_digest]
    assert content["tensors"] == turns[3].row.tensors


def test_a_live_model_gets_the_same_bytes_from_whatever_state_it_was_in(
    ledger: Ledger, model: Path
) -> None:
    fresh = load(model)
    applied = apply_to_model(ledger, fresh)
    assert applied.tensors == log(ledger)[-1].row.tensors
    wanted = weights(fresh)
    moved = load(model)
    for at in (3, 1, 0, 2, None):
        apply_to_model(ledger, moved, at=at)
    assert weights(moved) == wanted
    scribbled = load(model)
    with torch.no_grad():
        scribbled.get_parameter(NAME).fill_(float("nan"))
    apply_to_model(ledger, scribbled)
    assert weights(scribbled) == wanted
    apply_to_model(ledger, scribbled, at=0)
    assert weights(scribbled) == weights(load(model))


def test_weights_that_were_kept_are_put_back_without_a_patch_being_read(
    ledger: Ledger, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, kept = load(model), KeptWeights(states=3)
    found = {at: apply_to_model(ledger, live, at=at, kept=kept) for at in (1, 2, 4)}
    bytes_at = {}
    for at in (1, 2, 4):
        apply_to_model(ledger, live, at=at)
        bytes_at[at] = weights(live)
    monkeypatch.setattr("ledger.applying.choose_state", None)
    for at in (2, 4, 1, 4, 2):
        assert apply_to_model(ledger, live, at=at, kept=kept) == found[at]
        assert weights(live) == bytes_at[at]


def test_weights_of_states_too_long_ago_or_of_another_dtype_are_computed_again(
    ledger: Ledger, model: Path
) -> None:
    live, kept = load(model), KeptWeights(states=1)
    for at in (1, 2):
        apply_to_model(ledger, live, at=at, kept=kept)
    apply_to_model(ledger, live, at=1, kept=kept)
    expected = load(model)
    apply_to_model(ledger, expected, at=1)
    assert weights(live) == weights(expected)
    other = load(model, torch.float32)
    apply_to_model(ledger, other, at=1, kept=kept)
    exact = load(model, torch.float32)
    apply_to_model(ledger, exact, at=1)
    assert weights(other) == weights(exact)


def test_a_live_model_in_another_dtype_is_the_base_plus_the_changes_rounded_to_that_dtype(
    ledger: Ledger, model: Path, tmp_path: Path
) -> None:
    exact = load(model, torch.float32)
    applied = apply_to_model(ledger, exact)
    assert applied.tensors == log(ledger)[-1].row.tensors
    apply_to_folder(ledger, tmp_path / "out")
    rounded = load(tmp_path / "out").get_parameter(NAME)
    weight = exact.get_parameter(NAME)
    assert weight.dtype == torch.float32
    assert not torch.equal(weight, rounded.float())
    assert torch.equal(weight.to(torch.bfloat16), rounded)


def test_weights_that_only_an_undone_turn_had_changed_go_back_to_the_base_in_a_live_model(
    ledger: Ledger, model: Path, tmp_path: Path
) -> None:
    other = "model.layers.0.self_attn.q_proj"
    source = write_facts(tmp_path / "more.json", facts(2, start=10))
    add(ledger, source, modules=(other,), learning_rate=0.1)
    live = load(model)
    apply_to_model(ledger, live)
    edited = weights(live)
    rollback_turn(ledger, 5)
    apply_to_model(ledger, live)
    restored, base = weights(live), weights(load(model))
    assert restored[f"{other}.weight"] == base[f"{other}.weight"] != edited[f"{other}.weight"]
    assert restored[NAME] == edited[NAME]


def test_a_model_of_another_architecture_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    other = load(build(tmp_path / "other", "gpt2"))
    before = weights(other)
    with pytest.raises(ModelError, match="GPT2LMHeadModel has no parameter"):
        apply_to_model(ledger, other)
    assert weights(other) == before


def test_a_turn_that_does_not_exist_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    for at in (-1, 5):
        with pytest.raises(HistoryError, match="the turns are 1 to 4"):
            apply_to_folder(ledger, tmp_path / "out", at=at)
    assert not (tmp_path / "out").exists()


def test_base_folder_foreign_folder_and_file_are_refused_and_stay_as_they_are(
    ledger: Ledger, model: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("mine")
    before = files(tmp_path)
    for target, reason in {
        model: "never written",
        model / "below": "never written",
        tmp_path: "never written",
        foreign: "no ledger wrote it",
        foreign / "thesis.txt": "is a file",
    }.items():
        with pytest.raises(CheckpointError, match=reason):
            apply_to_folder(ledger, target)
        with pytest.raises(CheckpointError, match=reason):
            check_folder(ledger, target)
    after = {name: digest for name, digest in files(tmp_path).items() if "-shm" not in name}
    assert after == {name: digest for name, digest in before.items() if "-shm" not in name}


def test_a_folder_of_another_ledger_is_refused(ledger: Ledger, model: Path, tmp_path: Path) -> None:
    with new_ledger(tmp_path / "second", model) as second:
        apply_to_folder(second, tmp_path / "out")
    before = files(tmp_path / "out")
    with pytest.raises(CheckpointError, match="written by another ledger"):
        apply_to_folder(ledger, tmp_path / "out")
    assert files(tmp_path / "out") == before


def test_a_folder_of_this_ledger_is_updated_and_after_going_back_has_the_base_s_bytes(
    ledger: Ledger, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    apply_to_folder(ledger, out)
    (out / "notes.txt").write_text("mine")
    rollback_to(ledger, 0)
    apply_to_folder(ledger, out)
    written = files(out)
    del written["ledger.json"], written["notes.txt"]
    assert written == files(model)


def test_with_link_files_without_an_edited_tensor_share_their_bytes_with_the_base(
    ledger: Ledger, model: Path, tmp_path: Path
) -> None:
    apply_to_folder(ledger, tmp_path / "copied")
    applied = apply_to_folder(ledger, tmp_path / "linked", link=True)
    assert digests(tmp_path / "linked") == digests(tmp_path / "copied")
    edited = open_checkpoint(model).tensor(NAME).file
    for path in model.iterdir():
        assert (tmp_path / "linked" / path.name).samefile(path) == (path.name != edited)
        assert not (tmp_path / "copied" / path.name).samefile(path)
    assert applied.bytes_taken_over > applied.bytes_written


@pytest.mark.parametrize("damage", ["flipped", "cut off", "missing"])
def test_a_damaged_patch_stops_every_apply_before_anything_is_written(
    ledger: Ledger, model: Path, tmp_path: Path, damage: str
) -> None:
    apply_to_folder(ledger, tmp_path / "out", at=1)
    before = files(tmp_path / "out")
    path = ledger.store.path(log(ledger)[2].row.patch_digest or "")
    if damage == "flipped":
        flip_byte(path, -1)
    elif damage == "cut off":
        os.truncate(path, 100)
    else:
        path.unlink()
    with pytest.raises(StoreError, match=f"{path.name}.*restore it"):
        apply_to_folder(ledger, tmp_path / "out")
    assert files(tmp_path / "out") == before
    live = load(model)
    with pytest.raises(StoreError):
        apply_to_model(ledger, live)
    assert weights(live) == weights(load(model))
    # Turn 3 is not part of that state.
    assert apply_to_folder(ledger, tmp_path / "out", at=2).in_force == [1, 2]


def test_an_altered_base_tensor_stops_apply_and_names_the_tensor(
    ledger: Ledger, model: Path, tmp_path: Path
) -> None:
    tensor = open_checkpoint(model).tensor(NAME)
    flip_byte(model / tensor.file, tensor.start + 5)
    with pytest.raises(CheckpointError, match=f"tensor {NAME} is not what was recorded at init"):
        apply_to_folder(ledger, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(CheckpointError, match="base must never change"):
        apply_to_model(ledger, load(model))


def test_a_base_that_has_become_another_model_or_gone_stops_apply(
    ledger: Ledger, model: Path, tmp_path: Path
) -> None:
    model.rename(tmp_path / "elsewhere")
    with (
        open_ledger(ledger.folder) as opened,
        pytest.raises(CheckpointError, match=f"{model}: no such folder"),
    ):
        apply_to_folder(opened, tmp_path / "out")
    build(model, "gpt2")
    with (
        open_ledger(ledger.folder) as opened,
        pytest.raises(CheckpointError, match=r"is not the model of this ledger.*config\.json"),
    ):
        apply_to_folder(opened, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_applying_records_nothing(ledger: Ledger, model: Path, tmp_path: Path) -> None:
    before = contents(ledger)
    apply_to_folder(ledger, tmp_path / "out")
    apply_to_model(ledger, load(model))
    assert contents(ledger) == before
