"""`gc --prune` beside editors: statistics go on, and side memories keep the weight beneath them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.applying import apply_to_folder
from ledger.cleaning import collect_garbage
from ledger.merging import merge_shards
from ledger.rolling_back import rollback_turn
from ledger.squashing import squash
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import StoreError
from patches.merging import Merge
from tests.ledgers import add, facts, files, new_ledger, write_facts
from tests.plain_ledgers import line, state
from tests.side_memories import DOWN, add_memories

NOW = -60.0
"""Seconds of grace: none."""
LAYER = DOWN.format(2)


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_facts(tmp_path / "facts.json", facts(6))


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        yield ledger


def prune(ledger: Ledger) -> int:
    """How many patches went."""
    return len(collect_garbage(ledger, prune=True, grace=NOW).heaps["squashed"].files)


def test_edits_go_on_from_the_statistics_of_turns_whose_patches_were_squashed_and_pruned(
    ledger: Ledger, source: str, tmp_path: Path, tiny_llama: Path
) -> None:
    others = new_ledger(tmp_path / "unsquashed", tiny_llama)
    for one in (ledger, others):
        add(one, source, turn_size=2, limit=4, evaluate=False)
    squash(ledger, 1, 2)
    assert prune(ledger) == 2
    for one in (ledger, others):
        add(one, source, turn_size=2, offset=4, evaluate=False)
    assert line(ledger)[-1].editor_state_digest == line(others)[-1].editor_state_digest
    assert state(ledger) == state(others)
    assert verify(ledger).problems == []
    others.close()


def test_a_side_memory_keeps_the_patches_of_the_weight_it_was_trained_beside(
    ledger: Ledger, source: str, tmp_path: Path
) -> None:
    add(ledger, source, turn_size=1, limit=2, evaluate=False, modules=(LAYER,))
    add_memories(ledger, source, turn_size=2, offset=2, limit=2)
    add(ledger, source, turn_size=2, offset=4, evaluate=False, modules=(LAYER,))
    apply_to_folder(ledger, tmp_path / "before")
    squash(ledger, 1, 2)
    squash(ledger, 4, 5)
    # The first squash is part of no state in which the memory was trained.
    assert prune(ledger) == 2
    exists = [ledger.store.path(step.patch_digest or "").exists() for step in line(ledger)]
    assert exists == [True, True, True, False, False, True]
    apply_to_folder(ledger, tmp_path / "after")
    before, after = files(tmp_path / "before"), files(tmp_path / "after")
    for provenance in (before, after):
        del provenance["ledger.json"]
    assert before == after
    assert verify(ledger).problems == []


def test_shards_that_were_merged_go_too_and_the_merge_then_stays(
    ledger: Ledger, source: str, tmp_path: Path
) -> None:
    add_memories(ledger, source, turn_size=2, limit=4)
    merge_shards(ledger, 1, 2, Merge(method="linear"), evaluate=False)
    apply_to_folder(ledger, tmp_path / "before")
    assert prune(ledger) == 2
    apply_to_folder(ledger, tmp_path / "after")
    assert files(tmp_path / "before") == files(tmp_path / "after")
    with pytest.raises(StoreError, match=r"turn 1 was pruned .* turn 3 \(linear\)"):
        rollback_turn(ledger, 3)
    assert verify(ledger).problems == []
