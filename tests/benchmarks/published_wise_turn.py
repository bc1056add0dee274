"""The edits of a turn by a checkout of EasyEdit's WISE (github zjunlp/EasyEdit).

    python -m tests.benchmarks.published_wise_turn TASK RESULT

Theirs, imported from the checkout and unmodified: `easyeditor/models/wise/`, called as its editor
calls it, `apply_wise_to_model` with one request after the other and the model that comes of the
one before. Hyperparameters are those of its published configurations (optimiser's rate, margins,
clamp), but for the matrix, the number of iterations, the mask's share and the texts put before
prompts, which are this program's. It may stop early, so the passes through the model are counted.

Not theirs: the loop over the requests, the reading of the rows, and the device, the CPU. Their
packages' `__init__.py` are not run, since they import every other method.

What it leaves on disk, when asked to, is `WISE.save`; that is done after the clock has stopped.
"""

import contextlib
import importlib
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.benchmarks.measurement import seconds
from tests.benchmarks.one_turn import Outcome, Task, watched
from tests.benchmarks.stand_ins import package

# Their hparams/WISE/*.yaml for the LLaMA family.
_PUBLISHED = {
    "edit_lr": 1.0,
    "norm_constraint": 1.0,
    "alpha": 5.0,
    "beta": 20.0,
    "gamma": 10.0,
    "act_ratio": 0.88,
    "save_freq": 500,
    "merge_freq": 1000,
    "merge_alg": "ties",
    "objective_optimization": "only_label",
    "densities": 0.53,
    "weights": 1.0,
    "retrieve": True,
    "replay": False,
    "alg_name": "WISE",
}


@dataclass
class _Passes:
    """How often a model was called."""

    count: int = 0

    def __call__(self, *_: object) -> None:
        self.count += 1


def main(task_file: str, result: str) -> None:
    """Make the edits of a task, and write what came of it."""
    task = Task.read(Path(task_file))
    os.chdir(task.scratch)
    apply = _imported(Path(task.reference), task.hyperparameters["contexts"])
    settings = _settings(task)
    model = AutoModelForCausalLM.from_pretrained(task.model, dtype=task.dtype)
    tokenizer = AutoTokenizer.from_pretrained(task.model)
    tokenizer.pad_token_id = tokenizer.eos_token_id
    passes = _Passes()
    model.register_forward_pre_hook(passes)
    kept: list[Any] = []
    took, loaded, peak = watched(
        lambda: kept.append(_edit(apply, model, tokenizer, task, settings))
    )
    file = Path("kept.pt")
    keeping = seconds(partial(kept[0].save, str(file)))
    Outcome(
        seconds=took,
        loaded=loaded,
        peak=peak,
        left=file.stat().st_size,
        keeping=keeping,
        passes=passes.count,
    ).write(Path(result))


def _edit(apply: Any, model: nn.Module, tokenizer: Any, task: Task, settings: Any) -> Any:
    """Their editor after the last request."""
    editor = None
    for request in _requests(Path(task.rows)):
        with contextlib.redirect_stdout(sys.stderr):
            editor, _ = apply(model, tokenizer, [request], settings)
    return editor


def _requests(rows: Path) -> Iterator[dict[str, str]]:
    for row in json.loads(rows.read_text(encoding="utf-8")):
        yield {"prompt": row["src"], "target_new": row["ans"], "loc_prompt": row["loc"]}


def _imported(reference: Path, contexts: list[str]) -> Any:
    """Their `apply_wise_to_model`, with the texts that it would let the model write."""
    for name in ("easyeditor", "easyeditor.models", "easyeditor.util"):
        package(name, reference.joinpath(*name.split(".")))
    braces = str.maketrans({"{": "{{", "}": "}}"})
    templates = importlib.import_module("easyeditor.models.wise.utils")
    templates.CONTEXT_TEMPLATES_CACHE = [  # type: ignore[attr-defined]
        "{}",
        *(context.translate(braces) + "{}" for context in contexts),
    ]
    return importlib.import_module("easyeditor.models.wise.wise_main").apply_wise_to_model


def _settings(task: Task) -> Any:
    chosen = task.hyperparameters
    [module] = chosen["modules"]
    kind = importlib.import_module("easyeditor.models.wise.wise_hparams").WISEHyperParams
    settings = kind(
        **_PUBLISHED,
        # Their names are Python's: model.layers[24].mlp.down_proj.weight
        inner_params=[re.sub(r"\.(\d+)(?=\.)", r"[\1]", module) + ".weight"],
        n_iter=chosen["iterations"],
        mask_ratio=chosen["mask_ratio"],
        model_name="model",
        device="cpu",
    )
    # One memory for all requests, in place of a new one for each.
    settings.sequential_edit = True
    return settings


if __name__ == "__main__":
    main(*sys.argv[1:])
