"""Progress on standard error: a bar with rate and time left on a terminal, else nothing."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ledger.progress import Progress, silent

_WORDS = {
    "fingerprint": "fingerprinting the base",
    "load": "loading the model",
    "edit": "editing",
    "evaluate": "evaluating",
    "evaluate base": "evaluating the base",
    "generate": "generating",
    "read text": "reading text",
    "evaluate other": "evaluating the other state",
    "load tasks": "loading tasks",
    "run tasks": "running tasks",
    "run tasks, base": "running tasks with the base",
    "bisect": "bisecting",
    "compare": "comparing weights",
    "ask": "asking states of the model",
    "write": "writing the model",
    "fetch": "fetching patches",
    "rebuild": "rebuilding tensors",
    "read edited": "reading the edited model",
    "read base": "reading its base",
    "difference": "writing the patch",
    "factor": "computing factors",
    "squash": "adding up patches",
    "copy rows": "copying rows",
    "compare rows": "comparing rows",
    "turns": "checking turns",
    "patches": "checking patches",
    "base": "checking the base",
    "model": "checking the model",
}


@contextmanager
def watching(*, quiet: bool = False) -> Iterator[Progress]:
    """Inside, a progress that shows each phase as a bar of its own while it lasts."""
    from rich.console import Console

    # This very stream, also where a library's output is kept from it meanwhile.
    console = Console(file=sys.stderr)
    if quiet or not console.is_terminal:
        yield silent
        return
    from rich.progress import (
        BarColumn,
        TaskID,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(show_speed=True),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                for old in tasks.values():
                    bars.remove_task(old)
                tasks.clear()
                tasks[phase] = bars.add_task(_WORDS.get(phase, phase), total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield report
