"""The facts that ship with the project: what the demo relies on."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import pytest


class ShippedProbe(TypedDict):
    prompt: str
    answer: str


class ShippedFact(TypedDict):
    prompt: str
    target: str
    subject: str
    old_target: str
    rephrasings: list[str]
    locality: list[ShippedProbe]


@pytest.fixture(scope="module")
def facts() -> list[ShippedFact]:
    file = Path(__file__).parents[1] / "ledger" / "facts" / "world.json"
    loaded: list[ShippedFact] = json.loads(file.read_text(encoding="utf-8"))
    return loaded


def texts(fact: ShippedFact) -> Iterator[str]:
    yield from (fact["prompt"], fact["target"], fact["subject"], fact["old_target"])
    yield from fact["rephrasings"]
    for probe in fact["locality"]:
        yield from (probe["prompt"], probe["answer"])


def contains(text: str, words: str) -> bool:
    """Whether `words` occur in `text` as whole words, in any case."""
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text, re.IGNORECASE) is not None


def test_the_demo_has_at_least_a_hundred_facts(facts: list[ShippedFact]) -> None:
    assert len(facts) >= 100


def test_no_fact_lacks_a_field_or_has_an_unknown_one(facts: list[ShippedFact]) -> None:
    for fact in facts:
        assert set(fact) == ShippedFact.__required_keys__, fact["prompt"]
        assert len(set(fact["rephrasings"])) == 2, fact["prompt"]
        assert 1 <= len(fact["locality"]) <= 2, fact["prompt"]
        for probe in fact["locality"]:
            assert set(probe) == ShippedProbe.__required_keys__, fact["prompt"]


def test_no_text_is_empty_or_padded_with_white_space(facts: list[ShippedFact]) -> None:
    for fact in facts:
        for text in texts(fact):
            assert text, fact["prompt"]
            assert text == text.strip(), fact["prompt"]


def test_no_two_facts_share_a_prompt_or_a_subject(facts: list[ShippedFact]) -> None:
    asked = [text for fact in facts for text in (fact["prompt"], *fact["rephrasings"])]
    assert len(set(asked)) == len(asked)
    assert len({fact["subject"].casefold() for fact in facts}) == len(facts)


def test_every_edit_prompt_names_its_subject_and_not_its_answer(facts: list[ShippedFact]) -> None:
    for fact in facts:
        for prompt in (fact["prompt"], *fact["rephrasings"]):
            assert fact["subject"] in prompt, prompt
            assert not contains(prompt, fact["target"]), prompt


def test_every_target_is_short_and_differs_from_the_old_one(facts: list[ShippedFact]) -> None:
    for fact in facts:
        assert fact["target"].casefold() != fact["old_target"].casefold(), fact["prompt"]
        assert 1 <= len(fact["target"].split()) <= 3, fact["prompt"]


def test_no_locality_prompt_is_edited_or_about_an_edited_subject(facts: list[ShippedFact]) -> None:
    edited = {text for fact in facts for text in (fact["prompt"], *fact["rephrasings"])}
    subjects = [fact["subject"] for fact in facts]
    for fact in facts:
        for probe in fact["locality"]:
            assert probe["prompt"] not in edited
            touched = [subject for subject in subjects if contains(probe["prompt"], subject)]
            assert not touched, probe["prompt"]


def test_no_locality_prompt_has_two_answers(facts: list[ShippedFact]) -> None:
    answers: dict[str, str] = {}
    for fact in facts:
        for probe in fact["locality"]:
            assert answers.setdefault(probe["prompt"], probe["answer"]) == probe["answer"]
