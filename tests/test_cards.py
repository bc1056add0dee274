"""The model card: its metadata for the Hub, and what it tells, and does not tell, people."""

import ast
import dataclasses
import getpass
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from sqlalchemy import delete, update

from ledger import database
from ledger.cards import Published, card
from ledger.cards.markdown import LONGEST, MOST, code, escaped, table
from ledger.cards.text import METRICS
from ledger.evaluating import evaluate
from ledger.orm import BaseRow, DatasetRow, EditRow, OutcomeRow, TurnRow
from ledger.recording import Blob, NewTurn, record_turn
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.wording import score, turn_numbers
from ledger.workspace import Ledger, open_ledger
from patches import evaluation
from patches.errors import HistoryError, SettingError
from tests.ledgers import add, fact, facts, new_ledger, write_facts
from tests.side_memories import add_memories, merge

USER = "mallory"
COMMIT = "c0ffee" + "0" * 34
HOSTILE = (
    "---\nlicense: mit\n---",
    "a | b || \\| c \\",
    "`code` ``more`` ```",
    "<script>alert(1)</script><!-- x --> &amp; <b>",
    "[click](javascript:x) ![i](x.png) [a]: b",
    "**bold** __bold__ ~~gone~~ $x$ # title",
    "\u202eevil\u2066 \x1b[31m \r\t\u2028 nul",
    "- [ ] task\n\n# title\n\n| a |\n| --- |",
)


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Turns 1 to 3 with 3, 3 and 2 edits; turn 4 rolls back turn 2."""
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(8)))
        rollback_turn(ledger, 2)
        yield ledger


def write(ledger: Ledger, at: int | None = None, **changes: Any) -> str:
    """The card of the state at a turn, by default of a model with a known base."""
    what = {
        "repo": "owner/name",
        "form": "model",
        "tag": "turn-4",
        "base_model": "owner/base",
        "base_revision": COMMIT,
        **changes,
    }
    with open_ledger(ledger.folder) as reader:
        return card(reader, log(reader), at, Published(**what))


def data(text: str) -> dict[str, Any]:
    """The metadata, which the Hub's client reads and writes back as it is."""
    read = ModelCard(text)
    assert str(read) == text
    found: dict[str, Any] = read.data.to_dict()  # type: ignore[no-untyped-call]
    return found


def tokens(text: str) -> list[Token]:
    """What a renderer makes of the text below the metadata, inline tokens included."""
    blocks = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(ModelCard(text).text)
    return [token for block in blocks for token in (block, *(block.children or ()))]


def tables(text: str) -> list[list[list[str]]]:
    """The tables as a reader sees them: rows of cells, headings first."""
    found: list[list[list[str]]] = []
    for token in tokens(text):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type in ("th_open", "td_open"):
            found[-1][-1].append("")
        elif token.type in ("text", "code_inline") and token.level == 0 and found and found[-1]:
            found[-1][-1][-1] += token.content
        elif token.type == "table_close":
            found.append([])
    return [rows for rows in found if rows]


def cells(text: str, heading: str) -> list[list[str]]:
    """The rows of the one table with this first heading."""
    [rows] = [rows[1:] for rows in tables(text) if rows[0][0] == heading]
    return rows


def headings(text: str) -> list[str]:
    everything = tokens(text)
    return [
        everything[at + 1].content
        for at, token in enumerate(everything)
        if token.type == "heading_open"
    ]


def set_values(ledger: Ledger, table: type, **values: object) -> None:
    with database.writing(ledger.engine) as session:
        session.execute(update(table).values(**values))


def withhold(ledger: Ledger, number: int, source: Mapping[str, object] | None) -> None:
    """Turn `number` as a pull without the facts leaves it."""
    turn = log(ledger)[number - 1]
    ids = [turn.row.id]
    told = {"edits": True, "scores": turn.scores, **({"source": source} if source else {})}
    with database.writing(ledger.engine) as session:
        session.execute(delete(OutcomeRow))
        session.execute(delete(EditRow).where(EditRow.turn_id.in_(ids)))
        session.execute(
            update(TurnRow).where(TurnRow.id.in_(ids)).values(withheld=told, dataset_id=None)
        )


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


class TestUse:
    def test_a_model_is_loaded_by_transformers_in_three_lines(self, ledger: Ledger) -> None:
        assert python(write(ledger)) == [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            'tokenizer = AutoTokenizer.from_pretrained("owner/name", revision="turn-4")',
            'model = AutoModelForCausalLM.from_pretrained("owner/name", revision="turn-4")',
        ]
        assert 'from_pretrained("owner/name")' in write(ledger, tag=None)

    def test_an_adapter_is_loaded_by_peft_in_three_lines(self, ledger: Ledger) -> None:
        assert python(write(ledger, form="adapter")) == [
            "import peft, transformers",
            "base = transformers.AutoModelForCausalLM.from_pretrained("
            f'"owner/base", revision="{COMMIT}")',
            'model = peft.PeftModel.from_pretrained(base, "owner/name", revision="turn-4")',
        ]
        unknown = write(ledger, form="adapter", base_model=None, base_revision=None)
        assert 'from_pretrained("BASE")' in python(unknown)[1]
        assert "`BASE` is the base model" in unknown

    def test_a_patch_is_cloned_and_applied(self, ledger: Ledger) -> None:
        text = write(ledger, form="patch")
        assert f"ledger clone owner/name@turn-4 --model owner/base@{COMMIT}\n" in text
        assert "ledger apply --to DIR\n" in text
        unknown = write(ledger, form="patch", base_model=None, base_revision=None, tag=None)
        assert "ledger clone owner/name --model BASE\n" in unknown

    @pytest.mark.parametrize("form", ["model", "patch", "adapter"])
    def test_the_fingerprint_and_the_hash_are_there_in_full(
        self, ledger: Ledger, form: str
    ) -> None:
        text = write(ledger, form=form)
        assert f"fingerprint of the base: `{ledger.base.fingerprint}`" in text
        assert f"hash of turn 4: `{log(ledger)[-1].row.hash}`" in text
        assert "signed" not in text
        assert ("ledger pull --verify KEY" if form == "patch" else "model_signing") in write(
            ledger, form=form, signed=True
        )
        assert headings(text) == [
            *("name", "What was edited", "Data", "Scores", "Load it", "Verify it", "Known limits"),
        ]

    def test_a_model_is_compared_with_the_ledger(self, ledger: Ledger) -> None:
        text = write(ledger)
        changed = len(log(ledger)[-1].row.tensors)
        assert f"SHA-256 of every tensor that turns in force have changed ({changed})." in text
        assert "hf download owner/name --revision turn-4 --local-dir DIR\n" in text
        assert "ledger verify --model DIR\n" in text

    def test_what_an_adapter_leaves_out_is_told(self, ledger: Ledger) -> None:
        assert "The factors hold the whole of each change." in write(ledger, form="adapter")
        text = write(ledger, form="adapter", errors={"b|.weight": 0.0123, "a.weight": 3e-4})
        assert "1.2e-02 at the most" in text
        assert cells(text, "tensor") == [["a.weight", "3.0e-04"], ["b|.weight", "1.2e-02"]]
        assert "PEFT rounds differently" in text
        assert "PEFT" not in write(ledger)
        evaluate(ledger)
        assert "not those with this adapter" in write(ledger, form="adapter")
        assert "not those with this adapter" not in write(ledger)

    def test_a_float32_base_may_be_rounded_elsewhere(self, ledger: Ledger) -> None:
        assert "float32 base" not in write(ledger)
        tensors = {n: ["F32", list(s), h] for n, (_, s, h) in ledger.base.tensors.items()}
        set_values(ledger, BaseRow, tensors=tensors)
        assert "On a float32 base" in write(ledger)
        assert "On a float32 base" not in write(ledger, form="adapter")


def python(text: str) -> list[str]:
    [shown] = [token.content for token in tokens(text) if token.info == "python"]
    ast.parse(shown)
    return shown.splitlines()


class TestMemories:
    @pytest.fixture
    def ledger(self, tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
        """Turns 1 and 2 with a side memory each."""
        with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
            add_memories(ledger, write_facts(tmp_path / "facts.json", facts(4)), turn_size=2)
            yield ledger

    def test_a_model_with_memories_is_loaded_by_the_ledger(self, ledger: Ledger) -> None:
        text = write(ledger, memories=True)
        found = data(text)
        assert (found["library_name"], found["tags"][-1]) == ("edit-ledger", "wise")
        assert python(text) == [
            "from ledger import load_patched",
            'model, tokenizer = load_patched("owner/name", revision="turn-4")',
        ]
        assert "transformers alone loads the main weights" in text
        assert "turns in force have changed (0), and of the file of side memories." in text
        assert "4 edits made by WISE (arXiv 2405.14768)" in text

    def test_a_patch_with_memories_says_what_loads_the_model(self, ledger: Ledger) -> None:
        text = write(ledger, form="patch")
        assert "`DIR` is then a checkpoint that `ledger.load_patched` loads." in text
        assert "`ledger route` shows it" in text

    def test_a_merge_is_a_turn_without_edits_of_its_own(self, ledger: Ledger) -> None:
        merge(ledger, 1, 2)
        text = write(ledger, memories=True)
        assert cells(text, "turn")[2][:5] == [
            "3",
            "merge of turns 1-2 (ties)",
            "-",
            "-",
            "in force",
        ]
        assert "In force: 4 edits (turns 1-2)." in text
        assert "edits routed" in [row[0] for row in cells(text, "score")]


class TestFacts:
    def test_they_are_told_only_where_that_was_asked_for(self, ledger: Ledger) -> None:
        without = write(ledger)
        assert "The facts themselves are not published here." in without
        assert not [row for row in facts(8) if str(row["prompt"]) in without]
        text = write(ledger, include_edits=True)
        assert "not published here" not in text
        tables_of_turns = [
            rows for rows in tables(text) if rows[0] == ["turn", "prompt", "old", "new"]
        ]
        numbers = ["1", "1", "1", "3", "3"]
        rows = [row for at, row in enumerate(facts(8)) if at not in (3, 4, 5)]
        assert tables_of_turns[0][1:] == [
            [number, row["prompt"], row["old_target"], row["target"]]
            for number, row in zip(numbers, rows, strict=True)
        ]

    def test_an_old_answer_that_nobody_gave_is_not_known(
        self, ledger: Ledger, tmp_path: Path
    ) -> None:
        add(ledger, write_facts(tmp_path / "more.json", [fact(9, old_target=None)]))
        assert tables(write(ledger, include_edits=True))[-1][-1][2] == "not known"

    def test_those_that_were_not_published_before_are_counted(self, ledger: Ledger) -> None:
        source = {"uri": "theirs.json", "sha256": "a" * 64, "layout": "mapped", "format": "json"}
        withhold(ledger, 1, source)
        withhold(ledger, 3, None)
        text = write(ledger, include_edits=True)
        assert "Of 5 edits in turns 1, 3 the texts were not published" in text
        assert "In force: 5 edits (turns 1, 3)." in text
        rows = cells(text, "turn")
        assert [row[3] for row in rows[:3]] == [
            *("theirs.json, rows 0-2", "facts.json, rows 3-5", "not published"),
        ]
        assert cells(text, "dataset")[0] == [
            *("theirs.json", "mapped", "not stated", "a" * 64, "turn 1"),
        ]
        assert [row[5] for row in rows] == [
            score(turn.scores and turn.scores["state"]["edit_success"]) for turn in log(ledger)
        ]

    def test_nobody_reads_more_than_a_page(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for module in ("markdown", "subject"):
            monkeypatch.setattr(f"ledger.cards.{module}.MOST", 2)
        text = write(ledger, include_edits=True)
        assert [len(rows) for rows in tables(text)] == [3, 2, 3]
        assert "… and 2 more" in text  # turns
        assert "… and 3 more" in text  # facts
        assert MOST == 1000


class TestUntrustedTexts:
    def test_they_stay_texts_wherever_they_stand(self, ledger: Ledger, tmp_path: Path) -> None:
        rows = [{"prompt": text, "target": text[:9], "old_target": text} for text in HOSTILE]
        name = "a|b`<i>--- [x](y) _.json"
        add(ledger, write_facts(tmp_path / name, rows), evaluate=False, turn_size=len(rows))
        licence = "x|<b>\n---\n`"
        set_values(ledger, DatasetRow, licence=licence)
        set_values(ledger, TurnRow, method="<b>|`\n---")
        set_values(ledger, BaseRow, architecture="<img src=x>|\n# h")
        evil = write(ledger, include_edits=True)
        assert shape(evil) == shape(write(ledger, include_edits=True, base_model="owner/b"))
        assert set(data(evil)) == {
            *("base_model", "base_model_relation", "base_model_revision"),
            *("library_name", "pipeline_tag", "tags"),
        }
        assert data(evil)["tags"] == ["edit-ledger", "knowledge-editing", "model-editing"]
        kinds = {token.type for token in tokens(evil)}
        assert not kinds & {
            *("html_inline", "html_block", "link_open", "image", "em_open", "strong_open"),
            *("s_open", "hr"),
        }
        for row, shown in zip(rows, tables(evil)[-1][-len(rows) :], strict=True):
            texts = (row["prompt"], row["old_target"], row["target"])
            assert shown[1:] == [plain(text).strip() for text in texts]
        assert cells(evil, "dataset")[-1][0] == name
        assert cells(evil, "dataset")[-1][2] == plain(licence)
        assert headings(evil)[-1] == "Facts"
        assert not re.search(r"[^\n -~…≠]", evil)

    def test_scores_from_elsewhere_that_are_none_do_no_harm(self, ledger: Ledger) -> None:
        withhold(ledger, 1, {"uri": "/x/../", "sha256": 5, "layout": None, "licence": ["<b>"]})
        for scores in ({"state": ["x"]}, {"state": {"edit_success": "<b>"}}, {"n": 3}):
            set_values(ledger, TurnRow, withheld={"scores": scores})
            assert write(ledger, at=1)

    @given(st.text(max_size=LONGEST))
    def test_a_text_is_shown_as_it_is(self, text: str) -> None:
        for shown in (escaped(text), code(text)):
            lines = table(("a", "b"), [("c", shown), (shown, "d")])
            page = f"---\na: b\n---\n\n{lines}\n\nx {shown} y\n"
            [rows] = tables(page)
            seen = plain(text).strip(" ")
            assert rows == [["a", "b"], ["c", seen], [seen, "d"]]
            assert [
                t.content for t in tokens(page) if t.level == 0 and t.type == "html_inline"
            ] == []

    def test_what_is_very_long_is_cut(self) -> None:
        assert escaped("a" * LONGEST) == "a" * LONGEST
        assert escaped("a" * 10**6) == code("a" * 10**6) == "a" * (LONGEST - 1) + "…"


def plain(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shape(text: str) -> list[tuple[str, int]]:
    return [(token.type, token.nesting) for token in tokens(text)]


class TestDiscretion:
    @pytest.mark.parametrize("form", ["model", "patch", "adapter"])
    def test_equal_ledgers_give_equal_cards_without_paths_or_people(
        self, ledger: Ledger, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evaluate(ledger)
        assert {turn.row.author for turn in log(ledger)} == {USER}
        told: dict[str, Any] = {
            "form": form,
            "include_edits": True,
            "base_model": None,
            "base_revision": None,
        }
        first = write(ledger, **told)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        assert write(ledger, **told) == first
        for secret in (USER, str(tmp_path), tmp_path.name, "hf_secret", "tiny-llama", "/tmp"):
            assert secret not in first
        assert not re.search(r"https?:|20\d\d-\d\d-\d\d", first)

    def test_no_torch_is_loaded(self) -> None:
        code = "import sys, ledger.cards; print({'torch', 'huggingface_hub'} & set(sys.modules))"
        ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (ended.stdout, ended.stderr) == ("set()\n", "")

    def test_turns_are_named_as_ranges(self) -> None:
        assert turn_numbers([2]) == "turn 2"
        assert turn_numbers([6, 1, 2, 3]) == "turns 1-3, 6"
