"""UltraEdit: training-free, closed-form weight shifts (arXiv 2505.14679).

For the target tokens of a turn, with keys K (n, d_in) and output gradients G (n, d_out) of a
module, and lifelong statistics (μ, σ) over the rows [k; g] (equations 5 to 8 of the paper):

    ĥ = (k − μ_k) / σ_k      v̂ = (g − μ_g) / σ_g      V = −η ‖ĥ‖² v̂      (row by row)
    Δ = (KᵀK + λI)⁻¹ Kᵀ V  =  Kᵀ (KKᵀ + λI)⁻¹ V

The second form is n × n. It hands over the factors of Δ: A = K, lossless in the model's dtype, and
B = (KKᵀ + λI)⁻¹ V. Where that would take more bytes than Δ itself, the first form is solved.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from patches.deltas import Delta, Dense, LowRank
from patches.editors import statistics
from patches.editors.statistics import Moments, Statistics, Variance
from patches.errors import EditingError, SettingError
from patches.modules import Target
from patches.patch import Change
from patches.tokens import Encoded, batches
from patches.tracing import trace

METHOD = "ultraedit"
Tokens = Literal["target", "all"]


@dataclass(frozen=True, kw_only=True)
class UltraEditSettings:
    """Hyperparameters.

    modules: names of the edited modules.
    learning_rate: η.  ridge: λ, 1 in the paper.
    batch_size: sequences per backward pass; the loss is their mean, so the result depends on it.
    tokens: positions that give keys: those that predict the target, or all.
    variance: ``published``, as the released code computes it (the rates were tuned with it), or
    ``welford``, the unbiased variance, whose steps are up to a tenth longer.
    """

    modules: tuple[str, ...]
    learning_rate: float
    ridge: float = 1.0
    batch_size: int = 10
    tokens: Tokens = "target"
    variance: Variance = "published"

    def __post_init__(self) -> None:
        if not self.modules:
            raise SettingError("no module to edit: give --modules")
        if not 0 < self.learning_rate < float("inf"):
            raise SettingError(f"learning_rate must be a positive number, not {self.learning_rate}")
        if not 0 < self.ridge < float("inf"):
            raise SettingError(f"ridge must be a positive number, not {self.ridge}")
        if self.batch_size < 1:
            raise SettingError(f"batch_size must be at least 1, not {self.batch_size}")
        if self.tokens not in ("target", "all"):
            raise SettingError(f"tokens must be 'target' or 'all', not {self.tokens!r}")
        if self.variance not in ("welford", "published"):
            raise SettingError(f"variance must be 'welford' or 'published', not {self.variance!r}")

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "modules": list(self.modules)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; SettingError for a name that is not a hyperparameter."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise SettingError(
                f"UltraEdit has no hyperparameter {unknown[0]!r}; it has {', '.join(sorted(known))}"
            )
        return cls(**{**values, "modules": tuple(values["modules"])})


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
    settings: UltraEditSettings,
    *,
    device: torch.device | str,
    progress: Callable[[int], None] = lambda _done: None,
) -> tuple[dict[str, Captured], Statistics, float]:
    """Keys and gradients of every target over the turn, its moments, and the mean loss.

    progress is called with the number of edits done. The moments are taken batch by batch, in the
    order of the published code, which decides their `excess`.
    """
    modules = {target.name: target.module for target in targets}
    keys: dict[str, list[Tensor]] = {name: [] for name in modules}
    gradients: dict[str, list[Tensor]] = {name: [] for name in modules}
    moments: Statistics = {}
    loss, done = 0.0, 0
    for batch in batches(encoded, settings.batch_size):
        seen = trace(model, modules, batch.to(device), everywhere=settings.tokens == "all")
        for name in modules:
            keys[name].append(seen.keys[name])
            gradients[name].append(seen.gradients[name])
            rows = torch.cat((seen.keys[name].float(), seen.gradients[name].float()), -1)
            group = f"{seen.keys[name].shape[1]}x{seen.gradients[name].shape[1]}"
            moments = statistics.merged(moments, {group: Moments.of(rows)})
        loss += seen.loss * len(batch.input_ids)
        done += len(batch.input_ids)
        progress(done)
    captured = {
        name: Captured(keys=torch.cat(keys[name]), gradients=torch.cat(gradients[name]))
        for name in modules
    }
    return captured, moments, loss / max(done, 1)


def values(captured: Captured, moments: Moments, settings: UltraEditSettings) -> Tensor:
    """V = −η ‖ĥ‖² v̂, (n, d_out), float64."""
    rows = torch.cat((captured.keys.float(), captured.gradients.float()), -1)
    normal = moments.normalise(rows, settings.variance)
    d_in = captured.keys.shape[1]
    h, v = normal[:, :d_in], normal[:, d_in:]
    return -settings.learning_rate * h.square().sum(-1, keepdim=True) * v


def solve(keys: Tensor, wanted: Tensor, ridge: float) -> Delta | None:
    """The ridge regression of `wanted` V (n, d_out) on `keys` K (n, d_in), in the smaller form.

    None if the system is not positive definite in float64.
    """
    n, d_in = keys.shape
    d_out = wanted.shape[1]
    exact = keys.to(torch.float64)
    if n * (d_in * keys.element_size() + d_out * 4) < d_in * d_out * 4:
        gram = exact @ exact.T
        gram.diagonal().add_(ridge)
        solution = _solve_positive(gram, wanted)
        return solution if solution is None else LowRank(A=keys.cpu(), B=_stored(solution))
    covariance = exact.T @ exact
    covariance.diagonal().add_(ridge)
    solution = _solve_positive(covariance, exact.T @ wanted)
    return solution if solution is None else Dense(delta=_stored(solution.T))


def _solve_positive(matrix: Tensor, right: Tensor) -> Tensor | None:
    factor, info = torch.linalg.cholesky_ex(matrix)
    return None if info.item() else torch.cholesky_solve(right, factor)


def _stored(solution: Tensor) -> Tensor:
    return solution.to(torch.float32).contiguous().cpu()


def shift(
    captured: Mapping[str, Captured],
    targets: Sequence[Target],
    lifelong: Statistics,
    settings: UltraEditSettings,
) -> dict[str, Change]:
    """The change of every target's tensor; `lifelong` already includes this turn's moments.

    Raises EditingError if a change is zero, not finite, or cannot be solved for.
    """
    changes: dict[str, Change] = {}
    for target in targets:
        seen = captured[target.name]
        if not torch.isfinite(seen.gradients).all() or not torch.isfinite(seen.keys).all():
            raise EditingError(
                f"module {target.name}: activations or gradients are not finite; "
                "the edited model is broken, or needs --dtype float32"
            )
        wanted = values(seen, lifelong[seen.group], settings)
        delta = solve(seen.keys, wanted, settings.ridge)
        if delta is None:
            raise EditingError(
                f"module {target.name}: the system has no stable solution; raise the ridge: "
                "--set ridge=10"
            )
        _check_usable(target.name, delta)
        changes[target.tensor] = Change(delta=delta, transposed=target.transposed)
    return changes


def _check_usable(name: str, delta: Delta) -> None:
    parts = delta.tensors()
    if not all(torch.isfinite(part).all() for part in parts.values()):
        raise EditingError(
            f"module {name}: the shift is not finite; lower the rate: --set learning_rate=…"
        )
    if not any(part.any() for part in (parts.get("B"), parts.get("delta")) if part is not None):
        raise EditingError(
            f"module {name}: the shift is zero. A first turn needs at least two different target "
            "tokens per shape of module to normalise by; add edits or modules"
        )
