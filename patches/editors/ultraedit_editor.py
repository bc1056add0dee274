"""UltraEdit as an editor: its defaults, and what it carries from turn to turn.

The editor state of a turn holds the moments of its keys and gradients, for the published step, and
its keys, where it was asked to keep earlier turns in view (`retention`): so the state of any
history is that of the turns in force, in their order.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from patches.compaction import narrowed
from patches.dtypes import DTYPES
from patches.editors import first_order, statistics, ultraedit
from patches.editors.capturing import capture
from patches.editors.contrast import neighbours
from patches.editors.defaults import Default, default_for, select_modules
from patches.editors.editor import Facts, Prepared, Request, Result, parse_assignments
from patches.editors.finite_rows import check_rows
from patches.editors.first_order import Step
from patches.editors.neutral import NEUTRAL
from patches.editors.protection import Keys
from patches.editors.statistics import Statistics
from patches.editors.ultraedit import UltraEditSettings, check_usable, delta_of
from patches.errors import SettingError
from patches.heap import give_back
from patches.keys import keys_of
from patches.live import LiveModel
from patches.modules import targets_for
from patches.patch import Change
from patches.routing import bypassed
from patches.tokens import context_length, encode_prompts

_KINDS: dict[str, Callable[[str], Any]] = {
    "step": str,
    "learning_rate": float,
    "ridge": float,
    "batch_size": int,
    "tokens": str,
    "variance": str,
    "share": float,
    "limit": float,
    "enough": float,
    "passes": int,
    "retention": float,
    "locality": float,
    "contrast": float,
    "prompts": float,
    "contrasts": int,
    "compact": float,
}
FIRST_ORDER: dict[str, Any] = {
    "step": "first-order",
    "share": 1.0,
    "limit": 0.5,
    "enough": 0.0,
    "passes": 3,
    "retention": 1.0,
    "contrast": 0.3,
    "contrasts": 3,
    "prompts": 0.1,
}
"""What wins on rows that were not used to choose it (README, Quality)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Carried:
    """What one turn leaves to the next: moments by shape, and keys by module."""

    statistics: Statistics
    keys: dict[str, Keys]

    @classmethod
    def of(cls, state: Mapping[str, Tensor], device: torch.device | str) -> Self:
        keys = Keys.from_tensors(state)
        moments = {name: state[name] for name in statistics.names(state)}
        return cls(
            statistics=statistics.from_tensors(moments, device),
            keys={name: some.to(device) for name, some in keys.items()},
        )

    def followed_by(self, later: "_Carried") -> "_Carried":
        keys = dict(self.keys)
        for name, some in later.keys.items():
            keys[name] = keys[name].followed_by(some) if name in keys else some
        return _Carried(statistics=statistics.merged(self.statistics, later.statistics), keys=keys)

    def to_tensors(self) -> dict[str, Tensor]:
        tensors = statistics.to_tensors(self.statistics)
        for name, some in self.keys.items():
            tensors.update(some.to_tensors(name))
        return tensors


_NOTHING = _Carried(statistics={}, keys={})


class UltraEditEditor:
    """Turn after turn of UltraEdit on one live model."""

    method: ClassVar[str] = ultraedit.METHOD
    turn_size: ClassVar[int] = 100

    def __init__(
        self, live: LiveModel, tokenizer: Any, settings: UltraEditSettings, carried: _Carried
    ) -> None:
        self._live = live
        self._tokenizer = tokenizer
        self._settings = settings
        self._carried = carried
        self._targets = targets_for(live.model, live.checkpoint, settings.modules)
        self._modules = {target.name: target.module for target in self._targets}
        live.check_editable(target.tensor for target in self._targets)

    @classmethod
    def prepare(cls, live: LiveModel, tokenizer: Any, request: Request) -> Prepared:  # noqa: ARG003 (Editor's)
        if request.outside is not None:
            raise SettingError("--locality is for methods that keep prompts apart: --method wise")
        values = parse_assignments(request.assignments, _KINDS)
        published = _is_published(values)
        modules = request.modules
        notes: tuple[str, ...] = ()
        if modules and (not published or "learning_rate" in values):
            chosen = select_modules(live.model, modules)
        else:
            default = default_for(live.model)
            chosen = select_modules(live.model, modules) if modules else default.modules
            if published:
                values.setdefault("learning_rate", default.learning_rate)
            notes = _notes(default, published=published)
        values = {"step": "published", **values} if published else {**FIRST_ORDER, **values}
        settings = UltraEditSettings(modules=chosen, **values)
        return Prepared(hyperparameters=settings.to_json(), notes=notes)

    @classmethod
    def start(
        cls,
        live: LiveModel,
        tokenizer: Any,
        hyperparameters: Mapping[str, Any],
        states: Iterable[Mapping[str, Tensor]],
        *,
        seed: int = 0,  # noqa: ARG003 (nothing is drawn)
    ) -> Self:
        settings = UltraEditSettings.from_json(hyperparameters)
        return cls(live, tokenizer, settings, _carried(states, live.device))

    @classmethod
    def folded(cls, states: Iterable[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        return _carried(states, torch.device("cpu")).to_tensors()

    def edit(self, facts: Facts, *, progress: Callable[[int], None] = lambda _done: None) -> Result:
        solve = self._published if self._settings.step == "published" else self._first_order
        # Main weights are solved for on what they give, whatever side memories there are.
        with bypassed(self._live.model):
            result = self._narrowed(solve(facts, progress))
        give_back()
        return result

    def _narrowed(self, result: Result) -> Result:
        """The same with changes that take fewer bytes, as far as `compact` allows."""
        allowed = self._settings.compact
        if not allowed:
            return result
        started = time.perf_counter()
        stored = self._live.checkpoint.tensors
        changes, errors = {}, [0.0]
        for name, change in result.changes.items():
            delta, error = narrowed(change.delta, allowed, DTYPES[stored[name].dtype])
            changes[name] = replace(change, delta=delta)
            errors.append(error)
        return replace(
            result,
            changes=changes,
            figures={**result.figures, "error": max(errors)},
            seconds={**result.seconds, "compact": time.perf_counter() - started},
        )

    def accept(self, result: Result) -> None:
        added = _Carried.of(result.state, self._live.device)
        self._carried = self._carried.followed_by(added)

    def _published(self, facts: Facts, progress: Callable[[int], None]) -> Result:
        started = time.perf_counter()
        captured, moments, loss = capture(
            self._live.model,
            self._targets,
            facts.encoded,
            batch_size=self._settings.batch_size,
            everywhere=self._settings.tokens == "all",
            device=self._live.device,
            told=facts.told,
            progress=progress,
        )
        protected = self._protected(facts)
        between = time.perf_counter()
        lifelong = statistics.merged(self._carried.statistics, moments)
        changes = ultraedit.shift(captured, self._targets, lifelong, self._settings, protected)
        keys = {name: seen.keys for name, seen in captured.items()}
        return Result(
            changes=changes,
            state=self._state(moments, keys),
            figures={"loss_before": loss, "tokens": float(max(map(len, keys.values())))},
            seconds={"capture": between - started, "solve": time.perf_counter() - between},
        )

    def _first_order(self, facts: Facts, progress: Callable[[int], None]) -> Result:
        started = time.perf_counter()
        settings = self._settings
        protected = self._protected(facts)
        between = time.perf_counter()
        solved = first_order.solve(
            self._live.model,
            self._targets,
            facts.encoded,
            Step(
                share=settings.share,
                limit=settings.limit,
                enough=settings.enough,
                passes=settings.passes,
                ridge=settings.ridge,
                prompts=settings.prompts,
            ),
            protected,
            device=self._live.device,
            told=facts.told,
            progress=progress,
        )
        changes = {}
        for target in self._targets:
            delta = delta_of(solved.a[target.name], solved.b[target.name])
            check_usable(
                target.name,
                delta,
                zero="Either every target token is as probable as asked for already "
                f"(loss {solved.losses[0]:.3g} nats), or smaller steps are needed: --set share=0.2",
                infinite="take smaller steps: --set share=0.2",
            )
            changes[target.tensor] = Change(delta=delta, transposed=target.transposed)
        return Result(
            changes=changes,
            state=self._state({}, solved.keys),
            figures={
                "loss_before": solved.losses[0],
                "loss_after": solved.losses[-1],
                "tokens": float(max(map(len, solved.keys.values()))),
            },
            seconds={"capture": between - started, "solve": time.perf_counter() - between},
        )

    def _state(self, moments: Statistics, keys: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the turn adds; keys only where they are asked for, since they are large."""
        kept = {name: Keys.of(some.cpu()) for name, some in keys.items()}
        added = _Carried(statistics=moments, keys=kept if self._settings.retention else {})
        return added.to_tensors()

    def _protected(self, facts: Facts) -> dict[str, list[tuple[float, Keys]]]:
        """By module, the keys that this turn is to leave alone, with their weights."""
        settings = self._settings
        found: dict[str, list[tuple[float, Keys]]] = {name: [] for name in self._modules}
        if settings.retention:
            for name in found:
                if name in self._carried.keys:
                    found[name].append((settings.retention, self._carried.keys[name]))
        if settings.locality:
            self._add_keys(found, settings.locality, NEUTRAL, everywhere=True)
        if settings.contrast:
            self._add_keys(found, settings.contrast, neighbours(facts.edits, settings.contrasts))
        return found

    def _add_keys(
        self,
        found: dict[str, list[tuple[float, Keys]]],
        weight: float,
        prompts: Iterable[str],
        *,
        everywhere: bool = False,
    ) -> None:
        model = self._live.model
        longest = context_length(model.config)
        encoded = [
            item
            for item in encode_prompts(self._tokenizer, list(prompts))
            if item.ids and (longest is None or len(item.ids) <= longest)
        ]
        if not encoded:
            return
        keys = keys_of(model, self._modules, encoded, self._live.device, everywhere=everywhere)
        check_rows("inputs", keys, lambda _row, _rows: "a prompt to be left alone")
        for name, rows in keys.items():
            found[name].append((weight, Keys.of(rows)))


def _is_published(values: Mapping[str, Any]) -> bool:
    """Whether the published step is asked for: by name, or by a hyperparameter that only it has."""
    only = [name for name in ultraedit.PUBLISHED_ONLY if name in values]
    if values.get("step") == FIRST_ORDER["step"] and only:
        raise SettingError(f"{only[0]} is for the published step: --set step=published")
    return bool(only) or values.get("step") == "published"


def _notes(default: Default, *, published: bool) -> tuple[str, ...]:
    """What the user should know of a default; only the published step has a rate to tune."""
    note = default.note if published else default.modules_note
    return (note,) if note else ()


def _carried(states: Iterable[Mapping[str, Tensor]], device: torch.device) -> _Carried:
    """What the turns leave, one after the other, from the first on."""
    earlier = _NOTHING
    for state in states:
        earlier = earlier.followed_by(_Carried.of(state, device))
    return earlier
