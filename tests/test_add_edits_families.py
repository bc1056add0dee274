"""The whole way on every family of models: add, apply, undo, and back to the base's bytes."""

from pathlib import Path

import pytest
import torch

from ledger.applying import apply_to_folder, apply_to_model
from ledger.reporting import log
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.verifying import verify
from ledger.verifying_checkpoint import verify_checkpoint
from patches.checkpoint import open_checkpoint, tensor_digests
from tests.ledgers import add, facts, files, new_ledger, write_facts
from tests.tiny_models import FAMILIES, build, load

# Beside the feed-forward layers, whose two matrices in three layers make the rest.
FURTHER = {"gpt2": "*.attn.c_attn", "phi3": "*.self_attn.qkv_proj"}
MATRICES = {"gpt2": 3 * 3, "phi3": 3 * 3}


def digests(folder: Path) -> dict[str, str]:
    return tensor_digests(open_checkpoint(folder))


@pytest.mark.parametrize(
    ("family", "dtype"),
    [*((family, torch.bfloat16) for family in FAMILIES), ("gpt2", torch.float32)],
    ids=str,
)
def test_edits_of_this_family_are_applied_and_taken_back_to_the_byte(
    tmp_path: Path, family: str, dtype: torch.dtype
) -> None:
    model = build(tmp_path / "model", family, dtype=dtype, max_shard_size="40KB")
    base, out = digests(model), tmp_path / "out"
    source = write_facts(tmp_path / "facts.json", facts(6))
    with new_ledger(tmp_path / "ledger", model) as ledger:
        assert all(added.scores for added in add(ledger, source))
        edited = log(ledger)[-1].row.tensors
        apply_to_folder(ledger, out)
        after = digests(out)
        assert {name for name, digest in base.items() if after[name] != digest} == set(edited)
        assert {name: after[name] for name in edited} == edited
        assert apply_to_model(ledger, load(model)).tensors == edited
        rollback_turn(ledger, 1)
        apply_to_folder(ledger, out)
        assert digests(out) not in (base, after)
        checked = verify(ledger)
        verify_checkpoint(ledger, out, checked)
        assert checked.problems == []
        rollback_to(ledger, 0)
        apply_to_folder(ledger, out)
    written = files(out)
    written.pop("ledger.json")
    assert written == files(model)


@pytest.mark.parametrize("family", sorted(FURTHER))
def test_matrices_of_several_shapes_and_stored_transposed_are_edited_in_one_turn(
    tmp_path: Path, family: str
) -> None:
    model = build(tmp_path / "model", family)
    source = write_facts(tmp_path / "facts.json", facts(4))
    with new_ledger(tmp_path / "ledger", model) as ledger:
        add(ledger, source, modules=(FURTHER[family], "*mlp*"), turn_size=2)
        applied = apply_to_folder(ledger, tmp_path / "out")
        live = load(model)
        assert apply_to_model(ledger, live).tensors == applied.tensors
        assert len(applied.tensors) == MATRICES[family]
        rollback_turn(ledger, 2)
        first = apply_to_folder(ledger, tmp_path / "out")
        assert first.tensors == log(ledger)[0].row.tensors
    loaded = load(tmp_path / "out")
    assert all(torch.isfinite(parameter).all() for parameter in loaded.parameters())


def test_a_tied_embedding_is_edited_once_and_written_once(tmp_path: Path) -> None:
    model = build(tmp_path / "model", tie_word_embeddings=True)
    source = write_facts(tmp_path / "facts.json", facts(3))
    with new_ledger(tmp_path / "ledger", model) as ledger:
        add(ledger, source, modules=("lm_head",))
        [name] = log(ledger)[0].row.tensors
        applied = apply_to_folder(ledger, tmp_path / "out")
        assert applied.tensors == log(ledger)[0].row.tensors
    assert name == "model.embed_tokens.weight"
    patched = load(tmp_path / "out")
    embeddings = patched.get_parameter(name)
    assert patched.get_parameter("lm_head.weight") is embeddings
    assert not torch.equal(embeddings, load(model).get_parameter(name))
