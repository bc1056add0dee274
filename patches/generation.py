"""Greedy generation for many prompts at once."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from patches.tokens import context_length

_TOKENS_PER_BATCH = 1024
# Whatever the model's own settings for generating are.
_GREEDY = {
    "do_sample": False,
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_new_tokens": 0,
}


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    *,
    device: torch.device | str,
    progress: Callable[[int], None] = lambda _done: None,
) -> list[tuple[int, ...]]:
    """The most probable continuation of each prompt, token by token, of the length asked for.

    It is shorter where the model ends it. Prompts and continuations are token ids.
    """
    results: dict[int, tuple[int, ...]] = {}
    for indices in _batches(prompts, lengths, context_length(model.config)):
        longest = max(lengths[i] for i in indices)
        tokens = _continued(model, [prompts[i] for i in indices], longest, device)
        for index, row in zip(indices, tokens, strict=True):
            results[index] = tuple(row[: lengths[index]])
        progress(len(results))
    return [results[i] for i in range(len(prompts))]


@torch.inference_mode()
def generate_with_logits(
    model: nn.Module, prompt: Sequence[int], length: int, *, device: torch.device | str
) -> tuple[tuple[int, ...], Tensor]:
    """What `generate` gives for one prompt, and the logits that each token was chosen by.

    The logits are (n, vocabulary), float32, on the CPU, as the model gives them: for n tokens, or,
    where the model ends the text, for one more, which ends it.
    """
    given, stops = _run(model, [prompt], length, device, output_logits=True)
    (row,) = given.sequences[:, len(prompt) :].tolist()
    tokens = tuple(_until(row, stops))
    logits = torch.cat(given.logits)[: len(tokens) + 1]
    return tokens, logits.float().cpu()


def _batches(
    prompts: Sequence[Sequence[int]], lengths: Sequence[int], context: int | None
) -> list[list[int]]:
    """Indices in batches of similar size, of a bounded number of padded tokens.

    context: tokens that the model takes. All of a batch go on for as long as the one that is asked
    for most, so a long prompt is not put together with a long answer to another.
    """
    sizes = [len(p) + n for p, n in zip(prompts, lengths, strict=True)]
    batches: list[list[int]] = []
    for index in sorted(range(len(prompts)), key=lambda i: (lengths[i], sizes[i])):
        batch = batches[-1] if batches else []
        together = [*batch, index]
        widest = max(sizes[i] for i in together)
        # The last token is only given out, and not read again.
        read = max(len(prompts[i]) for i in together) + max(lengths[i] for i in together) - 1
        fits = context is None or read <= context
        if batch and fits and widest * len(together) <= _TOKENS_PER_BATCH:
            batch.append(index)
        else:
            batches.append([index])
    return batches


def _continued(
    model: Any, prompts: Sequence[Sequence[int]], longest: int, device: torch.device | str
) -> list[list[int]]:
    given, stops = _run(model, prompts, longest, device)
    width = max(map(len, prompts))
    return [_until(row, stops) for row in given.sequences[:, width:].tolist()]


def _run(
    model: Any,
    prompts: Sequence[Sequence[int]],
    longest: int,
    device: torch.device | str,
    **wanted: bool,
) -> tuple[Any, set[int]]:
    """What the model generates, all of it, and the tokens that end a text. wanted: more of it."""
    width = max(map(len, prompts))
    # Padding is masked out; on the left, so that all continuations start at the same place.
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    ends = model.generation_config.eos_token_id
    given = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=longest,
        pad_token_id=0,
        return_dict_in_generate=True,
        **_GREEDY,
        **wanted,
    )
    return given, set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


def _until(tokens: Sequence[int], stops: set[int]) -> list[int]:
    """The tokens before the first that ends a text."""
    for at, token in enumerate(tokens):
        if token in stops:
            return list(tokens[:at])
    return list(tokens)
