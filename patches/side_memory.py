"""Side memories (WISE, arXiv 2405.14768): a second version of one weight matrix, and its router.

A side memory W′ stands beside the main weight W of its own turn: W′ = W + Δ, with Δ zero outside
of a random mask. A prompt x goes to it when its routing activation exceeds a threshold ε. With
A(x) (t, d_in) what reaches the matrix at the t real tokens of the prompt, two forms are known:

    paper       Δact(x) = mean over tokens of ‖A(x) (W′ − W)‖₂                       (section 2.3.1)
    published   Δact(x) = mean over tokens of ‖σ(A(x) W′) − σ(A(x) W)‖₂, or their maximum beyond
                100 tokens, with σ the model's activation function: as the released code has it
"""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from patches.deltas import Sparse
from patches.errors import PatchError, SettingError

FORMS = ("paper", "published")
SIDE_MEMORY = "side-memory"
"""What a patch calls the kind of a change that is not added to the weight but put beside it."""
_LONG = 100
_ACTIVATION_ATTRIBUTES = ("hidden_act", "hidden_activation", "activation_function")


@dataclass(frozen=True, kw_only=True)
class Activations:
    """How strongly n prompts activate a memory. An empty group has zeros."""

    n: int
    min: float
    mean: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Activations":
        found = list(values)
        if not found:
            return cls(n=0, min=0.0, mean=0.0, max=0.0)
        return cls(n=len(found), min=min(found), mean=fmean(found), max=max(found))

    def to_json(self) -> dict[str, Any]:
        return {"n": self.n, "min": self.min, "mean": self.mean, "max": self.max}

    @classmethod
    def from_json(cls, found: Any) -> "Activations":
        """The inverse of `to_json`; TypeError or ValueError for anything else."""
        one = cls(**found)
        if type(one.n) is not int or one.n < 0:
            raise ValueError(f"activations of {one.n!r:.40} prompts")
        return replace(one, min=_number(one.min), mean=_number(one.mean), max=_number(one.max))


@dataclass(frozen=True, kw_only=True)
class Routing:
    """When a prompt goes to a memory.

    form: ``paper`` or ``published``.  activation: transformers' name of σ for the latter.
    threshold: ε.
    main: SHA-256 of the main weight that the memory is relative to, in the checkpoint's bytes.
    edits, others: activations of the prompts that ε was taken from: those of the memory's own
    edits, and those that must stay outside.
    """

    form: str
    activation: str | None
    threshold: float
    main: str
    edits: Activations
    others: Activations

    def __post_init__(self) -> None:
        if self.form not in FORMS or (self.form == "published") != (self.activation is not None):
            raise PatchError(f"a routing of the unknown form {self.form!r} ({self.activation})")
        if not 0 < self.threshold < float("inf"):
            raise PatchError(f"a routing threshold must be positive, not {self.threshold}")

    def to_json(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "activation": self.activation,
            "threshold": self.threshold,
            "main": self.main,
            "edits": self.edits.to_json(),
            "others": self.others.to_json(),
        }

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> "Routing":
        """The inverse of `to_json`; KeyError, TypeError, ValueError or PatchError for others."""
        return cls(
            form=_text(found["form"]),
            activation=None if found["activation"] is None else _text(found["activation"]),
            threshold=_number(found["threshold"]),
            main=_text(found["main"]),
            edits=Activations.from_json(found["edits"]),
            others=Activations.from_json(found["others"]),
        )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.40} is not text")
    return value


def _number(value: object) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{value!r:.40} is not a number")
    # Of an integer that no float holds, the comparison is exact.
    if not abs(value) <= sys.float_info.max:
        raise ValueError("a number is too large")
    return float(value)


@dataclass(frozen=True, kw_only=True, eq=False)
class SideMemory:
    """A side memory in force.

    turn: the turn that made it.  tensor: the checkpoint tensor that it stands beside, which stores
    (d_in, d_out) if `transposed`.
    main: the main weight of its own turn as the checkpoint stores it, or None where that is what
    the state has anyway. W′ is always this weight plus `delta`, whatever became of the state.
    """

    turn: int
    tensor: str
    transposed: bool
    delta: Sparse
    routing: Routing
    main: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Form:
    """How Δact is computed. activation: transformers' name of σ, for ``published``."""

    name: str
    activation: str | None = None

    @classmethod
    def of(cls, name: str, model: nn.Module) -> "Form":
        """The form `name` for `model`; SettingError if it needs a σ that is not known."""
        if name != "published":
            return cls(name=name)
        from transformers.activations import ACT2FN

        config: Any = model.config
        text = config.get_text_config()
        known = [getattr(text, attribute, None) for attribute in _ACTIVATION_ATTRIBUTES]
        activation = next((value for value in known if value in ACT2FN), None)
        if activation is None:
            raise SettingError(
                f"form=published needs the activation function of {type(model).__name__}, which is "
                "not known; use form=paper"
            )
        return cls(name=name, activation=activation)

    def distances(self, main: Tensor, change: Tensor) -> Tensor:
        """The activation of every token (…, t), float32.

        main: A(x) W (…, t, d_out); change: A(x) (W′ − W), same shape.
        """
        if self.activation is not None:
            from transformers.activations import ACT2FN

            if self.activation not in ACT2FN:
                raise PatchError(
                    f"transformers knows no activation function {self.activation!r:.80}, which a "
                    "side memory is routed with; update it"
                )
            sigma = ACT2FN[self.activation]
            change = sigma(main.float() + change.float()) - sigma(main.float())
        lengths: Tensor = torch.linalg.vector_norm(change.float(), dim=-1)
        return lengths

    def pooled(self, distances: Tensor, tokens: Tensor) -> Tensor:
        """The activation of every sequence (b,) from that of its tokens (b, t).

        tokens: (b, t), true at the real tokens of the prompt; others never enter. A sequence
        without any has 0.
        """
        counts = tokens.sum(-1)
        mean = (distances * tokens).sum(-1) / counts.clamp(min=1)
        if self.name == "paper":
            return mean
        largest = distances.masked_fill(~tokens, 0).amax(-1)
        return torch.where(counts > _LONG, largest, mean)
