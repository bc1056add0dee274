"""A worker that may not write into the ledger brings its model to the same states."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ledger import database, history, keyframes
from ledger.jobs import Worker
from patches.live import LiveModel
from tests.ledgers import add, contents, facts, files, new_ledger, write_facts


@dataclass(frozen=True, kw_only=True)
class Digests:
    at: int | None
    size: int = 1

    def run(self, live: LiveModel, _tokenizer: Any) -> dict[str, str]:
        return live.digests()


def test_a_keyframe_that_is_due_is_not_written_by_a_worker_that_keeps_nothing(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_facts(tmp_path / "facts.json", facts(4))
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add(ledger, source, turn_size=1, evaluate=False)
        with database.reading(ledger.engine) as session:
            last = Digests(at=history.line(session, "main")[-1].id)
        monkeypatch.setattr(keyframes, "_AT_MOST", 2)
        rows, blobs = contents(ledger), files(ledger.store.folder)
        quiet = Worker(ledger, device="cpu", dtype=None, keeps=False).do(last)
        assert (contents(ledger), files(ledger.store.folder)) == (rows, blobs)
        keeping = Worker(ledger, device="cpu", dtype=None).do(last)
        # So one was due.
        assert len(contents(ledger)["keyframes"]) == len(rows["keyframes"]) + 1
        assert quiet == keeping
        assert quiet
