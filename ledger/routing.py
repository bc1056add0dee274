"""Which memory a prompt goes to, and why: for people who debug routing."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ledger import database, history
from ledger.models import load_tokenizer
from ledger.progress import Progress, silent
from ledger.refs import Rev
from ledger.states import live_state
from ledger.workspace import Ledger
from patches.errors import HistoryError, SettingError
from patches.routing import attached
from patches.tokens import context_length, encode_prompts, pad


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A side memory and what a prompt is to it. strength: activation in units of the threshold."""

    turn: int
    tensor: str
    activation: float
    threshold: float
    strength: float
    chosen: bool


@dataclass(frozen=True, kw_only=True)
class Routed:
    """Where a prompt goes. turns: of the memories that it goes to, one per matrix at the most."""

    prompt: str
    tokens: int
    turns: list[int]
    memories: list[Candidate]

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger route --json``; fields are only ever added."""
        return asdict(self)


@torch.inference_mode()
def route(
    ledger: Ledger,
    prompts: Sequence[str],
    *,
    at: Rev | None = None,
    device: str = "auto",
    dtype: str | None = None,
    progress: Progress = silent,
) -> list[Routed]:
    """Where each prompt goes in the state after turn `at` (default: the head).

    HistoryError if no side memory is in force; SettingError for a prompt that the model cannot
    take.
    """
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch, at)
    tokenizer = load_tokenizer(ledger.checkpoint.folder)
    live = live_state(ledger, turns, device=device, dtype=dtype, progress=progress)
    if not live.memories:
        raise HistoryError(
            f"no side memory is in force at turn {len(turns)}: every prompt goes to the main "
            "weights. Make one with: ledger add-edits FACTS --method wise"
        )
    encoded = encode_prompts(tokenizer, prompts)
    longest = context_length(live.model.config)
    routed = []
    for prompt, item in zip(prompts, encoded, strict=True):
        if not item.ids or (longest is not None and len(item.ids) > longest):
            raise SettingError(
                f"the prompt {prompt[:40]!r} has {len(item.ids)} tokens, the model takes from 1 to "
                f"{longest or 'any number'}"
            )
        batch = pad([item]).to(live.device)
        live.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
        candidates = candidates_of(live.model)
        routed.append(
            Routed(
                prompt=prompt,
                tokens=len(item.ids),
                turns=[candidate.turn for candidate in candidates if candidate.chosen],
                memories=candidates,
            )
        )
    return routed


def candidates_of(model: torch.nn.Module) -> list[Candidate]:
    """Of the one sequence that went through last: every memory, in the order of turns."""
    found = []
    for router in attached(model).values():
        decision = router.decision
        assert decision is not None
        [activations], [chosen] = decision.activations, decision.routes
        for index, memory in enumerate(router.memories):
            found.append(
                Candidate(
                    turn=memory.turn,
                    tensor=memory.tensor,
                    activation=activations[index],
                    threshold=memory.routing.threshold,
                    strength=activations[index] / memory.routing.threshold,
                    chosen=index == chosen,
                )
            )
    return sorted(found, key=lambda candidate: candidate.turn)
