"""What became of a turn's edits, told apart."""

from pathlib import Path

from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger
from tests import told_edits
from tests.reading_pages import Reader
from tests.told_edits import edit
from tests.told_scores import score


def counts(ledger: Ledger) -> dict[str, int]:
    found: dict[str, int] = Reader(ledger).json("/turns/1")["edit_counts"]
    return found


def test_edits_of_a_turn_that_was_rolled_back_are_not_forgotten(
    tmp_path: Path, database_url: str
) -> None:
    """They are meant to be wrong."""
    with told_edits.new_ledger(tmp_path, database_url) as ledger:
        for prompts in ("ab", "cd"):
            told_edits.record(ledger, [edit(prompt, "x") for prompt in prompts])
        score(ledger, 1, {(1, 0): 1.0, (1, 1): 1.0}, of=1)
        score(ledger, 2, {(1, 0): 1.0, (1, 1): 0.0})
        assert counts(ledger) == {"all": 2, "forgotten": 1, "never_right": 0, "overridden": 0}
        rollback_turn(ledger, 1)
        assert counts(ledger) == {"all": 2, "forgotten": 0, "never_right": 0, "overridden": 0}
