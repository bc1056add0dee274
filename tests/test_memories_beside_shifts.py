"""Weight shifts and side memories of one matrix in force together."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from ledger import load_patched
from ledger.applying import apply_to_folder, apply_to_model
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.verifying import verify
from ledger.verifying_checkpoint import verify_checkpoint
from ledger.workspace import Ledger
from patches.canonical import sha256
from patches.checkpoint import open_checkpoint, tensor_digests
from patches.dtypes import tensor_bytes
from patches.memory_file import MEMORY_FILE, read_memories
from patches.routing import attached, bypassed
from tests.ledgers import add, facts, new_ledger, write_facts
from tests.side_memories import DOWN, add_memories, logits, side_weight, weights
from tests.tiny_models import load


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_facts(tmp_path / "facts.json", facts(12))


class TestBesideShifts:
    """Weight shifts and side memories of one matrix in force together."""

    @pytest.fixture
    def mixed(self, tmp_path: Path, tiny_llama: Path, source: str) -> Iterator[Ledger]:
        """Turn 1 shifts the matrix, turn 2 puts a memory beside it, turn 3 shifts it again."""
        with new_ledger(tmp_path / "mixed", tiny_llama) as ledger:
            add(ledger, source, limit=3, evaluate=False)
            add_memories(ledger, source, offset=3, limit=3)
            add(ledger, source, offset=6, limit=3, evaluate=False)
            yield ledger

    def side(self, model: nn.Module) -> Tensor:
        """W′ of the one memory in a live model."""
        [router] = attached(model).values()
        [memory] = router.memories
        main = memory.main
        if main is None:
            main = cast(Tensor, router.weight.data)
        assert sha256(tensor_bytes(main)) == memory.routing.main
        return side_weight(memory, main)

    def test_both_work_and_are_undone_on_their_own(
        self, mixed: Ledger, tiny_llama: Path, tmp_path: Path
    ) -> None:
        name = f"{DOWN.format(2)}.weight"
        model = load(tiny_llama)
        apply_to_model(mixed, model, at=2)
        [router] = attached(model).values()
        assert router.memories[0].main is None
        expected = self.side(model)
        apply_to_model(mixed, model)
        shifted = weights(model)[name]
        assert torch.equal(self.side(model), expected)
        for undone in (3, 1):
            rollback_turn(mixed, undone)
            apply_to_model(mixed, model)
            assert weights(model)[name] != shifted
            assert torch.equal(self.side(model), expected)
            assert tensor_digests(self.written(mixed, tmp_path), names=[name]) == {
                name: sha256(weights(model)[name])
            }
        assert weights(model) == weights(load(tiny_llama))
        rollback_turn(mixed, 2)
        apply_to_model(mixed, model)
        assert attached(model) == {}

    def written(self, ledger: Ledger, tmp_path: Path) -> Any:
        apply_to_folder(ledger, tmp_path / "out")
        checked = verify(ledger)
        verify_checkpoint(ledger, tmp_path / "out", checked)
        assert checked.problems == []
        return open_checkpoint(tmp_path / "out")

    def test_undoing_the_memory_leaves_the_shifts(self, mixed: Ledger, tiny_llama: Path) -> None:
        before = load(tiny_llama)
        apply_to_model(mixed, before)
        rollback_turn(mixed, 2)
        model = load(tiny_llama)
        apply_to_model(mixed, model)
        assert weights(model) == weights(before)
        with bypassed(before):
            assert torch.equal(logits(model), logits(before))

    def test_a_folder_brings_the_main_weight_of_the_memory_along(
        self, mixed: Ledger, tiny_llama: Path, tmp_path: Path
    ) -> None:
        apply_to_folder(mixed, tmp_path / "out")
        [memory] = read_memories(tmp_path / "out" / MEMORY_FILE).memories
        assert memory.main is not None
        assert sha256(tensor_bytes(memory.main)) == memory.routing.main
        model, _ = load_patched(tmp_path / "out", device="cpu")
        live = load(tiny_llama)
        apply_to_model(mixed, live)
        assert torch.equal(logits(model), logits(live))
        assert torch.equal(self.side(model), self.side(live))

    def test_a_run_that_shifts_beside_memories_keeps_them_as_they_were(
        self, mixed: Ledger, source: str, tiny_llama: Path
    ) -> None:
        add(mixed, source, offset=9, limit=3, evaluate=True)
        assert verify(mixed).problems == []
        model = load(tiny_llama)
        applied = apply_to_model(mixed, model)
        assert applied.tensors == log(mixed)[-1].row.tensors
        assert applied.memories == [2]
