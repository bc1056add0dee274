"""`ledger evaluate --lm-eval`: scores by lm-evaluation-harness."""

from pathlib import Path
from typing import TYPE_CHECKING

from cli.options import print_json
from cli.rendering import print_table, tell
from cli.watching import watching
from ledger.wording import NOTHING, counted, score

if TYPE_CHECKING:
    from ledger.harness import Harnessed
    from ledger.harness_scores import TaskScore
    from ledger.refs import Rev
    from ledger.workspace import Ledger

# What is better, as the harness itself shows it.
_ARROWS = {True: " ↑", False: " ↓", None: ""}


def run_harness(
    ledger: "Ledger",
    tasks: str,
    *,
    at: "Rev | None",
    path: Path | None,
    limit: int | None,
    seed: int,
    device: str,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Run the tasks, whose names have commas between them, and print their scores."""
    from ledger.harness import run

    with watching(quiet=as_json) as progress:
        done = run(
            ledger,
            [name.strip() for name in tasks.split(",")],
            at=at,
            path=path,
            limit=limit,
            seed=seed,
            device=device,
            dtype=dtype,
            progress=progress,
        )
    if as_json:
        print_json(done.to_json())
    else:
        _print(done)


def _print(done: "Harnessed") -> None:
    tell(
        f"the state at turn {done.turn} on {counted(done.n, 'examples')} by lm-evaluation-harness "
        f"{done.protocol['version']}, in {done.seconds:.1f} s"
    )
    print_table(
        ("task", "metric", "n", "base", "±", "edited", "±", "better", "worse", "p"),
        [_row(one) for one in done.tasks],
        right="n|base|±|edited|better|worse|p",
    )
    for note in done.notes:
        tell(f"note: {note}")


def _row(one: "TaskScore") -> tuple[str, ...]:
    row = (
        one.task,
        one.metric + _ARROWS[one.higher_is_better],
        NOTHING if one.n is None else f"{one.n:,}",
        score(one.base),
        score(one.base_stderr),
        score(one.state),
        score(one.state_stderr),
    )
    told = one.paired
    if told is None:
        return (*row, NOTHING, NOTHING, NOTHING)
    better, worse = told.better, told.worse
    if one.higher_is_better is False:
        better, worse = worse, better
    sure = "<0.001" if told.p_value < 0.001 else score(told.p_value)
    return (*row, f"{better:,}", f"{worse:,}", sure)
