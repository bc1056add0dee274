"""Texts from elsewhere that would drive a terminal, or show another text than they are."""

import ast
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cli
from cli.rendering import json_text
from ledger.branching import create_branch, create_tag
from ledger.datasets import Dataset
from ledger.recording import record_turn
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.sharing.staging import Push, staged
from ledger.wording import visible
from ledger.workspace import HEAD_FILE, open_ledger
from patches.edit import Edit, Probe
from tests.command_line import Outcome, call
from tests.plain_ledgers import FIRST, SECOND, add, build, change, new_ledger, new_turn

# Escape sequences of a terminal in both forms, line ends of all kinds, what turns the direction of
# writing, what has no width, and letters of which nothing is to be seen.
EVIL = (
    "\x1b[31mred\x1b]0;title\x07\x9b31m\x08\r\x7f\x85\u2028\u2029\u202eevil\u202d\u2066x\u2069"
    "\u200e\u200f\u061c\u200b\u200d\ufeff\u00ad\u3164\u115f\U000e0041"
)
LETTERS = r"\x1b[31mred\x1b]0;title\x07\x9b31m\x08\r\x7f\x85\u2028\u2029\u202eevil\u202d\u2066x"


def evil(word: str) -> str:
    return f"{word} {EVIL} end"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger in a folder with such a name, with such texts wherever one is kept."""
    place = tmp_path_factory.mktemp("texts") / "a\u202e\x1b[31mb"
    place.mkdir()
    dataset = Dataset(
        uri=f"/data/{evil('facts')}.json",
        revision=evil("revision"),
        sha256="0" * 64,
        format="json",
        layout=evil("layout"),
        mapping={evil("prompt"): evil("field")},
        licence=evil("licence"),
    )
    with new_ledger(place / "ledger", build(place / "model")) as ledger:
        first = new_turn(
            ledger,
            {FIRST: change(FIRST, "low-rank", 1)},
            edits=[_edit("Lima", "Peru"), _edit("Quito", "Ecuador")],
            method=evil("method"),
        )
        told = replace(
            first,
            message=evil("message"),
            dataset=dataset,
            skipped=[(7, evil("reason"))],
            notes=[evil("note")],
            hyperparameters={evil("setting"): evil("value")},
            figures={evil("figure"): 0.5},
            environment={"versions": {evil("torch"): evil("2")}, "device": evil("cpu")},
        )
        record_turn(ledger, told)
        create_branch(ledger, "try")
        add(ledger, {SECOND: change(SECOND, "sparse", 2)}, edits=[_edit("Lima", "Chile")])
        rollback_turn(ledger, 2, message=evil("third"))
        create_tag(ledger, "v1")
    return place


def _edit(word: str, answer: str) -> Edit:
    return Edit(
        prompt=evil(f"{word} is in"),
        target=evil(answer),
        subject=evil(word),
        old_target=evil("Brazil"),
        relation=evil("P17"),
        rephrasings=(evil("Where?"),),
        locality=(Probe(prompt=evil("He"), answer=evil("plays")),),
        further={evil("kind"): (Probe(prompt=evil("a"), answer=evil("b")),)},
    )


READING: tuple[tuple[str, ...], ...] = (
    ("log",),
    ("log", "--graph"),
    ("log", "--subject", evil("Lima")),
    ("show", "1"),
    ("show", "2"),
    ("show", "3"),
    ("status",),
    ("search", "Lima"),
    ("search", evil("nobody")),
    ("search", "Lima", "--everywhere"),
    ("blame", evil("Lima is in")),
    ("blame", evil("Lima")),
    ("blame", evil("nobody")),
    ("blame", "--all"),
    ("diff", "0", "1"),
    ("diff", "1", "2"),
    ("diff", "0", "3", "--stat"),
    ("merge", "try", "--dry-run"),
    ("reflog",),
    ("branch",),
    ("tag",),
    ("verify",),
    ("attest",),
    ("gc", "--dry-run"),
)
# What people may get wrong with a name that they have copied from somewhere.
WRONG: tuple[tuple[str, ...], ...] = (
    ("show", evil("turn")),
    ("log", "--branch", evil("branch")),
    ("blame", "Lima", "--at", evil("turn")),
    ("diff", evil("turn"), "1"),
    ("branch", evil("name")),
    ("tag", evil("name")),
    ("tag", "v2", evil("turn")),
    ("switch", evil("name")),
    ("merge", evil("name"), "--dry-run"),
    ("rollback", "to", evil("turn")),
    ("add-edits", evil("file") + ".json"),
    ("import", evil("folder")),
    ("pull", "./" + evil("folder")),
    ("verify", "--model", evil("folder")),
    ("log", "--since", evil("when")),
    (evil("command"),),
    ("log", "--" + evil("option")),
)


def shown(outcome: Outcome) -> str:
    """What was printed, all of which can be seen as it is."""
    for line in (outcome.out + outcome.err).split("\n"):
        assert line == visible(line)
        assert line.isprintable()
    return outcome.out + outcome.err


@pytest.mark.parametrize("words", READING, ids=lambda words: " ".join(words[:2])[:20])
def test_reading_commands_print_nothing_that_drives_a_terminal(
    capsys: pytest.CaptureFixture[str], folder: Path, words: tuple[str, ...]
) -> None:
    where = ("--ledger", str(folder / "ledger"))
    outcome = call(capsys, *words, *where)
    assert outcome.status in (0, None), outcome.err
    shown(outcome)
    if "--graph" not in words and words[0] != "attest":
        told = call(capsys, *words, *where, "--json")
        shown(told)
        assert EVIL not in told.out
        told.json()


def test_the_escapes_are_told_and_the_data_stay_exact(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    where = ("--ledger", str(folder / "ledger"))
    assert LETTERS in call(capsys, "show", "1", *where).out
    told = call(capsys, "show", "1", *where, "--json").json()
    assert [edit["prompt"] for edit in told["edit_list"]] == [
        evil("Lima is in"),
        evil("Quito is in"),
    ]
    facts = call(capsys, "blame", "--all", *where, "--json").json()
    assert evil("Ecuador") in [fact["target"] for fact in facts]


@pytest.mark.parametrize("words", WRONG, ids=lambda words: words[0][:8])
def test_errors_print_nothing_that_drives_a_terminal(
    capsys: pytest.CaptureFixture[str], folder: Path, words: tuple[str, ...]
) -> None:
    where = () if words[0].startswith("command") else ("--ledger", str(folder / "ledger"))
    outcome = call(capsys, *words, *where)
    assert outcome.status in (1, 2)
    assert shown(outcome).count("\n") == 1


def test_a_branch_with_such_a_name_is_refused_and_shown_in_letters(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    there = tmp_path / "ledger"
    shutil.copytree(folder / "ledger", there)
    (there / HEAD_FILE).write_text("main\u202e")
    outcome = call(capsys, "log", "--ledger", str(there))
    assert outcome.status == 1
    assert "is not one name" in shown(outcome)


def test_writing_commands_print_nothing_that_drives_a_terminal(
    capsys: pytest.CaptureFixture[str], folder: Path, tmp_path: Path
) -> None:
    there = tmp_path / "c\u202ed"
    shutil.copytree(folder / "ledger", there)
    where = ("--ledger", str(there))
    for words in (
        ("apply", "--to", str(tmp_path / "m\u202e\x1b[31m"), *where),
        ("verify", "--model", str(tmp_path / "m\u202e\x1b[31m"), *where),
        ("rollback", "turn", "1", "-m", evil("why"), *where),
        ("pull", str(published(folder, tmp_path / "p\u202e")), "--branch", "got", *where),
    ):
        outcome = call(capsys, *words)
        assert outcome.status in (0, None), outcome.err
        shown(outcome)


def published(folder: Path, out: Path) -> Path:
    """The history of the ledger, as a push would send it."""
    with open_ledger(folder / "ledger") as ledger:
        push = Push(repo="me/edits", form="patch", include_edits=True)
        words: dict[str, Any] = {"repo": "me/edits", "tag": "turn-3"}
        staged(ledger, push, log(ledger), 3, out, progress=lambda *_: None, **words)
    return out


def test_cards_hold_nothing_that_cannot_be_seen(folder: Path, tmp_path: Path) -> None:
    page = (published(folder, tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    assert "Peru" in page
    for line in page.split("\n"):
        assert line == visible(line)


@settings(max_examples=40)
@given(
    st.recursive(
        st.text() | st.integers() | st.none(),
        lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(), one, max_size=3),
        max_leaves=10,
    )
)
def test_json_is_the_same_content_in_signs_that_can_be_seen(content: Any) -> None:
    text = json_text(content, indent=2)
    assert json.loads(text) == content
    assert all(line == visible(line) for line in text.split("\n"))


@given(st.text())
def test_a_text_is_shown_on_one_line_of_signs_that_can_be_seen(text: str) -> None:
    assert visible(text) == visible(visible(text))
    assert visible(text).isprintable()
    assert text.isascii() is False or not text.isprintable() or visible(text) == text


_PRINTING = ("print", "click.echo", "click.secho", "json.dumps")


def _printers() -> Iterator[tuple[str, int]]:
    for path in sorted(Path(cli.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in _PRINTING:
                yield path.name, node.lineno


def test_every_command_prints_through_what_escapes() -> None:
    """Else a text from a dataset reaches a terminal as it is."""
    known = {"rendering.py", "demo.py", "demo_model.py"}
    assert {name for name, _ in _printers()} <= known, list(_printers())
