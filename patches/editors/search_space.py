"""What tuning tries of a method: hyperparameters with their values, and modules.

`SPACES` is the table to change. A method has ways of working (`Way`), each with values that are
drawn for its hyperparameters; modules are a kind of matrix in a range of layers.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from math import ceil
from random import Random
from typing import Any

from torch import nn

from patches.canonical import canonical_json, sha256
from patches.editors.defaults import default_for, output_matrices
from patches.editors.ultraedit_editor import FIRST_ORDER
from patches.editors.wise_defaults import default_matrix
from patches.modules import editable_modules

Values = tuple[float | int | str, ...]
MODULES = "modules"

# Where a range of layers begins and ends, as shares of the depth.
_RANGES = (
    (0.2, 0.5),
    (0.35, 0.65),
    (0.5, 0.75),
    (0.5, 0.95),
    (0.6, 0.8),
    (0.66, 0.94),
    (0.8, 1.0),
)
_DEPTHS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
# Beside the output matrix of a feed-forward layer.
_BESIDE = (("gate_proj",), ("up_proj",), ("gate_proj", "up_proj"), ("c_fc",), ("fc_in",), ("fc1",))
# So often may a draw be one that was made before, until there are no others.
_PATIENCE = 200


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is set for a trial; the method decides on the rest.

    modules: names; none: the method's own. values: hyperparameter → value. factors: hyperparameter
    → multiple of what the method takes for these modules.
    """

    modules: tuple[str, ...] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    factors: Mapping[str, float] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Digest of what is set."""
        return sha256(canonical_json(self.to_json()))

    def to_json(self) -> dict[str, Any]:
        return {
            "modules": list(self.modules),
            "values": dict(self.values),
            "factors": dict(self.factors),
        }


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way in which a method works. fixed: what makes it this one. weight: its share of trials.

    values: hyperparameter → what is tried. factors: the same, as multiples of the method's own.
    usual: values that the method takes by itself, which need no trial.
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Values] = field(default_factory=dict)
    factors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    usual: Mapping[str, Any] = field(default_factory=dict)
    weight: int = 1

    def settled(self, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
        """Of complete hyperparameters those that this way of working depends on."""
        return {
            name: hyperparameters[name]
            for name in (*self.fixed, *self.values, *self.factors)
            if hyperparameters.get(name) is not None
        }


@dataclass(frozen=True, kw_only=True)
class Space:
    """What is tried of a method.

    ways: the first is the method's default. references: name → what is always tried too, and
    reported. modules: those that it takes by itself, and a note if only by rule. one_matrix: it
    edits one module. for_modules: hyperparameters whose values hold for the modules they were found
    with, only.
    """

    ways: tuple[Way, ...]
    references: Mapping[str, Choice]
    modules: Callable[[nn.Module], tuple[tuple[str, ...], str | None]]
    one_matrix: bool = False
    for_modules: frozenset[str] = frozenset()

    def way_of(self, hyperparameters: Mapping[str, Any]) -> Way:
        """The way that complete hyperparameters are of."""
        for way in self.ways:
            if all(hyperparameters.get(name) == value for name, value in way.fixed.items()):
                return way
        return self.ways[0]


def _shifted(model: nn.Module) -> tuple[tuple[str, ...], str | None]:
    default = default_for(model)
    return default.modules, default.modules_note


def _beside_one(model: nn.Module) -> tuple[tuple[str, ...], str | None]:
    name, note = default_matrix(model)
    return (name,), note


DEFAULT, PUBLISHED = "default", "published"

SPACES: Mapping[str, Space] = {
    "ultraedit": Space(
        ways=(
            Way(
                fixed={"step": "first-order"},
                values={
                    "share": (0.7, 1.0, 1.3, 1.6),
                    "limit": (0.2, 0.3, 0.5, 0.7, 1.0),
                    "enough": (0.0, 0.1, 0.3),
                    "passes": (1, 2, 3, 5),
                    "retention": (0.0, 0.1, 0.3, 1.0, 3.0),
                    "locality": (0.0, 0.01, 0.1),
                    "contrast": (0.0, 0.1, 0.3, 1.0),
                    "prompts": (0.0, 0.03, 0.1, 0.3),
                },
                usual=FIRST_ORDER,
                weight=4,
            ),
            Way(
                fixed={"step": "published"},
                values={
                    "retention": (0.0, 0.1, 0.3),
                    "locality": (0.0, 0.01),
                    "contrast": (0.0, 1.0),
                },
                factors={"learning_rate": (0.1, 0.3, 0.7, 1.0, 1.4, 2.0, 5.0, 20.0)},
                usual={"retention": 0.0, "locality": 0.0, "contrast": 0.0},
            ),
        ),
        references={
            DEFAULT: Choice(),
            PUBLISHED: Choice(values={"step": "published"}),
        },
        modules=_shifted,
    ),
    "wise": Space(
        ways=(
            Way(
                factors={
                    "alpha": (0.5, 1.0, 2.0),
                    "beta": (0.5, 1.0, 2.0),
                    "gamma": (0.5, 1.0, 2.0),
                    "learning_rate": (0.3, 0.5, 1.0, 2.0, 3.0),
                },
            ),
        ),
        references={DEFAULT: Choice()},
        modules=_beside_one,
        one_matrix=True,
        for_modules=frozenset({"alpha", "beta", "gamma", "learning_rate"}),
    ),
}


def choices(space: Space, model: nn.Module, *, seed: int) -> Iterator[Choice]:
    """Different choices for `model`, drawn until there are no more: the same for the same seed.

    Half of them are drawn as a whole, half differ from the defaults in one or two things. model:
    its weights are not needed.
    """
    draw = Random(f"{seed} tune")
    places = module_choices(model, one_matrix=space.one_matrix)
    own, _ = space.modules(model)
    ways = [way for way in space.ways for _ in range(way.weight)]
    known = {choice.key for choice in space.references.values()}
    misses = 0
    while misses < _PATIENCE:
        way = draw.choice(ways)
        drawn = _drawn(draw, way, places)
        if draw.random() < 0.5:
            drawn = _part(draw, drawn, way)
        drawn = _shortest(drawn, way, own, is_default=way is space.ways[0])
        if drawn.key in known:
            misses += 1
            continue
        misses = 0
        known.add(drawn.key)
        yield drawn


def _drawn(draw: Random, way: Way, places: Sequence[tuple[str, ...]]) -> Choice:
    return Choice(
        modules=draw.choice(places),
        values={**way.fixed, **{name: draw.choice(some) for name, some in way.values.items()}},
        factors={name: draw.choice(some) for name, some in way.factors.items()},
    )


def _part(draw: Random, whole: Choice, way: Way) -> Choice:
    """Of a choice only the way of working, and one or two things."""
    loose = [MODULES, *way.values, *way.factors]
    kept = draw.sample(loose, draw.choice((1, 2)))
    return Choice(
        modules=whole.modules if MODULES in kept else (),
        values={n: v for n, v in whole.values.items() if n in kept or n in way.fixed},
        factors={n: v for n, v in whole.factors.items() if n in kept},
    )


def _shortest(choice: Choice, way: Way, own: tuple[str, ...], *, is_default: bool) -> Choice:
    """The same without what the method does by itself: equal choices have equal keys."""
    usual = {**way.usual, **(way.fixed if is_default else {})}
    return Choice(
        modules=() if choice.modules == own else choice.modules,
        values={n: v for n, v in choice.values.items() if n not in usual or usual[n] != v},
        factors={n: v for n, v in choice.factors.items() if v != 1},
    )


def module_choices(model: nn.Module, *, one_matrix: bool) -> list[tuple[str, ...]]:
    """Sets of modules worth trying, each of one or two kinds of matrix in a range of layers."""
    last = output_matrices(model)
    if one_matrix:
        return list(dict.fromkeys((last[min(int(d * len(last)), len(last) - 1)],) for d in _DEPTHS))
    found = [
        tuple(chain.from_iterable(kind[first:end] for kind in kinds))
        for kinds in _kinds(model, last)
        for first, end in (_layers(share, len(last)) for share in _RANGES)
    ]
    return list(dict.fromkeys(found))


def _kinds(model: nn.Module, last: Sequence[str]) -> Iterator[list[Sequence[str]]]:
    """Kinds of matrices, by layer: the output matrices, and what there is beside them."""
    yield [last]
    names = editable_modules(model)
    for tails in _BESIDE:
        kinds = [[f"{name.rpartition('.')[0]}.{tail}" for name in last] for tail in tails]
        if all(name in names for kind in kinds for name in kind):
            yield list(kinds)


def _layers(share: tuple[float, float], depth: int) -> tuple[int, int]:
    """The first layer of a range, and the one after the last; at least one."""
    first = min(int(share[0] * depth), depth - 1)
    return first, max(ceil(share[1] * depth), first + 1)


def patterns(modules: Sequence[str]) -> list[str]:
    """Names of modules in short, as ``--modules`` takes them: ``*layers.{20..27}.mlp.down_proj``.

    The inverse of `patches.editors.defaults.select_modules`.
    """
    split = [re.fullmatch(r"(.*?)\.(\d+)\.(.*)", name) for name in modules]
    if not all(split):
        return list(modules)
    parts = sorted((m[1], m[3], int(m[2])) for m in split if m)
    return [
        f"*{stem.rpartition('.')[2]}.{_numbers([n for *_, n in some])}.{tail}"
        for (stem, tail), some in groupby(parts, key=lambda part: part[:2])
    ]


def _numbers(layers: Sequence[int]) -> str:
    first, last = layers[0], layers[-1]
    if first == last:
        return str(first)
    whole = list(layers) == list(range(first, last + 1))
    return f"{{{first}..{last}}}" if whole else f"{{{','.join(map(str, layers))}}}"
