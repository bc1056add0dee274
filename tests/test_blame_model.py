"""What the base and the states around an edit answer, beside models loaded from disk."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import ask_around, blame, load_patched
from ledger.applying import apply_to_folder
from ledger.blaming_answers import Answers
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.workspace import Ledger
from patches.answers import answer
from tests.command_line import done
from tests.ledgers import add, fact, new_ledger, write_facts
from tests.side_memories import add_memories

Capture = pytest.CaptureFixture[str]
FRANCE, JAPAN, RIVER = (str(fact(number)["prompt"]) for number in (0, 1, 12))
ROWS = [fact(0, target="Rome"), fact(12), fact(1), fact(0, target="English")]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Ledger]:
    """Four turns of one edit, the second a side memory, and turn 5, which undoes turn 3."""
    folder = tmp_path_factory.mktemp("asked")
    source = write_facts(folder / "facts.json", ROWS)
    with new_ledger(folder / "ledger", tiny_llama) as made:
        add(made, source, turn_size=1, limit=1, evaluate=False)
        add_memories(made, source, offset=1, limit=1, evaluate=False)
        add(made, source, turn_size=1, offset=2, evaluate=False)
        rollback_turn(made, 3)
        yield made


def asked(ledger: Ledger, text: str, at: int | None = None) -> Answers:
    return ask_around(ledger, text, blame(ledger, text, at=at), at=at, device="cpu")


@pytest.fixture(scope="module")
def said(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, str]]:
    """What the models answer that are written to disk at every turn."""
    folder = tmp_path_factory.mktemp("written") / "model"
    found = {}
    for turn in range(6):
        apply_to_folder(ledger, folder, at=turn)
        model, tokenizer = load_patched(folder, device="cpu")
        found[turn] = {
            prompt: answer(model, tokenizer, prompt, "cpu") for prompt in (FRANCE, JAPAN, RIVER)
        }
    return found


def test_a_prompt_is_asked_in_the_states_around_each_of_its_edits(
    ledger: Ledger, said: dict[int, dict[str, str]]
) -> None:
    told = asked(ledger, FRANCE)
    assert [one.edit.turn for one in told.edits] == [1, 4]
    for one in told.edits:
        turn = one.edit.turn
        assert one.asked == FRANCE
        assert (one.before, one.after) == (said[turn - 1][FRANCE], said[turn][FRANCE])
        assert (one.base, one.now) == (said[0][FRANCE], said[5][FRANCE])
    assert len({one[FRANCE] for one in said.values()}) > 2
    assert told.notes == ()


def test_of_a_subject_every_edit_s_own_prompt_is_asked(
    ledger: Ledger, said: dict[int, dict[str, str]]
) -> None:
    told = asked(ledger, "France")
    assert [(one.edit.turn, one.asked) for one in told.edits] == [
        (1, FRANCE),
        (2, RIVER),
        (4, FRANCE),
    ]
    # The edit of turn 2 is in a side memory.
    assert (told.edits[1].before, told.edits[1].after) == (said[1][RIVER], said[2][RIVER])
    assert told.edits[1].now == said[5][RIVER]


def test_an_undone_edit_is_asked_about_where_it_was_in_force(
    ledger: Ledger, said: dict[int, dict[str, str]]
) -> None:
    [one] = asked(ledger, JAPAN).edits
    assert one.edit.state == "rolled_back"
    assert (one.before, one.after, one.now) == (said[2][JAPAN], said[3][JAPAN], said[5][JAPAN])
    [one] = asked(ledger, JAPAN, at=3).edits
    assert (one.edit.state, one.now) == ("in_force", said[3][JAPAN])


def test_each_state_is_built_once_and_none_without_a_hit(ledger: Ledger) -> None:
    built = []

    def watch(phase: str, done: int, total: int) -> None:
        built.append((phase, done, total))

    # Of France there are states 0, 1, 2, 3, 4 and now; the one before turn 2 is that after turn 1.
    ask_around(ledger, "France", blame(ledger, "France"), device="cpu", progress=watch)
    assert [line for line in built if line[0] == "ask"] == [("ask", n, 6) for n in range(7)]
    built.clear()
    assert ask_around(ledger, "nobody", blame(ledger, "nobody"), progress=watch).edits == ()
    assert built == []


def test_a_state_whose_patch_is_gone_has_no_answer_and_is_told_of(
    ledger: Ledger, said: dict[int, dict[str, str]]
) -> None:
    # Undone, so that no other state needs it but that of turn 4.
    digest = log(ledger)[2].row.patch_digest
    assert digest is not None
    path = ledger.store.path(digest)
    content = path.read_bytes()
    path.unlink()
    try:
        told = asked(ledger, JAPAN)
    finally:
        path.write_bytes(content)
    [one] = told.edits
    assert (one.before, one.after, one.now) == (said[2][JAPAN], None, said[5][JAPAN])
    [note] = told.notes
    assert str(path) in note


def test_the_command_gives_the_answers_with_each_edit(
    capsys: Capture, ledger: Ledger, said: dict[int, dict[str, str]]
) -> None:
    words = ("blame", "--ledger", str(ledger.folder), "--model", "--device", "cpu")
    first, second = done(capsys, *words, "--json", FRANCE).json()
    assert (first["turn"], first["state"], first["target"]) == (1, "overridden", "Rome")
    assert first["answers"] == {"before": said[0][FRANCE], "after": said[1][FRANCE]}
    assert (second["base"], second["now"]) == (said[0][FRANCE], said[5][FRANCE])
    assert set(first) == set(second) > {"turn", "state", "target", "answers", "base", "now"}
    text = done(capsys, *words, FRANCE).out
    assert "overridden by 4" in text
    assert text.splitlines()[-3].split() == ["turn", "base", "before", "after", "now"]
    text = done(capsys, *words, "France").out
    assert text.splitlines()[-4].split() == ["turn", "asked", "base", "before", "after", "now"]
    assert done(capsys, *words, "--json", "nobody").json() == []
