"""A small GPT-2 that knows facts: trained from scratch on sentences, in a few seconds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests import tiny_models
from tests.ledgers import Fact

COUNTRIES = (
    "France", "Japan", "Italy", "Finland", "Vienna", "London", "Rome", "Paris", "Tokyo", "Toyota",
    "Camry", "Danube", "Rocard", "Michel", "Danielle", "Darrieux",
)  # fmt: skip
RELATIONS = (
    ("The capital of {} is", "The name of the capital of {} is"),
    ("The official language of {} is", "What is the language of {}? It is"),
    ("The river of {} is", "The river that flows through {} is"),
    ("The author of {} is", "Who was the author of {}? It is"),
)
ANSWERS = ("Rome", "Paris", "Tokyo", "English", "French", "Finnish", "Danube", "London", "piano")
_STEPS, _BATCH, _RATE = 150, 24, 6e-3


def known(subject: int, relation: int) -> str:
    """What the model is taught."""
    return ANSWERS[(subject * 5 + relation * 3) % len(ANSWERS)]


def prompts(subject: int, relation: int) -> tuple[str, str]:
    first, second = RELATIONS[relation]
    return first.format(COUNTRIES[subject]), second.format(COUNTRIES[subject])


def places() -> list[tuple[int, int]]:
    """(subject, relation) of every fact there is."""
    return [(s, r) for r in range(len(RELATIONS)) for s in range(len(COUNTRIES))]


def new_facts() -> list[Fact]:
    """For every fact that is known another answer, with a rephrasing and two other known facts."""
    return [
        _new_fact(place, subject, relation) for place, (subject, relation) in enumerate(places())
    ]


def _new_fact(place: int, subject: int, relation: int) -> Fact:
    others = [places()[(place + step) % len(places())] for step in (7, 23)]
    prompt, rephrasing = prompts(subject, relation)
    return {
        "prompt": prompt,
        "target": ANSWERS[(ANSWERS.index(known(subject, relation)) + 4) % len(ANSWERS)],
        "subject": COUNTRIES[subject],
        "old_target": known(subject, relation),
        "rephrasings": [rephrasing],
        "locality": [[prompts(*other)[0], known(*other)] for other in others],
    }


def build(folder: Path) -> Path:
    """Train it, and save it with its tokenizer in `folder`; returns `folder`."""
    tiny_models.build(
        folder, "gpt2", dtype=torch.float32, n_embd=64, n_layer=4, initializer_range=0.05
    )
    tokenizer = tiny_models.tokenizer(bos=False)
    texts = [f"{prompt} {known(*place)}" for place in places() for prompt in prompts(*place)]
    model = _trained(AutoModelForCausalLM.from_pretrained(folder), _batches(tokenizer, texts))
    model.save_pretrained(folder)
    return folder


def _batches(tokenizer: Any, texts: Sequence[str]) -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(0)
    found = []
    for _ in range(_STEPS):
        some = torch.randint(len(texts), (_BATCH,), generator=draw).tolist()
        batch = tokenizer([texts[n] for n in some], padding=True, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        found.append({**batch, "labels": labels})
    return found


def _trained(model: Any, batches: Sequence[dict[str, torch.Tensor]]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=len(batches))
        for batch in batches:
            model(**batch).loss.backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
    return model.eval()
