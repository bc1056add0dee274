"""UltraEdit: training-free, closed-form weight shifts (arXiv 2505.14679).

For the target tokens of a turn, with keys K (n, d_in) and output gradients G (n, d_out) of a
module, and lifelong statistics (μ, σ) over the rows [k; g] (equations 5 to 8 of the paper):

    ĥ = (k − μ_k) / σ_k      v̂ = (g − μ_g) / σ_g      V = −η ‖ĥ‖² v̂      (row by row)
    Δ = (KᵀK + λI)⁻¹ Kᵀ V  =  Kᵀ (KKᵀ + λI)⁻¹ V

The second form is n × n. It hands over the factors of Δ: A = K, lossless in the model's dtype, and
B = (KKᵀ + λI)⁻¹ V. Where that would take more bytes than Δ itself, the first form is solved.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self

import torch
from torch import Tensor

from patches.deltas import Delta, Dense, LowRank
from patches.editors.capturing import Captured
from patches.editors.finite_rows import check_rows
from patches.editors.protection import Keys, protecting
from patches.editors.statistics import Moments, Statistics, Variance
from patches.errors import EditingError, SettingError
from patches.finite import is_finite
from patches.modules import Target
from patches.patch import Change

METHOD = "ultraedit"
Tokens = Literal["target", "all"]
StepKind = Literal["published", "first-order"]

PUBLISHED_ONLY = ("learning_rate", "batch_size", "tokens", "variance")
_FIRST_ORDER_ONLY = ("share", "limit", "enough", "passes", "prompts")


@dataclass(frozen=True, kw_only=True)
class UltraEditSettings:
    """Hyperparameters. By default the published method, which needs a learning rate.

    modules: names of the edited modules.
    step: ``published``, or ``first-order`` (`patches.editors.first_order`), which takes share,
    limit, enough and passes in place of learning_rate, batch_size, tokens and variance.
    learning_rate: η.  ridge: λ of the solution, 1 in the paper.
    batch_size: sequences per backward pass; the loss is their mean, so the result depends on it.
    tokens: positions that give keys: those that predict the target, or all.
    variance: ``published``, as the released code computes it (the rates were tuned with it), or
    ``welford``, the unbiased variance, whose steps are up to a tenth longer.
    share: α, of a token's loss that a pass takes.  limit: c, of the size of a module's output.
    enough: ℓ₀, the loss of a token that is left alone, nats.  passes: at the most.
    retention, locality, contrast, prompts: weights of the keys that a turn is to leave alone: those
    of the turns in force; of neutral text; of its prompts with `contrasts` other subjects each; of
    its prompts' other tokens (of the first-order step).
    compact: relative error that the stored shift may have, ‖Δ′ − Δ‖ / ‖Δ‖, to take fewer bytes; 0:
    as it was solved for.
    """

    modules: tuple[str, ...]
    step: StepKind = "published"
    learning_rate: float | None = None
    ridge: float = 1.0
    batch_size: int = 10
    tokens: Tokens = "target"
    variance: Variance = "published"
    share: float = 1.0
    limit: float = 1.0
    enough: float = 0.0
    passes: int = 1
    retention: float = 0.0
    locality: float = 0.0
    contrast: float = 0.0
    prompts: float = 0.0
    contrasts: int = 3
    compact: float = 0.0

    def __post_init__(self) -> None:
        if not self.modules:
            raise SettingError("no module to edit: give --modules")
        self._check_choice("step", ("published", "first-order"))
        self._check_choice("tokens", ("target", "all"))
        self._check_choice("variance", ("welford", "published"))
        if self.step == "published" and self.learning_rate is None:
            raise SettingError("the published step needs a rate: --set learning_rate=…")
        for name in ("learning_rate", "ridge", "share", "limit"):
            self._check_number(name, lowest_allowed=False)
        for name in ("enough", "retention", "locality", "contrast", "prompts"):
            self._check_number(name, lowest_allowed=True)
        if self.compact and not 0 < self.compact < 1:
            raise SettingError(f"compact is an error from 0 to less than 1, not {self.compact}")
        for name in ("batch_size", "passes", "contrasts"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, not {getattr(self, name)}")

    def _check_choice(self, name: str, choices: tuple[str, ...]) -> None:
        value = getattr(self, name)
        if value not in choices:
            raise SettingError(f"{name} must be {' or '.join(map(repr, choices))}, not {value!r}")

    def _check_number(self, name: str, *, lowest_allowed: bool) -> None:
        value = getattr(self, name)
        if value is None:
            return
        if lowest_allowed and not 0 <= value < float("inf"):
            raise SettingError(f"{name} must not be negative, and finite: {value}")
        if not lowest_allowed and not 0 < value < float("inf"):
            raise SettingError(f"{name} must be a positive number, not {value}")

    def to_json(self) -> dict[str, Any]:
        """Those that count, for the step that was chosen."""
        idle = {*(PUBLISHED_ONLY if self.step == "first-order" else _FIRST_ORDER_ONLY)}
        if not self.contrast:
            idle.add("contrasts")
        if not self.compact:
            idle.add("compact")
        values = {name: value for name, value in asdict(self).items() if name not in idle}
        return {**values, "modules": list(self.modules)}

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


def values(captured: Captured, moments: Moments, settings: UltraEditSettings) -> Tensor:
    """V = −η ‖ĥ‖² v̂, (n, d_out), float64; finite wherever keys and gradients are.

    A feature that never varies, as one of zeros, is divided by the ε that σ has on top of it.
    """
    assert settings.learning_rate is not None
    keys, gradients = captured.keys.float(), captured.gradients.float()
    d_in = keys.shape[1]
    h = moments.normalise(keys, settings.variance, columns=slice(d_in))
    # Few of them: at 7B sizes each temporary has 50 MB.
    sizes = h.square_().sum(-1, keepdim=True)
    del h
    v = moments.normalise(gradients, settings.variance, columns=slice(d_in, None))
    return v.mul_(-settings.learning_rate * sizes)


def solve(
    keys: Tensor, wanted: Tensor, ridge: float, protected: Sequence[tuple[float, Keys]] = ()
) -> Delta | None:
    """The ridge regression of `wanted` V (n, d_out) on `keys` K (n, d_in), in the smaller form.

    protected: keys to be left alone, with their weights, which make C.
    None if the system is not positive definite in float64.

    A row of zeros in K adds nothing to Δ, whatever its V. Denormal keys are numbers like others:
    the system is float64, where squares of float32 neither overflow nor vanish. Infinities and NaN
    must have been refused (`patches.editors.finite_rows`).
    """
    exact = keys.to(torch.float64)
    if any(weight for weight, _ in protected):
        rows = protecting(keys, protected)
        if rows is None:
            return None
        # As the patch stores it.
        rows = rows.to(keys.dtype)
        solution = torch.linalg.solve(_plus(exact @ rows.T.to(torch.float64), ridge), wanted)
        return delta_of(rows, solution)
    if _factors_are_smaller(keys, wanted.shape[1]):
        solved = _solve_positive(_plus(exact @ exact.T, ridge), wanted)
        return None if solved is None else delta_of(keys, solved)
    solved = _solve_positive(_plus(exact.T @ exact, ridge), exact.T @ wanted)
    return None if solved is None else Dense(delta=_stored(solved.T))


def delta_of(a: Tensor, b: Tensor) -> Delta:
    """Δ = Bᵀ A of A (n, d_in) and B (n, d_out), in the form that takes fewer bytes."""
    if _factors_are_smaller(a, b.shape[1]):
        return LowRank(A=a.contiguous().cpu(), B=_stored(b))
    return Dense(delta=_stored(b.to(torch.float64).T @ a.to(torch.float64)))


def _factors_are_smaller(a: Tensor, d_out: int) -> bool:
    n, d_in = a.shape
    return n * (d_in * a.element_size() + d_out * 4) < d_in * d_out * 4


def _plus(matrix: Tensor, ridge: float) -> Tensor:
    matrix.diagonal().add_(ridge)
    return matrix


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
    protected: Mapping[str, Sequence[tuple[float, Keys]]] | None = None,
) -> dict[str, Change]:
    """The change of every target's tensor; `lifelong` already includes this turn's moments.

    protected: by target, keys to be left alone, with their weights.
    Raises EditingError if a change is zero, not finite, or cannot be solved for.
    """
    changes: dict[str, Change] = {}
    for target in targets:
        seen = captured[target.name]
        check_rows("inputs", {target.name: seen.keys}, _row)
        check_rows("gradients", {target.name: seen.gradients}, _row)
        wanted = values(seen, lifelong[seen.group], settings)
        delta = solve(seen.keys, wanted, settings.ridge, (protected or {}).get(target.name, ()))
        if delta is None:
            raise EditingError(
                f"module {target.name}: the system has no stable solution; raise the ridge: "
                "--set ridge=10"
            )
        check_usable(
            target.name,
            delta,
            zero="A first turn needs at least two different target tokens per shape of module to "
            "normalise by; add edits or modules",
            infinite="lower the rate: --set learning_rate=…",
        )
        changes[target.tensor] = Change(delta=delta, transposed=target.transposed)
    return changes


def _row(row: int, rows: int) -> str:
    return f"target token {row + 1} of {rows}"


def check_usable(name: str, delta: Delta, *, zero: str, infinite: str) -> None:
    """EditingError if the shift of module `name` is zero or not finite, with what to do then."""
    parts = delta.tensors()
    if not all(map(is_finite, parts.values())):
        raise EditingError(f"module {name}: the shift is not finite; {infinite}")
    if not any(part.any() for part in (parts.get("B"), parts.get("delta")) if part is not None):
        raise EditingError(f"module {name}: the shift is zero. {zero}")
