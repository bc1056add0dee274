"""What stands beside a bar of progress: how fast it goes, and how long it will take."""

from collections.abc import Sequence

from rich.progress import BarColumn, ProgressColumn, Task, TaskProgressColumn, TextColumn
from rich.text import Text

from ledger.wording import size

BYTES = "bytes"


def columns() -> Sequence[ProgressColumn]:
    """For tasks with a field ``unit``: what is counted, empty where a rate would tell nothing."""
    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        _Pace(),
    )


class _Pace(ProgressColumn):
    """Rate and time left."""

    # Often enough to be read.
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left = task.time_remaining
        told = [
            rate(task.finished_speed or task.speed, task.fields["unit"]),
            f"{span(left)} left" if left and not task.finished else "",
        ]
        return Text(", ".join(filter(None, told)), no_wrap=True)


def rate(speed: float | None, unit: str) -> str:
    """So many of a unit per second, or how long each takes; empty while nobody knows."""
    if not speed or not unit:
        return ""
    if unit == BYTES:
        return f"{size(int(speed))}/s"
    if speed < 1:
        return f"{1 / speed:.1f} s/{unit.removesuffix('s')}"
    return f"{speed:,.1f} {unit}/s" if speed < 100 else f"{speed:,.0f} {unit}/s"


def span(seconds: float) -> str:
    """A time as 0:07, 12:34 or 1:23:45."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
