"""Scores of a turn's edits by this program, as `ledger add-edits` and `ledger evaluate` give them.

    python -m tests.benchmarks.own_scores TASK RESULT

Before the clock starts: the model is loaded and is at the state after the turn. On the clock: the
rows are read and encoded, every prompt is answered, and the edits are scored, one by one and
together. With the setting `base`, the un-edited base is asked beside the state, as it always is by
the commands; without, the state alone.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ledger import database, history
from ledger.datasets import open_dataset, read_rows
from ledger.evaluating import measure
from ledger.models import load_tokenizer, quieten
from ledger.states import live_state
from ledger.workspace import Ledger, open_ledger
from patches.edit import Edit
from patches.evaluation import Questions, Scores, answer, score, summary
from patches.live import LiveModel
from patches.tokens import context_length
from tests.benchmarks.one_turn import Outcome, Task, watched

BASE = "base"
"""The setting: "yes" if the base is asked too."""


def main(task_file: str, result: str) -> None:
    """Score the edits of a task, and write what came of it."""
    quieten()
    task = Task.read(Path(task_file))
    with open_ledger(Path(task.model)) as ledger:
        live = _live(ledger, task.dtype)
        tokenizer = load_tokenizer(ledger.checkpoint.folder)
        found: dict[str, Any] = {}
        with_base = task.settings[BASE] == "yes"

        def ask() -> None:
            edits = [row.edit for row in read_rows(open_dataset(task.rows)) if row.edit is not None]
            asks = _beside_the_base if with_base else _alone
            found.update(edits=len(edits), scores=asks(live, tokenizer, edits))

        took, loaded, peak = watched(ask)
    if found["edits"] != task.edits:
        raise ValueError(f"{task.rows}: {found['edits']} edits, not {task.edits}")
    Outcome(
        seconds=took,
        loaded=loaded,
        peak=peak,
        left=0,
        scores={name: value for name, value in found["scores"].items() if value is not None},
    ).write(Path(result))


def _live(ledger: Ledger, dtype: str) -> LiveModel:
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch)
    return live_state(ledger, turns, device="cpu", dtype=dtype)


def _beside_the_base(live: LiveModel, tokenizer: Any, edits: Sequence[Edit]) -> Scores:
    return measure(live, tokenizer, edits, seed=0).state


def _alone(live: LiveModel, tokenizer: Any, edits: Sequence[Edit]) -> Scores:
    """Each prompt is asked once; what would need the base is compared with the state itself."""
    questions = Questions.of(edits, tokenizer, context_length(live.model.config))
    said = answer(live.model, questions, device=live.device)
    return summary(one.state for one in score(edits, questions, said, said))


if __name__ == "__main__":
    main(*sys.argv[1:])
