"""Everything that can be changed behind the ledger's back is found by verify, and named."""

from pathlib import Path

import pytest

from ledger.orm import Table
from tests import full_ledgers
from tests.ledgers import contents
from tests.tampering import EXEMPT, tamper


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tampered")


def test_no_column_row_or_byte_is_changed_without_being_found(
    folder: Path, shared_url: str
) -> None:
    name = shared_url.partition(":")[0]
    with full_ledgers.build(folder / name, shared_url) as ledger:
        assert all(contents(ledger).values()), "a table is empty"
        # Each takes PostgreSQL several times as long: a sample there, the long run does all.
        variants, share = (3, 1.0) if name == "sqlite" else (1, 0.3)
        found = tamper(ledger, seconds=0, seed=7, variants=variants, share=share)
    columns = sum(len(table.columns) for table in Table.metadata.sorted_tables)
    assert found["values changed and found"] >= share * (columns - len(EXEMPT) - 12)
    assert found["rows removed and found"] >= len(Table.metadata.tables) - 1
    assert found["bytes flipped and found"] >= 6
