"""One turn of edits in a process of its own: what to do, and what came of it."""

import gc
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import nn

from tests.benchmarks import memory
from tests.benchmarks.measurement import seconds

_STRIDE = 512  # elements, of 8 bytes at the most: no page is left out


@dataclass(frozen=True, kw_only=True)
class Task:
    """Edit the `edits` rows of the file `rows` in one turn, evaluation off.

    rows: JSON, with the fields of ZsRE: src, ans, loc, loc_ans. dtype: that the model runs in.
    modules: names or patterns, or none for the method's own.
    settings: hyperparameters that this program is given. hyperparameters: all that it has settled
    on, for the published code to be run with. scratch: an empty folder. reference: a checkout of
    the published code.
    """

    method: str
    model: str
    rows: str
    edits: int
    dtype: str
    settings: dict[str, str]
    reference: str
    modules: list[str] = field(default_factory=list)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    scratch: str = ""

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """seconds: of the turn. loaded: bytes held before it. peak: the most that were held in it.

    left: bytes of what remains of the edits on disk, which took `keeping` seconds after the turn.
    norms: module → Frobenius norm of its shift, by which two programs show that they did the same.
    passes: through the model, if they were counted. scores: metric → mean over the edits.
    """

    seconds: float
    loaded: int
    peak: int
    left: int
    keeping: float = 0.0
    norms: dict[str, float] = field(default_factory=dict)
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    passes: int | None = None
    scores: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Self:
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def watched(turn: Callable[[], object]) -> tuple[float, int, int]:
    """Make the turn; its seconds, the bytes held before it, and the most that were held in it."""
    _read_weights()
    loaded = memory.held()
    memory.forget_peak()
    return seconds(turn), loaded, memory.peak()


def _read_weights() -> None:
    """Touch every page of the weights, wherever the model is kept: those of a mapped file are held
    only once they were read, and no turn is to be charged for them."""
    for found in gc.get_objects():
        if issubclass(type(found), nn.Parameter):
            found.detach().flatten()[::_STRIDE].sum()


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
