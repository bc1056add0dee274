"""Scores of edits by a checkout of the published UltraEdit code (github XiaojieGu/UltraEdit).

    python -m tests.benchmarks.published_scores TASK RESULT

Theirs, imported from the checkout and unmodified: `BaseEditor.sequential_valid` with its loop over
the prompts of edits, rephrasings and locality, and `succ_ratios` (`editor/base.py`, `util.py`);
reading, encoding and collating rows (`data/base.py`, `data/zsre.py`); loading the model
(`model.py`).

Not theirs: the edit before the scores, which is left out, since the model comes with the edits in
it; and what `published_turn` says of configuration, device, wandb and nltk. wandb gets the scores.

On the clock: rows read and encoded, prompts answered, scores taken.
"""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from tests.benchmarks.one_turn import Outcome, Task, watched
from tests.benchmarks.published_turn import configuration, make_importable

# Theirs → ours.
_NAMES = {"ES": "edit_success", "GS": "generalization", "LS": "locality"}


def main(task_file: str, result: str) -> None:
    """Score the edits of a task, and write what came of it."""
    task = Task.read(Path(task_file))
    make_importable(Path(task.reference))
    os.chdir(task.scratch)
    config = configuration(task)
    model = importlib.import_module("model").make_model(config.model).to(config.model_device)
    scorer = _scorer(config, model)
    tokenizer = AutoTokenizer.from_pretrained(config.model.name_or_path)
    scores: dict[str, float] = {}
    importlib.import_module("editor.base").wandb.log = scores.update
    took, loaded, peak = watched(lambda: scorer.sequential_valid(_loader(config, tokenizer)))
    Outcome(
        seconds=took,
        loaded=loaded,
        peak=peak,
        left=0,
        scores={ours: float(scores[theirs]) for theirs, ours in _NAMES.items()},
    ).write(Path(result))


def _scorer(config: Any, model: Any) -> Any:
    """Their editor for a model that is edited already."""
    published: Any = importlib.import_module("editor.ultraedit").ULTRAEDIT

    class Scorer(published):  # type: ignore[misc]
        def cache(self, tuples: Any) -> None: ...

        def predict_param_shifts(self) -> dict[str, Any]:
            return {}

    return Scorer(config, model)


def _loader(config: Any, tokenizer: Any) -> Any:
    """As their `make_loader`, which would load the tokeniser too."""
    from torch.utils.data import DataLoader

    published: Any = importlib.import_module("data.zsre").ZSREDataset
    rows = published(config.dataset, config.dataset.valid_path, tokenizer, config.model_device)
    return DataLoader(
        rows, config.dataset.n_edits, False, collate_fn=rows.collate_fn, drop_last=True
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
