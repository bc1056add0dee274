"""From prompts and answers to batches."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig

from patches.tokens import (
    IGNORED,
    Encoded,
    batches,
    context_length,
    encode,
    pad,
)
from tests.tiny_models import tokenizer

SEQUENCES = st.lists(
    st.tuples(st.integers(1, 9), st.integers(1, 4)).map(
        lambda sizes: Encoded(
            ids=tuple(range(5, 5 + sizes[0] + sizes[1] - 1)),
            answer=tuple(range(50, 50 + sizes[1])),
        )
    ),
    min_size=1,
    max_size=9,
)


def test_prompt_has_special_tokens_and_answer_has_none() -> None:
    words = tokenizer(bos=True)
    (item,) = encode(words, ["The capital of France is"], ["Michel Rocard"])
    prompt = words("The capital of France is")["input_ids"]
    answer = words(" Michel Rocard", add_special_tokens=False)["input_ids"]
    assert prompt[0] == words.bos_token_id
    assert len(answer) > 1
    assert item == Encoded(ids=(*prompt, *answer[:-1]), answer=tuple(answer))


def test_the_last_token_of_an_answer_is_only_a_label() -> None:
    (item,) = encode(tokenizer(), ["It is"], ["a"])
    assert len(item.answer) == 1
    assert item.ids == tuple(tokenizer()("It is")["input_ids"])
    assert item.first == len(item.ids) - 1


@pytest.mark.parametrize("answer", [" Rome", "Rome ", "  Rome\n", "\tRome"])
def test_white_space_around_an_answer_does_not_matter(answer: str) -> None:
    assert encode(tokenizer(), ["It is"], [answer]) == encode(tokenizer(), ["It is"], ["Rome"])


@pytest.mark.parametrize("answer", ["", " ", "\n\t"])
def test_a_blank_answer_has_no_tokens(answer: str) -> None:
    (item,) = encode(tokenizer(), ["It is"], [answer])
    assert item.answer == ()


def test_nothing_to_encode_is_no_error() -> None:
    assert encode(tokenizer(), [], []) == []


def test_texts_in_any_script_keep_their_own_tokens() -> None:
    words = tokenizer(bos=False)
    (item,) = encode(words, ["東京は"], ["日本 é 🗼"])
    assert words.decode([*item.ids, item.answer[-1]]) == "東京は 日本 é 🗼"


@given(encoded=SEQUENCES)
def test_padding_keeps_every_token_and_labels_the_answers(encoded: list[Encoded]) -> None:
    batch = pad(encoded)
    width = max(len(item.ids) for item in encoded)
    assert batch.input_ids.shape == batch.labels.shape == (len(encoded), width)
    for row, item in enumerate(encoded):
        real = batch.attention_mask[row].bool()
        assert real.tolist() == [at < len(item.ids) for at in range(width)]
        assert tuple(batch.input_ids[row][real].tolist()) == item.ids
        wanted = batch.labels[row] != IGNORED
        assert tuple(batch.labels[row][wanted].tolist()) == item.answer
        assert wanted.nonzero()[:, 0].tolist() == list(range(item.first, len(item.ids)))


def test_a_row_without_an_answer_has_no_labels() -> None:
    batch = pad([Encoded(ids=(4, 5), answer=()), Encoded(ids=(4,), answer=(6,))])
    assert batch.labels.tolist() == [[IGNORED, IGNORED], [6, IGNORED]]


@given(encoded=SEQUENCES, size=st.integers(1, 5))
def test_batches_hold_every_sequence_once_longest_first(encoded: list[Encoded], size: int) -> None:
    made = batches(encoded, size)
    assert [len(batch) for batch in made[:-1]] == [size] * (len(made) - 1)
    assert 1 <= len(made[-1]) <= size
    indices = [index for batch in made for index in batch]
    assert sorted(indices) == list(range(len(encoded)))
    lengths = [len(encoded[index].ids) for index in indices]
    assert lengths == sorted(lengths, reverse=True)


def test_sequences_of_one_length_keep_their_order() -> None:
    encoded = [Encoded(ids=(4, at), answer=(at,)) for at in range(6)]
    encoded.insert(3, Encoded(ids=(1, 2, 3), answer=(9,)))
    firsts = [encoded[index].ids[1] for batch in batches(encoded, 4) for index in batch]
    assert firsts == [2, 0, 1, 2, 3, 4, 5]


def test_no_sequences_make_no_batch() -> None:
    assert batches([], 4) == []


def test_a_batch_moves_as_a_whole() -> None:
    moved = pad([Encoded(ids=(4,), answer=(5,))]).to("meta")
    devices = {moved.input_ids.device, moved.attention_mask.device, moved.labels.device}
    assert devices == {torch.device("meta")}


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("llama", {"max_position_embeddings": 77}, 77),
        ("gpt2", {"n_positions": 55}, 55),
        ("gemma3", {"text_config": {"max_position_embeddings": 33}}, 33),
        ("bloom", {}, None),
    ],
)
def test_the_context_length_is_found_where_the_family_keeps_it(
    family: str, settings: dict[str, object], expected: int | None
) -> None:
    assert context_length(AutoConfig.for_model(family, **settings)) == expected
