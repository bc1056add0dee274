"""One turn by a checkout of the published UltraEdit code (github XiaojieGu/UltraEdit).

    python -m tests.benchmarks.published_turn TASK RESULT

Theirs, imported from the checkout and unmodified: reading and collating rows (`data/base.py`,
`data/zsre.py`), loading the model (`model.py`), and the edit itself (`editor/ultraedit.py`,
`editor/base.py`, `nets.py`, `util.py`): capturing keys and gradients, the files of them between
the steps, the running statistics, the solution, the change of the weights.

Not theirs: the loop of `_edit`, three calls that are those of `BaseEditor.sequential_valid` without
its scores, which it cannot leave out; rows without the prompts that only scores need; plain objects
for the configuration (hydra, omegaconf); the device, the CPU; and empty modules for wandb and for
what else is imported there and not used by an edit, if it is not installed.

Their program keeps the change in the model. What it leaves on disk, when asked to, is the whole
model (`model_cache`); that is done after the clock has stopped.
"""

import importlib
import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoTokenizer

from tests.benchmarks.measurement import seconds
from tests.benchmarks.one_turn import Outcome, Task, size, watched
from tests.benchmarks.stand_ins import stand_in

# What their modules import, and the names that they take from it.
_UNUSED = {"wandb": (), "nltk": (), "omegaconf": ("DictConfig",)}
_FEATURES = 128  # their config/editor/ultraedit.yaml: rows that are normalised at a time


def main(task_file: str, result: str) -> None:
    """Make the turn of a task, and write what came of it."""
    task = Task.read(Path(task_file))
    make_importable(Path(task.reference))
    os.chdir(task.scratch)
    config = configuration(task)
    model = importlib.import_module("model").make_model(config.model).to(config.model_device)
    editor = importlib.import_module("editor.ultraedit").ULTRAEDIT(config, model)
    tokenizer = AutoTokenizer.from_pretrained(config.model.name_or_path)
    shifts: dict[str, Tensor] = {}
    took, loaded, peak = watched(lambda: _edit(editor, _loader(config, tokenizer), shifts))
    kept = Path("kept")
    keeping = seconds(partial(model.save_pretrained, kept))
    Outcome(
        seconds=took,
        loaded=loaded,
        peak=peak,
        left=size(kept),
        keeping=keeping,
        norms={name: float(shift.double().norm()) for name, shift in shifts.items()},
    ).write(Path(result))


def _edit(editor: Any, loader: "DataLoader[Any]", shifts: dict[str, Tensor]) -> None:
    for tuples in loader:
        editor.cache(tuples["edit_tuples"])
        shifts.update(editor.predict_param_shifts())
        editor.edit_model(shifts, False)


def make_importable(reference: Path) -> None:
    """Their modules, from now on."""
    stand_in(_UNUSED)
    # Their modules are at the top, with names like `model`, `data` and `util`.
    sys.path.insert(0, str(reference))


def configuration(task: Task) -> Any:
    """As their config/*.yaml, with the numbers of this program."""
    chosen = task.hyperparameters
    return SimpleNamespace(
        dataset=SimpleNamespace(
            name="zsre",
            n_edits=task.edits,
            batch_size=chosen["batch_size"],
            valid_path=task.rows,
            num_seq=1,
        ),
        model=SimpleNamespace(
            name="model",
            name_or_path=_plain_name(task),
            class_name="AutoModelForCausalLM",
            edit_modules=chosen["modules"],
            half=task.dtype == "bfloat16",
        ),
        editor=SimpleNamespace(
            name="ultraedit",
            lr=chosen["learning_rate"],
            batch_size=_FEATURES,
            token="ans",
            cache_dir="cache",
        ),
        num_seq=1,
        model_device="cpu",
        editor_device="cpu",
        model_cache=False,
    )


def _plain_name(task: Task) -> str:
    """The model by a path that does not hold "llama", for which their code lacks an import."""
    link = Path(task.scratch) / "model"
    link.symlink_to(task.model, target_is_directory=True)
    return str(link)


def _loader(config: Any, tokenizer: Any) -> "DataLoader[Any]":
    """As their `make_loader`, which would load the tokeniser too."""
    published: Any = importlib.import_module("data.zsre").ZSREDataset

    class Rows(published):  # type: ignore[misc]
        def __getitem__(self, index: int) -> dict[str, Any]:
            row = self.data[index]
            return {"edit_tuples": self.tok_tuples(row["src"], row["ans"])}

    rows = Rows(config.dataset, config.dataset.valid_path, tokenizer, config.model_device)
    return DataLoader(rows, config.dataset.n_edits, False, collate_fn=rows.collate_fn)


if __name__ == "__main__":
    main(*sys.argv[1:])
