"""Contexts: short texts that the model itself writes, to be put before the prompts of edits."""

from typing import Any

import torch
from torch import nn

_STARTS = ("I", "You", "Because", "Yes", "The", "In", "When", "It")
_LENGTHS = (5, 10)


def write_contexts(model: nn.Module, tokenizer: Any, count: int, *, seed: int) -> tuple[str, ...]:
    """`count` texts that end a sentence and a space: the same for the same model and seed.

    They begin with everyday words and are sampled, in turn 5 and 10 tokens long.
    """
    device = next(model.parameters()).device
    texts = []
    on_cpu = device.type == "cpu"
    with torch.random.fork_rng(
        devices=[] if on_cpu else [device], device_type="cuda" if on_cpu else device.type
    ):
        torch.manual_seed(seed)
        for number in range(count):
            start = tokenizer(_STARTS[number % len(_STARTS)], return_tensors="pt").to(device)
            tokens = _sample(model, start, _LENGTHS[number % len(_LENGTHS)])
            texts.append(_sentence(tokenizer.decode(tokens[0], skip_special_tokens=True)))
    return tuple(texts)


@torch.inference_mode()
def _sample(model: Any, start: Any, length: int) -> Any:
    return model.generate(
        input_ids=start["input_ids"],
        attention_mask=start["attention_mask"],
        max_new_tokens=length,
        do_sample=True,
        top_k=40,
        pad_token_id=0,
    )


def _sentence(text: str) -> str:
    """On one line, without what does not print, with an end."""
    shown = "".join(c if c.isprintable() and c != "\ufffd" else " " for c in text)
    line = " ".join(shown.split()).rstrip(".")
    return f"{line}. " if line else "So. "
