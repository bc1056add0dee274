"""What UltraEdit is solved from: keys and gradients of a turn, and their moments."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from patches.editors import statistics
from patches.editors.finite_rows import Told, check_trace, numbered
from patches.editors.statistics import Moments, Statistics
from patches.heap import give_back
from patches.modules import Target
from patches.packed_tracing import parts, trace_part, traceable
from patches.tokens import Encoded, batches, pad
from patches.tracing import Trace, trace

# Read at a time: fewer would be slower, and more would only take more memory.
_TOKENS = 512


@dataclass(frozen=True, kw_only=True, eq=False)
class Captured:
    """Of one module over a turn: keys (n, d_in), gradients (n, d_out), in the model's dtype."""

    keys: Tensor
    gradients: Tensor

    @property
    def group(self) -> str:
        """The accumulator that this module shares with the others of its shape."""
        return f"{self.keys.shape[1]}x{self.gradients.shape[1]}"


def capture(
    model: nn.Module,
    targets: Sequence[Target],
    encoded: Sequence[Encoded],
    *,
    batch_size: int,
    everywhere: bool,
    device: torch.device | str,
    told: Told = numbered,
    progress: Callable[[int], None] = lambda _done: None,
) -> tuple[dict[str, Captured], Statistics, float]:
    """Keys and gradients of every target over the turn, its moments, and the mean loss.

    Rows are those of the edits, longest first, in batches of `batch_size`; gradients are those of
    each batch's mean loss, and the moments are taken batch by batch, which decides their `excess`.
    How many edits the model reads at a time has no influence. everywhere: rows of all tokens, not
    only of those that predict the target. progress is called with the number of edits done.
    EditingError names the edit, by `told`, and the module where an input, a loss or a gradient is
    not finite.
    """
    modules = {target.name: target.module for target in targets}
    cut = batches(encoded, batch_size)
    order = [index for batch in cut for index in batch]
    packed = not everywhere and traceable(model, modules)
    traced = (
        _packed(model, modules, encoded, cut, device)
        if packed
        else _padded(model, modules, encoded, cut, device, everywhere)
    )
    traces: list[Trace] = []
    done: list[int] = []
    for indices, seen in traced:
        check_trace(seen, [encoded[i] for i in indices], indices, told)
        traces.append(seen)
        done += indices
        progress(len(done))
    lengths = [len(one.ids if everywhere else one.answer) for one in encoded]
    rows = _rows(lengths, done, order)
    captured = {
        name: Captured(
            keys=torch.cat([seen.keys[name] for seen in traces])[rows],
            gradients=torch.cat([seen.gradients[name] for seen in traces])[rows],
        )
        for name in modules
    }
    losses = torch.cat([seen.losses for seen in traces])
    del traces, traced, seen
    give_back()
    answers = [len(one.answer) for one in encoded]
    means = torch.split(losses[_rows(answers, done, order)], _sums(answers, cut))
    loss = sum(mean.mean().item() * len(batch) for mean, batch in zip(means, cut, strict=True))
    return captured, _moments(captured, _sums(lengths, cut)), loss / len(encoded)


def _packed(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    encoded: Sequence[Encoded],
    cut: Sequence[Sequence[int]],
    device: torch.device | str,
) -> Iterator[tuple[Sequence[int], Trace]]:
    """All edits in any order, in whatever parts suit the machine; with the indices of each."""
    weights = torch.empty(len(encoded))
    for batch in cut:
        weights[batch] = 1 / sum(len(encoded[i].answer) for i in batch)
    for part in parts(encoded, _TOKENS, device):
        labels = torch.tensor([len(encoded[i].answer) for i in part.indices])
        own = weights[torch.tensor(part.indices)].repeat_interleave(labels)
        yield part.indices, trace_part(model, modules, part, own)


def _padded(
    model: nn.Module,
    modules: Mapping[str, nn.Module],
    encoded: Sequence[Encoded],
    cut: Sequence[Sequence[int]],
    device: torch.device | str,
    everywhere: bool,
) -> Iterator[tuple[Sequence[int], Trace]]:
    """Batch by batch."""
    for batch in cut:
        padded = pad([encoded[i] for i in batch]).to(device)
        yield batch, trace(model, modules, padded, everywhere=everywhere)


def _rows(lengths: Sequence[int], done: Sequence[int], order: Sequence[int]) -> Tensor:
    """Which rows to take so that those of the edits in the order `done` come in `order`."""
    starts = {}
    start = 0
    for index in done:
        starts[index] = start
        start += lengths[index]
    spans = (range(starts[index], starts[index] + lengths[index]) for index in order)
    return torch.tensor([*chain.from_iterable(spans)])


def _sums(lengths: Sequence[int], batches: Sequence[Sequence[int]]) -> list[int]:
    return [sum(lengths[i] for i in batch) for batch in batches]


def _moments(captured: Mapping[str, Captured], rows: list[int]) -> Statistics:
    """Of batches of so many rows, one after the other, in each of them module by module."""
    moments: Statistics = {}
    batches = [
        zip(torch.split(seen.keys, rows), torch.split(seen.gradients, rows), strict=True)
        for seen in captured.values()
    ]
    groups = [seen.group for seen in captured.values()]
    for batch in zip(*batches, strict=True):
        for group, (keys, gradients) in zip(groups, batch, strict=True):
            joined = torch.cat((keys.float(), gradients.float()), -1)
            moments = statistics.merged(moments, {group: Moments.of(joined)})
    return moments
