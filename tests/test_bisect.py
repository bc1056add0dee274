"""Bisect: the turn at which an answer was lost or gained, and the edits like the prompt."""

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ledger.applying import apply_to_folder
from ledger.bisecting import bisect, narrow, upcoming
from ledger.branching import create_branch
from ledger.jobs import Job, LocalCrew, SizedCrew
from ledger.loading import load_patched
from ledger.models import load_model
from ledger.progress import Progress, silent
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.squashing import squash
from ledger.workspace import Ledger
from patches.answers import says
from patches.errors import HistoryError, SettingError
from patches.keys import keys
from patches.tokens import encode_prompts
from tests.command_line import call, done
from tests.known_answers import AUTHOR, FRANCE, GUITAR, MODULE, TOYOTA, teach
from tests.ledgers import contents, fact, write_facts
from tests.plain_ledgers import new_ledger
from tests.side_memories import add_memories
from tests.tiny_models import load, tokenizer

Capture = pytest.CaptureFixture[str]

# What the states 0 to 9 answer to each prompt; "-" is something else.
ANSWERS = {
    FRANCE: ["-", "Ro", "Ro", "To", "To", "To", "To", "To", "To", "To"],
    AUTHOR: ["-", "-", "Lon", "Lon", "Lon", "-", "-", "Lon", "Lon", "Lon"],
    GUITAR: ["-", "-", "-", "play", "play", "play", "Jap", "Jap", "Jap", "Jap"],
    TOYOTA: ["-", "-", "-", "-", "Toyota", "Toyota", "Toyota", "Toyota", "Fin", "Toyota"],
}


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Ledger]:
    """Nine turns, of which the third breaks an answer that it does not tell of; three are
    rollbacks, one of them of another. From turn 6 another branch goes its own way."""
    with new_ledger(tmp_path_factory.mktemp("bisect") / "ledger", tiny_llama) as ledger:
        teach(ledger, {FRANCE: "Ro"})
        teach(ledger, {AUTHOR: "Lon"})
        broken = {GUITAR: "play", FRANCE: "To"}
        teach(ledger, broken, {FRANCE: "Ro"}, edits={GUITAR: "play"})
        teach(ledger, {TOYOTA: "Toyota"})
        rollback_turn(ledger, 2)
        teach(ledger, {GUITAR: "Jap"}, {GUITAR: "play"})
        rollback_turn(ledger, 5, message="it was right")
        teach(ledger, {TOYOTA: "Fin"}, {TOYOTA: "Toyota"})
        rollback_turn(ledger, 8)
        create_branch(ledger, "aside", at=6)
        ledger.branch = "aside"
        teach(ledger, {FRANCE: "Dan"}, {FRANCE: "To"})
        teach(ledger, {FRANCE: "Fin"}, {FRANCE: "Dan"})
        ledger.branch = "main"
        yield ledger


@pytest.mark.parametrize(
    ("prompt", "expect", "first", "last", "culprit", "change"),
    [
        (FRANCE, "To", 0, None, 3, "gained"),
        (FRANCE, "Ro", 1, None, 3, "lost"),
        (FRANCE, "Ro", 0, 2, 1, "gained"),
        (GUITAR, "play", 4, None, 6, "lost"),
        (GUITAR, "Jap", 0, None, 6, "gained"),
        (AUTHOR, "Lon", 2, 6, 5, "lost"),
        (AUTHOR, "Lon", 6, 8, 7, "gained"),
        (TOYOTA, "Toyota", 4, 8, 8, "lost"),
        (TOYOTA, "Toyota", 8, 9, 9, "gained"),
    ],
)
def test_the_turn_is_the_one_at_which_the_answer_changed(
    ledger: Ledger,
    prompt: str,
    expect: str,
    first: int,
    last: int | None,
    culprit: int,
    change: str,
) -> None:
    found = bisect(ledger, prompt, expect, first=first, last=last)
    assert (found.culprit.turn, found.change) == (culprit, change)
    assert found.culprit.hash == log(ledger)[culprit - 1].hash
    assert [step.matches for step in found.steps] == [
        ANSWERS[prompt][step.turn] == expect for step in found.steps
    ]
    end = 9 if last is None else last
    assert [step.turn for step in found.steps][:2] == [first, end]
    assert {culprit - 1, culprit} <= {step.turn for step in found.steps}
    assert len(found.steps) <= 2 + math.ceil(math.log2(end - first))
    assert found.notes == ()


@pytest.mark.parametrize(
    ("prompt", "expect", "first", "searched_from", "culprit", "change"),
    [
        # Gained at turn 1 and lost at turn 3: turn 1 asks for it.
        (FRANCE, "Ro", 0, 1, 3, "lost"),
        # Rolled back at turn 5, and brought back: the rollback is about the question.
        (AUTHOR, "Lon", 2, 5, 7, "gained"),
        # Overridden by turn 8, which was rolled back.
        (TOYOTA, "Toyota", 4, 8, 9, "gained"),
        (TOYOTA, "Fin", 0, 8, 9, "lost"),
    ],
)
def test_where_both_ends_answer_the_same_the_turns_about_the_question_are_asked(
    ledger: Ledger,
    prompt: str,
    expect: str,
    first: int,
    searched_from: int,
    culprit: int,
    change: str,
) -> None:
    found = bisect(ledger, prompt, expect, first=first)
    assert (found.culprit.turn, found.change) == (culprit, change)
    assert found.turns == 9 - searched_from
    assert f"turns {first} and 9 answer the same; turn {searched_from}, " in found.notes[0]


def test_every_state_answers_as_the_checkpoint_that_apply_writes(
    ledger: Ledger, tmp_path: Path
) -> None:
    found = bisect(ledger, FRANCE, "To")
    for step in found.steps:
        apply_to_folder(ledger, tmp_path / "state", at=step.turn)
        said = says(load(tmp_path / "state"), tokenizer(), FRANCE, "To", "cpu")
        assert (step.matches, step.answer) == (said.matches, said.text)
    told = {step.turn: step.answer for step in found.steps}
    assert (found.before, found.after) == (told[2], told[3])
    assert found.before != found.after


def test_one_model_is_loaded_and_nothing_is_recorded(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[Any] = []

    def counting(folder: Path, **options: Any) -> Any:
        loaded.append(folder)
        return load_model(folder, **options)

    monkeypatch.setattr("ledger.jobs.load_model", counting)
    before = contents(ledger)
    assert len(bisect(ledger, FRANCE, "Ro").steps) > 3
    assert len(loaded) == 1
    assert contents(ledger) == before


class Remembering:
    """A crew that is given as many jobs at a time as `size` workers, and does each once.

    known: results by job; crews may share them, as they share `inner`, who does the jobs.
    """

    def __init__(self, inner: LocalCrew, size: int, known: dict[str, Any]) -> None:
        self.size = size
        self._inner = inner
        self._known = known

    def run(
        self, jobs: Sequence[Job], *, phase: str, progress: Progress = silent
    ) -> Iterator[tuple[int, Any]]:
        for place, job in enumerate(jobs):
            if repr(job) not in self._known:
                [(_, found)] = self._inner.run([job], phase=phase, progress=progress)
                self._known[repr(job)] = found
            yield place, self._known[repr(job)]


@pytest.fixture(scope="module")
def crews(ledger: Ledger) -> list[SizedCrew]:
    """Of one worker, and of three."""
    inner, known = LocalCrew(ledger, device="cpu", dtype=None), dict[str, Any]()
    return [Remembering(inner, size, known) for size in (1, 3)]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a search came to but for the states that it asked, or its error; and these states."""

    told: dict[str, Any] | str
    steps: dict[int, Any]

    @classmethod
    def of(
        cls, monkeypatch: pytest.MonkeyPatch, crew: SizedCrew, ledger: Ledger, *asked: Any
    ) -> "Outcome":
        prompt, expect, first = asked
        monkeypatch.setattr("ledger.bisecting.crew", lambda *_args, **_options: nullcontext(crew))
        try:
            told = bisect(ledger, prompt, expect, first=first).to_json()
        except HistoryError as error:
            return cls(told=str(error), steps={})
        return cls(steps={step["turn"]: step for step in told.pop("steps")}, told=told)


@pytest.mark.parametrize("prompt", ANSWERS)
@pytest.mark.parametrize("first", [0, 1, 2, 4, 6])
def test_several_workers_find_the_turn_that_one_finds(
    ledger: Ledger,
    crews: list[SizedCrew],
    monkeypatch: pytest.MonkeyPatch,
    prompt: str,
    first: int,
) -> None:
    """Also where the answer changed more than once, and a search may end at any of them."""
    for expect in sorted({*ANSWERS[prompt]} - {"-"}):
        alone, together = (
            Outcome.of(monkeypatch, crew, ledger, prompt, expect, first) for crew in crews
        )
        assert together.told == alone.told
        assert together.steps.items() >= alone.steps.items()


@given(st.integers(0, 5), st.integers(1, 70), st.integers(1, 9), st.data())
def test_the_states_that_are_asked_ahead_are_those_that_the_search_may_come_to(
    first: int, length: int, count: int, data: st.DataObject
) -> None:
    last = first + length
    ahead = upcoming(first, last, count)
    assert len(ahead) == min(count, length - 1)
    assert len(ahead) == len({*ahead})
    tried: list[int] = []

    def like_last(turn: int) -> bool:
        tried.append(turn)
        return data.draw(st.booleans())

    narrow(first, last, like_last)
    # A whole level of the search after the other.
    assert {*tried[: (count + 1).bit_length() - 1]} <= {*ahead}


def test_a_range_is_on_the_line_to_its_end_whatever_the_branch(ledger: Ledger) -> None:
    found = bisect(ledger, FRANCE, "Dan", last="aside~1")
    assert (found.culprit.turn, found.culprit.kind, found.change) == (7, "edit", "gained")
    assert found.culprit.hash != log(ledger)[6].hash
    assert bisect(ledger, FRANCE, "Dan", first=7, last="aside").culprit.turn == 8
    sixth = log(ledger)[5].hash
    assert bisect(ledger, FRANCE, "Dan", first=sixth, last="aside~1").turns == 1


@pytest.mark.parametrize(
    ("first", "last", "reason"),
    [
        (9, None, "nothing to search between turn 9 and turn 9"),
        (3, 3, "nothing to search between turn 3 and turn 3"),
        (5, 3, "no turn 5: the turns are 1 to 3"),
        (0, 12, "no turn 12: the turns are 1 to 9"),
        ("aside", None, "aside is not a turn that the line to HEAD has gone through"),
        (0, "nowhere", "nothing is called nowhere"),
    ],
)
def test_a_range_without_turns_is_an_error(
    ledger: Ledger, first: int | str, last: int | str | None, reason: str
) -> None:
    with pytest.raises(HistoryError, match=reason):
        bisect(ledger, FRANCE, "To", first=first, last=last)


def test_a_ledger_without_turns_has_nothing_to_search(tmp_path: Path, tiny_llama: Path) -> None:
    with (
        new_ledger(tmp_path / "empty", tiny_llama) as empty,
        pytest.raises(HistoryError, match="the ledger has no turns"),
    ):
        bisect(empty, FRANCE, "To")


def test_an_answer_that_no_state_gives_is_an_error_that_tells_what_is_said(
    ledger: Ledger,
) -> None:
    with pytest.raises(HistoryError) as caught:
        bisect(ledger, FRANCE, "Toyota")
    said = bisect(ledger, FRANCE, "To")
    first, last = said.steps[0].answer, said.steps[1].answer
    assert f"{first!r} at turn 0 and {last!r} at turn 9" in str(caught.value)
    assert "so does 1 state between them that is about it" in str(caught.value)
    assert "ledger blame" in str(caught.value)
    with pytest.raises(HistoryError, match="the same at both ends: "):
        bisect(ledger, "It is", "Toyota")


def test_an_answer_without_tokens_is_refused(ledger: Ledger) -> None:
    with pytest.raises(SettingError, match="has no tokens"):
        bisect(ledger, FRANCE, "  ")


def test_the_neighbours_are_the_culprits_edits_with_the_most_similar_keys(
    tmp_path: Path, tiny_llama: Path
) -> None:
    others = [f"The {word} is" for word in ("author", "river", "book", "name", "year", "capital")]
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        teach(ledger, {AUTHOR: "Lon"})
        told = dict.fromkeys([*others, GUITAR], "Ro")
        teach(ledger, {FRANCE: "Ro"}, edits=told)
        found = bisect(ledger, FRANCE, "Ro").neighbours
        apply_to_folder(ledger, tmp_path / "before", at=1)
    prompts = [FRANCE, *told]
    asked = encode_prompts(tokenizer(), prompts)
    taken = keys(load(tmp_path / "before"), MODULE, asked, "cpu")
    cosines = torch.cosine_similarity(taken[1:], taken[:1]).tolist()
    expected = sorted(zip(cosines, told, strict=True), reverse=True)[:5]
    assert (found.module, found.compared) == (MODULE, 7)
    assert [edit.prompt for edit in found.edits] == [prompt for _, prompt in expected]
    assert [edit.cosine for edit in found.edits] == pytest.approx([c for c, _ in expected])
    assert {(edit.turn, edit.row, edit.target) for edit in found.edits} == {(2, None, "Ro")}


@pytest.mark.parametrize(
    ("prompt", "expect", "span", "neighbours"),
    [
        (FRANCE, "To", (0, None), [(3, GUITAR, "play")]),
        # Of a rollback, the edits that it undoes; of the rollback of one, those it brings back.
        (AUTHOR, "Lon", (2, 6), [(2, AUTHOR, "Lon")]),
        (AUTHOR, "Lon", (6, 8), [(2, AUTHOR, "Lon")]),
    ],
)
def test_the_neighbours_are_edits_that_come_or_go_with_the_culprit(
    ledger: Ledger,
    prompt: str,
    expect: str,
    span: tuple[int, int | None],
    neighbours: list[tuple[int, str, str]],
) -> None:
    found = bisect(ledger, prompt, expect, first=span[0], last=span[1]).neighbours
    assert [(edit.turn, edit.prompt, edit.target) for edit in found.edits] == neighbours
    if neighbours[0][1] == prompt:
        assert found.edits[0].cosine == pytest.approx(1)


def test_states_with_side_memories_answer_as_the_model_that_load_patched_gives(
    tmp_path: Path, tiny_llama: Path
) -> None:
    rows = [fact(at, target=answer) for at, answer in enumerate(("Ro", "Lon", "play", "Toyota"))]
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        source = write_facts(tmp_path / "facts.json", rows)
        add_memories(ledger, source, turn_size=2, iterations=30)
        rollback_turn(ledger, 1)
        found = bisect(ledger, FRANCE, "Ro")
        assert (found.culprit.turn, found.change) == (3, "lost")
        for step in found.steps:
            apply_to_folder(ledger, tmp_path / "state", at=step.turn)
            model, _ = load_patched(tmp_path / "state")
            said = says(model, tokenizer(), FRANCE, "Ro", "cpu")
            assert (step.matches, step.answer) == (said.matches, said.text)
    assert [(edit.turn, edit.row) for edit in found.neighbours.edits] == [(1, 0), (1, 1)]


def test_a_squash_that_costs_an_answer_is_found_with_the_edits_of_what_it_squashes(
    tmp_path: Path, tiny_llama: Path
) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        for prompt, answer in ((FRANCE, "Ro"), (AUTHOR, "Lon"), (GUITAR, "play")):
            teach(ledger, {prompt: answer})
        squash(ledger, 1, 3, rank=1)
        found = bisect(ledger, AUTHOR, "Lon", first=2)
    assert (found.culprit.turn, found.culprit.kind, found.change) == (4, "merge", "lost")
    assert found.culprit.replaces == (1, 2, 3)
    assert {edit.prompt for edit in found.neighbours.edits} == {FRANCE, AUTHOR, GUITAR}
    assert found.neighbours.edits[0].prompt == AUTHOR


def test_programs_get_the_turn_the_steps_and_the_culprit(capsys: Capture, ledger: Ledger) -> None:
    words = ["--prompt", AUTHOR, "--expect", "Lon", "--from", "2", "--to", "6"]
    told = done(capsys, "bisect", *words, "--ledger", str(ledger.folder), "--json").json()
    assert {*told} >= {"turn", "steps", "change", "before", "after", "culprit", "neighbours"}
    assert (told["turn"], told["change"], told["turns"]) == (5, "lost", 4)
    assert [step["turn"] for step in told["steps"]] == [2, 6, 4, 5]
    assert [step["matches"] for step in told["steps"]] == [True, False, True, False]
    assert {*told["steps"][0]} == {"turn", "matches", "answer"}
    assert told["culprit"]["kind"] == "rollback"
    assert (told["culprit"]["undoes"], told["culprit"]["edits"]) == ([2], 0)
    assert {*told["neighbours"][0]} == {"turn", "row", "prompt", "target", "cosine"}


def test_people_see_the_path_the_culprit_and_its_neighbours(
    capsys: Capture, ledger: Ledger
) -> None:
    words = ["bisect", "--ledger", str(ledger.folder), "--prompt", AUTHOR, "--expect", "Lon"]
    lines = done(capsys, *words, "--from", "2").out.splitlines()
    assert lines[0].startswith("note: turns 2 and 9 answer the same; turn 5")
    assert lines[1].split() == ["turn", "as", "expected", "says"]
    asked = [line.split()[:2] for line in lines[2:6]]
    assert asked == [["2", "yes"], ["9", "yes"], ["7", "yes"], ["5", "no"]]
    assert lines[4].endswith("gained")
    assert lines[6].split() == ["6", "no", *lines[6].split()[2:-3], "the", "last", "before"]
    assert lines[7] == "turn 7 gained the answer: 5 states tried for 4 turns"
    shown = "\n".join(lines[8:])
    assert "turn      7 (rollback, in force)" in shown
    assert "message   it was right" in shown
    assert "undoes    turn 5" in shown
    assert f"the nearest of its 1 edit, by their keys at {MODULE} before it" in shown
    assert lines[-1].split() == ["1.000", "2", "-", *AUTHOR.split(), "Lon"]


@pytest.mark.parametrize(
    "words",
    [
        ["--prompt", FRANCE],
        ["--expect", "Ro"],
        [],
        ["--prompt", FRANCE, "--expect", "Ro", "--script", "true"],
        ["--script", "true", "--expect", "Ro"],
        ["--script", "true", "--workers", "2"],
    ],
)
def test_a_question_or_a_script_and_not_both(
    capsys: Capture, ledger: Ledger, words: list[str]
) -> None:
    outcome = call(capsys, "bisect", *words, "--ledger", str(ledger.folder))
    assert outcome.status == 2
    assert "--script" in outcome.err
    assert outcome.out == ""


@given(st.data())
def test_the_search_ends_at_the_change_or_where_all_between_is_untold(data: st.DataObject) -> None:
    first = data.draw(st.integers(0, 5))
    last = data.draw(st.integers(first + 1, first + 70))
    culprit = data.draw(st.integers(first + 1, last))
    untold = data.draw(st.sets(st.integers(first + 1, max(first + 1, last - 1))))
    untold -= {last}
    tried: list[int] = []

    def like_last(turn: int) -> bool | None:
        tried.append(turn)
        return None if turn in untold else turn >= culprit

    a, b = narrow(first, last, like_last)
    assert first <= a < culprit <= b <= last
    assert not {a, b} & untold
    assert set(range(a + 1, b)) <= untold
    assert len(tried) == len({*tried})
    assert {*tried} <= {*range(first + 1, last)}
    if not untold:
        assert len(tried) <= math.ceil(math.log2(last - first))
