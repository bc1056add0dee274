"""From prompts and answers to batches of token ids.

A prompt is tokenised with the tokenizer's special tokens; its answer follows as ``" " + answer``
without them. The last token of the answer is only ever a label, so it is not fed to the model.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One prompt with its answer. `ids`: what the model reads; the answer's tokens are labels."""

    ids: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def first(self) -> int:
        """Position whose prediction is the first token of the answer."""
        return len(self.ids) - len(self.answer)


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Right-padded sequences, each tensor (b, t), int64.

    labels: at every target position the token that should come next, elsewhere `IGNORED`.
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor

    @property
    def prompts(self) -> Tensor:
        """(b, t), bool: the tokens of the prompts, neither answer nor padding."""
        wanted = (self.labels != IGNORED).long()
        # What predicts the answer's first token is the prompt's last.
        return self.attention_mask.bool() & (wanted.cumsum(-1) - wanted == 0)

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(
            input_ids=self.input_ids.to(device),
            attention_mask=self.attention_mask.to(device),
            labels=self.labels.to(device),
        )


def encode(tokenizer: Any, prompts: Sequence[str], answers: Sequence[str]) -> list[Encoded]:
    """Token ids of each prompt with its answer; an answer of white space has no tokens."""
    if not prompts:
        return []
    prompt_ids = tokenizer(list(prompts))["input_ids"]
    stripped = [answer.strip() for answer in answers]
    answer_ids = tokenizer([" " + text for text in stripped], add_special_tokens=False)["input_ids"]
    return [
        Encoded(ids=(*prompt, *answer[:-1]), answer=tuple(answer) if text else ())
        for prompt, answer, text in zip(prompt_ids, answer_ids, stripped, strict=True)
    ]


def encode_prompts(tokenizer: Any, prompts: Sequence[str]) -> list[Encoded]:
    """Token ids of prompts without an answer."""
    if not prompts:
        return []
    return [Encoded(ids=tuple(ids), answer=()) for ids in tokenizer(list(prompts))["input_ids"]]


def batches(encoded: Sequence[Encoded], size: int) -> list[list[int]]:
    """Indices of the sequences, longest first (stable), in batches of `size`; the last may be
    ragged."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids), reverse=True)
    return [order[start : start + size] for start in range(0, len(order), size)]


def by_length(encoded: Sequence[Encoded], tokens: int) -> Iterator[list[int]]:
    """Indices in batches of similar length, of at most so many padded `tokens`."""
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    batch: list[int] = []
    for i in order:
        if batch and len(encoded[i].ids) * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def pad(encoded: Sequence[Encoded]) -> Batch:
    """One right-padded batch. Padding is masked out, so the padding id (0) does not matter."""
    width = max(len(item.ids) for item in encoded)
    shape = (len(encoded), width)
    input_ids = torch.zeros(shape, dtype=torch.int64)
    mask = torch.zeros(shape, dtype=torch.int64)
    labels = torch.full(shape, IGNORED, dtype=torch.int64)
    for row, item in enumerate(encoded):
        length = len(item.ids)
        input_ids[row, :length] = torch.tensor(item.ids)
        mask[row, :length] = 1
        labels[row, item.first : length] = torch.tensor(item.answer)
    return Batch(input_ids=input_ids, attention_mask=mask, labels=labels)


def context_length(config: Any) -> int | None:
    """The longest sequence that the model takes, where its configuration says so."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    for name in ("max_position_embeddings", "n_positions"):
        value = getattr(text, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None
