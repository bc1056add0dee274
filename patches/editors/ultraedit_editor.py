"""UltraEdit as an editor: its defaults, and its running statistics from turn to turn."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor

from patches.editors import statistics, ultraedit
from patches.editors.defaults import default_for, select_modules
from patches.editors.editor import Prepared, Result, parse_assignments
from patches.editors.statistics import Statistics
from patches.editors.ultraedit import UltraEditSettings
from patches.live import LiveModel
from patches.modules import targets_for
from patches.tokens import Encoded

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

    def __init__(self, live: LiveModel, settings: UltraEditSettings, earlier: Statistics) -> None:
        self._live = live
        self._settings = settings
        self._statistics = earlier
        self._targets = targets_for(live.model, live.checkpoint, settings.modules)

    @classmethod
    def prepare(
        cls, live: LiveModel, *, modules: Sequence[str], assignments: Mapping[str, str]
    ) -> Prepared:
        values = parse_assignments(assignments, _KINDS)
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
        hyperparameters: Mapping[str, Any],
        states: Iterable[Mapping[str, Tensor]],
    ) -> Self:
        settings = UltraEditSettings.from_json(hyperparameters)
        earlier: Statistics = {}
        for state in states:
            loaded = statistics.from_tensors(state, live.device)
            earlier = statistics.merged(earlier, loaded)
        return cls(live, settings, earlier)

    def edit(
        self, encoded: Sequence[Encoded], *, progress: Callable[[int], None] = lambda _done: None
    ) -> Result:
        started = time.perf_counter()
        captured, moments, loss = ultraedit.capture(
            self._live.model,
            self._targets,
            encoded,
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


def _tokens(captured: Mapping[str, ultraedit.Captured]) -> int:
    return max(len(seen.keys) for seen in captured.values())
