"""Answers: whether one is the target is what evaluations say, and what free generation shows."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from patches import evaluation
from patches.answers import Answer, answer, says
from patches.edit import Edit
from patches.errors import SettingError
from patches.evaluation import Questions, score
from patches.routing import attach, detach
from tests import tiny_models
from tests.test_routing import ALWAYS, NEVER, memory
from tests.tiny_models import CONTEXT, FACTS, FAMILIES, build, load

LEARNED = FACTS[:3]
# It is asked for hundreds of times, and made in milliseconds each.
tokenizer = cache(tiny_models.tokenizer)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """A model that answers some of the facts."""
    folder = tmp_path_factory.mktemp(request.param)
    return taught(load(build(folder, request.param, dtype=torch.float32)))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    return taught(load(build(tmp_path_factory.mktemp("llama"), dtype=torch.float32)))


def taught(model: nn.Module) -> nn.Module:
    words = tokenizer()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(15):
        optimiser.zero_grad()
        for prompt, target in LEARNED:
            before = words(prompt)["input_ids"]
            after = words(" " + target, add_special_tokens=False)["input_ids"]
            labels = torch.tensor([[-100] * len(before) + after])
            torch.autograd.backward(
                model(input_ids=torch.tensor([before + after]), labels=labels).loss
            )
        optimiser.step()
    optimiser.zero_grad()
    return model.eval()


def exact_match(model: nn.Module, facts: Sequence[tuple[str, str]]) -> list[bool]:
    """As evaluations score it, all facts at once."""
    edits = [Edit(prompt=prompt, target=target) for prompt, target in facts]
    asked = Questions.of(edits, tokenizer(), CONTEXT)
    answers = evaluation.answer(model, asked, device="cpu")
    return [one.state["exact_match"] == 1 for one in score(edits, asked, answers, answers)]


@torch.inference_mode()
def greedily(model: nn.Module, prompt: str, tokens: int) -> list[int]:
    """The most probable tokens, each by a whole run."""
    ids: list[int] = tokenizer()(prompt)["input_ids"]
    start = len(ids)
    for _ in range(tokens):
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer().eos_token_id:
            ids.pop()
            break
    return ids[start:]


def words_of(tokens: Sequence[int]) -> str:
    return str(tokenizer().decode(list(tokens), skip_special_tokens=True)).strip()


def test_a_match_is_what_evaluations_call_exact_and_what_generation_gives(
    model: nn.Module,
) -> None:
    matches = []
    for prompt, target in FACTS:
        tokens = tokenizer()(" " + target, add_special_tokens=False)["input_ids"]
        said = says(model, tokenizer(), prompt, target, "cpu")
        freely = greedily(model, prompt, len(tokens) + 4)
        assert said.matches == (freely[: len(tokens)] == tokens)
        assert said.text == words_of(freely)
        assert not said.matches or said.text.startswith(target)
        matches.append(said.matches)
    assert matches == exact_match(model, FACTS)
    assert any(matches)
    assert not all(matches)


def test_white_space_around_the_target_does_not_matter(llama: nn.Module) -> None:
    prompt, target = LEARNED[0]
    found = says(llama, tokenizer(), prompt, target, "cpu")
    assert found.matches
    assert says(llama, tokenizer(), prompt, f"  {target}\n", "cpu") == found


def test_a_target_that_is_right_at_first_only_does_not_match(llama: nn.Module) -> None:
    prompt, target = LEARNED[2]
    assert says(llama, tokenizer(), prompt, target, "cpu").matches
    assert not says(llama, tokenizer(), prompt, f"{target} the piano", "cpu").matches


def test_an_answer_without_a_target_is_the_greedy_continuation(llama: nn.Module) -> None:
    for prompt, _ in FACTS:
        for count in (1, 5, 10):
            expected = words_of(greedily(llama, prompt, count))
            assert answer(llama, tokenizer(), prompt, "cpu", tokens=count) == expected


def test_an_answer_ends_where_the_model_ends_it(llama: nn.Module) -> None:
    prompt, target = LEARNED[1]
    freely = greedily(llama, prompt, 10)
    at = next(at for at in range(1, 10) if freely[at] not in freely[:at])
    config: Any = llama.generation_config
    before, config.eos_token_id = config.eos_token_id, freely[at]
    try:
        assert answer(llama, tokenizer(), prompt, "cpu") == words_of(freely[:at])
        assert says(llama, tokenizer(), prompt, target, "cpu").text == words_of(freely[:at])
    finally:
        config.eos_token_id = before
    assert len(answer(llama, tokenizer(), prompt, "cpu")) > len(words_of(freely[:at]))


@pytest.mark.parametrize("threshold", [ALWAYS, NEVER])
def test_side_memories_are_routed_to_on_the_prompt_alone(
    llama: nn.Module, threshold: float
) -> None:
    plain = [says(llama, tokenizer(), *fact, "cpu") for fact in FACTS]
    attach(llama, [memory(llama, threshold=threshold, scale=0.5)])
    try:
        found = [says(llama, tokenizer(), *fact, "cpu") for fact in FACTS]
        assert [one.matches for one in found] == exact_match(llama, FACTS)
        for (prompt, _), said in zip(FACTS, found, strict=True):
            assert answer(llama, tokenizer(), prompt, "cpu", tokens=3) in said.text
    finally:
        detach(llama)
    assert (found == plain) == (threshold == NEVER)


def test_an_answer_up_to_the_end_of_the_context_is_given(model: nn.Module) -> None:
    prompt = "a" + " a" * (CONTEXT - 3)
    assert len(tokenizer()(prompt)["input_ids"]) == CONTEXT - 1
    assert isinstance(says(model, tokenizer(), prompt, "a", "cpu").matches, bool)
    full = f"{prompt} a"
    assert answer(model, tokenizer(), full, "cpu") == words_of(greedily(model, full, 1))


def test_what_has_no_tokens_or_too_many_is_refused(llama: nn.Module) -> None:
    with pytest.raises(SettingError, match=r"the answer ' ' has no tokens"):
        says(llama, tokenizer(), "It is", " ", "cpu")
    for ask in (
        lambda: says(llama, tokenizer(bos=False), "", "a", "cpu"),
        lambda: answer(llama, tokenizer(bos=False), "", "cpu"),
    ):
        with pytest.raises(SettingError, match="a prompt without tokens"):
            ask()
    long = "a" + " a" * (CONTEXT - 1)
    with pytest.raises(SettingError, match=f"are {CONTEXT + 1} tokens, the model takes {CONTEXT}"):
        answer(llama, tokenizer(), long, "cpu")
    with pytest.raises(SettingError, match="shorten them"):
        says(llama, tokenizer(), long, "a", "cpu")


def test_an_answer_is_told_as_json() -> None:
    assert Answer(matches=True, text="Rome").to_json() == {"matches": True, "text": "Rome"}
