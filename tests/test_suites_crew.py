"""Whoever does the jobs: the same numbers, in any order, on workers that share nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ledger import suites
from ledger.applying import apply_to_folder
from ledger.evaluating import evaluate
from ledger.jobs import LocalCrew
from ledger.suites import asking, running_text
from ledger.workspace import Ledger
from tests.ledgers import add, facts, new_ledger, write_facts
from tests.scattered_crew import Scattered
from tests.side_memories import ledger_with_memories
from tests.taught_ledgers import taught_ledger

SCORED = [suite.name for suite in suites.SUITES.values() if suite.on != suites.TURNS]


@pytest.fixture
def small_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TOGETHER", 2)
    monkeypatch.setattr(running_text, "_TOGETHER", 1)


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with taught_ledger(tmp_path_factory.mktemp("taught")) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def remembering(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Ledger]:
    folder = tmp_path_factory.mktemp("remembering")
    source = write_facts(folder / "facts.json", facts(9))
    with ledger_with_memories(folder / "ledger", tiny_llama, source) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("The capital of France is Paris; he plays the guitar in London. " * 12)
    return path


def told(ledger: Ledger, suite: str, text: Path, **options: Any) -> dict[str, Any]:
    """All but the time it took."""
    if suites.find(suite).on == suites.TEXT:
        options["text"] = text
    found = evaluate(ledger, suite=suite, **options).to_json(per_edit=True)
    del found["seconds"]
    return found


@pytest.mark.usefixtures("small_jobs")
@pytest.mark.parametrize("suite", SCORED)
def test_workers_find_what_one_process_finds(taught: Ledger, text: Path, suite: str) -> None:
    crew = Scattered(taught)
    assert told(taught, suite, text, crew=crew) == told(taught, suite, text)
    assert len(crew.jobs) > 2


@pytest.mark.usefixtures("small_jobs")
@pytest.mark.parametrize("suite", ["teacher-forced", "generation", "general"])
def test_workers_find_the_same_with_side_memories(
    remembering: Ledger, text: Path, suite: str
) -> None:
    found = told(remembering, suite, text)
    assert told(remembering, suite, text, crew=Scattered(remembering)) == found
    if suite == "teacher-forced":
        # Nothing of the base goes to a memory; that it could not is not that it was not asked.
        assert found["base"]["routed_edits"] == 0
        assert found["state"]["routed_edits"] is not None
        assert found["base"]["generated_match"] is not None


def test_one_crew_does_several_suites_on_one_model(taught: Ledger, text: Path) -> None:
    phases: list[str] = []

    def watch(phase: str, done: int, total: int) -> None:
        assert 0 <= done <= total
        phases.append(phase)

    crew = LocalCrew(taught, device="cpu", dtype=None)
    for suite in SCORED:
        told(taught, suite, text, crew=crew, progress=watch)
    assert phases.count("load") == 2
    assert set(phases) == {"load", "evaluate", "generate", "read text"}


def test_a_turn_of_several_jobs_is_scored_as_it_was_when_it_was_made(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "TOGETHER", 2)
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        [added] = add(ledger, write_facts(tmp_path / "facts.json", facts(5)), turn_size=5)
        again = evaluate(ledger, turn=1)
        apply_to_folder(ledger, tmp_path / "out")
    assert added.scores == {"base": again.base, "state": again.state}
