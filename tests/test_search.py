"""Full-text search: the same answers on both databases, newest first, with what became of them."""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger import searching
from ledger.branching import create_branch
from ledger.rolling_back import rollback_turn
from ledger.search_terms import parse
from ledger.searching import nearest, search
from ledger.workspace import Ledger
from patches.edit import Edit
from patches.errors import SettingError
from tests import told_edits
from tests.command_line import call, done, on_terminal
from tests.told_edits import edit

Capture = pytest.CaptureFixture[str]
DARRIEUX = "Danielle Darrieux"
TURNS: list[list[Edit]] = [
    [
        edit(f"The mother tongue of {DARRIEUX} is", "English", DARRIEUX, "P103"),
        edit("The mother of tongue twisters is", "Perú"),
        edit("Who wrote it? Danielle met", "Monsieur Darrieux", "Danielle"),
    ],
    [
        edit("The band of Angus Young and/or his brother is", "AC/DC", "Angus Young"),
        edit("Pi is about", "3.14", "π"),
        edit("The car of Anna-Lena O'Hara is a", "Rolls-Royce", "Anna-Lena O'Hara"),
        edit("It is made in the", "U.S.", "www.example.com/about"),
    ],
    [edit(f"{DARRIEUX}, a native speaker of", "French", DARRIEUX, "P103")],
    [edit("The river of Zürich is the", "LIMMAT", "Zürich"), edit("東京 lies in", "日本")],
]
SIDE = [edit("The mother tongue of Danielle Steel is", "Spanish", "Danielle Steel")]


@pytest.fixture(scope="module")
def ledger(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """Turns 1 to 4 as above; turn 3 overrides an edit of turn 1; turn 5 undoes turn 4. Branch side
    leaves main after turn 2. Tests only read it."""
    with told_edits.new_ledger(tmp_path_factory.mktemp("search"), shared_url) as made:
        told_edits.record(made, *TURNS)
        rollback_turn(made, 4)
        create_branch(made, "side", at=2)
        made.branch = "side"
        told_edits.record(made, SIDE)
        made.branch = "main"
        yield made


def found(ledger: Ledger, text: str, **options: Any) -> list[tuple[int, int]]:
    """Turn and place of every hit."""
    return [(hit.turn, hit.position) for hit in search(ledger, text, **options).hits]


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("danielle DARRIEUX", [(3, 0), (1, 2), (1, 0)]),
        ('"Danielle Darrieux"', [(3, 0), (1, 0)]),
        ('"mother tongue"', [(1, 0)]),
        ("mother tongue", [(1, 1), (1, 0)]),
        ('"tongue mother"', []),
        # No phrase goes from one text into the next.
        ('"is English"', []),
        ('"met Monsieur"', []),
        ("darri*", [(3, 0), (1, 2), (1, 0)]),
        ('"mother tong*"', []),
        ('"mother tong"*', [(1, 0)]),
        ("dan*", [(3, 0), (1, 2), (1, 0)]),
        ("darri", []),
        ("danielle -french", [(1, 2), (1, 0)]),
        ("danielle -darri*", []),
        ('mother -"mother tongue"', [(1, 1)]),
        ("mother -twist*", [(1, 0)]),
        ("danielle --french", [(1, 2), (1, 0)]),
        ("ac/dc", [(2, 0)]),
        ("dc", [(2, 0)]),
        ("dc/ac", []),
        ("or", [(2, 0)]),
        ("3.14", [(2, 1)]),
        ("14", [(2, 1)]),
        ("π", [(2, 1)]),
        ("royce", [(2, 2)]),
        ("rolls-royce", [(2, 2)]),
        ("rolls-roy*", [(2, 2)]),
        ("o'hara", [(2, 2)]),
        ("u.s.", [(2, 3)]),
        ("example", [(2, 3)]),
        ("about", [(2, 3), (2, 1)]),
        ("peru", []),
        ("PERÚ", [(1, 1)]),
        ("zürich limmat", [(4, 0)]),
        ("東京", [(4, 1)]),
        ("日*", [(4, 1)]),
        ("danielle AND NOT french", []),
        ("prompt:danielle", []),
        ("the ? - %", [(4, 0), (2, 3), (2, 2), (2, 0), (1, 1), (1, 0)]),
        ("\\danielle'", [(3, 0), (1, 2), (1, 0)]),
    ],
)
def test_words_phrases_beginnings_and_exclusions(
    ledger: Ledger, text: str, hits: list[tuple[int, int]]
) -> None:
    assert found(ledger, text) == hits


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('"rome', "a double quote is not closed"),
        ('say "a" and "b', "a double quote is not closed"),
        ("-rome", "only words to leave out"),
        ('-"mother tongue" -a*', "only words to leave out"),
        ("? * -", "no words to search for"),
        ('""', "no words to search for"),
        ("  ", "no words to search for"),
        ("a " * 65, "more than 64 words"),
    ],
)
def test_what_asks_for_nothing_is_refused_with_the_way_out(
    capsys: Capture, ledger: Ledger, text: str, reason: str
) -> None:
    with pytest.raises(SettingError, match=re.escape(reason)):
        search(ledger, text)
    ended = call(capsys, "search", "--ledger", str(ledger.folder), "--", text)
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("error: ")
    assert reason in ended.err


def test_every_hit_says_what_became_of_the_edit(ledger: Ledger) -> None:
    def told(text: str, **options: Any) -> list[tuple[int, str, str, int | None]]:
        hits = search(ledger, text, **options).hits
        return [(hit.turn, hit.branch, hit.state, hit.overridden_by) for hit in hits]

    held, over = (3, "main", "in_force", None), (1, "main", "overridden", 3)
    assert told('"danielle darrieux"') == [held, over]
    assert told("zürich") == [(4, "main", "rolled_back", None)]
    side = (3, "side", "elsewhere", None)
    assert told("danielle -met", everywhere=True) == [side, held, over]
    assert told("zürich", in_force=True) == []
    assert told("danielle -met", everywhere=True, in_force=True) == [held]
    ledger.branch = "side"
    try:
        # What overrides it on main is no part of this branch.
        own = [(3, "side", "in_force", None), (1, "main", "in_force", None)]
        assert told("danielle -met") == own
        assert told("danielle -met", everywhere=True)[1] == (3, "main", "elsewhere", None)
        assert told("zürich") == []
    finally:
        ledger.branch = "main"


def test_the_limit_gives_the_newest_and_says_whether_there_are_more(ledger: Ledger) -> None:
    assert [found(ledger, "danielle", limit=n) for n in (1, 2, 3)] == [
        [(3, 0)],
        [(3, 0), (1, 2)],
        [(3, 0), (1, 2), (1, 0)],
    ]
    assert [search(ledger, "danielle", limit=n).more for n in (1, 2, 3)] == [True, True, False]


def test_stretches_of_a_branch_hold_all_of_its_edits(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.branch = "side"
    try:
        whole = found(ledger, "is")
        monkeypatch.setattr(searching, "_APART", 1)
        assert found(ledger, "is") == whole
        assert [turn for turn, _ in whole] == [3, 2, 2, 2, 2, 1, 1]
    finally:
        ledger.branch = "main"


def test_old_edits_are_found_behind_thousands_that_do_not_count(
    tmp_path: Path, database_url: str
) -> None:
    with told_edits.new_ledger(tmp_path, database_url) as ledger:
        told_edits.record(ledger, [edit("An old town is", "Ur"), edit("An old river is", "Po")])
        create_branch(ledger, "old")
        towns = [edit(f"Town {number} is", "an old one") for number in range(1_200)]
        told_edits.record(ledger, towns, [edit(one.prompt, "a new one") for one in towns])
        assert found(ledger, "an old", in_force=True) == [(1, 1), (1, 0)]
        assert len(found(ledger, "old -new", limit=5_000)) == 1_202
        assert found(ledger, "old", limit=2) == [(2, 1_199), (2, 1_198)]
        assert found(ledger, "ur") == [(1, 0)]
        assert found(ledger, "an old ur", everywhere=True) == [(1, 0)]
        ledger.branch = "old"
        assert found(ledger, "old") == [(1, 1), (1, 0)]


WORDS = ("ab", "abc", "b", "x1", "1", "ä", "äb", "ß")
JOINED = (" ", "-", "/", ", ", " (", "_", "'", ".", " — ")


def drawn_text(draw: random.Random) -> str:
    text = draw.choice(WORDS)
    for _ in range(draw.randrange(4)):
        word = draw.choice(WORDS)
        text += draw.choice(JOINED) + draw.choice((word, word.upper().replace("SS", "ß")))
    return text


def drawn_search(draw: random.Random) -> list[tuple[bool, list[str], bool]]:
    """Terms: whether it is excluded, its words, whether the last is a beginning; one is wanted."""
    terms = [
        (draw.random() < 0.3, draw.choices(WORDS, k=draw.choice((1, 1, 2))), draw.random() < 0.3)
        for _ in range(draw.randrange(1, 4))
    ]
    return [(False, *terms[0][1:]), *terms[1:]]


def has(texts: list[str | None], words: list[str], is_beginning: bool) -> bool:
    last = f"{re.escape(words[-1])}{r'[^ ]*' if is_beginning else ''}"
    pattern = " ".join(["", *map(re.escape, words[:-1]), last, ""])
    found = [re.findall(r"[^\W_]+", text.lower()) for text in texts if text]
    return any(re.search(pattern, f" {' '.join(text)} ") for text in found)


def test_any_search_gives_what_reading_all_texts_gives(tmp_path: Path, database_url: str) -> None:
    draw = random.Random(5)
    edits = [
        edit(drawn_text(draw), drawn_text(draw), draw.choice((None, drawn_text(draw))))
        for _ in range(200)
    ]
    hits = 0
    with told_edits.new_ledger(tmp_path, database_url) as ledger:
        told_edits.record(ledger, edits[:80], edits[80:])
        for _ in range(40):
            terms = drawn_search(draw)
            expected = [
                place
                for place, one in enumerate(edits)
                if all(
                    has([one.prompt, one.target, one.subject], words, star) != excluded
                    for excluded, words, star in terms
                )
            ]
            text = " ".join(
                f'{"-" if excluded else ""}"{" ".join(words)}"{"*" if star else ""}'
                for excluded, words, star in terms
            )
            rows = [hit.row for hit in search(ledger, text, limit=200).hits]
            assert rows == expected[::-1], text
            hits += len(rows)
    assert hits > 300


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("Danielle met danielle", [(0, 8), (13, 21)]),
        ("Rolls-Royce", [(0, 11)]),
        ("rolls royces", [(0, 5)]),
        ("a mothers tongue", [(2, 9)]),
    ],
)
def test_words_are_marked_where_they_stand(text: str, spans: list[tuple[int, int]]) -> None:
    assert parse('danielle "rolls royce" rolls moth* -tongue').spans(text) == spans


def test_what_is_like_a_text_that_no_edit_has(ledger: Ledger) -> None:
    assert nearest(ledger, "The mother tonge of Daniele Darrieux is")[0] == TURNS[0][0].prompt
    assert nearest(ledger, "Daniele Darieux")[0] == DARRIEUX
    assert nearest(ledger, "Züricch") == ["Zürich"]
    assert nearest(ledger, "quite something else") == []
    assert nearest(ledger, "?") == []


def test_the_list_for_programs_and_the_table_for_people(capsys: Capture, ledger: Ledger) -> None:
    words = ("search", "--ledger", str(ledger.folder), "--limit", "2", "danielle")
    first, second = done(capsys, *words, "--json").json()
    assert first == {
        "turn": 3,
        "branch": "main",
        "hash": first["hash"],
        "state": "in_force",
        "row": 7,
        "position": 0,
        "prompt": f"{DARRIEUX}, a native speaker of",
        "target": "French",
        "subject": DARRIEUX,
        "relation": "P103",
        "overridden_by": None,
    }
    assert (second["turn"], second["state"]) == (1, "in_force")
    table = done(capsys, *words).out.splitlines()
    assert table[0].split() == ["turn", "state", "row", "prompt", "target"]
    assert table[1].split() == ["3", "in", "force", "7", *TURNS[2][0].prompt.split(), "French"]
    assert table[3] == "… and older ones (--limit 4)"
    assert done(capsys, *words, "--everywhere").out.splitlines()[1].startswith("   3  on side ")
    nothing = done(capsys, "search", "--ledger", str(ledger.folder), "nowhere", "--in-force").out
    assert nothing == "no edit in force of branch main has nowhere\n"


def test_words_are_marked_on_a_terminal_only(capsys: Capture, tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path) as made:
        told_edits.record(made, TURNS[0])
    words = ("search", "--ledger", str(made.folder), "-n", "1", "MONSIEUR darr*")
    marked = "\x1b[32m\x1b[1mMonsieur\x1b[0m \x1b[32m\x1b[1mDarrieux\x1b[0m"
    assert marked in on_terminal(*words, columns=120)
    assert "\x1b" not in done(capsys, *words).out
