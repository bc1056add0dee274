"""`ledger tune`: search settings of an editing method for the model at hand."""

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import completing
from cli.editing import mapping_option
from cli.options import (
    branch_option,
    device_option,
    dtype_option,
    json_option,
    ledger_option,
    lock_timeout_option,
    opened,
    print_json,
    seed_option,
    workers_option,
)
from cli.rendering import echo, print_table, settings, short, tell
from cli.watching import watching
from ledger.metrics import METRICS
from ledger.wording import counted, score

if TYPE_CHECKING:
    from ledger.tuning import Told
    from ledger.tuning_report import Held, Tuned

_SECONDS = {"h": 3600, "m": 60, "s": 1}
_COMPARED = ("edit_success", "generalization", "stability", "exact_match")


def _duration(_context: click.Context, option: click.Parameter, text: str) -> float:
    """``20m``, ``90s``, ``2h``, ``1h30m``, or a number of seconds."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([hms]?)", text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        raise click.BadParameter(f"{text!r} is no time; write it like 20m, 90s or 2h", param=option)
    return sum(float(number) * _SECONDS[unit or "s"] for number, unit in parts)


@click.command(short_help="Search the best settings for the model at hand.")
@click.option(
    "--data",
    "source",
    required=True,
    metavar="FILE",
    shell_complete=completing.files,
    help="Rows to try edits with, as for add-edits: half of them for trials, half for the report.",
)
@click.option(
    "--budget",
    default="20m",
    show_default=True,
    callback=_duration,
    metavar="TIME",
    help="How long to search and report: 20m, 90s, 2h.",
)
@click.option("--method", default="ultraedit", show_default=True, help="ultraedit or wise.")
@click.option(
    "--turns", default=2, show_default=True, help="Turns of edits in a trial, at the most."
)
@click.option("--turn-size", type=int, help="Edits per turn (default: ultraedit 100, wise 10).")
@click.option(
    "--trials",
    type=click.IntRange(min=0),
    metavar="N",
    help="Settings to try in the first round at the most, also where there is time for more.",
)
@click.option(
    "--prefer",
    type=click.Choice(["balance", "success", "stability"]),
    default="balance",
    show_default=True,
    help="What counts double in the mean of edit success, generalisation and stability that "
    "decides; stability must not fall more than 0.02 below that of the defaults.",
)
@click.option("--apply", is_flag=True, help="Let the choice count in this ledger from now on.")
@mapping_option
@click.option("--limit", type=click.IntRange(1), help="Rows to read at the most.")
@click.option("--offset", default=0, help="Rows to leave out at the start.")
@workers_option
@seed_option
@device_option
@dtype_option
@branch_option
@ledger_option
@lock_timeout_option
@json_option
def tune(ledger_dir: Path | None, as_json: bool, **options: Any) -> None:
    """Search settings of an editing method for the ledger's model: modules, layers, step sizes.

    Many settings are tried on few rows of FILE, the best third of them on more, until the time is
    over. Trials edit the base model in memory and record nothing in the history. The choice is then
    scored beside the defaults on rows that no trial has seen. Rows in force are not used.

    Stop it at any time: the same command goes on where it stopped.

    \b
    Example: ledger tune --data facts.json --budget 20m --apply
             ledger tune --data facts.json --method wise --prefer stability
    """
    from ledger.tuning import Tune
    from ledger.tuning import tune as search

    chosen = Tune(**options)
    ledger = opened(ledger_dir)
    best: dict[int, float] = {}

    def tell(told: "Told") -> None:
        if not as_json and told.best > best.get(told.rung, -1.0):
            best[told.rung] = told.best
            _print_progress(told)

    with watching(quiet=as_json) as progress:
        found = search(ledger, chosen, tell=tell, progress=progress)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found, chosen.source)


def _print_progress(told: "Told") -> None:
    tell(
        f"round {told.rung} of {told.rungs}, trial {told.number}: best so far "
        f"{score(told.best)} ({_scores(told.tried.scores)}), {_time(told.left)} left"
    )


def _scores(scores: Any) -> str:
    return ", ".join(
        f"{METRICS[name]} {score(scores.get(name))}" for name in _COMPARED if name in scores
    )


def _print(found: "Tuned", source: str) -> None:
    rounds = ", ".join(
        f"{counted(count, 'trials')} on {rung.turns} × {rung.size} edits"
        for rung, count in found.rungs
    )
    failed = f", {found.failed} failed" if found.failed else ""
    tell(f"{rounds}{failed}; {_time(found.seconds)}")
    _print_frontier(found)
    rung = found.held_out_rung
    echo(click.style(f"On {rung.turns} × {rung.size} edits that no trial saw", bold=True))
    print_table(
        ("settings", *(METRICS[name] for name in _COMPARED), "mean"),
        [_held(one) for one in found.held_out],
    )
    for note in found.notes:
        tell(f"note: {note}")
    for one in found.held_out:
        if one.failure:
            tell(f"note: {one.name} failed: {one.failure}")
    words = " ".join(shlex.quote(word) for word in found.options)
    if found.applied:
        tell(f"counts from now on: {words}")
    else:
        wise = "" if found.method == "ultraedit" else f"--method {found.method} "
        tell(f"use it with: ledger add-edits {shlex.quote(source)} {wise}{words}")
        tell("or let it count in this ledger: the same command with --apply")


def _print_frontier(found: "Tuned") -> None:
    points = found.to_json()["frontier"]
    rows = []
    for point in points:
        values = dict(point["values"])
        modules = values.pop("modules", [])
        span = modules[0] + (f" … {modules[-1]}" if len(modules) > 1 else "") if modules else ""
        mark = "chosen" if point["chosen"] else "" if point["above_floor"] else "below the floor"
        rows.append(
            (
                *(score(found) for found in point["scores"].values()),
                score(point["objective"]),
                point["name"] or "",
                mark,
                ", ".join(part for part in (span, settings(values)) if part),
            )
        )
    echo(click.style("Frontier of the trials", bold=True))
    print_table(
        ("success", "generalisation", "stability", "mean", "", " ", "settings"),
        rows,
        right="success|generalisation|stability|mean",
    )


def _held(one: "Held") -> tuple[str, ...]:
    cells = []
    for name in _COMPARED:
        text = score(one.scores.get(name))
        if name in one.intervals:
            low, high = one.intervals[name]
            text += f" ({score(low)}-{score(high)})"
        cells.append(text)
    return (short(one.name, 20), *cells, score(one.value))


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}m {rest:02}s" if minutes else f"{rest}s"
