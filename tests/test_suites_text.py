"""Suites on running text: perplexity, and how far the state has drifted from the base."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from sqlalchemy import select
from torch import nn

from ledger import database, history
from ledger.applying import apply_to_folder
from ledger.evaluating import evaluate
from ledger.orm import EvaluationRow, OutcomeRow
from ledger.rolling_back import rollback_to
from ledger.states import live_state
from ledger.suites.running_text import BLOCK, in_blocks, read_text
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches import text_scores
from patches.errors import DatasetError
from patches.routing import attached, bypassed
from patches.tokens import Encoded
from tests.ledgers import facts as plain_facts
from tests.ledgers import write_facts
from tests.side_memories import ledger_with_memories
from tests.taught_ledgers import facts, taught_ledger
from tests.tiny_models import CONTEXT, load, tokenizer

STRIDE = CONTEXT - CONTEXT // 4


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with taught_ledger(tmp_path_factory.mktemp("taught")) as ledger:
        yield ledger


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the state was taught, as a text of several windows."""
    path = tmp_path_factory.mktemp("text") / "taught.txt"
    path.write_text(" ".join(f"{one['prompt']} {one['target']}." for one in facts()))
    return path


def cut(path: Path) -> list[Encoded]:
    return text_scores.windows(tokenizer(), path.read_text(), window=CONTEXT, stride=STRIDE)


@torch.inference_mode()
def predicted(model: nn.Module, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities (tokens, vocabulary) in float64, and the tokens, window by window."""
    found = [
        model(input_ids=torch.tensor([one.ids]), use_cache=False).logits[0][one.first :]
        for one in cut(path)
    ]
    labels = [token for one in cut(path) for token in one.answer]
    return torch.cat(found).double().log_softmax(-1), torch.tensor(labels)


def perplexity(model: nn.Module, path: Path) -> float:
    given, labels = predicted(model, path)
    return math.exp(-given[range(len(labels)), labels].mean().item())


def test_perplexity_is_that_of_the_written_checkpoint_beside_the_base(
    taught: Ledger, text: Path, tmp_path: Path
) -> None:
    found = evaluate(taught, suite="perplexity", text=text)
    apply_to_folder(taught, tmp_path / "state")
    base, state = load(taught.checkpoint.folder), load(tmp_path / "state")
    assert found.base["perplexity"] == pytest.approx(perplexity(base, text), rel=1e-5)
    assert found.state["perplexity"] == pytest.approx(perplexity(state, text), rel=1e-5)
    assert found.state["perplexity"] < found.base["perplexity"] / 2
    assert found.n == sum(len(one.answer) for one in cut(text))
    for scores, intervals in zip((found.base, found.state), found.intervals, strict=True):
        inside = intervals["perplexity"]
        assert inside.low <= scores["perplexity"] <= inside.high
        assert inside.low < inside.high


def test_drift_is_the_divergence_of_the_written_checkpoint_from_the_base(
    taught: Ledger, text: Path, tmp_path: Path
) -> None:
    found = evaluate(taught, suite="general", text=text)
    apply_to_folder(taught, tmp_path / "state")
    p, labels = predicted(load(taught.checkpoint.folder), text)
    q, _ = predicted(load(tmp_path / "state"), text)
    expected = (p.exp() * (p - q)).sum(-1).mean().item()
    same = (p.argmax(-1) == q.argmax(-1)).double().mean().item()
    assert found.state == pytest.approx({"kl_divergence": expected, "same_top": same}, rel=1e-4)
    assert found.state["kl_divergence"] > 0.1
    assert found.base == {"kl_divergence": 0, "same_top": 1}
    assert found.n == len(labels)


def test_a_state_without_a_change_is_the_base(tmp_path: Path, text: Path) -> None:
    with taught_ledger(tmp_path) as ledger:
        rollback_to(ledger, 0)
        drifted = evaluate(ledger, suite="general", text=text)
        assert drifted.state == drifted.base
        read = evaluate(ledger, suite="perplexity", text=text)
        assert read.state == read.base


@pytest.mark.parametrize("suite", ["perplexity", "general"])
def test_what_is_recorded_says_which_text_and_how_it_was_read(
    taught: Ledger, text: Path, suite: str
) -> None:
    found = evaluate(taught, suite=suite, text=text, seed=3)
    with database.reading(taught.engine) as session:
        row = session.scalars(select(EvaluationRow).order_by(EvaluationRow.id.desc())).first()
        assert row is not None
        query = select(OutcomeRow).where(OutcomeRow.evaluation_id == row.id)
        assert session.scalars(query).all() == []
        session.expunge_all()
    assert (row.scope, row.scope_turn_id, row.n, row.seed) == ("text", None, found.n, 3)
    assert row.protocol == found.protocol
    assert row.protocol == {
        "name": suite,
        "version": 1,
        "suite": suite,
        "text": "taught.txt",
        "sha256": hashlib.sha256(text.read_bytes()).hexdigest(),
        "bytes": text.stat().st_size,
        "tokens": found.n,
        "window": CONTEXT,
        "stride": STRIDE,
    }
    assert (row.base, row.state) == (found.base, found.state)
    assert found.to_json()["scope"] == "text"
    assert verify(taught).problems == []


def test_a_text_comes_with_the_program(taught: Ledger) -> None:
    text = read_text(None)
    assert text.content.startswith("Alice was beginning to get very tired")
    assert 10_000 < text.bytes < 20_000
    found = evaluate(taught, suite="perplexity")
    assert found.protocol["text"] == "alice.txt"
    assert found.protocol["sha256"] == text.sha256


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        (b"", "has no tokens to predict"),
        (b"caf\xe9", "is not UTF-8 text .byte 3."),
    ],
)
def test_a_text_that_cannot_be_read_is_an_error(
    taught: Ledger, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DatasetError, match=f"text.txt: {reason}"):
        evaluate(taught, suite="general", text=path)


def test_a_text_goes_through_side_memories_as_the_prompts_of_edits_do(
    tmp_path: Path, tiny_llama: Path
) -> None:
    rows = plain_facts(9)
    path = tmp_path / "text.txt"
    path.write_text(" ".join(f"{row['prompt']} {row['target']}." for row in rows))
    source = write_facts(tmp_path / "facts.json", rows)
    with ledger_with_memories(tmp_path / "ledger", tiny_llama, source) as ledger:
        found = evaluate(ledger, suite="general", text=path, dtype="float32")
        read = evaluate(ledger, suite="perplexity", text=path, dtype="float32")
        with database.reading(ledger.engine) as session:
            turns = history.line(session, ledger.branch)
        live = live_state(ledger, turns, device="cpu", dtype="float32")
        q, _ = predicted(live.model, path)
        assert all(router.decision for router in attached(live.model).values())
        with bypassed(live.model):
            p, _ = predicted(live.model, path)
            plain = perplexity(live.model, path)
        routed = perplexity(live.model, path)
    divergence = (p.exp() * (p - q)).sum(-1).mean().item()
    assert found.state["kl_divergence"] == pytest.approx(divergence, rel=1e-3, abs=1e-9)
    assert read.state["perplexity"] == pytest.approx(routed, rel=1e-5)
    assert read.base["perplexity"] == pytest.approx(plain, rel=1e-5)
    assert divergence > 0
    assert routed != plain


def test_intervals_keep_neighbouring_tokens_together() -> None:
    values = [float(n) for n in range(2 * BLOCK + 3)]
    means, weights = in_blocks(values)
    assert weights == [BLOCK, BLOCK, 3]
    total = sum(mean * weight for mean, weight in zip(means, weights, strict=True))
    assert total == pytest.approx(sum(values))
