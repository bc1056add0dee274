"""What a model answers to one prompt, and whether that is what is expected.

Whether an answer matches is decided as evaluations decide `exact_match`: every token of the target
is the most probable one, given the prompt and the target's earlier tokens. That is what greedy
generation gives, token by token. Side memories are routed to on the prompt alone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from patches import evaluation
from patches.errors import SettingError
from patches.evaluation import Questions
from patches.generation import generate
from patches.tokens import Encoded, context_length, encode, encode_prompts

_FURTHER = 4
"""How many tokens are shown beyond those of the target."""
_TOKENS = 10


@dataclass(frozen=True, kw_only=True)
class Answer:
    """matches: whether it is the target. text: what is generated freely, for people."""

    matches: bool
    text: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def says(
    model: nn.Module, tokenizer: Any, prompt: str, target: str, device: torch.device | str
) -> Answer:
    """What `model` answers to `prompt`, and whether it is `target`.

    Raises SettingError if one of them has no tokens, or both together are too long for the model.
    """
    (asked,) = encode(tokenizer, [prompt], [target])
    if not asked.answer:
        raise SettingError(f"the answer {target!r} has no tokens; give it some text")
    _check_length(model, asked.ids[: asked.first + 1], asked.ids)
    questions = Questions(encoded=(asked,), index={})
    (given,) = evaluation.answer(model, questions, device=device)
    return Answer(
        matches=given.predicted == asked.answer,
        text=_continued(model, tokenizer, asked, len(asked.answer) + _FURTHER, device),
    )


def answer(
    model: nn.Module,
    tokenizer: Any,
    prompt: str,
    device: torch.device | str,
    *,
    tokens: int = _TOKENS,
) -> str:
    """The `tokens` tokens that `model` goes on with after `prompt`, or fewer if it ends before.

    Raises SettingError if the prompt has no tokens or is too long for the model.
    """
    asked = Encoded(ids=prompt_ids(model, tokenizer, prompt), answer=())
    return _continued(model, tokenizer, asked, tokens, device)


def prompt_ids(model: nn.Module, tokenizer: Any, prompt: str) -> tuple[int, ...]:
    """The tokens of a prompt; SettingError if it has none or is too long for the model."""
    (asked,) = encode_prompts(tokenizer, [prompt])
    _check_length(model, asked.ids, asked.ids)
    return asked.ids


def room(model: nn.Module, prompt: Sequence[int], tokens: int) -> int:
    """How many of so many `tokens` the model's context has room for after the prompt."""
    longest = context_length(model.config)
    # The last token is only given out, and not read again.
    return tokens if longest is None else min(tokens, longest - len(prompt) + 1)


def _check_length(model: nn.Module, prompt: tuple[int, ...], whole: tuple[int, ...]) -> None:
    longest = context_length(model.config)
    if not prompt:
        raise SettingError("a prompt without tokens has no answer; give it some text")
    if longest is not None and len(whole) > longest:
        raise SettingError(
            f"prompt and answer are {len(whole)} tokens, the model takes {longest}; shorten them"
        )


def _continued(
    model: nn.Module, tokenizer: Any, asked: Encoded, tokens: int, device: torch.device | str
) -> str:
    """The text of at most `tokens` tokens after the prompt, as far as the model's context goes."""
    prompt = asked.ids[: asked.first + 1]
    (found,) = generate(model, [prompt], [room(model, prompt, tokens)], device=device)
    text: str = tokenizer.decode(list(found), skip_special_tokens=True)
    return text.strip()
