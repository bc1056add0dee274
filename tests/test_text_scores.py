"""Running text: every token is predicted once, and the figures are those of a plain computation."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from patches import text_scores
from patches.text_scores import drift, logits, losses, windows
from patches.tokens import Encoded
from tests.tiny_models import CONTEXT, build, load, tokenizer

TEXT = "The capital of France is Paris. The river that flows through Vienna is the Danube. " * 4


class Characters:
    """A tokenizer of one token per character, with so many tokens before and after a text."""

    def __init__(self, before: int, after: int) -> None:
        self.before = before
        self.after = after

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        ids = [ord(character) for character in text]
        if add_special_tokens:
            ids = [1] * self.before + ids + [2] * self.after
        return {"input_ids": ids}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, nn.Module]:
    folders = (tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("state"))
    base, state = (
        load(build(folder, dtype=torch.float32, seed=seed)) for seed, folder in enumerate(folders)
    )
    return base, state


@given(
    text=st.text(st.characters(min_codepoint=32, max_codepoint=90), max_size=60),
    before=st.integers(0, 2),
    after=st.integers(0, 1),
    window=st.integers(4, 20),
    data=st.data(),
)
def test_every_token_is_predicted_once_with_enough_before_it(
    text: str, before: int, after: int, window: int, data: st.DataObject
) -> None:
    stride = data.draw(st.integers(1, window - before))
    words: Any = Characters(before, after)
    found = windows(words, text, window=window, stride=stride)
    ids = words(text, add_special_tokens=False)["input_ids"]
    predicted = [token for one in found for token in one.answer]
    assert predicted == (ids if before else ids[1:])
    seen = 0 if before else 1
    for place, one in enumerate(found):
        assert one.answer
        assert len(one.ids) <= window
        assert one.ids[:before] == (1,) * before
        # What is read ends right before the last token that is predicted.
        whole = [*one.ids[before:], one.answer[-1]]
        end = seen + len(one.answer)
        assert whole == ids[end - len(whole) : end]
        if place:
            assert one.first >= window - stride - 1
        seen = end


def test_a_short_text_is_one_window_and_no_text_is_none() -> None:
    words = tokenizer()
    [one] = windows(words, "Paris is", window=CONTEXT, stride=48)
    assert one == Encoded(
        ids=(0, *words("Paris is", add_special_tokens=False)["input_ids"][:-1]),
        answer=tuple(words("Paris is", add_special_tokens=False)["input_ids"]),
    )
    assert windows(words, "", window=CONTEXT, stride=48) == []


def plain_logits(model: nn.Module, window: Encoded) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=torch.tensor([window.ids])).logits[0]
    return found[window.first :]


def test_losses_are_those_of_a_plain_pass(
    models: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_scores, "_TOGETHER", 7)
    for window in windows(tokenizer(), TEXT, window=CONTEXT, stride=40):
        expected = plain_logits(models[0], window).double().log_softmax(-1)
        given = losses(models[0], window, device="cpu")
        assert len(given) == len(window.answer)
        for place, (token, loss) in enumerate(zip(window.answer, given, strict=True)):
            assert loss == pytest.approx(-expected[place, token].item(), abs=1e-4)


def by_hand(base: Sequence[float], state: Sequence[float]) -> float:
    p, q = (torch.tensor(some).double().log_softmax(-1) for some in (base, state))
    return float(sum(math.exp(a) * (a - b) for a, b in zip(p.tolist(), q.tolist(), strict=True)))


def test_drift_is_the_divergence_of_the_state_from_the_base_position_by_position(
    models: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_scores, "_TOGETHER", 5)
    window = windows(tokenizer(), TEXT, window=CONTEXT, stride=40)[1]
    base, state = (logits(model, window, device="cpu") for model in models)
    divergences, same = drift(base, state)
    assert len(divergences) == len(same) == len(window.answer)
    for row, divergence in enumerate(divergences):
        expected = by_hand(base[row].tolist(), state[row].tolist())
        assert divergence == pytest.approx(expected, rel=1e-4)
    assert same == [a == b for a, b in zip(base.argmax(-1), state.argmax(-1), strict=True)]
    # It is not the same in the other direction.
    other, _ = drift(state, base)
    assert other != pytest.approx(divergences, rel=1e-2)


def test_nothing_drifts_from_itself(models: tuple[nn.Module, nn.Module]) -> None:
    window = windows(tokenizer(), TEXT, window=CONTEXT, stride=40)[0]
    given = logits(models[0], window, device="cpu")
    divergences, same = drift(given, given.clone())
    assert divergences == [0.0] * len(window.answer)
    assert all(same)
