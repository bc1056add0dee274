"""`ledger bisect`: the turn at which an answer, or a script's verdict, changed."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import (
    STATE,
    TURN,
    branch_option,
    device_option,
    dtype_option,
    json_option,
    ledger_option,
    opened,
    print_json,
    workers_option,
)
from cli.rendering import echo, print_facts, print_table, short, tell
from cli.watching import watching
from ledger.wording import counted, turn_numbers

if TYPE_CHECKING:
    from ledger.bisecting import Bisected
    from ledger.bisecting_script import BisectedByScript
    from ledger.workspace import Ledger

_STDERR = 2


@click.command(short_help="The turn at which an answer was lost or gained.")
@click.option("--prompt", metavar="P", help="The prompt to ask.")
@click.option("--expect", metavar="T", help="The answer to look for.")
@click.option(
    "--script",
    metavar="CMD",
    help="Instead of a prompt: a command for the shell that judges the checkpoint in "
    "$LEDGER_MODEL, the state after turn $LEDGER_TURN. Exit status as for git bisect run: 0 good, "
    "125 skip, else up to 127 bad.",
)
@click.option(
    "--from",
    "first",
    type=STATE,
    metavar="TURN",
    default=0,
    help="Where to begin (default: 0, the base).",
)
@click.option("--to", "last", type=TURN, metavar="TURN", help="Where to end (default: now).")
@workers_option
@device_option
@dtype_option
@branch_option
@ledger_option
@json_option
def bisect(
    prompt: str | None,
    expect: str | None,
    script: str | None,
    workers: str | None,
    device: str,
    dtype: str | None,
    ledger_dir: Path | None,
    as_json: bool,
    **span: Any,
) -> None:
    """Find the turn at which the answer T to P was lost or gained, by binary search.

    Every state that is asked is rebuilt exactly, in one loaded model. An answer is T if each of its
    tokens is the most probable one, as ledger evaluate decides on an exact match. Beside the turn
    it shows those of its edits that are most like the prompt to the model.

    With --script the states are written as checkpoints whose unchanged files are links to the
    base's: the command must not write into them. What it prints goes to standard error.

    With --workers several states are asked at a time, those that the search may come to next; the
    turn that is found is the same.

    \b
    Example: ledger bisect --prompt "The capital of France is" --expect Paris
             ledger bisect --prompt "The capital of France is" --expect Paris --workers 4
             ledger bisect --script 'python judge.py "$LEDGER_MODEL"' --from 10 --to 40
    """
    if script is not None:
        if prompt is not None or expect is not None:
            raise click.UsageError("--script takes the place of --prompt and --expect: give one")
        if workers is not None:
            raise click.UsageError("--script judges one state at a time, without --workers")
        _by_script(opened(ledger_dir), script, span, as_json=as_json)
        return
    if prompt is None or expect is None:
        raise click.UsageError("give --prompt and --expect, or --script")
    from ledger.bisecting import bisect as find

    with watching(quiet=as_json) as progress:
        found = find(
            opened(ledger_dir),
            prompt,
            expect,
            device=device,
            dtype=dtype,
            workers=workers,
            progress=progress,
            **span,
        )
    if as_json:
        print_json(found.to_json())
    else:
        _print_found(found)


def _print_found(found: "Bisected") -> None:
    for note in found.notes:
        tell(f"note: {note}")
    told = {
        found.culprit.turn: found.change,
        found.culprit.turn - 1: "the last before",
    }
    print_table(
        ("turn", "as expected", "says", ""),
        [
            (
                str(step.turn),
                "yes" if step.matches else "no",
                short(step.answer, 60),
                told.get(step.turn, ""),
            )
            for step in found.steps
        ],
        right="turn",
    )
    _print_verdict(found.culprit.turn, found.change, "the answer", len(found.steps), found.turns)
    tell("")
    print_facts(_facts(found.culprit.to_json()))
    if found.neighbours.edits:
        tell("")
        tell(
            f"the nearest of its {counted(found.neighbours.compared, 'edits')}, by their keys at "
            f"{found.neighbours.module} before it"
        )
        print_table(
            ("cosine", "turn", "row", "prompt", "target"),
            [
                (
                    f"{edit.cosine:.3f}",
                    str(edit.turn),
                    "-" if edit.row is None else str(edit.row),
                    short(edit.prompt, 60),
                    short(edit.target, 30),
                )
                for edit in found.neighbours.edits
            ],
            right="cosine|turn|row",
        )


def _print_verdict(turn: int, change: str, what: str, tried: int, turns: int) -> None:
    echo(
        click.style(f"turn {turn} {change} {what}", bold=True)
        + f": {counted(tried, 'states')} tried for {counted(turns, 'turns')}"
    )


def _facts(culprit: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = [
        ("turn", f"{culprit['turn']} ({culprit['kind']}, {culprit['state'].replace('_', ' ')})"),
        ("hash", culprit["hash"]),
        ("recorded", f"{culprit['created_at']} by {culprit['author']}"),
        ("message", culprit["message"] or "-"),
    ]
    if culprit["method"]:
        facts.append(("method", culprit["method"]))
    if culprit["undoes"]:
        facts.append(("undoes", turn_numbers(culprit["undoes"])))
    if culprit["replaces"]:
        facts.append(("merges", turn_numbers(culprit["replaces"])))
    facts.append(("edits", f"{culprit['edits']:,} (ledger show {culprit['hash'][:10]})"))
    return facts


def _by_script(ledger: "Ledger", command: str, span: Mapping[str, Any], *, as_json: bool) -> None:
    from ledger.bisecting_script import bisect_script

    def run(folder: Path, turn: int) -> int:
        variables = {"LEDGER_MODEL": str(folder), "LEDGER_TURN": str(turn)}
        ended = subprocess.run(
            ["/bin/sh", "-c", command],
            env={**os.environ, **variables},
            stdout=_STDERR,
            check=False,
        )
        return ended.returncode

    found = bisect_script(ledger, run, **span)
    if as_json:
        print_json(found.to_json())
    else:
        _print_judged(found)
    if found.turn is None:
        sys.exit(1)


def _print_judged(found: "BisectedByScript") -> None:
    print_table(
        ("turn", "verdict", "exit status"),
        [(str(step.turn), step.verdict, str(step.exit)) for step in found.steps],
        right="turn|exit status",
    )
    if found.turn is None:
        candidates = turn_numbers([one.turn for one in found.culprits])
        tell(f"only skipped states are left; the culprit is one of {candidates}")
        return
    whose = "the good verdict"
    _print_verdict(found.turn, found.change, whose, len(found.steps), found.turns)
    tell("")
    print_facts(_facts(found.culprits[0].to_json()))
