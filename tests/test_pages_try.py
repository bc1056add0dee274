"""The page on which states of the model are asked, side by side."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from ledger.branching import create_branch
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.searching import near
from ledger.trying import Tried, Trying
from ledger.workspace import Ledger, open_ledger
from tests.ledgers import add, contents, fact, new_ledger, write_facts
from tests.reading_pages import Reader
from tests.side_memories import add_memories

FRANCE, JAPAN, RIVER = (str(fact(number)["prompt"]) for number in (0, 1, 12))
ROWS = [fact(0, target="Rome"), fact(12), fact(0, target="English"), fact(1)]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Ledger]:
    """Three turns of one edit, the second a side memory, the third about what the first is about;
    branch side left after turn 1."""
    folder = tmp_path_factory.mktemp("pages")
    source = write_facts(folder / "facts.json", ROWS)
    with new_ledger(folder / "ledger", tiny_llama) as made:
        add(made, source, turn_size=1, limit=1, evaluate=False)
        create_branch(made, "side", 1)
        add_memories(made, source, offset=1, limit=1, evaluate=False)
        add(made, source, turn_size=1, offset=2, limit=1, evaluate=False)
        yield made


@pytest.fixture(scope="module")
def reader(ledger: Ledger) -> Reader:
    return Reader(ledger, model=True, device="cpu")


def asking(prompt: str, *turns: str, **more: Any) -> str:
    return f"/try?{urlencode({'prompt': prompt, 'turn': turns, **more}, doseq=True)}"


def plain(tried: Tried) -> Any:
    """As JSON has it."""
    return _lists(tried.to_json())


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lists(one) for name, one in value.items()}
    return [_lists(one) for one in value] if isinstance(value, list | tuple) else value


def test_without_a_model_it_says_how_to_get_one(ledger: Ledger) -> None:
    without = Reader(ledger)
    assert "ledger serve --model" in without.page("/try?prompt=a")
    found = without.json("/try?prompt=a")
    assert (found["has_model"], found["states"]) == (False, [])
    assert 'href="/try"' not in without.page("/verify")


def test_nothing_is_loaded_before_the_first_question(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trying, "__init__", None)
    fresh = Reader(ledger, model=True)
    page = fresh.page("/try")
    assert "The first question loads the model" in page
    assert 'href="/try"' in page
    found = fresh.json("/try")
    assert (found["is_loaded"], found["examples"]) == (False, [FRANCE])


def test_base_and_current_state_are_asked_and_any_others(ledger: Ledger, reader: Reader) -> None:
    found = reader.json(asking(FRANCE, "1", "HEAD~1"))
    with Trying(ledger, device="cpu") as trying:
        told = plain(trying.ask(FRANCE, [0, "HEAD", "1", "HEAD~1"]))
    assert [state["turn"] for state in found["states"]] == [0, 3, 1, 2]
    assert all(
        {**one, "wanted": state["wanted"]} == state
        for one, state in zip(told["states"], found["states"], strict=True)
    )
    assert found["targets"] == told["targets"]
    assert found["near"] == [one.to_json() for one in near(ledger, FRANCE, count=5)]
    assert found["is_loaded"]


def test_every_state_has_its_card_with_tokens_and_what_else_they_might_be(
    ledger: Ledger, reader: Reader
) -> None:
    page = reader.page(asking(FRANCE, "1", tokens=2))
    first = log(ledger)[0].hash[:12]
    found = reader.json(asking(FRANCE, "1", tokens=2))
    assert len(re.findall('<section class="card"', page)) == 3
    for state in found["states"]:
        assert escape(state["answer"]["text"]) in page
        assert len(state["answer"]["tokens"]) <= 2
    assert page.count('<li><details><summary><span class="piece">') == sum(
        len(state["answer"]["tokens"]) for state in found["states"]
    )
    assert f'<a href="/turns/{first}">turn 1</a>' in page
    assert "Cut off after 2 tokens" in page


def test_what_was_rolled_back_is_not_wanted_any_more(tmp_path: Path, tiny_llama: Path) -> None:
    rows = [fact(0, target="Rome"), fact(0, target="English")]
    source = write_facts(tmp_path / "facts.json", rows)
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add(ledger, source, turn_size=1, evaluate=False)
        rollback_turn(ledger, 2)
        reader = Reader(ledger, model=True, device="cpu")
        states = reader.json(asking(FRANCE, "2", tokens=1))["states"]
        assert [state["wanted"] for state in states] == [None, "Rome", "English"]


def test_what_edits_want_is_what_the_newest_up_to_a_state_wants(reader: Reader) -> None:
    states = reader.json(asking(FRANCE, "1"))["states"]
    assert [state["wanted"] for state in states] == [None, "English", "Rome"]
    assert [state["wanted"] for state in reader.json(asking(JAPAN))["states"]] == [None, None]


def test_which_side_memory_answered_is_told(reader: Reader) -> None:
    page = reader.page(asking(RIVER))
    base, now = reader.json(asking(RIVER))["states"]
    assert (base["memories"], base["routed"]) == ([], [])
    assert [memory["turn"] for memory in now["memories"]] == [2]
    said = "side memory of turn 2" if now["routed"] else "no side memory took the prompt"
    assert f"Answered by the {said}" in page or f"main weights: {said}" in page


def test_a_state_is_asked_once_however_it_is_named(ledger: Ledger, reader: Reader) -> None:
    same = log(ledger)[2].hash[:9]
    assert [one["turn"] for one in reader.json(asking(FRANCE, "3", same, "0"))["states"]] == [0, 3]


def test_states_that_are_not_there_have_a_note_beside_the_others(reader: Reader) -> None:
    found = reader.json(asking(FRANCE, "99", "nowhere"))["states"]
    assert [state["answer"] is None for state in found] == [False, False, True, True]
    page = reader.page(asking(FRANCE, "99", "nowhere"))
    assert "there is no turn 99" in page
    assert "nothing is called nowhere" in page


def test_states_are_added_and_left_out_by_links(ledger: Ledger, reader: Reader) -> None:
    page = reader.page(asking(FRANCE, "2"))
    [first, _, third] = (turn.hash[:12] for turn in log(ledger))
    question = urlencode({"prompt": FRANCE})
    assert f'href="/try?{question}" aria-label="Leave out 2"' in page
    assert f'href="/try?{question}&amp;turn=2&amp;turn={first}"' in page
    # It is the current state, which is there already.
    assert f"turn={third}" not in page
    assert f"/turns/{first}/edits/0" in page


def test_another_branch_is_asked_at_its_own_head(reader: Reader) -> None:
    _, now = reader.json(asking(FRANCE, branch="side"))["states"]
    assert (now["turn"], now["memories"]) == (1, [])
    assert 'name="branch" value="side"' in reader.page(asking(FRANCE, branch="side"))


def test_the_same_question_is_asked_once_until_something_is_recorded(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    ask = Trying.ask

    def counted(self: Trying, prompt: str, *given: Any, **options: Any) -> Tried:
        asked.append(prompt)
        return ask(self, prompt, *given, **options)

    monkeypatch.setattr(Trying, "ask", counted)
    reader = Reader(ledger, model=True, device="cpu")
    first = [reader.json(asking(JAPAN)) for _ in range(3)]
    assert asked == [JAPAN]
    with open_ledger(ledger.folder) as other:
        other.branch = "side"
        add(other, write_facts(tmp_path / "facts.json", ROWS[3:]), evaluate=False)
    assert reader.json(asking(JAPAN))["states"] == first[0]["states"]
    assert asked == [JAPAN, JAPAN]


def test_many_who_ask_at_once_share_one_model(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Trying] = []
    init = Trying.__init__

    def counted(self: Trying, *given: Any, **options: Any) -> None:
        made.append(self)
        init(self, *given, **options)

    monkeypatch.setattr(Trying, "__init__", counted)
    reader = Reader(ledger, model=True, device="cpu")
    prompts = [f"{FRANCE} {number}" for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: reader.json(asking(prompt, tokens=1)), prompts))
    assert [one["prompt"] for one in found] == prompts
    assert len(made) == 1


@pytest.mark.parametrize(
    ("address", "status", "said"),
    [
        (asking("word " * 200), 400, "tokens"),
        (asking(FRANCE, tokens=1000), 400, "an answer has from 1 to 100 tokens"),
        (asking(FRANCE, tokens="x"), 400, "tokens is a number"),
        (asking(FRANCE, *"1234567"), 400, "6 states beside the base"),
        (asking(FRANCE, branch="nowhere"), 404, "there is no branch nowhere"),
    ],
)
def test_what_cannot_be_asked_is_an_error(
    reader: Reader, address: str, status: int, said: str
) -> None:
    assert said in reader.page(address, status)


def test_hostile_prompts_are_shown_as_text_and_nothing_is_recorded(
    ledger: Ledger, reader: Reader
) -> None:
    before = contents(ledger)
    page = reader.page(asking('"><script>alert(1)</script>', "<b>x</b>"))
    assert "<script>alert" not in page
    assert "<b>x" not in page
    assert contents(ledger) == before
