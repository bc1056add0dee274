"""A live model in lm-evaluation-harness: what it reads, and what is left of it."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ledger.harness_model import HarnessModel
from ledger.progress import silent
from ledger.states import live_state
from ledger.workspace import Ledger
from patches import evaluation
from patches.evaluation import Questions
from patches.live import LiveModel
from patches.routing import attached
from patches.tokens import encode
from tests import plain_ledgers, tiny_models
from tests.ledgers import facts, write_facts
from tests.side_memories import ledger_with_memories
from tests.tiny_models import load, tokenizer


@pytest.fixture
def routed(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    """Three turns with a side memory each."""
    source = write_facts(tmp_path / "facts.json", facts(12))
    with ledger_with_memories(tmp_path / "ledger", tiny_llama, source) as ledger:
        yield ledger


def test_a_memory_is_chosen_by_the_prompt_alone_whatever_answer_follows(routed: Ledger) -> None:
    live, model = _live(routed)
    prompt = str(facts(1)[0]["prompt"])
    # The second pair reads the tokens of the first, of which more are a prompt.
    pairs = [
        (prompt, "the Danube"),
        (f"{prompt} the", "Danube"),
        (prompt, "Rome"),
        (prompt, "a"),
        ("Who was the author of the book?", "London 12"),
    ]
    requests = [SimpleNamespace(args=(text, f" {answer}")) for text, answer in pairs]
    given = [likelihood for likelihood, _ in model.loglikelihood(requests)]
    prompts, answers = zip(*pairs, strict=True)
    questions = Questions(encoded=tuple(encode(tokenizer(), prompts, answers)), index={})
    said = evaluation.answer(live.model, questions, device="cpu")
    assert {one.routed for one in said} == {True, False}
    expected = [
        one.log_probability * len(item.answer)
        for one, item in zip(said, questions.encoded, strict=True)
    ]
    assert given == pytest.approx(expected, rel=1e-4)


def test_text_without_a_prompt_is_routed_as_a_whole(routed: Ledger) -> None:
    live, model = _live(routed)
    text = f"{facts(1)[0]['prompt']} Rome"
    ids = tokenizer()(text)["input_ids"]
    [(scored, _)] = model.loglikelihood([SimpleNamespace(args=("", text))])
    assert scored == pytest.approx(_likelihood(live, ids), rel=1e-4)
    [router] = attached(live.model).values()
    assert router.decision is not None
    assert router.decision.routes[0] >= 0
    # Here the harness puts a token before the text, whatever it begins with.
    [rolling] = model.loglikelihood_rolling([SimpleNamespace(args=(text,))])
    assert rolling == pytest.approx(_likelihood(live, [ids[0], *ids]), rel=1e-4)


@torch.inference_mode()
def _likelihood(live: LiveModel, ids: list[int]) -> float:
    """Of all tokens but the first; routers decide on all that are read."""
    read, said = torch.tensor([ids[:-1]]), torch.tensor(ids[1:])
    logits: torch.Tensor = live.model(input_ids=read, use_cache=False).logits[0].float()
    return float(logits.log_softmax(-1).gather(-1, said[:, None]).sum())


def _live(ledger: Ledger) -> tuple[LiveModel, Any]:
    live = live_state(ledger, plain_ledgers.line(ledger), device="cpu", dtype="float32")
    return live, HarnessModel(live.model, tokenizer(), phase="x", progress=silent)


def test_weights_that_the_checkpoint_keeps_apart_are_not_tied_by_being_scored(
    tmp_path: Path,
) -> None:
    model: Any = load(tiny_models.build(tmp_path / "model"))
    model.config.tie_word_embeddings = True
    head, embeddings = model.lm_head.weight, model.model.embed_tokens.weight
    HarnessModel(model, tokenizer(), phase="x", progress=silent)
    assert model.lm_head.weight is head
    assert model.model.embed_tokens.weight is embeddings
    # As it would have been.
    model.tie_weights()
    assert model.lm_head.weight is embeddings
