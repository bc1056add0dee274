"""Progress on standard error: a bar with rate and time left on a terminal, else nothing."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cli.rendering import DUMB
from ledger.progress import Progress, silent

# phase → (what is told of it, what is counted; nothing where that would tell nobody anything).
_PHASES = {
    "fingerprint": ("fingerprinting the base", "bytes"),
    "load": ("loading the model", ""),
    "edit": ("editing", "edits"),
    "evaluate": ("evaluating", "edits"),
    "evaluate base": ("evaluating the base", "edits"),
    "evaluate other": ("evaluating the other state", "questions"),
    "generate": ("generating", "edits"),
    "read text": ("reading text", "tokens"),
    "load tasks": ("loading tasks", ""),
    "run tasks": ("running tasks", "questions"),
    "run tasks, base": ("running tasks with the base", "questions"),
    "bisect": ("bisecting", "states"),
    "compare": ("comparing weights", "tensors"),
    "ask": ("asking states of the model", "states"),
    "write": ("writing the model", "bytes"),
    "write sums": ("writing the sums", "tensors"),
    "digest": ("comparing with the Hub", "bytes"),
    "upload": ("uploading", "bytes"),
    "fetch": ("fetching patches", "files"),
    "read patches": ("reading patches", "files"),
    "measure base": ("reading the base", "tensors"),
    "rebuild": ("rebuilding tensors", "tensors"),
    "read edited": ("reading the edited model", "bytes"),
    "read base": ("reading its base", "bytes"),
    "difference": ("writing the patch", "tensors"),
    "factor": ("computing factors", "tensors"),
    "squash": ("adding up patches", "tensors"),
    "blend": ("merging patches", "tensors"),
    "copy rows": ("copying rows", "rows"),
    "compare rows": ("comparing rows", "rows"),
    "turns": ("checking turns", "turns"),
    "patches": ("checking patches", "files"),
    "base": ("checking the base", "bytes"),
    "model": ("checking the model", "bytes"),
}


@contextmanager
def watching(*, quiet: bool = False) -> Iterator[Progress]:
    """Inside, a progress that shows each phase as a bar of its own while it lasts."""
    if quiet or not sys.stderr.isatty() or os.environ.get("TERM") in DUMB:
        yield silent
        return
    from rich.console import Console
    from rich.progress import Progress as Bars

    from cli.bars import columns

    # This very stream, also where a library's output is kept from it meanwhile.
    console = Console(file=sys.stderr)
    # What is printed meanwhile stays above the bar; what goes elsewhere is left alone.
    shares = sys.stdout.isatty()
    with Bars(*columns(), console=console, transient=True, redirect_stdout=shares) as bars:
        shown = ""

        def report(phase: str, done: int, total: int) -> None:
            nonlocal shown
            # Less done than before: the same again, for the next turn.
            if phase != shown or done < bars.tasks[0].completed:
                for old in bars.task_ids:
                    bars.remove_task(old)
                words, unit = _PHASES.get(phase, (phase, ""))
                bars.add_task(words, total=total, unit=unit)
                shown = phase
            bars.update(bars.task_ids[0], completed=done, total=total)

        yield report
