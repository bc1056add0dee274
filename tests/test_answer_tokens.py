"""Answers token by token: the same as whole answers, with the probabilities of plain runs."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from patches.answer_tokens import TokenAnswer, answer_by_token, target_probabilities
from patches.answers import answer
from patches.errors import ModelError, SettingError
from patches.routing import attach, detach
from tests.test_routing import ALWAYS, NEVER, memory
from tests.tiny_models import CONTEXT, EOS, FACTS, VOCABULARY, build, load, tokenizer

FOREIGN = ("It lies in", "日本 🙂 é")
LESSONS = (*FACTS[:2], FOREIGN)


@pytest.fixture(scope="module", params=("gpt2", "llama", "gemma2"))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    folder = tmp_path_factory.mktemp(request.param)
    return load(build(folder, request.param, dtype=torch.float32))


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """A model that knows the lessons, and ends its answers."""
    made = load(build(tmp_path_factory.mktemp("llama"), dtype=torch.float32))
    optimiser = torch.optim.Adam(made.parameters(), lr=1e-2)
    for _ in range(25):
        optimiser.zero_grad()
        for prompt, target in LESSONS:
            before, after = ids_of(prompt), [*answer_ids(target), tokenizer().eos_token_id]
            labels = torch.tensor([[-100] * len(before) + after])
            torch.autograd.backward(
                made(input_ids=torch.tensor([before + after]), labels=labels).loss
            )
        optimiser.step()
    optimiser.zero_grad()
    return made.eval()


def ids_of(text: str) -> list[int]:
    found: list[int] = tokenizer()(text)["input_ids"]
    return found


def answer_ids(text: str) -> list[int]:
    found: list[int] = tokenizer()(f" {text}", add_special_tokens=False)["input_ids"]
    return found


@torch.inference_mode()
def next_probabilities(model: nn.Module, ids: Sequence[int]) -> torch.Tensor:
    found: torch.Tensor = model(input_ids=torch.tensor([list(ids)])).logits[0, -1].softmax(-1)
    return found


def told(model: nn.Module, prompt: str, **options: Any) -> TokenAnswer:
    return answer_by_token(model, tokenizer(), prompt, "cpu", **options)


def joined(given: TokenAnswer) -> str:
    return "".join(token.text for token in given.tokens)


def test_the_answer_is_that_of_a_whole_answer_with_the_probabilities_of_plain_runs(
    model: nn.Module,
) -> None:
    for prompt, _ in FACTS:
        given = told(model, prompt, tokens=6)
        assert given.text == joined(given).strip()
        assert given.text == answer(model, tokenizer(), prompt, "cpu", tokens=6)
        ids = ids_of(prompt)
        for token in given.tokens:
            row = next_probabilities(model, ids)
            best = row.topk(6)
            assert token.probability == pytest.approx(float(best.values[0]), rel=1e-4)
            others = [other.probability for other in token.others]
            assert others == pytest.approx(best.values[1:].tolist(), rel=1e-4)
            ids.append(int(best.indices[0]))


def test_what_a_token_reads_as_is_what_it_adds_to_the_answer(taught: nn.Module) -> None:
    prompt, target = FACTS[1]
    given = told(taught, prompt)
    words = tokenizer()
    assert [token.text for token in given.tokens] == [
        words.decode([token]) for token in answer_ids(target)
    ]
    assert all(other.text for token in given.tokens for other in token.others)


def test_a_character_of_several_tokens_reads_where_it_is_whole(taught: nn.Module) -> None:
    prompt, target = FOREIGN
    given = told(taught, prompt, tokens=20)
    assert given.text == target
    texts = [token.text for token in given.tokens]
    assert "" in texts
    assert "🙂" in texts
    assert not any("\ufffd" in text for text in texts)
    cut = told(taught, prompt, tokens=2)
    assert cut.text == answer(taught, tokenizer(), prompt, "cpu", tokens=2)
    assert joined(cut).strip() == cut.text == "\ufffd"


def test_how_probable_the_end_was_is_told_where_the_model_ends_an_answer(
    taught: nn.Module,
) -> None:
    prompt, target = FACTS[0]
    given = told(taught, prompt)
    assert given.text == target
    row = next_probabilities(taught, [*ids_of(prompt), *answer_ids(target)])
    assert given.end == pytest.approx(float(row[tokenizer().eos_token_id]), rel=1e-4)
    # One of the others, it reads as what it is.
    others = told(taught, prompt, others=VOCABULARY).tokens[0].others
    assert EOS in {other.text for other in others}
    assert told(taught, prompt, tokens=1).end is None


def test_an_answer_that_ends_at_once_has_no_tokens(taught: nn.Module) -> None:
    prompt, target = FACTS[0]
    given = told(taught, f"{prompt} {target}")
    assert (given.text, given.tokens) == ("", ())
    assert given.end is not None
    assert given.end > 0.5


def test_an_answer_goes_as_far_as_the_context(model: nn.Module) -> None:
    full = "a" + " a" * (CONTEXT - len(ids_of("a")))
    assert len(ids_of(full)) == CONTEXT
    assert len(told(model, full).tokens) <= 1
    with pytest.raises(SettingError, match=f"are {CONTEXT + 1} tokens, the model takes {CONTEXT}"):
        told(model, f"{full} a")


@pytest.mark.parametrize("threshold", [ALWAYS, NEVER])
def test_side_memories_are_routed_to_on_the_prompt_alone(
    taught: nn.Module, threshold: float
) -> None:
    plain = [told(taught, prompt, tokens=4) for prompt, _ in FACTS]
    attach(taught, [memory(taught, threshold=threshold, scale=0.5)])
    try:
        found = [told(taught, prompt, tokens=4) for prompt, _ in FACTS]
        for (prompt, _), given in zip(FACTS, found, strict=True):
            assert given.text == answer(taught, tokenizer(), prompt, "cpu", tokens=4)
    finally:
        detach(taught)
    assert (found == plain) == (threshold == NEVER)


def test_the_probability_of_a_target_is_the_product_over_its_tokens(model: nn.Module) -> None:
    prompt = FACTS[0][0]
    targets = ["Rome", " the Danube\n", "Rome"]
    given = target_probabilities(model, tokenizer(), prompt, targets, "cpu")
    for target, found in zip(targets, given, strict=True):
        ids, expected = ids_of(prompt), 1.0
        for token in answer_ids(target.strip()):
            expected *= float(next_probabilities(model, ids)[token])
            ids.append(token)
        assert found is not None
        assert math.isclose(found, expected, rel_tol=1e-3)
    assert target_probabilities(model, tokenizer(), prompt, [], "cpu") == []


def test_a_target_without_tokens_or_with_too_many_has_no_probability(taught: nn.Module) -> None:
    long = "a" + " a" * CONTEXT
    given = target_probabilities(taught, tokenizer(), FACTS[0][0], [" ", "Rome", long], "cpu")
    assert [found is None for found in given] == [True, False, True]


def test_numbers_that_are_not_finite_are_an_error_and_no_answer(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    made: Any = load(build(tmp_path_factory.mktemp("broken"), dtype=torch.float16))
    with torch.no_grad():
        made.lm_head.weight.fill_(torch.finfo(torch.float16).max)
    with pytest.raises(ModelError, match="not finite in float16; run it in another: --dtype"):
        told(made, "It is")
