"""The matrix that gets a side memory, in its model: what is recorded of prompts, and replayed.

Many sequences run together, as one row without padding in which a common beginning is there once
(`patches.packed`), or as a padded batch where the architecture is not known to allow that.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby
from math import ceil
from operator import itemgetter

import torch
from torch import Tensor, nn
from torch.nn import functional

from patches import packed, replay
from patches.editors.finite_rows import Told
from patches.editors.last_layer import last_feed_forward, only_at
from patches.errors import EditingError
from patches.finite import is_finite
from patches.label_losses import head_is_last, label_losses, output_head, without_head
from patches.replay import Given, Recorded
from patches.side_memory import Form
from patches.tokens import Encoded, pad
from patches.tracing import logits_only_at

# At a time; of those that are replayed, what all layers above give is kept for a backward pass.
_TOKENS, _REPLAYED_TOKENS = 1024, 160


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompts:
    """b prompts up to the matrix.

    inputs: A(x) of n tokens, (n, d_in).  outputs: what the matrix gives for them, (n, d_out).
    places: (b, w), the tokens of each prompt among these n.  tokens: (b, w), which are real.
    """

    inputs: Tensor
    outputs: Tensor
    places: Tensor
    tokens: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Labels:
    """m labels of b sequences, in the order of the tokens that they are predicted at.

    positions: (1 or b, t), bool, these tokens as the model takes them.  which: (m,), the one of
    each label among them.  ids, owners: (m,), token and sequence.  counts: (b,), of each sequence.
    """

    positions: Tensor
    which: Tensor
    ids: Tensor
    owners: Tensor
    counts: Tensor

    def weights(self, weight: float) -> Tensor:
        """(m,): of each label in the sum of `weight` · −log P per label of every sequence."""
        return weight / self.counts[self.owners]

    def means(self, losses: Tensor) -> Tensor:
        """Of the losses of the labels (m,), of every sequence (b,)."""
        total = losses.new_zeros(len(self.counts))
        return total.index_add(0, self.owners, losses) / self.counts


@dataclass(frozen=True, kw_only=True, eq=False)
class Lines:
    """Prompts with their answers, to be run again from the matrix on."""

    prompts: Prompts
    labels: Labels
    recorded: Recorded


class Matrix:
    """The module that gets the memory, in its model."""

    def __init__(self, model: nn.Module, name: str, *, form: Form, device: torch.device) -> None:
        self.model = model
        self.name = name
        self.form = form
        self.device = device

    def record(
        self,
        encoded: Sequence[Encoded],
        *,
        as_asked: bool = False,
        told: Told = lambda _index: "a prompt that must stay outside",
    ) -> list[Prompts]:
        """The prompts in their order, in parts of bounded size, in the dtype of training.

        as_asked: with the model's own attention, as they run when the model is asked; in 16 bits
        that rounds otherwise. told: the sequence with an index, for people. EditingError where what
        reaches the matrix, or what it gives, is not finite at a token.
        """
        in_a_row = self._packable and not as_asked
        runs = self._runs(encoded, _TOKENS, told, in_a_row=in_a_row)
        return [_prompts(run.recorded, run.nodes, run.part) for run in runs]

    def record_lines(self, encoded: Sequence[Encoded], *, told: Told) -> list[Lines]:
        """As `record`, with what is needed to run them again; each must have an answer."""
        return [
            Lines(
                prompts=_prompts(run.recorded, run.nodes, run.part),
                labels=_labels(run.recorded, run.nodes, run.part),
                recorded=run.recorded,
            )
            for run in self._runs(
                encoded, _REPLAYED_TOKENS, told, in_a_row=self._packable, replayable=True
            )
        ]

    def _runs(
        self,
        encoded: Sequence[Encoded],
        tokens: int,
        told: Told,
        *,
        in_a_row: bool,
        replayable: bool = False,
    ) -> Iterator["_Run"]:
        done = 0
        for part in (_even_parts if in_a_row else _padded_parts)(encoded, tokens):
            given, nodes = (_row if in_a_row else _padded)(part, self.device)
            recorded = replay.record(
                self.model, self.name, given, replayable=replayable, called=not replayable
            )
            self._check_finite(recorded, nodes, done, told)
            recorded = replay.in_dtype(recorded, self._dtype(recorded))
            yield _Run(part=part, nodes=nodes, recorded=recorded)
            done += len(part)

    def _check_finite(self, recorded: Recorded, nodes: "_Nodes", first: int, told: Told) -> None:
        for what, rows in (("inputs", recorded.inputs), ("outputs", recorded.outputs)):
            if is_finite(rows):
                continue
            broken = (~torch.isfinite(rows).all(-1)).flatten().tolist()
            index = next((i for i, own in enumerate(nodes) if any(broken[n] for n in own)), None)
            if index is not None:  # else it is padding
                raise EditingError(
                    f"module {self.name}: {told(first + index)} gives {what} that are not finite; "
                    "the edited model is broken, or needs --dtype float32"
                )

    def _dtype(self, recorded: Recorded) -> torch.dtype:
        """What training computes in: on a CPU float32, since 16 bits are slow and coarse there."""
        return torch.float32 if recorded.inputs.device.type == "cpu" else recorded.inputs.dtype

    def computing(self, lines: Lines) -> AbstractContextManager[None]:
        """The context in which `losses` is called, of these lines and others."""
        recorded = lines.recorded
        return replay.computing_in(self.model, recorded, self._dtype(recorded))

    def activations(self, prompts: Prompts, change: Tensor) -> Tensor:
        """Δact of every prompt (b,). change: A(x) (W′ − W), (n, d_out)."""
        each = self.form.distances(prompts.outputs, change)
        return self.form.pooled(each[prompts.places], prompts.tokens)

    @torch.no_grad()
    def activations_of(self, prompts: Sequence[Prompts], delta: Tensor) -> list[float]:
        """Δact of every prompt for Δ (d_out, d_in), in their order."""
        each: list[float] = []
        for some in prompts:
            here = delta.to(some.inputs.device)
            change = functional.linear(some.inputs.to(delta.dtype), here)
            each += self.activations(some, change).tolist()
        return each

    def losses(self, lines: Lines, change: Tensor, *, weight: float | None = None) -> Tensor:
        """−log P(y | x) per target token of every sequence (b,), with the side memory in place.

        change: A(x) (W′ − W), (n, d_out).  weight: add the gradient of so many times the sum of
        these losses to `change.grad`.
        """
        labels = lines.labels
        weights = None if weight is None else labels.weights(weight)
        with nullcontext() if self._head is None else without_head(self.model):
            given = self._run_again(lines, change)
        # Of a split model, the head may be on another device than where tokens go in.
        ids = labels.ids.to(given.device)
        weights = None if weights is None else weights.to(given.device)
        if self._head is None:
            # What the architecture does to logits comes after the head.
            each = functional.cross_entropy(given.float(), ids, reduction="none")
            slopes = weights
        else:
            each, slopes = label_losses(self._head, given.detach(), ids, weights)
        if slopes is not None:
            torch.autograd.backward(each if self._head is None else given, slopes)
        return labels.means(each.detach().to(labels.ids.device))

    @cached_property
    def _packable(self) -> bool:
        return packed.packable(self.model)

    @cached_property
    def _last(self) -> str | None:
        # Of the architectures that are known not to mix tokens anywhere else.
        return last_feed_forward(self.model) if self._packable else None

    @cached_property
    def _head(self) -> nn.Linear | None:
        """The model's head, if logits are what it gives and nothing else."""
        head = output_head(self.model)
        return head if isinstance(head, nn.Linear) and head_is_last(self.model) else None

    def _run_again(self, lines: Lines, change: Tensor) -> Tensor:
        """What the model gives for each label, (m, vocabulary), or (m, d) without its head."""
        main = lines.recorded.outputs
        outputs = main + change.to(main.dtype).view(main.shape)
        with (
            self._last_only_at(lines),
            logits_only_at(self.model, lines.labels.positions),
            replay.replayed(self.model, self.name, lines.recorded, outputs) as run,
        ):
            given: Tensor = run().logits[0]
        # Two sequences that begin alike have different labels at one token.
        which = lines.labels.which.to(given.device)
        return given if len(given) == len(which) else given[which]

    def _last_only_at(self, lines: Lines) -> AbstractContextManager[None]:
        """Where the last feed-forward part comes after the matrix: only at the labels."""
        last = self._last
        before = (*lines.recorded.before, lines.recorded.part)
        if last is None or any(f"{part}.".startswith(f"{last}.") for part in before):
            return nullcontext()
        return only_at(self.model.get_submodule(last), lines.labels.positions)


_Nodes = Sequence[Sequence[int]]
"""For each sequence, where its tokens are among the n that are run."""


def _row(part: Sequence[Encoded], device: torch.device) -> tuple[Given, _Nodes]:
    row, nodes = packed.tree([item.ids for item in part])
    return row.to(device), nodes


def _padded(part: Sequence[Encoded], device: torch.device) -> tuple[Given, _Nodes]:
    batch = pad(part).to(device)
    width = batch.input_ids.shape[1]
    return batch, [range(i * width, i * width + len(item.ids)) for i, item in enumerate(part)]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    part: Sequence[Encoded]
    nodes: _Nodes
    recorded: Recorded


def _prompts(recorded: Recorded, nodes: _Nodes, part: Sequence[Encoded]) -> Prompts:
    # What predicts the answer's first token is the prompt's last.
    own = [places[: item.first + 1] for item, places in zip(part, nodes, strict=True)]
    width = max(map(len, own))
    device = recorded.inputs.device
    lengths = torch.tensor([len(places) for places in own], device=device)
    places = torch.tensor([[*places, *(0,) * (width - len(places))] for places in own])
    return Prompts(
        inputs=recorded.inputs.flatten(0, 1),
        outputs=recorded.outputs.flatten(0, 1),
        places=places.to(device),
        tokens=torch.arange(width, device=device) < lengths[:, None],
    )


def _labels(recorded: Recorded, nodes: _Nodes, part: Sequence[Encoded]) -> Labels:
    found = sorted(
        (place, owner, token)
        for owner, (item, places) in enumerate(zip(part, nodes, strict=True))
        for place, token in zip(places[item.first :], item.answer, strict=True)
    )
    device = recorded.inputs.device
    places, owners, ids = torch.tensor(found, device=device).T
    distinct, which = places.unique_consecutive(return_inverse=True)
    shape = recorded.inputs.shape[:2]
    positions = torch.zeros(shape.numel(), dtype=torch.bool, device=device)
    positions[distinct] = True
    return Labels(
        positions=positions.view(shape),
        which=which,
        ids=ids,
        owners=owners,
        counts=torch.tensor([len(item.answer) for item in part], device=device),
    )


def _even_parts(encoded: Sequence[Encoded], tokens: int) -> Iterator[Sequence[Encoded]]:
    """Consecutive sequences, in as few parts as have about `tokens` each at the most, and about as
    many as one another; common beginnings count once."""
    known: dict[tuple[int, int], int] = {}
    begins = list(accumulate((_new_tokens(item, known) for item in encoded), initial=0))
    total = begins.pop()
    count = ceil(total / tokens)
    numbers = (min(begin * count // total, count - 1) for begin in begins)
    for _, part in groupby(zip(numbers, encoded, strict=True), key=itemgetter(0)):
        yield [item for _, item in part]


def _new_tokens(item: Encoded, known: dict[tuple[int, int], int]) -> int:
    """How many tokens the tree of all sequences grows by. known: node and token → next node."""
    before, node = len(known), 0
    for token in item.ids:
        node = known.setdefault((node, token), len(known) + 1)
    return len(known) - before


def _padded_parts(encoded: Sequence[Encoded], tokens: int) -> Iterator[Sequence[Encoded]]:
    """Consecutive sequences of at most `tokens` with padding, or a single longer one."""
    start, width = 0, 0
    for end, item in enumerate(encoded):
        width = max(width, len(item.ids))
        if end > start and width * (end + 1 - start) > tokens:
            yield encoded[start:end]
            start, width = end, len(item.ids)
    if encoded:
        yield encoded[start:]
