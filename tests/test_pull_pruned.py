"""Pulling a history of which patches were pruned here: those that its state needs come back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.applying import apply_to_folder
from ledger.branching import delete_branch, switch
from ledger.cleaning import collect_garbage
from ledger.sharing.pulling import clone, pull
from ledger.squashing import squash
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import StoreError
from tests.ledgers import add, facts, new_ledger, write_facts
from tests.plain_ledgers import line
from tests.test_push import push

EDITS = "me/edits"

pytestmark = pytest.mark.usefixtures("hub")


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_facts(tmp_path / "facts.json", facts(8))


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path, source: str) -> Iterator[Ledger]:
    """Two published turns, squashed since, whose patches are gone."""
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add(ledger, source, turn_size=2, limit=4, evaluate=False)
        push(ledger, EDITS, "patch")
        squash(ledger, 1, 2)
        prune(ledger)
        assert there(ledger) == [False, False, True]
        yield ledger


def prune(ledger: Ledger) -> None:
    collect_garbage(ledger, prune=True, grace=-60.0)


def there(ledger: Ledger) -> list[bool]:
    return [ledger.store.path(step.patch_digest or "").exists() for step in line(ledger)]


def test_patches_that_the_pulled_state_needs_come_back_and_stay(
    ledger: Ledger, source: str, tmp_path: Path, tiny_llama: Path
) -> None:
    cloned, _ = clone(EDITS, folder=tmp_path / "clone", model=str(tiny_llama))
    with cloned:
        add(cloned, source, turn_size=2, offset=4, limit=2, evaluate=False)
        push(cloned, EDITS, "patch")
        theirs = apply_to_folder(cloned, tmp_path / "theirs").tensors
    done = pull(ledger, EDITS, branch="theirs")
    assert done.turns == [3]
    assert there(ledger) == [True] * 3
    assert verify(ledger).notes == verify(ledger).problems == []
    prune(ledger)
    switch(ledger, "theirs")
    assert there(ledger) == [True] * 3
    assert apply_to_folder(ledger, tmp_path / "ours").tensors == theirs
    switch(ledger, "main")
    delete_branch(ledger, "theirs")
    prune(ledger)
    assert there(ledger) == [False, False, True]
    assert verify(ledger).problems == []


def test_a_branch_that_is_ahead_does_not_get_its_pruned_patches_back(ledger: Ledger) -> None:
    assert pull(ledger, EDITS, branch="main").turns == []
    assert there(ledger) == [False, False, True]
    assert verify(ledger).problems == []


def test_a_history_of_which_patches_are_gone_cannot_be_pushed_and_the_error_says_why(
    ledger: Ledger,
) -> None:
    with pytest.raises(StoreError, match=r"turn 1 was pruned on .* turn 3 \(squash\)"):
        push(ledger, EDITS, "patch")
