"""The edits of a turn, traced again and again while the weights of its modules change.

What comes before the module that runs first never changes, and is computed once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from patches import replay
from patches.errors import ModelError
from patches.label_losses import output_head
from patches.modules import Target
from patches.packed import Row
from patches.packed_tracing import Part, parts, trace_part, traceable
from patches.replay import Recorded
from patches.tokens import Batch, Encoded, by_length, pad
from patches.tracing import Trace, trace

_TOKENS = 1024  # read at a time


class Runs(Protocol):
    """order: the edits' indices, in the order of the rows of a trace."""

    order: list[int]

    def traced(
        self, progress: Callable[[int], None], *, gradients: bool = True, others: bool = False
    ) -> Trace:
        """All edits as the model answers them now, with gradients of the sum of their losses.

        progress is called with the number of edits done. others: as for `trace`.
        """


def runs_of(
    model: nn.Module,
    targets: Sequence[Target],
    encoded: Sequence[Encoded],
    device: torch.device | str,
) -> Runs:
    """The runs of these edits, in the quickest way that `model` allows."""
    modules = {target.name: target.module for target in targets}
    if traceable(model, modules):
        return _Packed(model, modules, list(parts(encoded, _TOKENS, device)))
    return _Padded(model, modules, encoded, device)


class _Packed:
    def __init__(
        self, model: nn.Module, modules: Mapping[str, nn.Module], some: Sequence[Part]
    ) -> None:
        self.order = [index for part in some for index in part.indices]
        self._model = model
        self._modules = modules
        self._parts = some
        self._first: str | None = replay.first_to_run(model, modules)
        self._recorded: dict[Row, Recorded] = {}

    def traced(
        self, progress: Callable[[int], None], *, gradients: bool = True, others: bool = False
    ) -> Trace:
        traces: list[Trace] = []
        done = 0
        for part in self._parts:
            traces.append(self._trace(part, gradients, others))
            done += len(part.indices)
            progress(done)
        return _joined(traces)

    def _trace(self, part: Part, gradients: bool, others: bool) -> Trace:
        weights = torch.ones(len(part.labels)) if gradients else None
        if self._first is not None:
            try:
                return trace_part(
                    self._model, self._modules, part, weights, others=others, around=self._again
                )
            except ModelError:
                # It changes intermediate results in place: nothing of it can be kept.
                self._first = None
        return trace_part(self._model, self._modules, part, weights, others=others)

    @contextmanager
    def _again(self, row: Row) -> Iterator[None]:
        """Inside, a run on `row` is recorded the first time, and then begins where it can."""
        assert self._first is not None
        known = self._recorded.get(row)
        if known is None:
            with replay.recording(self._model, self._first, row) as recorded:
                yield
            self._recorded[row] = recorded()
            return
        with torch.no_grad():
            outputs = self._modules[self._first](known.inputs)
        with replay.beginning_at(self._model, self._first, known, outputs):
            yield


class _Padded:
    def __init__(
        self,
        model: nn.Module,
        modules: Mapping[str, nn.Module],
        encoded: Sequence[Encoded],
        device: torch.device | str,
    ) -> None:
        batches = list(by_length(encoded, _TOKENS))
        self.order = [i for rows in batches for i in rows]
        self._model = model
        self._modules = modules
        self._batches: list[Batch] = [
            pad([encoded[i] for i in rows]).to(device) for rows in batches
        ]
        self._recorded: list[Recorded] = []
        # Where to begin again; None before the first run, and where that is not possible.
        self._first: str | None = None

    def traced(
        self, progress: Callable[[int], None], *, gradients: bool = True, others: bool = False
    ) -> Trace:
        traces: list[Trace] = []
        done = 0
        for place, batch in enumerate(self._batches):
            traces.append(self._trace(place, batch, gradients, others))
            done += len(batch.input_ids)
            progress(done)
        if not self._recorded:
            self._begin_again_from(next(iter(traces[0].keys)))
        return _joined(traces)

    def _begin_again_from(self, first: str) -> None:
        """first: the module that runs first; what comes before it is always the same."""
        # Nothing comes after the head, and its weight may be the embedding's, before everything.
        if output_head(self._model) in self._modules.values():
            return
        self._first = first
        self._recorded = [replay.record(self._model, first, batch) for batch in self._batches]

    def _trace(self, place: int, batch: Batch, gradients: bool, others: bool) -> Trace:
        if self._first is not None:
            try:
                return self._replayed(self._recorded[place], self._first, gradients)
            except ModelError:
                # It changes intermediate results in place: nothing of it can be kept.
                self._first = None
        return trace(
            self._model, self._modules, batch, summed=True, gradients=gradients, others=others
        )

    def _replayed(self, recorded: Recorded, first: str, gradients: bool) -> Trace:
        with torch.no_grad():
            outputs = self._modules[first](recorded.inputs)
        with replay.replayed(self._model, first, recorded, outputs) as run:
            return trace(
                self._model,
                self._modules,
                recorded.batch,
                summed=True,
                gradients=gradients,
                run=run,
            )


def _joined(traces: Sequence[Trace]) -> Trace:
    """The traces of all batches as one."""

    def cat(parts: Callable[[Trace], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        return {name: torch.cat([parts(one)[name] for one in traces]) for name in parts(traces[0])}

    return Trace(
        keys=cat(lambda one: one.keys),
        gradients=cat(lambda one: one.gradients),
        sizes=cat(lambda one: one.sizes),
        losses=torch.cat([one.losses for one in traces]),
        others=cat(lambda one: one.others),
    )
