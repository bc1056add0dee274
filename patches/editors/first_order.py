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

from patches.editors.finite_rows import Told, check_trace, numbered
from patches.editors.protection import Keys, protecting
from patches.editors.repeated_runs import Runs, runs_of
from patches.errors import EditingError
from patches.modules import Target
from patches.tokens import Encoded
from patches.tracing import Trace

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
    runs = runs_of(model, targets, encoded, device)
    report = partial(_scaled, progress, len(encoded), step.passes + 1)
    with _restored(targets) as before:
        seen = runs.traced(partial(report, 0), others=step.prompts > 0)
        check_trace(seen, [encoded[i] for i in runs.order], runs.order, told)
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
    runs: Runs,
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
