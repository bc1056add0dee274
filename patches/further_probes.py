"""Scores of the probes that a dataset brings beyond rephrasings and locality, kind by kind.

Token accuracy, teacher-forced, as `patches.evaluation` has it: what follows from an edit is asked
for with its own prompt and answer, e.g. in two hops, or in the words of someone else.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from patches.edit import Edit
from patches.evaluation import Questions, Scores, answer, mean
from patches.tokens import context_length

PROTOCOL = {"name": "portability", "version": 1}


def kinds(edits: Sequence[Edit]) -> list[str]:
    """The kinds of further probes that any of them has, in alphabetical order."""
    return sorted({kind for edit in edits for kind, probes in edit.further.items() if probes})


def score(
    model: nn.Module, tokenizer: Any, edits: Sequence[Edit], *, device: torch.device | str
) -> list[Scores]:
    """Of each edit: kind → mean accuracy over its probes of that kind; None where all of them are
    too long for the model. Kinds that it does not have are left out."""
    pairs = ((p.prompt, p.answer) for edit in edits for ps in edit.further.values() for p in ps)
    asked = Questions.asking(pairs, tokenizer, context_length(model.config))
    answers = answer(model, asked, device=device)
    return [
        {
            kind: mean(asked.accuracy(answers, p.prompt, p.answer) for p in probes)
            for kind, probes in edit.further.items()
            if probes
        }
        for edit in edits
    ]
