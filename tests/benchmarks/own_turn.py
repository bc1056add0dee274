"""One turn by this program, as `ledger add-edits --no-evaluate` makes it.

    python -m tests.benchmarks.own_turn TASK RESULT

Before the clock starts: the ledger is there, the model and its tokeniser are loaded, and the
hyperparameters are settled. In the turn: the rows are read and encoded, the edit is made, patch
and editor state are written, and the turn is committed.
"""

import sys
from pathlib import Path

import torch
from sqlalchemy import select

from ledger import database
from ledger.adding import Added, AddEdits
from ledger.datasets import open_dataset
from ledger.editing import add_edits
from ledger.initialising import init
from ledger.models import quieten
from ledger.orm import TurnRow
from ledger.workspace import Ledger, open_ledger
from patches.patch import PatchFile
from tests.benchmarks.one_turn import Outcome, Task, size, watched

_FIELDS = {
    "prompt": "src",
    "target": "ans",
    "locality_prompt": "loc",
    "locality_answer": "loc_ans",
}


def main(task_file: str, result: str) -> None:
    """Make the turn of a task, and write what came of it."""
    quieten()
    task = Task.read(Path(task_file))
    folder = Path(task.scratch) / "ledger"
    init(task.model, folder=folder).ledger.close()
    before = size(folder)
    with open_ledger(folder) as ledger:
        run = add_edits(ledger, _options(task))
        turns: list[Added] = []

        def turn() -> None:
            # `add_edits` has opened the source already, which is a part of the turn.
            open_dataset(task.rows, mapping=_FIELDS)
            turns.extend(run.turns)

        took, loaded, peak = watched(turn)
        if [added.edits for added in turns] != [task.edits]:
            raise ValueError(f"{task.rows}: not one turn of {task.edits} edits: {turns}")
        norms = _norms(ledger)
    Outcome(
        seconds=took,
        loaded=loaded,
        peak=peak,
        left=size(folder) - before,
        norms=norms,
        hyperparameters=run.hyperparameters,
    ).write(Path(result))


def _options(task: Task) -> AddEdits:
    return AddEdits(
        source=task.rows,
        mapping=_FIELDS,
        method=task.method,
        modules=tuple(task.modules),
        turn_size=task.edits,
        settings=task.settings,
        device="cpu",
        dtype=task.dtype,
        evaluate=False,
    )


def _norms(ledger: Ledger) -> dict[str, float]:
    with database.reading(ledger.engine) as session:
        digest = session.scalars(select(TurnRow.patch_digest)).one()
    assert digest is not None
    patch = PatchFile(ledger.store.open(digest))
    found = {}
    for tensor in patch.changes:
        delta = patch.delta(tensor)
        shift = torch.zeros(delta.shape, dtype=torch.float64)
        delta.add_to(shift)
        found[tensor.removesuffix(".weight")] = float(shift.norm())
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
