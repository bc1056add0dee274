"""The model card: how to use what is published, and what it does not tell or run."""

import ast
import getpass
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.cards.markdown import LONGEST, MOST, code, escaped, table
from ledger.evaluating import evaluate
from ledger.orm import BaseRow, DatasetRow, TurnRow
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.wording import score, turn_numbers
from ledger.workspace import Ledger
from tests.card_pages import (
    COMMIT,
    HOSTILE,
    USER,
    cells,
    data,
    headings,
    set_values,
    tables,
    tokens,
    withhold,
    write,
)
from tests.ledgers import add, fact, facts, new_ledger, write_facts
from tests.side_memories import add_memories, merge


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Turns 1 to 3 with 3, 3 and 2 edits; turn 4 rolls back turn 2."""
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(8)))
        rollback_turn(ledger, 2)
        yield ledger


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


# Invisible, though Unicode counts them as printing.
UNSEEN = {*"\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0", *map(chr, range(0xE0100, 0xE01F0))}


def plain(text: str) -> str:
    return "".join(
        c if c.isprintable() and c not in UNSEEN else c.encode("unicode_escape").decode()
        for c in text
    )


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
