"""Ledgers whose states answer some prompts exactly as a test says, with one token each.

A turn changes the matrix through which the last layer writes into the residual stream, so that at
one prompt's last token it writes the output embedding of the answer, and nothing at those of the
other prompts. What comes into that matrix does not depend on it: the turns do not disturb each
other, and what a state says is known without running it.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from ledger.workspace import Ledger
from patches.deltas import LowRank
from patches.edit import Edit
from patches.keys import keys
from patches.label_losses import output_head
from patches.patch import Change
from patches.tokens import encode_prompts
from tests import plain_ledgers
from tests.tiny_models import load, tokenizer

MODULE = "model.layers.2.mlp.down_proj"
TENSOR = f"{MODULE}.weight"
PROMPTS = (
    "The capital of France is",
    "Who was the author of the book?",
    "He plays the",
    "Toyota Camry is produced by",
)
FRANCE, AUTHOR, GUITAR, TOYOTA = PROMPTS
_LOUD = 40.0


def teach(
    ledger: Ledger,
    answers: Mapping[str, str],
    before: Mapping[str, str] | None = None,
    *,
    edits: Mapping[str, str] | None = None,
) -> int:
    """Record a turn after which the model gives these answers (prompt → one token); its number.

    before: what earlier turns in force have taught of these prompts, which this one takes back.
    edits: those that the turn tells of, if not all of `answers`.
    """
    before = before or {}
    shifts = []
    for prompt, answer in answers.items():
        shift = _embedding(ledger, answer)
        if prompt in before:
            shift = shift - _embedding(ledger, before[prompt])
        shifts.append(shift)
    rows = [PROMPTS.index(prompt) for prompt in answers]
    delta = LowRank(A=_only_at(ledger)[rows].float(), B=torch.stack(shifts).float())
    told = answers if edits is None else edits
    return plain_ledgers.add(
        ledger,
        {TENSOR: Change(delta=delta)},
        edits=[Edit(prompt=prompt, target=target) for prompt, target in told.items()],
    )


def _only_at(ledger: Ledger) -> Tensor:
    """(prompts, d_in): row i has the product 1 with the key of prompt i, and 0 with the others."""
    found = _keys(ledger.checkpoint.folder)
    solved: Tensor = torch.linalg.solve(found @ found.T, found)
    return solved


@cache
def _keys(model: Path) -> Tensor:
    encoded = encode_prompts(tokenizer(), PROMPTS)
    return keys(load(model, torch.float32), MODULE, encoded, "cpu").double()


def _embedding(ledger: Ledger, answer: str) -> Tensor:
    """What makes the model say `answer` when it is added to the hidden state at the end."""
    (token,) = tokenizer()(f" {answer}", add_special_tokens=False)["input_ids"]
    rows: Tensor = _head(ledger.checkpoint.folder)[token]
    return rows * (_LOUD / float(torch.linalg.vector_norm(rows)))


@cache
def _head(model: Path) -> Tensor:
    weight = output_head(load(model, torch.float32)).weight
    assert isinstance(weight, Tensor)
    return weight.detach().double()
