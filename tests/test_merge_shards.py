"""Merges of side memories as turns of a ledger."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest
import torch
from sqlalchemy import select

from ledger import database, open_ledger
from ledger.applying import apply_to_model
from ledger.evaluating import evaluate
from ledger.history import edits_in_force, patches_in_force
from ledger.orm import EvaluationRow
from ledger.reporting import log, show, status
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.routing import route
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.deltas import Sparse
from patches.errors import (
    EditingError,
    HistoryError,
    SettingError,
)
from patches.patch import PatchFile
from tests.ledgers import contents, fact, facts, write_facts
from tests.side_memories import DOWN, add_memories, ledger_with_memories, logits, merge, turns_in
from tests.tiny_models import load


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_facts(tmp_path / "facts.json", facts(12))


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path, source: str) -> Iterator[Ledger]:
    with ledger_with_memories(tmp_path / "ledger", tiny_llama, source) as ledger:
        yield ledger


class TestMerge:
    def test_it_is_a_turn_that_takes_the_place_of_the_shards(
        self, ledger: Ledger, tiny_llama: Path
    ) -> None:
        done = merge(ledger, message="one of three")
        assert (done.turn, done.merges, done.method) == (4, [1, 2, 3], "ties")
        turns = log(ledger)
        told = show(ledger, 4).to_json()
        assert (told["kind"], told["replaces"], told["edits"]) == ("merge", [1, 2, 3], 0)
        assert [turn.number for turn in edits_in_force(turns)] == [1, 2, 3]
        assert [turn.number for turn in patches_in_force(turns)] == [4]
        assert status(ledger).to_json()["turns"]["merge"] == 1
        assert status(ledger).to_json()["edits_in_force"] == 9
        model = load(tiny_llama)
        assert apply_to_model(ledger, model).memories == [4]
        assert verify(ledger).problems == []

    def test_the_merged_delta_is_the_merge_of_the_deltas(self, ledger: Ledger) -> None:
        name = f"{DOWN.format(2)}.weight"
        patches = [PatchFile(ledger.store.path(t.row.patch_digest or "")) for t in log(ledger)]
        stack = torch.stack(
            [cast(Sparse, p.delta(name)).dense(dtype=torch.float32) for p in patches]
        )
        merge(ledger, how={"method": "linear", "weights": (0.5, 0.25, 0.25)}, evaluate=False)
        made = PatchFile(ledger.store.path(log(ledger)[3].row.patch_digest or "")).memory(name)
        expected = (stack * torch.tensor([0.5, 0.25, 0.25])[:, None, None]).sum(0)
        found = made.delta.dense(dtype=torch.float32)
        assert torch.equal(found, expected.to(torch.bfloat16).float())
        assert made.routing.edits.n == 9

    def test_the_threshold_is_taken_from_the_merged_memory(self, ledger: Ledger) -> None:
        own = [show(ledger, number).to_json()["figures"]["threshold"] for number in (1, 2, 3)]
        done = merge(ledger, evaluate=False)
        assert done.threshold not in own
        edits = [str(fact(number)["prompt"]) for number in range(9)]
        for routed in route(ledger, edits):
            assert routed.turns == [4]
            assert routed.memories[0].threshold == done.threshold

    def test_rolling_it_back_brings_the_shards_back(self, ledger: Ledger, tiny_llama: Path) -> None:
        model = load(tiny_llama)
        apply_to_model(ledger, model)
        before = logits(model)
        merge(ledger, evaluate=False)
        apply_to_model(ledger, model)
        assert not torch.equal(logits(model), before)
        undone = rollback_turn(ledger, 4)
        assert (undone.separated, undone.in_force, undone.brought_back) == (
            [1, 2, 3],
            [1, 2, 3],
            [],
        )
        apply_to_model(ledger, model)
        assert turns_in(model) == [1, 2, 3]
        assert torch.equal(logits(model), before)
        again = rollback_turn(ledger, 5)
        assert again.separated == []
        apply_to_model(ledger, model)
        assert turns_in(model) == [4]
        rollback_to(ledger, 3)
        apply_to_model(ledger, model)
        assert torch.equal(logits(model), before)
        assert verify(ledger).problems == []

    def test_a_shard_cannot_be_taken_out_of_it(self, ledger: Ledger) -> None:
        merge(ledger, 1, 2, evaluate=False)
        before = contents(ledger)
        with pytest.raises(HistoryError, match=r"turn 2 is part of the merge in turn 4.*rollback"):
            rollback_turn(ledger, 2)
        assert contents(ledger) == before
        assert rollback_turn(ledger, 3).in_force == [1, 2]

    def test_it_cannot_come_back_without_a_shard_that_was_undone_meanwhile(
        self, ledger: Ledger
    ) -> None:
        merge(ledger, evaluate=False)
        rollback_turn(ledger, 4)
        rollback_turn(ledger, 2)
        with pytest.raises(HistoryError, match="turn 2 is part of the merge in turn 4"):
            rollback_turn(ledger, 5)

    def test_merges_can_be_merged(self, ledger: Ledger, tiny_llama: Path) -> None:
        merge(ledger, 1, 2, evaluate=False)
        done = merge(ledger, 3, 4, evaluate=False)
        assert done.merges == [3, 4]
        model = load(tiny_llama)
        apply_to_model(ledger, model)
        assert turns_in(model) == [5]
        assert show(ledger, 5).to_json()["patch"] is not None
        made = PatchFile(ledger.store.path(log(ledger)[4].row.patch_digest or ""))
        routing = made.memories[f"{DOWN.format(2)}.weight"].routing
        assert routing is not None
        assert routing.edits.n == 9
        assert rollback_turn(ledger, 5).separated == [3, 4]

    def test_its_scores_are_on_all_edits_in_force(self, ledger: Ledger) -> None:
        done = merge(ledger)
        assert done.scores is not None
        assert done.scores["n"] == 9
        with database.reading(ledger.engine) as session:
            row = session.scalars(select(EvaluationRow)).one()
            assert (row.scope, row.n, row.state) == ("in_force", 9, done.scores["state"])
        found = evaluate(ledger)
        assert found.state == pytest.approx(done.scores["state"])
        assert verify(ledger).problems == []

    def test_its_edits_are_not_added_again(self, ledger: Ledger, source: str) -> None:
        merge(ledger, evaluate=False)
        add_memories(ledger, source)
        assert [turn.row.edits for turn in log(ledger)] == [3, 3, 3, 0, 3]

    def test_ranges_and_memories_that_do_not_fit_are_refused(
        self, ledger: Ledger, source: str
    ) -> None:
        before = contents(ledger)
        with pytest.raises(HistoryError, match="there are: 2"):
            merge(ledger, 2, 2)
        with pytest.raises(HistoryError, match="there is no turn 9"):
            merge(ledger, 1, 9)
        with pytest.raises(SettingError, match="slerp merges two"):
            merge(ledger, how={"method": "slerp"})
        with pytest.raises(EditingError, match="the merge by ties is zero"):
            merge(ledger, how={"density": 1e-4})
        assert contents(ledger) == before
        add_memories(ledger, source, layer=1, offset=9)
        with pytest.raises(HistoryError, match="beside one matrix"):
            merge(ledger, 1, 4)


def test_the_ledger_opens_again_with_all_of_it(ledger: Ledger, tiny_llama: Path) -> None:
    merge(ledger, 1, 2, evaluate=False)
    ledger.close()
    with open_ledger(ledger.folder) as again:
        model = load(tiny_llama)
        assert apply_to_model(again, model).memories == [3, 4]
        assert verify(again).problems == []
