"""The model card: its metadata for the Hub, the turns and scores that it tells."""

import dataclasses
import getpass
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard

from ledger import database
from ledger.cards import Published
from ledger.cards.text import METRICS
from ledger.evaluating import evaluate
from ledger.orm import BaseRow, DatasetRow
from ledger.recording import Blob, NewTurn, record_turn
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.wording import score
from ledger.workspace import Ledger
from patches import evaluation
from patches.errors import HistoryError, SettingError
from tests.card_pages import COMMIT, USER, cells, data, set_values, tables, write
from tests.ledgers import add, fact, facts, new_ledger, write_facts


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Turns 1 to 3 with 3, 3 and 2 edits; turn 4 rolls back turn 2."""
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(8)))
        rollback_turn(ledger, 2)
        yield ledger


class TestMetadata:
    @pytest.mark.parametrize(
        ("form", "relation", "library", "more"),
        [
            ("model", "finetune", "transformers", []),
            ("patch", "adapter", "edit-ledger", []),
            ("adapter", "adapter", "peft", ["lora"]),
        ],
    )
    def test_every_form_has_what_the_hub_looks_for(
        self, ledger: Ledger, form: str, relation: str, library: str, more: list[str]
    ) -> None:
        set_values(ledger, BaseRow, licence="apache-2.0")
        found = data(write(ledger, form=form))
        assert found == {
            "base_model": "owner/base",
            "base_model_relation": relation,
            "base_model_revision": COMMIT,
            "library_name": library,
            "license": "apache-2.0",
            "pipeline_tag": "text-generation",
            "tags": ["edit-ledger", "knowledge-editing", "model-editing", "ultraedit", *more],
        }

    @pytest.mark.parametrize("form", ["model", "patch", "adapter"])
    def test_an_unknown_base_is_named_by_its_fingerprint_only(
        self, ledger: Ledger, form: str
    ) -> None:
        text = write(ledger, form=form, base_model=None, base_revision=None)
        assert not [key for key in data(text) if key.startswith("base_model")]
        assert f"it must have the fingerprint `{ledger.base.fingerprint}`" in text

    def test_the_licence_is_that_of_the_base(self, ledger: Ledger) -> None:
        text = write(ledger)
        assert "license" not in data(text)
        assert "licence: not known to the ledger" in text
        set_values(ledger, BaseRow, licence="Apache-2.0")
        assert data(write(ledger))["license"] == "apache-2.0"
        set_values(ledger, BaseRow, licence="mine\n---\n<b>only</b>")
        text = write(ledger)
        assert "license" not in data(text)
        assert "licence: mine&#92;n---&#92;n&#60;b&#62;only" in text

    def test_datasets_of_the_hub_are_linked_and_all_are_named_with_digests(
        self, ledger: Ledger, tmp_path: Path
    ) -> None:
        address = f"hf://datasets/owner/facts@{COMMIT}/train.json"
        set_values(ledger, DatasetRow, uri=address, revision=COMMIT, licence="cc0-1.0")
        add(ledger, write_facts(tmp_path / "more.json", facts(2, start=8)))
        text = write(ledger)
        assert data(text)["datasets"] == ["owner/facts"]
        digests = [d.sha256 for d in datasets(ledger)]
        assert cells(text, "dataset") == [
            [address, "canonical", "cc0-1.0", digests[0], "turns 1-3"],
            ["more.json", "canonical", "not stated", digests[1], "turn 5"],
        ]

    def test_datasets_of_edits_that_are_not_in_force_are_not_linked(self, ledger: Ledger) -> None:
        set_values(ledger, DatasetRow, uri=f"hf://datasets/owner/facts@{COMMIT}/train.json")
        rollback_turn(ledger, 1)
        rollback_turn(ledger, 3)
        assert "datasets" not in data(write(ledger))
        assert data(write(ledger, at=5))["datasets"] == ["owner/facts"]

    def test_an_address_that_is_no_name_of_a_dataset_is_not_linked(self, ledger: Ledger) -> None:
        for uri in ("hf://datasets/o wner/<b>@1/x.json", "hf://datasets/one", "hf://"):
            set_values(ledger, DatasetRow, uri=uri)
            text = write(ledger)
            assert "datasets" not in data(text)
            assert cells(text, "dataset")[0][0] == uri

    def test_the_digest_of_a_whole_repository_is_explained(self, ledger: Ledger) -> None:
        assert "whole repository" not in write(ledger)
        set_values(ledger, DatasetRow, uri="hf://datasets/owner/facts?split=train", format="hub")
        assert "The SHA-256 of a whole repository" in write(ledger)

    def test_the_scores_in_force_become_results(self, ledger: Ledger) -> None:
        scored = evaluate(ledger)
        read: Any = ModelCard(write(ledger)).data
        assert read.model_name == "name"
        results = read.eval_results
        assert isinstance(results, list)
        expected = {name: value for name, value in scored.state.items() if value is not None}
        assert {r.metric_type: r.metric_value for r in results} == pytest.approx(expected, abs=1e-6)
        assert {"edit_success", "generalization", "stability", "exact_match"} <= expected.keys()
        assert results[0] == EvalResult(
            task_type="text-generation",
            dataset_type="edit-ledger",
            dataset_name="5 edits in force at turn 4",
            metric_type="edit_success",
            metric_name="edit success",
            metric_value=round(scored.state["edit_success"], 6),
        )
        assert data(write(ledger))["model-index"][0]["name"] == "name"

    def test_numbers_that_cannot_be_written_are_left_out(self) -> None:
        assert [score(v) for v in (0.5, 120.25, 2.7e7, None, "1", float("nan"), 10**400)] == [
            *("0.500", "120", "2.7e+07", "-", "-", "-", "-"),
        ]

    def test_names_that_are_none_are_refused(self) -> None:
        good = Published(
            repo="owner/name", form="model", tag=None, base_model=None, base_revision=None
        )
        for change in (
            {"repo": 'owner/name")\nimport os'},
            {"repo": ""},
            {"tag": "turn 3"},
            {"base_model": "`x`"},
            {"base_revision": "\n"},
            {"form": "squash"},
        ):
            with pytest.raises(SettingError):
                dataclasses.replace(good, **change)  # type: ignore[arg-type]


def datasets(ledger: Ledger) -> list[DatasetRow]:
    with database.reading(ledger.engine) as session:
        return list(session.query(DatasetRow).order_by(DatasetRow.id))


class TestWhatWasEdited:
    def test_turns_are_listed_with_their_state_and_scores(self, ledger: Ledger) -> None:
        text = write(ledger)
        rows = cells(text, "turn")
        assert [row[:5] for row in rows] == [
            ["1", "ultraedit", "3", "facts.json, rows 0-2", "in force"],
            ["2", "ultraedit", "3", "facts.json, rows 3-5", "rolled back"],
            ["3", "ultraedit", "2", "facts.json, rows 6-7", "in force"],
            ["4", "rollback of turn 2", "-", "-", "in force"],
        ]
        for row, turn in zip(rows, log(ledger), strict=True):
            state = (turn.scores or {}).get("state", {})
            names = ("edit_success", "generalization", "stability")
            assert row[5:] == [score(state.get(name)) for name in names]
        assert "In force: 5 edits (turns 1, 3). Rolled back: 3 edits (turn 2)." in text
        assert "does not undo its influence" in text

    def test_an_earlier_state_knows_nothing_of_later_turns(self, ledger: Ledger) -> None:
        text = write(ledger, at=3, tag="turn-3")
        assert "In force: 8 edits (turns 1-3). Rolled back: none." in text
        assert [row[4] for row in cells(text, "turn")] == ["in force"] * 3
        turns = log(ledger)
        assert turns[2].row.hash in text
        assert turns[3].row.hash not in text
        assert "does not undo its influence" not in text

    def test_the_base_itself_and_an_empty_ledger_have_cards(
        self, ledger: Ledger, tmp_path: Path, tiny_llama: Path
    ) -> None:
        with new_ledger(tmp_path / "empty", tiny_llama) as empty:
            for text in (write(ledger, at=0), write(empty), write(empty, form="patch")):
                assert data(text)["tags"] == ["edit-ledger", "knowledge-editing", "model-editing"]
                assert "with no edit in force" in text
                assert "there is nothing to score" in text
                assert tables(text) == []

    def test_a_turn_that_does_not_exist_is_an_error(self, ledger: Ledger) -> None:
        with pytest.raises(HistoryError, match="no turn 9"):
            write(ledger, at=9)

    def test_rows_that_could_not_be_used_are_counted(self, ledger: Ledger, tmp_path: Path) -> None:
        assert "could not be used" not in write(ledger)
        rows = [fact(9), fact(10, target="")]
        add(ledger, write_facts(tmp_path / "more.json", rows))
        assert "Rows of the data that could not be used: 1." in write(ledger)

    def test_an_import_has_no_facts_and_says_so(self, ledger: Ledger) -> None:
        turns = log(ledger)
        patch = turns[0].patch
        assert patch is not None
        record_turn(
            ledger,
            NewTurn(
                parent=turns[-1].row.id,
                kind="import",
                method="lora",
                seed=0,
                message="",
                patch=Blob(digest=patch.digest, bytes=patch.bytes),
            ),
        )
        text = write(ledger)
        assert cells(text, "turn")[4][:5] == ["5", "import (lora)", "-", "-", "in force"]
        assert "5 edits made by UltraEdit (arXiv 2505.14679) and an imported LoRA adapter" in text
        assert "What turn 5 brought in was made elsewhere" in text
        assert data(text)["tags"][3:] == ["ultraedit"]
        assert "lora" not in data(write(ledger, form="patch"))["tags"]


class TestScores:
    def test_base_and_state_stand_side_by_side_with_what_they_mean(self, ledger: Ledger) -> None:
        scored = evaluate(ledger, seed=5)
        text = write(ledger)
        rows = {row[0]: row[1:] for row in cells(text, "score")}
        assert rows["edit success"][:2] == [
            score(scored.base["edit_success"]),
            score(scored.state["edit_success"]),
        ]
        assert all(meaning for _, _, meaning in rows.values())
        version = evaluation.PROTOCOL["version"]
        assert f"(n = 5). Protocol: teacher-forced, version {version}, seed 5." in text

    def test_a_state_that_was_never_scored_as_a_whole_says_so(self, ledger: Ledger) -> None:
        text = write(ledger)
        assert "was never scored on all edits in force" in text
        assert "were taken when each was made" in text
        assert "score" not in [rows[0][0] for rows in tables(text)]
        assert "model-index" not in data(text)

    def test_scores_of_another_state_are_not_those_of_this_one(self, ledger: Ledger) -> None:
        evaluate(ledger, at=3)
        assert "was never scored" in write(ledger)
        assert "was never scored" not in write(ledger, at=3)

    def test_the_newest_scores_count(self, ledger: Ledger) -> None:
        evaluate(ledger, seed=1)
        evaluate(ledger, seed=2)
        assert "seed 2." in write(ledger)

    def test_with_one_turn_its_own_scores_are_those_in_force(self, ledger: Ledger) -> None:
        text = write(ledger, at=1)
        assert "(n = 3)" in text
        assert data(text)["model-index"]

    def test_nothing_was_ever_scored(self, tmp_path: Path, tiny_llama: Path) -> None:
        with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
            add(ledger, write_facts(tmp_path / "facts.json", facts(4)), evaluate=False)
            text = write(ledger)
            assert "Nor were its turns scored" in text
            assert "model-index" not in data(text)
            assert [row[5:] for row in cells(text, "turn")] == [["-"] * 3] * 2

    def test_every_metric_has_a_name_and_a_meaning(self) -> None:
        assert tuple(METRICS) == evaluation.METRICS
