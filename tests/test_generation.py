"""Greedy generation in batches, against a plain loop over one prompt at a time."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from patches.generation import generate
from tests.tiny_models import CONTEXT, EOS, build, load, tokenizer

WORDS = tokenizer()
TEXTS = ("It is", "The capital of France is", "He plays the guitar, she plays the", "Rome")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> nn.Module:
    """In float32, where padding does not show in what is most probable."""
    family = str(request.param)
    folder = tmp_path_factory.mktemp(family)
    return load(build(folder, family, dtype=torch.float32))


@torch.inference_mode()
def plainly(model: Any, prompt: Sequence[int], count: int) -> tuple[int, ...]:
    ids = list(prompt)
    for _ in range(count):
        token = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == WORDS.convert_tokens_to_ids(EOS):
            break
        ids.append(token)
    return tuple(ids[len(prompt) :])


def test_prompts_of_all_lengths_go_on_as_each_does_by_itself(model: nn.Module) -> None:
    prompts = [WORDS(text)["input_ids"] for text in TEXTS]
    lengths = [5, 1, 9, 5]
    expected = [plainly(model, *one) for one in zip(prompts, lengths, strict=True)]
    assert generate(model, prompts, lengths, device="cpu") == expected
    assert [len(tokens) for tokens in expected] == lengths


def test_a_prompt_that_nearly_fills_the_model_is_not_driven_beyond_it_by_another(
    model: nn.Module,
) -> None:
    prompts = [[5 + token for token in range(CONTEXT - 4)], WORDS(TEXTS[0])["input_ids"]]
    lengths = [5, 9]
    expected = [plainly(model, *one) for one in zip(prompts, lengths, strict=True)]
    assert generate(model, prompts, lengths, device="cpu") == expected


def test_a_model_that_would_draw_or_shun_repetition_is_still_asked_greedily(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"do_sample": True, "repetition_penalty": 5.0, "min_new_tokens": 9, "num_beams": 3}
    prompt = WORDS(TEXTS[1])["input_ids"]
    expected = generate(model, [prompt], [8], device="cpu")
    for name, value in settings.items():
        monkeypatch.setattr(model.generation_config, name, value)
    assert generate(model, [prompt], [8], device="cpu") == expected


def test_what_comes_after_the_end_of_a_text_is_left_out(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [WORDS(text)["input_ids"] for text in TEXTS]
    whole = generate(model, prompts, [6] * len(prompts), device="cpu")
    for end in (whole[0][2], [whole[1][0], whole[2][5]]):
        monkeypatch.setattr(model.generation_config, "eos_token_id", end)
        ends = {end} if isinstance(end, int) else set(end)
        expected = [
            tokens[: next((at for at, token in enumerate(tokens) if token in ends), 6)]
            for tokens in whole
        ]
        assert generate(model, prompts, [6] * len(prompts), device="cpu") == expected


def test_nothing_asked_is_nothing_generated(model: nn.Module) -> None:
    assert generate(model, [], [], device="cpu") == []
