"""A live model as lm-evaluation-harness sees one. Imports the harness: for `ledger.harness` alone.

The harness's class for models of transformers does most of it. But it reads a prompt and its answer
in one pass without saying where the one ends, which routers beside side memories must know; it sums
log-probabilities in the model's dtype, where bfloat16 has ties; and it ties weights anew that the
checkpoint keeps apart.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor, nn

from ledger.progress import Progress
from patches.errors import DatasetError, ModelError
from patches.routing import deciding_on
from patches.tokens import IGNORED, Encoded, by_length, pad
from patches.tracing import logits_only_at

# Fixed, since padding shows in the last bits.
_TOKENS_PER_BATCH = 2048
_PROMPTS_PER_BATCH = 8

Request = tuple[tuple[str, str] | None, list[int], list[int]]
"""Context and continuation as texts (None: a piece of running text), and both as tokens."""
Answer = tuple[float, bool]
"""Log-probability of a continuation (nats), and whether it is what the model would say."""


class HarnessModel(HFLM):  # type: ignore[misc]  # it ships no types
    """Answers the harness's requests. cut: how many did not fit the model, and lost their start."""

    def __init__(self, model: nn.Module, tokenizer: Any, *, phase: str, progress: Progress) -> None:
        """phase: what `progress` is told."""
        with _ties_as_they_are(model):
            super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=_PROMPTS_PER_BATCH)
        self.cut = 0
        self._count = _Count(phase, progress)
        self.set_cache_hook(self._count)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
        self._count.begin(len(requests))
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
        self._count.begin(len(requests))
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = True) -> Any:
        self._count.begin(len(requests))
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def tok_batch_encode(
        self,
        strings: Sequence[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Token ids and attention mask of prompts, each cut to its last `left_truncate_len`."""
        ids, mask = super().tok_batch_encode(strings, padding_side, truncation=truncation)
        if left_truncate_len is None:
            return ids, mask
        self.cut += int((mask.sum(-1) > left_truncate_len).sum())
        return ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]

    @torch.inference_mode()
    def _loglikelihood_tokens(
        self,
        requests: Sequence[Request],
        disable_tqdm: bool = True,  # noqa: ARG002 (the harness's signature)
        override_bs: int | None = None,  # noqa: ARG002 (likewise)
    ) -> list[Answer]:
        """What the model makes of every request, in their order."""
        # Continuations that differ in their last token alone need one pass.
        places: dict[_Read, list[int]] = {}
        for place, request in enumerate(requests):
            places.setdefault(self._read(request), []).append(place)
        reads = list(places)
        encoded = [Encoded(ids=r.ids, answer=tuple(requests[places[r][0]][2])) for r in reads]
        found: dict[int, Answer] = {}
        for indices in by_length(encoded, _TOKENS_PER_BATCH):
            running = [reads[i].running for i in indices]
            for index, logits in zip(
                indices, self._logits([encoded[i] for i in indices], running), strict=True
            ):
                for place in places[reads[index]]:
                    found[place] = self._answered(requests[place], logits)
        return [found[place] for place in range(len(requests))]

    def _read(self, request: Request) -> "_Read":
        texts, context, continuation = request
        if not continuation:
            raise DatasetError(f"an answer to {(texts or ('',))[0]!r} has no tokens")
        if len(continuation) > self.max_length:
            raise ModelError(
                f"an answer of {len(continuation)} tokens is longer than the model reads at once, "
                f"{self.max_length}"
            )
        whole = (*context, *continuation)
        self.cut += len(whole) - 1 > self.max_length
        return _Read(
            ids=whole[:-1][-self.max_length :],
            answer=len(continuation),
            running=texts is None or not texts[0],
        )

    def _logits(self, encoded: Sequence[Encoded], running: Sequence[bool]) -> Iterator[Tensor]:
        """Per sequence (n, vocabulary), float32: the logits at the n positions of its answer."""
        batch = pad(encoded).to(self.device)
        wanted = batch.labels != IGNORED
        whole = torch.tensor(running, device=self.device).unsqueeze(-1)
        prompts = torch.where(whole, batch.attention_mask.bool(), batch.prompts)
        with logits_only_at(self.model, wanted), deciding_on(self.model, prompts):
            logits = self.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            ).logits[0]
        for rows in logits.split([len(item.answer) for item in encoded]):
            yield rows.float()

    def _answered(self, request: Request, logits: Tensor) -> Answer:
        texts, _, continuation = request
        tokens = torch.tensor(continuation, device=logits.device)
        chosen = logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        likelihood = float((chosen - logits.logsumexp(-1)).sum())
        answer = (likelihood, bool((logits.argmax(-1) == tokens).all()))
        if texts is not None:
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return answer


class _Read(NamedTuple):
    """What the model reads for a request, the last `answer` positions for its answer.

    running: it is running text, without a prompt before it: routers decide on all of it.
    """

    ids: tuple[int, ...]
    answer: int
    running: bool


class _Count:
    """Stands where the harness puts a cache of answers, and counts them."""

    def __init__(self, phase: str, progress: Progress) -> None:
        self._phase = phase
        self._progress = progress
        self._done = self._total = 0

    def begin(self, total: int) -> None:
        self._done, self._total = 0, total
        self._progress(self._phase, 0, total)

    def add_partial(self, _kind: str, _request: object, _answer: object) -> None:
        self._done += 1
        self._progress(self._phase, self._done, self._total)


@contextmanager
def _ties_as_they_are(model: Any) -> Iterator[None]:
    """Inside, nobody ties weights of `model` that were loaded apart."""
    model.tie_weights = lambda: None
    try:
        yield
    finally:
        del model.tie_weights
