"""UltraEdit as an editor: its defaults, and its running statistics from turn to turn."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from patches.editors import statistics, ultraedit
from patches.editors.defaults import default_for, select_modules
from patches.editors.editor import Facts, Prepared, Request, Result, parse_assignments
from patches.editors.statistics import Statistics
from patches.editors.ultraedit import UltraEditSettings
from patches.errors import SettingError
from patches.live import LiveModel
from patches.modules import targets_for
from patches.routing import bypassed

_KINDS: dict[str, Callable[[str], Any]] = {
    "learning_rate": float,
    "ridge": float,
    "batch_size": int,
    "tokens": str,
    "variance": str,
}


class UltraEditEditor:
    """Turn after turn of UltraEdit on one live model."""

    method: ClassVar[str] = ultraedit.METHOD
    turn_size: ClassVar[int] = 100

    def __init__(self, live: LiveModel, settings: UltraEditSettings, earlier: Statistics) -> None:
        self._live = live
        self._settings = settings
        self._statistics = earlier
        self._targets = targets_for(live.model, live.checkpoint, settings.modules)

    @classmethod
    def prepare(cls, live: LiveModel, tokenizer: Any, request: Request) -> Prepared:  # noqa: ARG003 (Editor's)
        if request.outside is not None:
            raise SettingError("--locality is for methods that keep prompts apart: --method wise")
        modules = request.modules
        values = parse_assignments(request.assignments, _KINDS)
        notes: tuple[str, ...] = ()
        if modules and "learning_rate" in values:
            chosen = select_modules(live.model, modules)
        else:
            default = default_for(live.model)
            chosen = select_modules(live.model, modules) if modules else default.modules
            values.setdefault("learning_rate", default.learning_rate)
            notes = (default.note,) if default.note else ()
        settings = UltraEditSettings(modules=chosen, **values)
        return Prepared(hyperparameters=settings.to_json(), notes=notes)

    @classmethod
    def start(
        cls,
        live: LiveModel,
        tokenizer: Any,  # noqa: ARG003 (Editor's)
        hyperparameters: Mapping[str, Any],
        states: Iterable[Mapping[str, Tensor]],
        *,
        seed: int = 0,  # noqa: ARG003 (nothing is drawn)
    ) -> Self:
        settings = UltraEditSettings.from_json(hyperparameters)
        return cls(live, settings, _merged(states, live.device))

    @classmethod
    def folded(cls, states: Iterable[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
        return statistics.to_tensors(_merged(states, torch.device("cpu")))

    def edit(self, facts: Facts, *, progress: Callable[[int], None] = lambda _done: None) -> Result:
        started = time.perf_counter()
        # Main weights are solved for on what they give, whatever side memories there are.
        with bypassed(self._live.model):
            captured, moments, loss = ultraedit.capture(
                self._live.model,
                self._targets,
                facts.encoded,
                self._settings,
                device=self._live.device,
                progress=progress,
            )
        between = time.perf_counter()
        lifelong = statistics.merged(self._statistics, moments)
        changes = ultraedit.shift(captured, self._targets, lifelong, self._settings)
        return Result(
            changes=changes,
            state=statistics.to_tensors(moments),
            figures={"loss_before": loss, "tokens": float(_tokens(captured))},
            seconds={"capture": between - started, "solve": time.perf_counter() - between},
        )

    def accept(self, result: Result) -> None:
        added = statistics.from_tensors(result.state, self._live.device)
        self._statistics = statistics.merged(self._statistics, added)


def _merged(states: Iterable[Mapping[str, Tensor]], device: torch.device) -> Statistics:
    """The statistics of one turn after the other, from the first on."""
    earlier: Statistics = {}
    for state in states:
        earlier = statistics.merged(earlier, statistics.from_tensors(state, device))
    return earlier


def _tokens(captured: Mapping[str, ultraedit.Captured]) -> int:
    return max(len(seen.keys) for seen in captured.values())
