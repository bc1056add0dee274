"""Try it: states side by side, beside models loaded from disk; one model, many threads."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ledger import load_patched, open_ledger, route
from ledger.applying import apply_to_folder
from ledger.branching import create_branch
from ledger.refs import Rev
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.trying import MOST_TOKENS, Said, Target, Tried, Trying
from ledger.workspace import Ledger
from patches.answers import answer
from patches.errors import HistoryError, SettingError
from tests.ledgers import add, contents, fact, files, new_ledger, write_facts
from tests.side_memories import add_memories
from tests.tiny_models import CONTEXT

FRANCE, JAPAN, RIVER = (str(fact(number)["prompt"]) for number in (0, 1, 12))
ROWS = [fact(0, target="Rome"), fact(12), fact(1), fact(0, target="English"), fact(2)]
LAST = 5


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Ledger]:
    """Four turns of one edit, the second a side memory, and turn 5, which undoes turn 3; branch
    side, where another turn 3 follows turn 2."""
    folder = tmp_path_factory.mktemp("tried")
    source = write_facts(folder / "facts.json", ROWS)
    with new_ledger(folder / "ledger", tiny_llama) as made:
        add(made, source, turn_size=1, limit=1, evaluate=False)
        add_memories(made, source, offset=1, limit=1, evaluate=False)
        create_branch(made, "side", 2)
        add(made, source, turn_size=1, offset=2, limit=2, evaluate=False)
        rollback_turn(made, 3)
        made.branch = "side"
        add(made, source, turn_size=1, offset=4, evaluate=False)
        made.branch = "main"
        yield made


@pytest.fixture(scope="module")
def trying(ledger: Ledger) -> Iterator[Trying]:
    with Trying(ledger, device="cpu") as made:
        yield made


@pytest.fixture(scope="module")
def said(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, str]]:
    """What the models answer that are written to disk at every turn of main."""
    folder = tmp_path_factory.mktemp("written") / "model"
    found = {}
    for turn in range(LAST + 1):
        apply_to_folder(ledger, folder, at=turn)
        model, tokenizer = load_patched(folder, device="cpu")
        found[turn] = {
            prompt: answer(model, tokenizer, prompt, "cpu") for prompt in (FRANCE, JAPAN, RIVER)
        }
    return found


def text_of(state: Said) -> str:
    assert state.answer is not None
    return state.answer.text


def test_every_state_answers_as_the_model_written_to_disk(
    ledger: Ledger, trying: Trying, said: dict[int, dict[str, str]]
) -> None:
    hashes = [None, *(turn.row.hash for turn in log(ledger))]
    states = [4, 0, 2, 5, 1, 3]
    for prompt in (FRANCE, JAPAN, RIVER):
        tried = trying.ask(prompt, states)
        assert tried.prompt == prompt
        assert [state.turn for state in tried.states] == states
        assert [text_of(state) for state in tried.states] == [said[n][prompt] for n in states]
        assert [state.hash for state in tried.states] == [hashes[n] for n in states]
        assert [state.branch for state in tried.states] == ["main" if n else None for n in states]
        assert {state.note for state in tried.states} == {None}
    assert len({one[FRANCE] for one in said.values()}) > 2


def test_where_the_prompt_went_is_told_as_route_tells_it(ledger: Ledger, trying: Trying) -> None:
    went = set()
    for prompt in (FRANCE, RIVER, JAPAN):
        before, after = trying.ask(prompt, [1, "HEAD"]).states
        assert (before.memories, before.routed) == ((), ())
        [expected] = route(ledger, [prompt], device="cpu")
        assert list(after.routed) == expected.turns
        [memory], [other] = after.memories, expected.memories
        assert memory.activation == pytest.approx(other.activation, rel=1e-3)
        went.add(after.routed)
    assert (2,) in went


def test_states_with_the_same_patches_are_asked_once_and_a_question_again_not_at_all(
    trying: Trying,
) -> None:
    first = trying.ask(JAPAN, [2, "HEAD~3", "side~1", "HEAD"])
    assert [state.turn for state in first.states] == [2, 2, 2, 5]
    assert len({id(state.answer) for state in first.states}) == 2
    again = trying.ask(JAPAN, [0, 2])
    assert again.states[1].answer is first.states[0].answer
    assert trying.ask(JAPAN, [2], tokens=2).states[0].answer is not first.states[0].answer


def test_numbers_are_those_of_the_branch(ledger: Ledger, trying: Trying) -> None:
    here, there = trying.ask(FRANCE, [3]), trying.ask(FRANCE, [3], branch="side")
    assert (here.states[0].branch, there.states[0].branch) == ("main", "side")
    assert here.states[0].hash != there.states[0].hash
    named = trying.ask(FRANCE, ["side"])
    assert named.states[0].answer == there.states[0].answer != here.states[0].answer
    with pytest.raises(HistoryError, match="there is no branch nowhere"):
        trying.ask(FRANCE, [0], branch="nowhere")
    assert ledger.branch == "main"


def test_the_answers_that_edits_with_the_prompt_want_and_replace_are_told_with_probabilities(
    trying: Trying,
) -> None:
    tried = trying.ask(f"  {FRANCE} ".replace(" of ", "  of "), [0])
    assert tried.targets == (
        Target(text="English", wanted_by=(4,), replaced_by=()),
        Target(text="Rome", wanted_by=(1,), replaced_by=()),
        Target(text="Tokyo", wanted_by=(), replaced_by=(4, 1)),
    )
    before, after = trying.ask(FRANCE, [3, 4]).states
    assert before.targets[0] is not None
    assert after.targets[0] is not None
    assert before.targets[0] < after.targets[0] <= 1
    # On the side there is no second edit, and elsewhere none at all.
    assert [one.text for one in trying.ask(FRANCE, [0], branch="side").targets] == ["Rome", "Tokyo"]
    nothing = trying.ask("Toyota Camry is produced by", [0])
    assert (nothing.targets, nothing.states[0].targets) == ((), ())


@pytest.mark.parametrize("rev", [17, -1, "nothing", "HEAD~9", "\0", "\ud800", ""])
def test_a_state_that_does_not_exist_has_a_note_and_the_others_their_answers(
    trying: Trying, rev: Rev
) -> None:
    missing, there = trying.ask(FRANCE, [rev, 1]).states
    assert (missing.turn, missing.hash, missing.answer, missing.memories) == (None, None, None, ())
    assert missing.note
    assert there.answer is not None
    assert there.note is None


def test_a_state_whose_patch_is_gone_has_a_note_until_it_is_back(
    ledger: Ledger, said: dict[int, dict[str, str]]
) -> None:
    # Undone, so that of the states here no other needs it.
    digest = log(ledger)[2].row.patch_digest
    assert digest is not None
    path = ledger.store.path(digest)
    content = path.read_bytes()
    with Trying(ledger, device="cpu") as trying:
        path.unlink()
        try:
            tried = trying.ask(JAPAN, [2, 3, "HEAD", 0])
        finally:
            path.write_bytes(content)
        assert [state.answer is None for state in tried.states] == [False, True, False, False]
        assert (tried.states[1].turn, tried.states[1].targets) == (3, ())
        assert str(path) in str(tried.states[1].note)
        assert [text_of(tried.states[at]) for at in (0, 2, 3)] == [
            said[turn][JAPAN] for turn in (2, LAST, 0)
        ]
        assert text_of(trying.ask(JAPAN, [3]).states[0]) == said[3][JAPAN]


def test_a_prompt_that_cannot_be_asked_is_refused(ledger: Ledger, trying: Trying) -> None:
    with Trying(ledger, device="cpu") as cold:
        for prompt, tokens, problem in (
            (" \n", 10, "an empty prompt has no answer"),
            ("\ud800", 10, "is not text in UTF-8"),
            (FRANCE, 0, f"from 1 to {MOST_TOKENS} tokens, not 0"),
            (FRANCE, MOST_TOKENS + 1, f"not {MOST_TOKENS + 1}"),
        ):
            with pytest.raises(SettingError, match=problem):
                cold.ask(prompt, [0], tokens=tokens)
        assert not cold.is_loaded
    with pytest.raises(SettingError, match=f"the model takes {CONTEXT}; shorten"):
        trying.ask("a" + " a" * CONTEXT, [0, 1])
    assert trying.ask(FRANCE, []).states == ()


def test_the_model_is_loaded_at_the_first_question_and_again_after_it_was_dropped(
    ledger: Ledger, said: dict[int, dict[str, str]]
) -> None:
    trying = Trying(ledger, device="cpu")
    loaded = []
    for _ in range(2):
        loaded.append(trying.is_loaded)
        assert text_of(trying.ask(FRANCE, [4]).states[0]) == said[4][FRANCE]
        loaded.append(trying.is_loaded)
        trying.close()
    assert loaded == [False, True, False, True]


def test_a_device_that_is_not_there_is_told_and_the_next_question_tries_again(
    ledger: Ledger,
) -> None:
    trying = Trying(ledger, device="nowhere")
    for _ in range(2):
        with pytest.raises(SettingError, match="--device nowhere: not usable here"):
            trying.ask(FRANCE, [0])
        assert not trying.is_loaded


def test_questions_of_many_threads_get_each_their_own_answers(
    ledger: Ledger, said: dict[int, dict[str, str]]
) -> None:
    asked = [(prompt, turn) for turn in range(LAST + 1) for prompt in (FRANCE, JAPAN, RIVER)]
    with Trying(ledger, device="cpu") as trying, ThreadPoolExecutor(6) as threads:
        found = list(threads.map(lambda one: trying.ask(one[0], [one[1], 0]), asked))
    for (prompt, turn), tried in zip(asked, found, strict=True):
        assert tried.prompt == prompt
        assert [text_of(state) for state in tried.states] == [said[turn][prompt], said[0][prompt]]


def test_nothing_is_written(ledger: Ledger, trying: Trying) -> None:
    before = contents(ledger), files(ledger.folder / "patches")
    trying.ask("Who was it?", [0, 1, 2, 3, 4, 5, "side"])
    assert (contents(ledger), files(ledger.folder / "patches")) == before


def test_turns_that_another_process_records_meanwhile_are_seen(
    database_url: str, tmp_path: Path, tiny_llama: Path
) -> None:
    source = write_facts(tmp_path / "facts.json", ROWS[2:])
    with (
        new_ledger(tmp_path / "ledger", tiny_llama, database_url) as made,
        open_ledger(made.folder) as other,
        Trying(other, device="cpu") as trying,
    ):
        assert heads(trying) == [(0, [])]
        add(made, source, turn_size=1, limit=1, evaluate=False)
        assert heads(trying) == [(1, ["the Danube"])]
        rollback_turn(made, 1)
        assert heads(trying) == [(2, ["the Danube"])]
        base, head = trying.ask(JAPAN, [0, "HEAD"]).states
        assert base.answer is head.answer


def heads(trying: Trying) -> list[tuple[int | None, list[str]]]:
    """The number of the newest turn, and what edits with the prompt want."""
    tried = trying.ask(JAPAN, ["HEAD"])
    wanted = [target.text for target in tried.targets if target.wanted_by]
    return [(state.turn, wanted) for state in tried.states]


def test_a_question_is_told_as_json(trying: Trying) -> None:
    tried: Tried = trying.ask(RIVER, ["HEAD", 77])
    content = json.loads(json.dumps(tried.to_json(), allow_nan=False))
    assert set(content) == {"prompt", "targets", "states"}
    head, missing = content["states"]
    assert (head["asked"], head["turn"], head["routed"]) == ("HEAD", LAST, [2])
    assert head["answer"]["text"] == text_of(tried.states[0])
    assert set(head["answer"]["tokens"][0]) == {"text", "probability", "others"}
    assert set(head["memories"][0]) >= {"turn", "strength", "chosen"}
    assert (missing["turn"], missing["answer"]) == (None, None)
    assert "there is no turn 77" in missing["note"]
