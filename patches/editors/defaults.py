"""Which modules to edit, and how fast, where the user does not say.

The families of the UltraEdit paper keep the layers of its released configurations, for the size
that was tuned. Other sizes and architectures get a rule by position and width, marked untuned.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from patches.errors import ModelError, SettingError
from patches.modules import editable_modules

_PUBLISHED_RATE = 1e-6
# Fitted to the two widths that were tuned: 3e-4 at 576 (SmolLM2), about 1e-6 at 4096.
_REFERENCE_RATE, _REFERENCE_WIDTH = 3e-4, 576
_FIRST, _LAST = 20 / 30, 27 / 30


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A setting that someone has tuned: layers by matrix name, for one size of a family."""

    family: str
    layers: int
    width: int
    edited: dict[str, range]
    learning_rate: float = _PUBLISHED_RATE


TUNED = (
    Tuned(family="gptj", layers=28, width=4096, edited={"mlp.fc_out": range(18, 27)}),
    Tuned(family="mistral", layers=32, width=4096, edited={"mlp.down_proj": range(29, 31)}),
    Tuned(
        family="llama",
        layers=32,
        width=4096,
        edited={"mlp.gate_proj": range(11, 16), "mlp.up_proj": range(18, 25)},
    ),
    Tuned(
        family="qwen2",
        layers=28,
        width=3584,
        edited={"mlp.gate_proj": range(18, 27), "mlp.up_proj": range(18, 27)},
    ),
    Tuned(family="phi3", layers=40, width=5120, edited={"mlp.down_proj": range(30, 39)}),
    Tuned(
        family="gemma3",
        layers=62,
        width=5376,
        edited={"mlp.gate_proj": range(52, 61), "mlp.up_proj": range(52, 61)},
    ),
    Tuned(
        family="llama",
        layers=30,
        width=576,
        edited={"mlp.down_proj": range(20, 28)},
        learning_rate=3e-4,
    ),
)
_OUTPUT_MATRICES = ("down_proj", "c_proj", "fc_out", "dense_4h_to_h", "fc2", "w2", "wo")


@dataclass(frozen=True, kw_only=True)
class Default:
    """Modules to edit and the learning rate of the published step.

    note: set where nobody has tuned them. modules_note: the same of the modules alone.
    """

    modules: tuple[str, ...]
    learning_rate: float
    note: str | None = None
    modules_note: str | None = None


def default_for(model: nn.Module) -> Default:
    """The setting for `model`: tuned where its family and size are known, else by rule."""
    config: Any = model.config
    text = config.get_text_config()
    family = str(text.model_type).removesuffix("_text")
    width = int(text.hidden_size)
    for tuned in TUNED:
        if (tuned.family, tuned.layers, tuned.width) == (family, text.num_hidden_layers, width):
            return Default(
                modules=tuple(_tuned_modules(model, tuned)),
                learning_rate=tuned.learning_rate,
            )
    return _by_rule(model, family, width)


def _tuned_modules(model: nn.Module, tuned: Tuned) -> Iterator[str]:
    for matrix, layers in tuned.edited.items():
        for layer in layers:
            yield _the_one(model, rf"(^|\.)(layers|h)\.{layer}\.{re.escape(matrix)}$")


def _the_one(model: nn.Module, pattern: str) -> str:
    found = [name for name in editable_modules(model) if re.search(pattern, name)]
    if len(found) != 1:
        raise ModelError(
            f"{type(model).__name__}: {len(found)} modules match {pattern!r}, expected one; "
            "name the modules with --modules"
        )
    return found[0]


def output_matrices(model: nn.Module) -> list[str]:
    """The last matrix of every feed-forward layer of the decoder; ModelError if none is known."""
    # A model that also takes pictures or sound has feed-forward layers outside of its decoder.
    decoder: Any = getattr(model, "get_decoder", lambda: model)()
    text = set(editable_modules(decoder).values())
    last = [
        name
        for name, module in editable_modules(model).items()
        if name.rpartition(".")[2] in _OUTPUT_MATRICES and module in text and _is_feed_forward(name)
    ]
    if not last:
        raise ModelError(
            f"no feed-forward output matrix recognised in {type(model).__name__}: name the modules "
            "to edit with --modules"
        )
    return last


def _by_rule(model: nn.Module, family: str, width: int) -> Default:
    last = output_matrices(model)
    chosen = last[int(_FIRST * len(last)) : max(int(_FIRST * len(last)) + 1, _upper(len(last)))]
    rate = float(f"{_REFERENCE_RATE * (_REFERENCE_WIDTH / width) ** 3:.1e}")
    untuned = (
        f"nobody has tuned {family} of width {width}: editing {len(chosen)} of {len(last)} "
        f"feed-forward output matrices ({chosen[0]} to {chosen[-1]})"
    )
    search = "ledger tune --data FILE looks for better ones"
    return Default(
        modules=tuple(chosen),
        learning_rate=rate,
        note=f"{untuned} at learning rate {rate:g}; {search}",
        modules_note=f"{untuned}; {search}",
    )


def _upper(count: int) -> int:
    return int(_LAST * count + 1)


def _is_feed_forward(name: str) -> bool:
    return re.search(r"attn|attention", name) is None


def select_modules(model: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Names of the linear modules that match one of `patterns`, in the order of the model.

    A pattern is a name, or a name with ``*`` for anything and ``{20..27}`` or ``{3,5}`` for layer
    numbers. SettingError for a pattern that matches nothing.
    """
    names = list(editable_modules(model))
    chosen: set[str] = set()
    for pattern in patterns:
        matches = _matcher(pattern)
        found = [name for name in names if matches(name)]
        if not found:
            tails = sorted({re.sub(r"\d+", "*", name) for name in names})
            raise SettingError(
                f"--modules {pattern!r} matches no linear module of the model; it has "
                f"{', '.join(tails[:12])}"
            )
        chosen.update(found)
    return tuple(name for name in names if name in chosen)


def _matcher(pattern: str) -> Callable[[str], bool]:
    parts = re.split(r"(\*|\{[^}]*\})", pattern)
    text = "".join(_translate(part) for part in parts)
    regex = re.compile(rf"(?:.*\.)?{text}")
    return lambda name: regex.fullmatch(name) is not None


def _translate(part: str) -> str:
    if part == "*":
        return ".*"
    if part.startswith("{"):
        return f"(?:{'|'.join(_alternatives(part[1:-1]))})"
    return re.escape(part)


def _alternatives(text: str) -> list[str]:
    numbers: list[str] = []
    for item in text.split(","):
        span = re.fullmatch(r"\s*(\d+)\.\.(\d+)\s*", item)
        if span:
            numbers += [str(n) for n in range(int(span[1]), int(span[2]) + 1)]
        else:
            numbers.append(re.escape(item.strip()))
    return numbers
