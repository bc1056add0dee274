"""Scores of the edits of a turn by this program, beside those by the published code.

An item is one prompt with its answer that one model is asked: three for each edit, its prompt, a
rephrasing and a locality prompt. The published code asks the edited model, so that it has 3 n
items. This program asks the un-edited base beside it, without which it would not know what has
drifted, and has 6 n: what base and state have in common runs once. The second line is for the state
alone, without anything of the base.

Both must find the same means, of tokens right per answer, but for what rounding makes of them: the
edited weights are the same to the byte, the batches are not.
"""

import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ledger.adding import AddEdits
from ledger.applying import apply_to_folder
from ledger.datasets import open_dataset, read_rows
from ledger.editing import add_edits
from ledger.initialising import init
from ledger.workspace import open_ledger
from patches.edit import Edit
from tests.benchmarks.apart import ComparisonError, run
from tests.benchmarks.measurement import Measurement
from tests.benchmarks.one_turn import Outcome, Task
from tests.benchmarks.own_scores import BASE

_FASTER, _SMALLER = 3.0, 1 / 3  # beside the published code
_ALIKE = 0.02  # what two mean scores may differ by: some tokens are as probable as others
_PROBES = 3
_MEGA = 1e6


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The same edits scored by two programs, run by run. own: the task in a ledger with the edits;
    published: in a checkpoint of the same state."""

    own: Task
    published: Task

    def measure(self, threads: int, *, runs: int, scratch: Path) -> list[Measurement]:
        """Speed, memory and the difference; ComparisonError if they do not find the same."""
        beside: list[Outcome] = []
        alone: list[Outcome] = []
        published: list[Outcome] = []
        for number in range(1, runs + 1):
            print(f"scores, {threads} threads, run {number} …", file=sys.stderr, flush=True)
            for made, base in ((beside, "yes"), (alone, "no")):
                task = replace(self.own, settings={BASE: base})
                made.append(run("own_scores", task, threads, scratch))
            published.append(run("published_scores", self.published, threads, scratch))
        return _figures(self.own.edits, threads, beside, alone, published)


def _figures(
    edits: int,
    threads: int,
    beside: list[Outcome],
    alone: list[Outcome],
    published: list[Outcome],
) -> list[Measurement]:
    def median(made: list[Outcome], figure: Callable[[Outcome], float]) -> float:
        return statistics.median(map(figure, made))

    def speed(made: list[Outcome], models: int) -> float:
        return median(made, lambda one: _PROBES * models * edits / one.seconds)

    def peak(one: Outcome) -> float:
        return (one.peak - one.loaded) / _MEGA

    thread = "1 thread" if threads == 1 else f"{threads} threads"
    other: dict[str, Any] = {"beside": "published, edited model", "other": speed(published, 1)}
    limit = _FASTER if threads == 1 else None
    return [
        Measurement(
            what=f"Scores of {edits} edits, base and state, {thread}",
            value=speed(beside, 2),
            unit="items/s",
            limit=limit,
            **other,
        ),
        Measurement(what="  the state alone", value=speed(alone, 1), unit="items/s", **other),
        Measurement(
            what="  peak memory beyond the loaded model",
            value=median(beside, peak),
            unit="MB",
            beside="published",
            other=median(published, peak),
            ceiling=_SMALLER,
        ),
        Measurement(
            what="  scores differ by at most",
            value=100 * max(_difference(one, published[0]) for one in (*beside, *alone)),
            unit="%",
        ),
    ]


def _difference(ours: Outcome, published: Outcome) -> float:
    """The largest of those between two means; ComparisonError if it is no matter of rounding."""
    found = 0.0
    for name, score in published.scores.items():
        found = max(found, abs(ours.scores[name] - score))
        if not found <= _ALIKE:
            raise ComparisonError(
                f"{name}: {score:.4f} by the published code, {ours.scores[name]:.4f} by this "
                "program, so that they have not scored the same"
            )
    return found


def scoring(model: Path, data: Path, count: int, reference: str, scratch: Path) -> Scoring:
    """The first `count` usable rows of `data`, edited, to be scored.

    Makes the ledger with a turn of them, and the checkpoint after it, in `scratch`.
    """
    rows, ledger, edited = scratch / "scores.json", scratch / "ledger", scratch / "edited"
    write_rows(data, count, rows)
    init(str(model), folder=ledger).ledger.close()
    with open_ledger(ledger) as opened:
        made = add_edits(
            opened,
            AddEdits(
                source=str(rows),
                turn_size=count,
                settings={"step": "published"},
                device="cpu",
                evaluate=False,
            ),
        )
        if [added.edits for added in made.turns] != [count]:
            raise ComparisonError(f"{data}: the first {count} usable rows do not make one turn")
        apply_to_folder(opened, edited)
    task = Task(
        method="ultraedit",
        model=str(ledger),
        rows=str(rows),
        edits=count,
        dtype="bfloat16",
        settings={},
        hyperparameters=made.hyperparameters,
        reference=reference,
    )
    return Scoring(own=task, published=replace(task, model=str(edited)))


def write_rows(data: Path, count: int, file: Path) -> None:
    """The first rows of `data` with all three prompts, in the fields of ZsRE, which both read.

    Both put a question mark after `loc`. ComparisonError if there are fewer than `count`.
    """
    rows: dict[str, dict[str, str]] = {}
    for row in read_rows(open_dataset(str(data))):
        edit = row.edit
        if len(rows) < count and edit is not None and edit.rephrasings and edit.locality:
            rows.setdefault(edit.prompt, _row(edit))
    if len(rows) < count:
        raise ComparisonError(
            f"{data} has {len(rows)} usable rows with a rephrasing and a locality prompt, "
            f"not {count}"
        )
    file.write_text(json.dumps(list(rows.values())), encoding="utf-8")


def _row(edit: Edit) -> dict[str, str]:
    return {
        "src": edit.prompt,
        "rephrase": edit.rephrasings[0],
        "ans": edit.target,
        "loc": edit.locality[0].prompt.removesuffix("?"),
        "loc_ans": edit.locality[0].answer,
    }
