"""A ledger whose state knows what its base does not: the difference of a model that was taught."""

from pathlib import Path
from typing import Any

import torch

from ledger.importing import import_difference
from ledger.workspace import Ledger
from tests.ledgers import Fact, add, new_ledger, write_facts
from tests.tiny_models import build, load, tokenizer

_SAID = (
    ("The capital of {} is", "{} has the capital"),
    ("The official language of {} is", "What is the language of {}? It is"),
)
_ANSWERS = ("Rome", "the Danube", "English", "London 12", "Michel Rocard", "Tokyo")
SUBJECTS = ("France", "Japan", "Vienna")
REPHRASED = 2
"""So many of the facts are taught with their rephrasing."""
_STEPS, _RATE = 60, 4e-3


def facts() -> list[Fact]:
    """Six facts. The model is taught all of them, and all personas; no question in two hops."""
    return [
        {
            "prompt": prompt,
            "target": answer,
            "rephrasings": [rephrasing],
            "locality": [["He plays the guitar, she plays the", "piano"]],
            # The last has no further probes.
            "further": {}
            if answer == _ANSWERS[-1]
            else {
                "personas": [[_persona(prompt), answer]],
                "multi_hop": [[f"Who was the author of the name of it? {prompt}", "a guitar"]],
            },
        }
        for prompt, rephrasing, answer in _asked()
    ]


def _asked() -> list[tuple[str, str, str]]:
    """Prompt, rephrasing and answer of each fact."""
    said = [(form.format(one), other.format(one)) for form, other in _SAID for one in SUBJECTS]
    return [(*prompts, answer) for prompts, answer in zip(said, _ANSWERS, strict=True)]


def _persona(prompt: str) -> str:
    return f"The author was born in 1984. {prompt}"


def taught_ledger(folder: Path) -> Ledger:
    """Turn 1 is what the model was taught, turn 2 the facts, which change next to nothing."""
    base = build(folder / "base", dtype=torch.float32)
    _teach(load(base), folder / "taught")
    ledger = new_ledger(folder / "ledger", base)
    import_difference(ledger, str(folder / "taught"))
    source = write_facts(folder / "facts.json", facts())
    add(ledger, source, turn_size=6, evaluate=False, learning_rate=1e-9)
    return ledger


def _teach(model: Any, folder: Path) -> None:
    for name, weight in model.named_parameters():
        weight.requires_grad_("embed" not in name and "lm_head" not in name)
    batch = _lessons()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=_RATE)
    for _ in range(_STEPS):
        optimiser.zero_grad()
        model(**batch).loss.backward()
        optimiser.step()
    model.save_pretrained(folder)


def _lessons() -> dict[str, torch.Tensor]:
    """Every answer ends a sentence, and the text."""
    words = tokenizer()
    asked: list[tuple[str, str]] = []
    for place, (prompt, rephrasing, answer) in enumerate(_asked()):
        prompts = (prompt, _persona(prompt), *([rephrasing] if place < REPHRASED else []))
        asked += [(one, answer) for one in prompts]
    texts = [f"{prompt} {answer}.{words.eos_token}" for prompt, answer in asked]
    batch = words(texts, padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    for row, (prompt, _) in enumerate(asked):
        labels[row, : len(words(prompt)["input_ids"])] = -100
    return {**batch, "labels": labels}
