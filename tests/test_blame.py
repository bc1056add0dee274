"""Which edits are behind a prompt or subject, and what became of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger.blaming import blame, blame_all
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.searching import search
from ledger.sharing.pulling import pull
from ledger.workspace import Ledger
from patches.errors import HistoryError, SettingError
from tests import told_edits
from tests.command_line import call, done
from tests.ledgers import add, facts, new_ledger, write_facts
from tests.test_push import push
from tests.told_edits import edit

Capture = pytest.CaptureFixture[str]
DARRIEUX, TONGUE = "Danielle Darrieux", "The mother tongue of Danielle Darrieux is"
SPEAKER, BORN = "Danielle Darrieux, a native speaker of", "Danielle Darrieux was born in"
TURNS = [
    [edit(TONGUE, "English", DARRIEUX, "P103"), edit("Rome lies in", "Asia", "Rome")],
    [edit(SPEAKER, "Spanish", DARRIEUX, "P103"), edit("Oslo lies in", "Asia", "Oslo")],
    [edit(BORN, "Lyon", DARRIEUX, "P19"), edit("Rome  lies in ", "Africa", "Rome")],
    [edit(f" {TONGUE} ", "Dutch", DARRIEUX, "P103")],
    [edit(TONGUE, "Danish", "Danielle")],
]
HITS = [
    (1, "overridden", "English", 2, [], None),
    (2, "overridden", "Spanish", 4, [1], None),
    (4, "in_force", "Dutch", None, [2], None),
    (5, "rolled_back", "Danish", None, [], 6),
]


@pytest.fixture(scope="module")
def ledger(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """The turns above, and turn 6, which undoes turn 5. Tests only read it."""
    with told_edits.new_ledger(tmp_path_factory.mktemp("blame"), shared_url) as made:
        for number, edits in enumerate(TURNS, start=1):
            told_edits.record(made, edits, message=f"turn {number}")
        rollback_turn(made, 5)
        yield made


def told(ledger: Ledger, text: str, **options: Any) -> list[tuple[Any, ...]]:
    return [
        (one.turn, one.state, one.target, one.overridden_by, one.overrides, one.undone_by)
        for one in blame(ledger, text, **options).edits
    ]


@pytest.mark.parametrize("text", [TONGUE, f"  {TONGUE.replace(' ', '  ')}\n"])
def test_a_prompt_is_hit_by_what_asks_it_or_tells_the_same(ledger: Ledger, text: str) -> None:
    assert told(ledger, text) == HITS
    assert blame(ledger, text).is_prompt


def test_a_prompt_of_another_wording_is_hit_through_its_relation(ledger: Ledger) -> None:
    # The edit of turn 5 has no relation, and another subject.
    assert told(ledger, SPEAKER) == HITS[:3]


def test_a_subject_is_hit_by_all_that_is_told_of_it(ledger: Ledger) -> None:
    assert told(ledger, DARRIEUX) == [
        *HITS[:2],
        (3, "in_force", "Lyon", None, [], None),
        HITS[2],
    ]
    assert not blame(ledger, DARRIEUX).is_prompt
    assert told(ledger, "Rome") == [
        (1, "overridden", "Asia", 3, [], None),
        (3, "in_force", "Africa", None, [1], None),
    ]
    assert told(ledger, "danielle darrieux") == []


def test_an_earlier_turn_knows_nothing_of_later_ones(ledger: Ledger) -> None:
    assert told(ledger, TONGUE, at=1) == [(1, "in_force", "English", None, [], None)]
    assert told(ledger, TONGUE, at="HEAD~1") == [
        HITS[0],
        HITS[1],
        (4, "overridden", "Dutch", 5, [2], None),
        (5, "in_force", "Danish", None, [4], None),
    ]
    assert told(ledger, TONGUE, at=0) == []
    with pytest.raises(HistoryError, match="there is no turn 9"):
        blame(ledger, TONGUE, at=9)


def test_the_list_for_programs_says_where_every_edit_comes_from(
    capsys: Capture, ledger: Ledger
) -> None:
    words = ("blame", "--ledger", str(ledger.folder), "--json", "Rome")
    first, second = done(capsys, *words).json()
    turn = log(ledger)[0]
    assert first == {
        "turn": 1,
        "state": "overridden",
        "target": "Asia",
        "prompt": "Rome lies in",
        "subject": "Rome",
        "relation": None,
        "row": 1,
        "position": 1,
        "dataset": "/data/facts.json",
        "created_at": turn.to_json()["created_at"],
        "author": turn.row.author,
        "message": "turn 1",
        "overridden_by": 3,
        "overrides": [],
        "undone_by": None,
        "hash": turn.hash,
    }
    assert (second["turn"], second["state"], second["target"]) == (3, "in_force", "Africa")


def test_people_see_who_overrides_and_who_undid(capsys: Capture, ledger: Ledger) -> None:
    table = done(capsys, "blame", "--ledger", str(ledger.folder), *TONGUE.split()).out.splitlines()
    states = ("overridden by 2", "overridden by 4", "in force ", "rolled back by 6")
    assert [state in line for line, state in zip(table[1:], states, strict=True)] == [True] * 4


def test_no_hit_is_an_answer_with_what_is_near(capsys: Capture, ledger: Ledger) -> None:
    words = ("blame", "--ledger", str(ledger.folder))
    assert done(capsys, *words, "--json", "nobody").json() == []
    assert done(capsys, *words, "Daniel", "Darieux").out.splitlines() == [
        "no edit of branch main has this prompt or subject: Daniel Darieux",
        f"did you mean: {DARRIEUX}",
        f"did you mean: {BORN}",
        "did you mean: Danielle",
    ]
    assert len(done(capsys, *words, "xyz").out.splitlines()) == 1
    assert done(capsys, *words, "Oslo", "--at", "1").out.splitlines() == [
        "no edit of the turns up to 1 has this prompt or subject: Oslo"
    ]
    for text, reason in ((" ", "an empty text is no prompt"), ("a\udcff", "is not text in UTF-8")):
        with pytest.raises(SettingError, match=reason):
            blame(ledger, text)
    assert search(ledger, "x\udcff").hits == ()


def test_all_tells_one_fact_of_each_question_the_one_that_holds(
    capsys: Capture, ledger: Ledger
) -> None:
    facts = [(fact.turn, fact.prompt, fact.target) for fact in blame_all(ledger)]
    assert facts == [
        (2, "Oslo lies in", "Asia"),
        (3, BORN, "Lyon"),
        (3, "Rome  lies in ", "Africa"),
        (4, f" {TONGUE} ", "Dutch"),
    ]
    words = ("blame", "--ledger", str(ledger.folder), "--all")
    listed = done(capsys, *words, "--json").json()
    assert [(one["turn"], one["prompt"], one["target"]) for one in listed] == facts
    assert {one["state"] for one in listed} == {"in_force"}
    text = done(capsys, *words).out.splitlines()
    turn = log(ledger)[1].to_json()
    assert text[0] == (
        f"{turn['hash'][:7]}  turn     2  {turn['created_at'][:10]}  row       1  "
        "Oslo lies in → Asia"
    )
    assert len(text) == 4
    assert len(list(blame_all(ledger, at=2))) == 3
    assert done(capsys, *words, "--at", "0", "--json").out == "[]\n"
    assert done(capsys, *words, "--at", "0").out == "no fact is in force\n"


def test_all_is_right_across_the_parts_that_it_is_read_in(
    tmp_path: Path, database_url: str, capsys: Capture
) -> None:
    """Every question is asked by several of many turns; the reference is a dictionary."""
    holding: dict[str, tuple[int, str]] = {}
    turns = []
    for number in range(1, 101):
        edits = [edit(f"Question {number * 7 % 40 + k} is", f"{number}") for k in range(8)]
        turns.append(edits)
        if number != 90:
            holding |= {one.prompt: (number, one.target) for one in edits}
    with told_edits.new_ledger(tmp_path, database_url) as made:
        told_edits.record(made, *turns)
        rollback_turn(made, 90)
        found = [(one.prompt, (one.turn, one.target)) for one in blame_all(made)]
        assert dict(found) == holding
        assert len(found) == len(holding)
        assert [one[1][0] for one in found] == sorted(one[1][0] for one in found)
        made.close()
        out = done(capsys, "blame", "--all", "--json", "--ledger", str(made.folder)).out
    assert len(out.splitlines()) == len(json.loads(out)) + 2


@pytest.mark.usefixtures("hub")
def test_edits_without_texts_are_told_of_and_found_once_they_have_them(
    capsys: Capture, tmp_path: Path, tiny_llama: Path
) -> None:
    source = write_facts(tmp_path / "facts.json", facts(6))
    prompt = str(facts(1)[0]["prompt"])
    with (
        new_ledger(tmp_path / "theirs", tiny_llama) as theirs,
        new_ledger(tmp_path / "ours", tiny_llama) as ours,
    ):
        add(theirs, source, limit=3, evaluate=False)
        push(theirs, "me/edits", "patch")
        pull(ours, "me/edits", branch="main")
        told = blame(ours, prompt)
        assert (told.edits, told.without_text) == ((), 3)
        out = done(capsys, "blame", "--ledger", str(ours.folder), prompt).out.splitlines()
        assert (
            out[-1] == "3 edits of this branch came without their texts, and can hit nothing here"
        )
        assert list(blame_all(ours)) == []
        add(theirs, source, offset=3, limit=3, evaluate=False)
        push(theirs, "me/edits", "patch", include_edits=True)
        # The texts of turn 2 come with it, and those of turn 1 only then.
        pull(ours, "me/edits", branch="main")
        told = blame(ours, prompt)
        assert [(one.turn, one.dataset) for one in told.edits] == [(1, "facts.json")]
        assert told.without_text == 0
        assert [one.turn for one in blame_all(ours)] == [1, 1, 1, 2, 2, 2]
        hits = search(ours, "capital").hits
        assert {(hit.turn, hit.row) for hit in hits} == {(1, 0), (1, 1), (1, 2)} | {
            (2, row) for row in (3, 4, 5)
        }


@pytest.mark.parametrize("words", [[], ["--all", "x"], ["--all", "--model"]])
def test_what_is_asked_must_be_one_thing(capsys: Capture, ledger: Ledger, words: list[str]) -> None:
    ended = call(capsys, "blame", "--ledger", str(ledger.folder), *words)
    assert (ended.status, ended.out) == (2, "")
    assert "give a prompt or subject, or --all" in ended.err
