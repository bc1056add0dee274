"""What log, show and status tell programs: a contract, only ever extended."""

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ledger import database
from ledger.evaluating import evaluate
from ledger.reporting import log, show, status
from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger, open_ledger
from patches.errors import HistoryError
from patches.evaluation import METRICS
from tests.ledgers import add, contents, fact, facts, new_ledger, write_facts

TURN = {
    *("turn", "branch", "kind", "method", "state", "undoes", "replaces", "edits", "skipped"),
    *("message", "patch", "hash", "parent", "created_at", "seconds", "scores"),
    *("published", "refs", "tags", "copied_from", "retention", "rejected"),
}
DETAILS = TURN | {
    *("hyperparameters", "seed", "author", "dataset", "rows", "skipped_rows", "editor_state"),
    *("figures", "tensors", "environment", "peak_memory", "notes", "undone_by", "edit_list"),
    "suites",
}
STATUS = {
    *("ledger", "database", "schema", "store", "store_bytes", "keyframe_bytes"),
    *("model", "revision"),
    *("architecture", "fingerprint", "branch", "turn", "hash", "turns", "edits_in_force"),
    *("edits_recorded", "skipped", "in_force", "scores"),
    *("branches", "publications", "refs", "tags"),
}


def build(folder: Path, model: Path, url: str) -> Ledger:
    """Turns 1 and 2 with 3 and 2 edits and a skipped row each, turn 3 undoes turn 1."""
    ledger = new_ledger(folder / "ledger", model, url)
    rows = [*facts(2), fact(9, target=""), *facts(3, start=2), fact(9, target="")]
    add(ledger, write_facts(folder / "facts.json", rows))
    rollback_turn(ledger, 1, message="[bold]no[/] ☃")
    return ledger


@pytest.fixture(scope="module")
def ledger(
    tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path, shared_url: str
) -> Iterator[Ledger]:
    """That ledger, for all tests that only read."""
    with build(tmp_path_factory.mktemp("reported"), tiny_llama, shared_url) as ledger:
        yield ledger


def told(value: Any) -> Any:
    """A JSON value as a program gets it; equal to the value itself."""
    received = json.loads(json.dumps(value, allow_nan=False))
    assert received == value
    return received


def test_the_log_is_a_list_oldest_first_of_turns_with_exactly_these_fields(ledger: Ledger) -> None:
    turns = told([turn.to_json() for turn in log(ledger)])
    assert [turn["turn"] for turn in turns] == [1, 2, 3]
    assert all(set(turn) == TURN for turn in turns)
    assert {turn["branch"] for turn in turns} == {"main"}
    assert [turn["kind"] for turn in turns] == ["edit", "edit", "rollback"]
    assert [turn["state"] for turn in turns] == ["rolled_back", "in_force", "in_force"]
    assert [turn["undoes"] for turn in turns] == [[], [], [1]]
    assert [turn["edits"] for turn in turns] == [3, 2, 0]
    assert [turn["skipped"] for turn in turns] == [1, 1, 0]
    assert [turn["message"] for turn in turns] == ["", "", "[bold]no[/] ☃"]
    moments = [datetime.fromisoformat(turn["created_at"]) for turn in turns]
    assert moments == sorted(moments)
    assert all(str(moment).endswith("+00:00") for moment in moments)


def test_the_log_tells_patch_chain_times_and_scores_of_an_edit_turn(ledger: Ledger) -> None:
    first, second, rollback = told([turn.to_json() for turn in log(ledger)])
    assert set(first["patch"]) == {"digest", "bytes", "rank"}
    assert len(first["patch"]["digest"]) == 64
    assert isinstance(first["patch"]["bytes"], int)
    assert all(isinstance(rank, int) for rank in first["patch"]["rank"].values())
    assert [first["parent"], second["parent"], rollback["parent"]] == [
        *(None, first["hash"], second["hash"]),
    ]
    assert all(isinstance(seconds, float) for seconds in first["seconds"].values())
    assert set(first["scores"]) == {"n", "base", "state"}
    assert set(first["scores"]["base"]) == set(first["scores"]["state"]) == set(METRICS)
    assert (rollback["patch"], rollback["scores"], rollback["method"]) == (None, None, None)


def test_show_adds_exactly_these_fields_to_those_of_the_log(ledger: Ledger) -> None:
    for turn in log(ledger):
        details = told(show(ledger, turn.number).to_json())
        assert set(details) == DETAILS
        assert {name: details[name] for name in TURN} == told(turn.to_json())


def test_show_lists_every_edit_with_its_outcome_and_every_skipped_row(ledger: Ledger) -> None:
    details = told(show(ledger, 1).to_json())
    assert [edit["row"] for edit in details["edit_list"]] == [0, 1, 3]
    assert set(details["edit_list"][0]) == {
        *("row", "prompt", "target", "subject", "old_target", "digest", "base", "state"),
        *("relation", "overrides", "overridden_by"),
    }
    assert set(details["edit_list"][0]["state"]) == {*METRICS, "locality_tokens"}
    assert details["skipped_rows"] == [{"row": 2, "reason": "empty target"}]
    assert set(details["dataset"]) == {
        *("uri", "revision", "sha256", "format", "layout", "mapping", "licence"),
    }
    assert details["rows"] == [0, 3]
    assert [show(ledger, number).undone_by for number in (1, 2, 3)] == [3, None, None]
    rollback = told(show(ledger, 3).to_json())
    assert (rollback["edit_list"], rollback["dataset"], rollback["rows"]) == ([], None, [None] * 2)


def test_show_of_a_turn_that_does_not_exist_is_an_error(ledger: Ledger) -> None:
    for number in (-1, 4):
        with pytest.raises(HistoryError, match=f"no turn {number}: the turns are 1 to 3"):
            show(ledger, number)
    with pytest.raises(HistoryError, match="turn 0 is the base"):
        show(ledger, 0)


def test_status_tells_exactly_these_facts(ledger: Ledger) -> None:
    found = told(status(ledger).to_json())
    assert set(found) == STATUS
    assert (found["turn"], found["branch"], found["schema"]) == (3, "main", database.SCHEMA)
    assert found["hash"] == log(ledger)[-1].row.hash
    assert found["turns"] == {
        "edit": 2,
        "rollback": 1,
        "merge": 0,
        "import": 0,
        "in_force": 1,
        "rolled_back": 1,
        "rejected": 0,
    }
    assert found["in_force"] == [2]
    assert (found["edits_in_force"], found["edits_recorded"], found["skipped"]) == (2, 5, 2)
    assert found["scores"] is None
    stored = sum(file.bytes for file in ledger.store.listed().values())
    assert found["store_bytes"] == stored
    assert found["architecture"] == "LlamaForCausalLM"
    assert found["fingerprint"] == ledger.base.fingerprint


def test_status_tells_the_newest_scores_over_all_edits_in_force_and_turns_may_have_none(
    tmp_path: Path, tiny_llama: Path, database_url: str
) -> None:
    with build(tmp_path, tiny_llama, database_url) as ledger:
        scored = evaluate(ledger)
        found = told(status(ledger).to_json()["scores"])
        assert set(found) == {"turn", "created_at", "n", "base", "state"}
        assert (found["turn"], found["n"], found["state"]) == (3, 2, told(scored.state))
        add(ledger, write_facts(tmp_path / "more.json", facts(2, start=10)), evaluate=False)
        details = told(show(ledger, 4).to_json())
    assert details["scores"] is None
    assert [(edit["base"], edit["state"]) for edit in details["edit_list"]] == [(None, None)] * 2


def test_an_empty_ledger_has_an_empty_log_and_a_status(tmp_path: Path, tiny_llama: Path) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama) as empty:
        assert log(empty) == []
        found = told(status(empty).to_json())
        assert set(found) == STATUS
        assert (found["turn"], found["hash"], found["in_force"]) == (0, "empty", [])
        with pytest.raises(HistoryError, match="the ledger has no turns; add some"):
            show(empty, 1)


def test_reading_changes_nothing_and_works_after_the_ledger_is_closed(ledger: Ledger) -> None:
    before = contents(ledger)
    with open_ledger(ledger.folder) as reader:
        turns, details = log(reader), show(reader, 1)
        status(reader)
    assert contents(ledger) == before
    assert [turn.to_json() for turn in turns]
    assert details.to_json()
