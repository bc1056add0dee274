"""A step for UltraEdit that needs no learning rate, in several passes over the turn.

The published step, V = −η ‖ĥ‖² v̂, takes a rate η per model, pushes tokens that are right already
like the others, and is not looked at again. Here a token with loss ℓ, and gradients g of the sum of
all losses at the outputs of the edited modules m, asks for

    V_m = −α (ℓ − ℓ₀)₊ g_m / Σ_m ‖g_m‖²,   ‖V_m‖ ≤ c · ‖output of m‖,

so that to first order its loss falls by the share α of what is too much of it. The keys K of the
first pass, with C of `patches.editors.protection`, give the rows A = K C⁻¹, and every pass adds
(K Aᵀ + λI)⁻¹ V to the factor B of Δ = Bᵀ A, with the losses and gradients that the model has by
then: a Gauss-Newton method that keeps its first matrix. So a turn's Δ has one row per token,
however many passes there are.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from patches import replay
from patches.editors.finite_rows import Told, check_trace, numbered
from patches.editors.protection import Keys, protecting
from patches.errors import EditingError, ModelError
from patches.modules import Target
from patches.replay import Recorded
from patches.tokens import Batch, Encoded, by_length, pad
from patches.tracing import Trace, output_head, trace

_TOKENS_PER_BATCH = 512
_TINY = 1e-20


@dataclass(frozen=True, kw_only=True)
class Step:
    """share: α.  limit: c.  enough: ℓ₀, nats per token.  passes: at the most.  ridge: λ.

    prompts: weight of the keys at the prompts' other tokens, which are to be left alone.
    """

    share: float
    limit: float
    enough: float
    passes: int
    ridge: float
    prompts: float = 0.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Solved:
    """Factors of each target's Δ = Bᵀ A, by name.

    keys, a: K (n, d_in) and A (n, d_in), in the model's dtype. b: B (n, d_out), float64. losses:
    mean per target token (nats) before the turn and after each pass that made it smaller.
    """

    keys: dict[str, Tensor]
    a: dict[str, Tensor]
    b: dict[str, Tensor]
    losses: list[float]


def solve(
    model: nn.Module,
    targets: Sequence[Target],
    encoded: Sequence[Encoded],
    step: Step,
    protected: Mapping[str, Sequence[tuple[float, Keys]]],
    *,
    device: torch.device | str,
    told: Told = numbered,
    progress: Callable[[int], None] = lambda _done: None,
) -> Solved:
    """Solve one turn; the model is left as it was, to the bit.

    protected: by target, keys that are to be left alone, with their weights. progress gets the
    edits done, of all passes together, scaled to the number of edits. EditingError names the edit,
    by `told`, and the module where a number is not finite, and the module whose system has no
    stable solution. A pass after which the loss is not finite is taken back.
    """
    parts = list(by_length(encoded, _TOKENS_PER_BATCH))
    batches = [pad([encoded[i] for i in rows]).to(device) for rows in parts]
    order = [i for rows in parts for i in rows]
    runs = _Runs(model, targets, batches)
    report = partial(_scaled, progress, len(encoded), step.passes + 1)
    with _restored(targets) as before:
        seen = runs.traced(partial(report, 0), others=step.prompts > 0)
        check_trace(seen, [encoded[i] for i in order], order, told)
        solvers = [
            _solver(target, before[target.name], seen, protected, step) for target in targets
        ]
        losses = _passes(runs, solvers, seen, step, report)
    progress(len(encoded))
    return Solved(
        keys={solver.name: solver.keys for solver in solvers},
        a={solver.name: solver.a for solver in solvers},
        b={solver.name: solver.b for solver in solvers},
        losses=losses,
    )


def _passes(
    runs: "_Runs",
    solvers: Sequence["_Solver"],
    seen: Trace,
    step: Step,
    report: Callable[[int, int], None],
) -> list[float]:
    """Pass after pass from what is `seen` at first: the loss before them and after each.

    A pass that makes the loss larger is taken back, and the next asks for half.
    """
    losses = [seen.loss]
    for number in range(1, step.passes + 1):
        wanted = values(seen, step)
        if not any(v.any() for v in wanted.values()):
            break
        for solver in solvers:
            solver.add(wanted[solver.name])
        after = runs.traced(partial(report, number), gradients=number < step.passes)
        if after.loss < losses[-1]:
            seen = after
            losses.append(after.loss)
        else:
            for solver in solvers:
                solver.take_back()
            step = replace(step, share=step.share / 2)
    return losses


def values(seen: Trace, step: Step) -> dict[str, Tensor]:
    """V (n, d_out) of every module, float64: what its outputs should change by.

    Finite for whatever is finite. A token whose gradients are zero asks for nothing, as does one
    where the module gives zero; one whose gradients are below 1e-10 together, for less than its
    share.
    """
    gradients = {name: g.to(torch.float64) for name, g in seen.gradients.items()}
    home = seen.losses.device
    slope = sum(
        (g.square().sum(-1).to(home) for g in gradients.values()),
        start=torch.zeros_like(seen.losses, dtype=torch.float64),
    )
    excess = (seen.losses.to(torch.float64) - step.enough).clamp(min=0)
    pull = step.share * excess / slope.clamp(min=_TINY)
    wanted = {}
    for name, gradient in gradients.items():
        v = -pull.to(gradient.device)[:, None] * gradient
        longest = step.limit * seen.sizes[name].to(torch.float64)
        wanted[name] = v * (longest / v.norm(dim=-1).clamp(min=_TINY)).clamp(max=1)[:, None]
    return wanted


def _scaled(progress: Callable[[int], None], edits: int, runs: int, number: int, done: int) -> None:
    """progress in edits: `done` of them in the run with this number."""
    progress((number * edits + done) // runs)


def _solver(
    target: Target,
    before: Tensor,
    seen: Trace,
    protected: Mapping[str, Sequence[tuple[float, Keys]]],
    step: Step,
) -> "_Solver":
    left_alone = [*protected.get(target.name, ())]
    if target.name in seen.others:
        left_alone.append((step.prompts, Keys.of(seen.others[target.name])))
    return _Solver(target, before, seen.keys[target.name], left_alone, step)


class _Solver:
    """Of one module: K, A and B, and its weight with Δ on top while the passes go on."""

    def __init__(
        self,
        target: Target,
        before: Tensor,
        keys: Tensor,
        protected: Sequence[tuple[float, Keys]],
        step: Step,
    ) -> None:
        self.name = target.name
        self._target = target
        self._before = before
        self.keys = keys
        rows = protecting(keys, protected)
        if rows is None:
            raise EditingError(
                f"module {target.name}: the keys to protect leave no stable solution; lower their "
                "weights: --set retention=… --set contrast=…"
            )
        # What the patch stores is what the passes work with.
        self.a = rows.to(keys.dtype)
        system = keys.to(torch.float64) @ self.a.to(torch.float64).T
        system.diagonal().add_(step.ridge)
        self._factors, self._pivots, info = torch.linalg.lu_factor_ex(system)
        if info.item():
            raise EditingError(
                f"module {target.name}: the system has no stable solution; raise the ridge: "
                "--set ridge=10"
            )
        self.b = torch.zeros(len(keys), _outputs(target), dtype=torch.float64, device=keys.device)
        self._earlier = self.b

    def add(self, wanted: Tensor) -> None:
        """One more pass: B grows, and the module's weight with it."""
        self._earlier = self.b
        self.b = self.b + torch.linalg.lu_solve(self._factors, self._pivots, wanted)
        self._write()

    def take_back(self) -> None:
        """As before the last pass."""
        self.b = self._earlier
        self._write()

    def _write(self) -> None:
        delta = self.b.to(torch.float32).T @ self.a.to(torch.float32)
        if self._target.transposed:
            delta = delta.T
        _weight(self._target).copy_(self._before.to(torch.float32) + delta)


class _Runs:
    """The turn's batches, traced again and again; what does not change is computed once."""

    def __init__(
        self, model: nn.Module, targets: Sequence[Target], batches: Sequence[Batch]
    ) -> None:
        self._model = model
        self._modules = {target.name: target.module for target in targets}
        self._batches = batches
        self._recorded: list[Recorded] = []
        # Where to begin again; None before the first run, and where that is not possible.
        self._first: str | None = None

    def traced(
        self, progress: Callable[[int], None], *, gradients: bool = True, others: bool = False
    ) -> Trace:
        """All batches as the model answers them now."""
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


@contextmanager
def _restored(targets: Sequence[Target]) -> Iterator[dict[str, Tensor]]:
    """Inside, the weights may change; afterwards they are as they were: these, by target."""
    before = {target.name: _weight(target).detach().clone() for target in targets}
    try:
        with torch.no_grad():
            yield before
    finally:
        with torch.no_grad():
            for target in targets:
                _weight(target).copy_(before[target.name])


def _weight(target: Target) -> Tensor:
    weight: Any = target.module.weight
    assert isinstance(weight, Tensor)
    return weight


def _outputs(target: Target) -> int:
    return _weight(target).shape[1 if target.transposed else 0]
