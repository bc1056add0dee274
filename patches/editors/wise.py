"""WISE: a side memory beside one feed-forward matrix, trained on a turn's edits (arXiv 2405.14768).

With W′ = W + Δ, Δ zero outside of a random mask of ratio ρ, and the routing activation Δact of
`patches.side_memory`, the loss over a batch of edits is (sections 2.3.1 and 2.3.2)

    −log P(y | x) + w · [max(0, Δact(o) − α) + max(0, β − Δact(x)) + max(0, γ − Δact(x) + Δact(o))]

for prompts x of edits, alone and after each context, their targets y, and prompts o that must stay
outside; the first term is the mean over the target's tokens, each hinge the mean over the prompts
that violate it. Adam moves the masked entries only: all others keep the bits of W.

Everything before the matrix is computed once (`patches.replay`), and the gradient of Δ is formed
from that of the matrix's outputs, G: ∂L/∂Δ = Gᵀ A(x).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import functional

from patches.editors.finite_rows import Told, numbered
from patches.editors.wise_matrix import Matrix, Prompts
from patches.errors import EditingError, SettingError
from patches.side_memory import FORMS
from patches.tokens import Encoded
from patches.tracing import without_weight_gradients

METHOD = "wise"


@dataclass(frozen=True, kw_only=True)
class WiseSettings:
    """Hyperparameters.

    modules: the name of the one matrix that gets the memory.
    learning_rate: of Adam.  iterations: steps on every batch.
    batch: edits that are trained together; 1 trains them one after the other, as the paper does.
    mask_ratio: ρ.  alpha, beta, gamma: margins, in units of Δact.  activation_weight: w.
    threshold: where ε lies, from 0 at the strongest prompt that must stay outside to 1 at the
    weakest edit (the paper's).
    form: of Δact, ``paper`` or ``published``.
    contexts: texts that are put before a prompt, so that the edit does not depend on its position.
    out_of_scope: where the prompts that must stay outside come from: ``rows``, from the locality
    prompts of the edits, or from the pool for those that have none; or ``pool`` for all.
    pool: those sentences, or None: built in.
    """

    modules: tuple[str, ...]
    learning_rate: float
    alpha: float
    beta: float
    gamma: float
    activation_weight: float = 0.05
    iterations: int = 25
    batch: int = 100
    mask_ratio: float = 0.2
    threshold: float = 0.5
    form: str = "paper"
    contexts: tuple[str, ...] = ()
    out_of_scope: str = "rows"
    pool: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if len(self.modules) != 1:
            raise SettingError(
                f"WISE puts its memory beside one matrix, not {len(self.modules)}: give one "
                "--modules, e.g. --modules '*layers.22.mlp.down_proj'"
            )
        for name in ("learning_rate", "alpha", "beta", "gamma", "mask_ratio"):
            value = getattr(self, name)
            if not 0 < value < float("inf"):
                raise SettingError(f"{name} must be a positive number, not {value}")
        for name in ("iterations", "batch"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.activation_weight < float("inf"):
            raise SettingError(f"activation_weight must not be negative: {self.activation_weight}")
        if self.mask_ratio > 1:
            raise SettingError(f"mask_ratio is a share of the entries, not {self.mask_ratio}")
        if not 0 < self.threshold <= 1:
            raise SettingError(f"threshold must be above 0 and at most 1, not {self.threshold}")
        if self.form not in FORMS:
            raise SettingError(f"form must be one of {', '.join(FORMS)}, not {self.form!r}")
        if self.out_of_scope not in ("rows", "pool"):
            raise SettingError(f"out_of_scope must be 'rows' or 'pool', not {self.out_of_scope!r}")

    def to_json(self) -> dict[str, Any]:
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`; SettingError for a name that is not a hyperparameter."""
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise SettingError(
                f"WISE has no hyperparameter {unknown[0]!r}; it has {', '.join(sorted(known))}"
            )
        settings: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values.items()
        }
        return cls(**settings)


@dataclass(frozen=True, kw_only=True, eq=False)
class Lesson:
    """One edit as it is trained: its prompt with the target, alone and after contexts, and prompts
    that must stay outside."""

    wanted: tuple[Encoded, ...]
    outside: tuple[Encoded, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """What training came to.

    values: Δ at the masked entries, float32.  losses: −log P per target token, by edit.
    outside: the prompts that it was kept away from.
    """

    values: Tensor
    losses: list[float]
    activation_loss: float
    outside: list[Prompts]


def train(
    matrix: Matrix,
    lessons: Sequence[Lesson],
    mask: Tensor,
    settings: WiseSettings,
    *,
    always: Sequence[Prompts] = (),
    told: Told = numbered,
    progress: Callable[[int], None] = lambda _done: None,
) -> Trained:
    """Train Δ at the entries that `mask` (d_out, d_in) marks, on the lessons batch by batch.

    always: prompts that must stay outside whatever the lessons are. told: a lesson, for people.
    Deterministic on one machine. Raises EditingError, with the lesson, where a number that reaches
    the matrix is not finite, and if the loss becomes NaN or infinite. An input of zeros has no part
    in the gradient.
    """
    values = torch.zeros(int(mask.sum()), device=mask.device)
    losses: list[float] = []
    outside: list[Prompts] = []
    activation = 0.0
    for start in range(0, len(lessons), settings.batch):
        part = lessons[start : start + settings.batch]
        step = _Batch(matrix, part, mask, settings, always, partial(_later, told, start))
        with (
            torch.enable_grad(),
            without_weight_gradients(matrix.model),
            matrix.computing(step.lines[0]),
        ):
            optimiser = torch.optim.Adam([values], lr=settings.learning_rate)
            for done in range(settings.iterations):
                values.grad = step.gradient(values)
                optimiser.step()
                progress(start + len(part) * (done + 1) // settings.iterations)
            found, activation = step.evaluate(values)
        losses += found
        outside += step.outside
    return Trained(
        values=values,
        losses=losses,
        activation_loss=activation,
        outside=outside,
    )


class _Batch:
    """Lessons that are trained together.

    lines: their sequences.  outside: prompts that must stay outside, theirs and others.
    """

    def __init__(
        self,
        matrix: Matrix,
        lessons: Sequence[Lesson],
        mask: Tensor,
        settings: WiseSettings,
        always: Sequence[Prompts] = (),
        told: Told = numbered,
    ) -> None:
        self._matrix = matrix
        self._places = mask.reshape(-1).nonzero()[:, 0]
        # First Δ, then its gradient, in every iteration: fresh memory would cost as much as the
        # products.
        self._dense = torch.zeros(mask.shape, device=mask.device)
        self._settings = settings
        self._count = len(lessons)
        # Those with one context come one after the other, so that it is computed once.
        owners, wanted = zip(*_in_turns([lesson.wanted for lesson in lessons]), strict=True)
        self._owners: tuple[int, ...] = owners
        self.lines = matrix.record_lines(wanted, told=lambda i: told(owners[i]))
        own = matrix.record([e for lesson in lessons for e in lesson.outside])
        self.outside = [*own, *always]
        self._inside = [lines.prompts for lines in self.lines]

    def gradient(self, values: Tensor) -> Tensor:
        """Of the loss with respect to the masked entries."""
        delta = self._filled(values)
        inside, outside = self._changes(self._inside, delta), self._changes(self.outside, delta)
        total = self._settings.activation_weight * self._activation_loss(inside, outside)
        if total.requires_grad:
            torch.autograd.backward(total)
        sequences = len(self._owners)
        loss = total.item()
        for lines, change in zip(self.lines, inside, strict=True):
            losses = self._matrix.losses(lines, change, weight=1 / sequences)
            loss += losses.sum().item() / sequences
        _check_finite(loss)
        gradient = self._dense.zero_()
        pairs = zip((*self._inside, *self.outside), (*inside, *outside), strict=True)
        for prompts, change in pairs:
            if change.grad is not None:
                gradient.addmm_(change.grad.T, prompts.inputs.to(gradient.dtype))
        return gradient.view(-1)[self._places]

    @torch.no_grad()
    def evaluate(self, values: Tensor) -> tuple[list[float], float]:
        """The loss of every edit over its sequences, and the activation loss."""
        delta = self._filled(values)
        inside, outside = self._changes(self._inside, delta), self._changes(self.outside, delta)
        activation = self._activation_loss(inside, outside).item()
        each: list[float] = []
        for lines, change in zip(self.lines, inside, strict=True):
            each += self._matrix.losses(lines, change).tolist()
        _check_finite(sum(each))
        totals, counts = [0.0] * self._count, [0] * self._count
        for owner, loss in zip(self._owners, each, strict=True):
            totals[owner] += loss
            counts[owner] += 1
        return [total / count for total, count in zip(totals, counts, strict=True)], activation

    def _filled(self, values: Tensor) -> Tensor:
        self._dense.zero_().view(-1).index_copy_(0, self._places, values)
        return self._dense

    def _changes(self, prompts: Sequence[Prompts], delta: Tensor) -> list[Tensor]:
        """A(x) Δ of all of them, float32, each the start of a graph of its own."""
        return [
            functional.linear(some.inputs.to(delta.dtype), delta).requires_grad_()
            for some in prompts
        ]

    def _activation_loss(self, inside: list[Tensor], outside: list[Tensor]) -> Tensor:
        within = self._activations(self._inside, inside)
        beyond = self._activations(self.outside, outside)
        gaps = within[:, None] - beyond[None, :]
        return (
            _violated(beyond - self._settings.alpha)
            + _violated(self._settings.beta - within)
            + _violated(self._settings.gamma - gaps)
        )

    def _activations(self, prompts: Sequence[Prompts], changes: list[Tensor]) -> Tensor:
        pairs = zip(prompts, changes, strict=True)
        each = [self._matrix.activations(some, change) for some, change in pairs]
        return torch.cat(each) if each else torch.zeros(0, device=self._places.device)


def _in_turns(groups: Sequence[Sequence[Encoded]]) -> list[tuple[int, Encoded]]:
    """The first of every group with the group's index, then the second of every group, …"""
    most = max(map(len, groups))
    return [(i, group[n]) for n in range(most) for i, group in enumerate(groups) if n < len(group)]


def _later(told: Told, start: int, index: int) -> str:
    """The lesson with this index from `start` on."""
    return told(start + index)


def _violated(excess: Tensor) -> Tensor:
    """The mean of the positive entries; 0 if there is none."""
    hinge = functional.relu(excess)
    return hinge.sum() / (hinge > 0).sum().clamp(min=1)


def _check_finite(loss: float) -> None:
    if not abs(loss) < float("inf"):
        raise EditingError(
            f"the loss of training became {loss}; lower the rate: --set learning_rate=…"
        )
