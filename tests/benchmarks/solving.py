"""How fast UltraEdit's shift of a 7B-size module is solved for, beside the formula as published.

    down_proj of a LLaMA-2-7B: d_in 14,336 → d_out 4,096, 400 target tokens of a turn.

Both are given the same keys, gradients and moments, and end with the shift as a dense matrix in
float32. The published form builds and solves KᵀK + I, a matrix of 14,336 × 14,336 (822 MB in
float32, of which its solver takes a copy); here the system is 400 × 400, in float64. With a
checkout of the published code (`--reference`) its own function is run, unmodified, as well.
"""

import importlib
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from patches.compaction import narrowed
from patches.deltas import Delta
from patches.editors import ultraedit
from patches.editors.capturing import Captured
from patches.editors.statistics import Moments
from patches.editors.ultraedit import UltraEditSettings
from patches.modules import Target
from tests.benchmarks import memory
from tests.benchmarks.measurement import Measurement, seconds
from tests.benchmarks.stand_ins import stand_in

D_IN, D_OUT, TOKENS = 14_336, 4_096, 400
_RATE = 1e-6
# One run of the published form takes half a minute and more.
_RUNS, _PRIMAL_RUNS = 5, 2
_FASTER = 50.0
_SMALLER = 1 / 6
_COMPACT = 0.01
_MEGA = 1e6
_ALIKE = 1e-2  # float32 beside float64, of systems whose condition is 10^4


def measure(reference: Path | None = None) -> list[Measurement]:
    """Seconds and memory of the shift, dense. reference: a checkout of the published code."""
    seen = _seen()
    # The statistics are taken batch by batch while keys and gradients come in.
    moments = Moments.of(torch.cat((seen.keys.float(), seen.gradients.float()), -1))
    own, ours, held = _timed(partial(_own, seen, moments), _RUNS)
    plain, theirs, most = _timed(partial(_primal, seen, moments), _PRIMAL_RUNS)
    _check(own, plain, "the plain primal form")
    size = f"{D_IN} → {D_OUT}, {TOKENS} tokens"
    figures = [
        Measurement(
            what=f"UltraEdit's shift of a module {size}, dense",
            value=1 / ours,
            unit="shifts/s",
            beside=f"the primal system in float32, {_PRIMAL_RUNS} runs",
            other=1 / theirs,
            limit=_FASTER,
        ),
        Measurement(
            what="  peak memory beyond keys and gradients",
            value=held / _MEGA,
            unit="MB",
            beside="the primal system",
            other=most / _MEGA,
        ),
    ]
    figures += _sizes(seen, moments)
    if reference is not None:
        figures.append(replace(figures[0], **_beside_published(seen, own, ours, reference)))
    return figures


def _sizes(seen: Captured, moments: Moments) -> list[Measurement]:
    """Bytes of the shift as a patch stores it, beside all of it in bfloat16."""
    delta = _shift(seen, moments)
    figures = []
    for compact in (0.0, _COMPACT):
        small, _ = narrowed(delta, compact, torch.bfloat16) if compact else (delta, 0.0)
        figures.append(
            Measurement(
                what=f"  its bytes in a patch, compact={compact:g}",
                value=sum(part.nbytes for part in small.tensors().values()) / _MEGA,
                unit="MB",
                beside="dense, in bfloat16",
                other=D_IN * D_OUT * 2 / _MEGA,
                ceiling=_SMALLER,
            )
        )
    return figures


def _beside_published(seen: Captured, own: Tensor, ours: float, reference: Path) -> dict[str, Any]:
    """What that row says of the published code. own: our shift, made in `ours` seconds."""
    with tempfile.TemporaryDirectory() as cache:
        predict = _published(seen, reference, cache)
        published, took, _ = _timed(lambda: predict()["m"].T, 1)
    _check(own, published, "the published code")
    return {"value": 1 / ours, "beside": "published predict_param_shifts, 1 run", "other": 1 / took}


def _seen() -> Captured:
    """As a turn of bfloat16 gives them: keys of very different sizes, small gradients."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.rand(D_IN, generator=generator).pow(3)
    keys = torch.randn(TOKENS, D_IN, generator=generator) * sizes
    gradients = torch.randn(TOKENS, D_OUT, generator=generator) * 1e-3
    return Captured(keys=keys.bfloat16(), gradients=gradients.bfloat16())


def _timed(solve: Callable[[], Tensor], runs: int) -> tuple[Tensor, float, int]:
    """The shift, the median of the seconds, and the most memory that was held more than before."""
    before = memory.held()
    memory.forget_peak()
    kept: list[Tensor] = []

    def run() -> None:
        kept[:] = [solve()]

    took = statistics.median(seconds(run) for _ in range(runs))
    return kept[0], took, memory.peak() - before


def _own(seen: Captured, moments: Moments) -> Tensor:
    """(d_out, d_in), float32, of the factors that a patch stores."""
    factors = _shift(seen, moments).tensors()
    return factors["B"].T @ factors["A"].float()


def _shift(seen: Captured, moments: Moments) -> Delta:
    target = Target(name="m", module=nn.Identity(), tensor="m.weight", transposed=False)
    settings = UltraEditSettings(modules=("m",), learning_rate=_RATE)
    changes = ultraedit.shift({"m": seen}, [target], {seen.group: moments}, settings)
    return changes["m.weight"].delta


def _primal(seen: Captured, moments: Moments) -> Tensor:
    """Δ = (KᵀK + I)⁻¹ Kᵀ V as it is published, in float32; (d_in, d_out), transposed."""
    keys = seen.keys.float()
    settings = UltraEditSettings(modules=("m",), learning_rate=_RATE)
    wanted = ultraedit.values(seen, moments, settings).float()
    system = keys.T @ keys + torch.eye(D_IN)
    solution: Tensor = torch.linalg.solve(system, keys.T @ wanted)
    return solution.T


def _published(seen: Captured, reference: Path, cache: str) -> Callable[[], dict[str, Tensor]]:
    """`ULTRAEDIT.predict_param_shifts` of a checkout, which reads keys and gradients from files in
    `cache`; with plain objects for its configuration and model."""
    stand_in({"wandb": (), "nltk": (), "omegaconf": ("DictConfig",)})
    # Their modules are at the top, with names like `nets` and `util`.
    sys.path.insert(0, str(reference))
    code: Any = importlib.import_module("editor.ultraedit")
    normalizer = code.RunningMeanStd(D_IN + D_OUT)
    keys, gradients = seen.keys.float(), seen.gradients.float()
    normalizer.update(torch.cat((keys, gradients), -1))
    folder = Path(cache) / "model_rows_ultraedit_1_1"
    folder.mkdir()
    torch.save(keys, folder / "0_0_keys.pth")
    torch.save(gradients, folder / "0_0_values_grad.pth")
    with torch.device("meta"):
        module = nn.Linear(D_IN, D_OUT, bias=False)
    config = SimpleNamespace(
        model=SimpleNamespace(edit_modules=["m"], name="model"),
        dataset=SimpleNamespace(name="rows", n_edits=1, batch_size=1),
        editor=SimpleNamespace(name="ultraedit", cache_dir=cache, batch_size=128, lr=_RATE),
        editor_device="cpu",
        num_seq=1,
    )
    # Where the model's first parameter is, the shift is sent.
    model = SimpleNamespace(m=module, parameters=lambda: iter([torch.empty(1)]))
    editor = SimpleNamespace(
        config=config, model=model, lifelong_normalizer={str((D_IN, D_OUT)): normalizer}
    )
    return partial(code.ULTRAEDIT.predict_param_shifts, editor)


def _check(own: Tensor, other: Tensor, whose: str) -> None:
    """ValueError if the two have not solved the same."""
    difference = float((own - other).norm() / other.norm())
    if not difference <= _ALIKE:
        raise ValueError(f"{whose} has found another shift: they differ by {difference:.2g}")
