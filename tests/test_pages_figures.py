"""How pages write shares and scores, and what they say of a page that is not there."""

from pathlib import Path

import pytest

from ledger.page.rendering import figure, share
from tests import told_edits
from tests.reading_pages import Reader


@pytest.mark.parametrize(
    ("value", "told"),
    [(1.0, "100"), (0.996, "99"), (0.5, "50"), (0.004, "1"), (0.0, "0"), (1, "100")],
)
def test_only_all_is_told_as_100_per_cent_and_only_none_as_0(value: float, told: str) -> None:
    assert share(value) == f"{told}&nbsp;%"


@pytest.mark.parametrize("value", [None, "0.5", {}])
def test_what_is_not_recorded_is_a_dash(value: object) -> None:
    assert (share(value), figure(value)) == ("–", "–")


def test_an_address_without_a_page_says_so_in_plain_words(tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as ledger:
        reader = Reader(ledger)
        assert "there is no such page" in reader.page("/turnz", 404)
        assert reader.json("/turnz", 404)["error"] == "there is no such page"
