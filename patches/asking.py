"""What a model predicts where the tokens of answers are due, for many prompts with answers at once.

Where the model can take them so (`patches.packed`), they run as one row of tokens: what several
begin with in common, a whole prompt that is asked for two answers, runs once, and so does the head
at places that they share. Otherwise they are padded: with side memories, which decide sequence by
sequence, and for architectures of which it is not known that they can be packed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain, islice, takewhile
from operator import eq
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from patches.editors.last_layer import last_feed_forward, only_at
from patches.label_losses import head_is_last, logits_in_pieces, output_head, without_head
from patches.packed import packable, tree
from patches.packed_attention import attending
from patches.routing import attached, deciding_on
from patches.tokens import IGNORED, Encoded, pad
from patches.tracing import logits_only_at


class Limits(NamedTuple):
    """What is in memory at once: tokens that run, numbers in logits, and labels whose logits are
    there in float32 too."""

    tokens: int
    logits: int
    labels: int


# A processor is fastest with what stays in its caches, an accelerator with what keeps it busy.
PROCESSOR = Limits(tokens=512, logits=1 << 24, labels=8)
ACCELERATOR = Limits(tokens=8192, logits=1 << 28, labels=512)
_PIECE = 8192  # tokens of the vocabulary

Read = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Given places and labels (labels,): the tokens predicted there, and −log P of the labels."""


class Told(NamedTuple):
    """Of one answer: the token predicted in place of each of its tokens, −log P of each of these in
    nats, and whether the prompt went to a side memory; None if there is none."""

    predicted: tuple[int, ...]
    losses: tuple[float, ...]
    routed: bool | None


def limits(device: torch.device | str) -> Limits:
    return PROCESSOR if torch.device(device).type == "cpu" else ACCELERATOR


def batches(model: nn.Module, encoded: Sequence[Encoded], limit: Limits) -> list[list[int]]:
    """Indices of all of `encoded` in batches to `ask` the model together."""
    weight = output_head(model).weight
    assert isinstance(weight, Tensor)
    most = max(1, limit.logits // len(weight))
    if packs(model):
        order = sorted(range(len(encoded)), key=lambda i: encoded[i].ids)
    else:
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i].ids))
    return list(_cut(order, encoded, tokens=limit.tokens, labels=most, padded=not packs(model)))


def _cut(
    order: Sequence[int], encoded: Sequence[Encoded], *, tokens: int, labels: int, padded: bool
) -> Iterator[list[int]]:
    """`order` in batches of at most so many tokens and labels, but of one sequence at least."""
    batch: list[int] = []
    run = due = 0
    for i in order:
        ids, answer = encoded[i].ids, len(encoded[i].answer)
        if padded:
            more = len(ids) * (len(batch) + 1) - run
        else:
            more = len(ids) - (common_start(encoded[batch[-1]].ids, ids) if batch else 0)
        if batch and (run + more > tokens or due + answer > labels):
            yield batch
            batch, run, due, more = [], 0, 0, len(ids)
        batch.append(i)
        run, due = run + more, due + answer
    if batch:
        yield batch


def common_start(one: Sequence[object], other: Sequence[object]) -> int:
    """How many tokens, or letters, both begin with."""
    return sum(1 for _ in takewhile(bool, map(eq, one, other)))


@torch.inference_mode()
def ask(model: nn.Module, some: Sequence[Encoded], *, device: torch.device | str) -> list[Told]:
    """What `model` says to all of `some`, in one run. Each has an answer."""
    return _packed(model, some, device) if packs(model) else _padded(model, some, device)


def packs(model: nn.Module) -> bool:
    """Whether prompts run as one row of tokens."""
    return packable(model) and not attached(model)


def _packed(model: nn.Module, some: Sequence[Encoded], device: torch.device | str) -> list[Told]:
    row, nodes = tree([one.ids for one in some])
    due = list(chain(*(path[one.first :] for one, path in zip(some, nodes, strict=True))))
    wanted = torch.zeros((1, len(row)), dtype=torch.bool)
    wanted[0, due] = True
    number = wanted[0].cumsum(0) - 1
    wanted = wanted.to(device)
    last = last_feed_forward(model)
    fewer = nullcontext() if last is None else only_at(model.get_submodule(last), wanted)
    with attending(model, row.to(device)) as given, fewer:
        read = _run(model, wanted, given)
    return _told(read, number[due], some, [None] * len(some))


def _padded(model: nn.Module, some: Sequence[Encoded], device: torch.device | str) -> list[Told]:
    batch = pad(some).to(device)
    given = {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "use_cache": False,
    }
    wanted = batch.labels != IGNORED
    with deciding_on(model, batch.prompts):
        read = _run(model, wanted, given)
    labels = torch.arange(sum(len(one.answer) for one in some))
    return _told(read, labels, some, _routed(model, len(some)))


def _run(model: nn.Module, wanted: Tensor, given: dict[str, Any]) -> Read:
    """Run `model`; how to read what it says at the places `wanted`, (b, t), bool."""
    head = output_head(model)
    if isinstance(head, nn.Linear) and head_is_last(model):
        with without_head(model) as reached:
            model(**given)
        assert reached.hidden is not None
        return partial(read_hidden, head, reached.hidden[wanted])
    with logits_only_at(model, wanted):
        return partial(read_logits, model(**given).logits[0])


def _routed(model: nn.Module, count: int) -> list[bool | None]:
    """Whether each sequence of the last batch went to a side memory of any router."""
    decisions = [router.decision for router in attached(model).values()]
    if not decisions:
        return [None] * count
    return [any(d is not None and d.routes[row] >= 0 for d in decisions) for row in range(count)]


def _told(
    read: Read, places: Tensor, some: Sequence[Encoded], routed: Sequence[bool | None]
) -> list[Told]:
    """places: (labels,), number of the place at which each label is due."""
    labels = torch.tensor(list(chain(*(one.answer for one in some))))
    tops, losses = read(places, labels)
    predicted, each = iter(tops.tolist()), iter(losses.tolist())
    return [
        Told(
            predicted=tuple(islice(predicted, len(one.answer))),
            losses=tuple(islice(each, len(one.answer))),
            routed=went,
        )
        for one, went in zip(some, routed, strict=True)
    ]


def read_logits(logits: Tensor, places: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Of each label, which is due at row `places` of `logits` (n, vocabulary): the token predicted
    there, and −log P of the label, float32."""
    places, labels = places.to(logits.device), labels.to(logits.device)
    together = limits(logits.device).labels
    losses = [
        functional.cross_entropy(logits[at].float(), expected, reduction="none")
        for at, expected in zip(
            torch.split(places, together), torch.split(labels, together), strict=True
        )
    ]
    # In 16 bits `max` is several times faster than `argmax`; both take the first of equal ones.
    return logits.max(-1).indices[places], torch.cat(losses)


def read_hidden(
    head: nn.Linear, hidden: Tensor, places: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """As `read_logits`, given what goes into the head (n, d): the vocabulary piece by piece, so
    that neither all logits nor a copy of the head's weight that the product may make are there."""
    hidden = hidden.to(head.weight.device)
    places, labels = places.to(hidden.device), labels.to(hidden.device)
    best = hidden.new_full((len(hidden),), float("-inf"))
    tops = torch.zeros(len(hidden), dtype=torch.int64, device=hidden.device)
    expected = torch.empty(len(labels), device=hidden.device)
    sums: list[Tensor] = []
    for piece, logits in logits_in_pieces(head, hidden, _PIECE):
        first = piece.start
        highest = logits.max(-1)
        # Of equal ones the first stays.
        tops = torch.where(highest.values > best, highest.indices + first, tops)
        best = torch.maximum(best, highest.values)
        sums.append(_log_sums(logits))
        here = ((labels >= first) & (labels < piece.stop)).nonzero().squeeze(-1)
        expected[here] = logits[places[here], labels[here] - first].float()
    return tops[places], torch.stack(sums).logsumexp(0)[places] - expected


def _log_sums(logits: Tensor) -> Tensor:
    """log Σ exp of each row, (n,), float32; a few rows at a time are converted."""
    together = limits(logits.device).labels * 4
    return torch.cat([some.float().logsumexp(-1) for some in torch.split(logits, together)])
