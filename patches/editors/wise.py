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
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from patches import replay
from patches.editors.finite_rows import Told, numbered
from patches.errors import EditingError, SettingError
from patches.finite import is_finite
from patches.replay import Recorded
from patches.side_memory import FORMS, Form
from patches.tokens import IGNORED, Encoded, pad
from patches.tracing import logits_only_at, without_weight_gradients

METHOD = "wise"
_TOKENS_PER_RECORD = 1024


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
    wanted, outside: the sequences of all lessons in their order, for what is asked of them later.
    """

    values: Tensor
    losses: list[float]
    activation_loss: float
    wanted: list[Recorded]
    outside: list[Recorded]


class Matrix:
    """The module that gets the memory, in its model: what is recorded and replayed of it."""

    def __init__(self, model: nn.Module, name: str, *, form: Form, device: torch.device) -> None:
        self.model = model
        self.name = name
        self.form = form
        self.device = device

    def record(
        self,
        encoded: Sequence[Encoded],
        *,
        replayable: bool = False,
        told: Told = lambda _index: "a prompt that must stay outside",
    ) -> list[Recorded]:
        """The sequences in their order, in batches of bounded size, in the dtype of training.

        replayable: keep what a replay needs, which takes most of the memory. told: the sequence
        with an index, for people. EditingError where what reaches the matrix, or what it gives, is
        not finite at a token.
        """
        records: list[Recorded] = []
        done = 0
        for part in _parts(encoded):
            recorded = replay.record(self.model, self.name, pad(part).to(self.device))
            self._check_finite(recorded, done, told)
            done += len(part)
            if not replayable:
                recorded = replace(recorded, before={})
            records.append(replay.in_dtype(recorded, self.dtype(recorded)))
        return records

    def _check_finite(self, recorded: Recorded, first: int, told: Told) -> None:
        real = recorded.batch.attention_mask.bool()
        for what, rows in (("inputs", recorded.inputs), ("outputs", recorded.outputs)):
            if is_finite(rows):
                continue
            broken = ~torch.isfinite(rows).all(-1) & real.to(rows.device)
            if broken.any():
                index = first + int(broken.any(-1).nonzero()[0])
                raise EditingError(
                    f"module {self.name}: {told(index)} gives {what} that are not finite; the "
                    "edited model is broken, or needs --dtype float32"
                )

    def dtype(self, recorded: Recorded) -> torch.dtype:
        """What training computes in: on a CPU float32, since 16 bits are slow and coarse there."""
        return torch.float32 if recorded.inputs.device.type == "cpu" else recorded.inputs.dtype

    def activations(self, recorded: Recorded, change: Tensor) -> Tensor:
        """Δact of every sequence (b,). change: A(x) (W′ − W), (b, t, d_out)."""
        each = self.form.distances(recorded.outputs, change)
        return self.form.pooled(each, recorded.batch.prompts.to(each.device))

    @torch.no_grad()
    def activations_of(self, records: Sequence[Recorded], delta: Tensor) -> list[float]:
        """Δact of every sequence for Δ (d_out, d_in), in their order."""
        each: list[float] = []
        for recorded in records:
            here = delta.to(recorded.inputs.device)
            change = functional.linear(recorded.inputs.to(delta.dtype), here)
            each += self.activations(recorded, change).tolist()
        return each

    def losses(self, recorded: Recorded, change: Tensor) -> Tensor:
        """−log P(y | x) per target token of every sequence (b,), with the side memory in place."""
        wanted = recorded.batch.labels != IGNORED
        labels = recorded.batch.labels[wanted]
        outputs = recorded.outputs + change.to(recorded.outputs.dtype)
        with (
            logits_only_at(self.model, wanted),
            replay.replayed(self.model, self.name, recorded, outputs) as run,
        ):
            logits = run().logits[0]
        each = functional.cross_entropy(logits.float(), labels, reduction="none")
        total = each.new_zeros(wanted.shape).masked_scatter(wanted, each).sum(-1)
        return total / wanted.sum(-1)


def train(
    matrix: Matrix,
    lessons: Sequence[Lesson],
    mask: Tensor,
    settings: WiseSettings,
    *,
    always: Sequence[Recorded] = (),
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
    wanted: list[Recorded] = []
    outside: list[Recorded] = []
    activation = 0.0
    for start in range(0, len(lessons), settings.batch):
        part = lessons[start : start + settings.batch]
        step = _Batch(matrix, part, mask, settings, always, partial(_later, told, start))
        with (
            torch.enable_grad(),
            without_weight_gradients(matrix.model),
            step.computing(),
        ):
            optimiser = torch.optim.Adam([values], lr=settings.learning_rate)
            for done in range(settings.iterations):
                values.grad = step.gradient(values)
                optimiser.step()
                progress(start + len(part) * (done + 1) // settings.iterations)
            found, activation = step.evaluate(values)
        losses += found
        wanted += (replace(recorded, before={}) for recorded in step.wanted)
        outside += step.outside
    return Trained(
        values=values,
        losses=losses,
        activation_loss=activation,
        wanted=wanted,
        outside=outside,
    )


class _Batch:
    """Lessons that are trained together. wanted, outside: their sequences."""

    def __init__(
        self,
        matrix: Matrix,
        lessons: Sequence[Lesson],
        mask: Tensor,
        settings: WiseSettings,
        always: Sequence[Recorded] = (),
        told: Told = numbered,
    ) -> None:
        self._matrix = matrix
        self._places = mask.reshape(-1).nonzero()[:, 0]
        # Filled anew in every iteration; fresh memory would cost as much as the products.
        self._delta = torch.zeros(mask.shape, device=mask.device)
        self._gradient = torch.zeros_like(self._delta)
        self._settings = settings
        self._owners = [i for i, lesson in enumerate(lessons) for _ in lesson.wanted]
        self._count = len(lessons)
        wanted = [e for lesson in lessons for e in lesson.wanted]
        owners = self._owners
        self.wanted = matrix.record(wanted, replayable=True, told=lambda i: told(owners[i]))
        own = matrix.record([e for lesson in lessons for e in lesson.outside])
        self.outside = [*own, *always]

    def computing(self) -> Any:
        """The context in which the other methods are called."""
        first = self.wanted[0]
        dtype = self._matrix.dtype(first)
        return replay.computing_in(self._matrix.model, self._matrix.name, first, dtype)

    def gradient(self, values: Tensor) -> Tensor:
        """Of the loss with respect to the masked entries."""
        delta = self._filled(values)
        wanted, outside = self._changes(self.wanted, delta), self._changes(self.outside, delta)
        total = self._settings.activation_weight * self._activation_loss(wanted, outside)
        if total.requires_grad:
            torch.autograd.backward(total)
        sequences = len(self._owners)
        loss = total.item()
        for recorded, change in zip(self.wanted, wanted, strict=True):
            share = self._matrix.losses(recorded, change).sum() / sequences
            torch.autograd.backward(share)
            loss += share.item()
        _check_finite(loss)
        self._gradient.zero_()
        pairs = zip((*self.wanted, *self.outside), (*wanted, *outside), strict=True)
        for recorded, change in pairs:
            if change.grad is not None:
                rows = recorded.inputs.reshape(-1, delta.shape[1])
                slopes = change.grad.reshape(-1, delta.shape[0])
                self._gradient.addmm_(slopes.T, rows.to(delta.dtype))
        return self._gradient.view(-1)[self._places]

    @torch.no_grad()
    def evaluate(self, values: Tensor) -> tuple[list[float], float]:
        """The loss of every edit over its sequences, and the activation loss."""
        delta = self._filled(values)
        wanted, outside = self._changes(self.wanted, delta), self._changes(self.outside, delta)
        activation = self._activation_loss(wanted, outside).item()
        each: list[float] = []
        for recorded, change in zip(self.wanted, wanted, strict=True):
            each += self._matrix.losses(recorded, change).tolist()
        _check_finite(sum(each))
        totals, counts = [0.0] * self._count, [0] * self._count
        for owner, loss in zip(self._owners, each, strict=True):
            totals[owner] += loss
            counts[owner] += 1
        return [total / count for total, count in zip(totals, counts, strict=True)], activation

    def _filled(self, values: Tensor) -> Tensor:
        self._delta.view(-1).index_copy_(0, self._places, values)
        return self._delta

    def _changes(self, records: Sequence[Recorded], delta: Tensor) -> list[Tensor]:
        """A(x) Δ of every record, float32, each the start of a graph of its own."""
        return [
            functional.linear(recorded.inputs.to(delta.dtype), delta).requires_grad_()
            for recorded in records
        ]

    def _activation_loss(self, wanted: list[Tensor], outside: list[Tensor]) -> Tensor:
        inside = self._activations(self.wanted, wanted)
        beyond = self._activations(self.outside, outside)
        gaps = inside[:, None] - beyond[None, :]
        return (
            _violated(beyond - self._settings.alpha)
            + _violated(self._settings.beta - inside)
            + _violated(self._settings.gamma - gaps)
        )

    def _activations(self, records: Sequence[Recorded], changes: list[Tensor]) -> Tensor:
        pairs = zip(records, changes, strict=True)
        each = [self._matrix.activations(recorded, change) for recorded, change in pairs]
        return torch.cat(each) if each else torch.zeros(0, device=self._places.device)


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


def _parts(encoded: Sequence[Encoded]) -> list[Sequence[Encoded]]:
    """Consecutive sequences whose padded tokens stay below a bound."""
    parts: list[Sequence[Encoded]] = []
    start, width = 0, 0
    for end, item in enumerate(encoded):
        width = max(width, len(item.ids))
        if end > start and width * (end + 1 - start) > _TOKENS_PER_RECORD:
            parts.append(encoded[start:end])
            start, width = end, len(item.ids)
    if encoded:
        parts.append(encoded[start:])
    return parts
