"""`ledger replay`: edit turns again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.editing import (
    end_with_gate,
    gate_option,
    in_force,
    on_conflict_option,
    print_conflicts,
    print_rows,
    print_turn,
    retention_option,
)
from cli.options import (
    STATE,
    TURN,
    branch_option,
    device_option,
    dtype_option,
    json_option,
    ledger_option,
    lock_timeout_option,
    opened,
    print_json,
)
from cli.rendering import tell
from cli.watching import watching
from ledger.wording import counted, turn_numbers
from ledger.workspace import open_ledger

if TYPE_CHECKING:
    from ledger.adding import Added
    from ledger.replaying import Replay, Replayed
    from ledger.workspace import Ledger

Span = tuple[int | str, int | str]


def _span(context: click.Context, option: click.Parameter, text: str) -> Span:
    """``FROM..TO``, or one turn alone."""
    first, dots, last = text.partition("..")
    ends = (first, last) if dots else (text, text)
    if not all(ends):
        raise click.BadParameter(f"{text!r} is not a range of turns like 3..5", param=option)
    return TURN.convert(ends[0], option, context), TURN.convert(ends[1], option, context)


@click.command(short_help="Edit turns again: on another state, or another base model.")
@click.argument("span", metavar="FROM..TO", callback=_span)
@click.option(
    "--onto",
    type=STATE,
    metavar="TURN",
    help="On a new branch that begins at TURN (0: the base), instead of the current branch.",
)
@click.option("--as", "name", metavar="BRANCH", help="Its name (default: replay-FROM-TO).")
@click.option(
    "--from-ledger",
    "source",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="The turns come from the current branch of this ledger, maybe of another base model.",
)
@click.option(
    "--defaults",
    is_flag=True,
    help="With the settings that suit this model, not those that are recorded.",
)
@on_conflict_option
@retention_option
@gate_option
@device_option
@dtype_option
@click.option("--no-evaluate", is_flag=True, help="Leave out the scores of each turn (faster).")
@branch_option
@ledger_option
@lock_timeout_option
@json_option
def replay(
    span: Span,
    name: str | None,
    source: Path | None,
    no_evaluate: bool,
    ledger_dir: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Edit the turns FROM to TO once more, as new turns of the current branch, or of a new one.

    Their texts, rows, settings and seeds are taken from the ledger; the files of facts are not
    needed. Turns that are rolled back, merges and imports are left out; so are edits that are in
    force already with the same target. This is also how edits move to a new base model: make a
    ledger for it, and replay there with --from-ledger and --defaults.

    Stop it at any time: whole turns stay, and the same command goes on where it stopped. A turn
    that fails --gate is recorded, but not in force; the exit status is then 3.

    \b
    Example: ledger replay 3..7 --onto 1 --as without-2
             ledger replay HEAD~2..HEAD --on-conflict skip
             ledger replay 1..HEAD --from-ledger ../old/.ledger --defaults
    """
    from ledger.replaying import Replay

    chosen = Replay(first=span[0], last=span[1], branch=name, evaluate=not no_evaluate, **options)
    ledger = opened(ledger_dir, working=True)
    origin = None
    if source is not None:
        origin = click.get_current_context().with_resource(open_ledger(source))
    _run(ledger, origin, chosen, as_json)


def _run(ledger: "Ledger", origin: "Ledger | None", options: "Replay", as_json: bool) -> None:
    from ledger.replaying import replay as start

    done: list[Added] = []
    with watching(quiet=as_json) as progress:
        run = start(ledger, options, source=origin, progress=progress)
        if not as_json:
            tell(f"editing {turn_numbers(run.chosen)} again on branch {run.branch}")
            for note in run.notes:
                tell(f"note: {note}")
        for added in run.turns:
            done.append(added)
            if not as_json:
                print_turn(added)
    if as_json:
        print_json(_run_json(run, done))
    else:
        _print_end(ledger, run, done)
    end_with_gate(done)


def _print_end(ledger: "Ledger", run: "Replayed", done: "list[Added]") -> None:
    print_conflicts([one for added in done for one in added.overrides], "overrides")
    print_rows([skip for added in done for skip in added.skipped], 0)
    for number, reason in run.left_out:
        tell(f"turn {number} {reason}")
    if not done:
        tell("nothing to record")
        return
    kept = in_force(done)
    if not kept:
        return
    edits = counted(sum(added.edits for added in kept), "edits")
    made = turn_numbers([added.turn for added in kept])
    there = "" if run.branch == ledger.branch else f"; go there with: ledger switch {run.branch}"
    tell(f"{edits} recorded in {made} of branch {run.branch}{there}")


def _run_json(run: "Replayed", done: "list[Added]") -> dict[str, Any]:
    """The contract of ``ledger replay --json``; fields are only ever added."""
    return {
        "branch": run.branch,
        "turns": [added.to_json() for added in done],
        "edits": sum(added.edits for added in done),
        "rejected": [added.turn for added in done if added.rejected],
        "left_out": [{"turn": number, "reason": reason} for number, reason in run.left_out],
        "notes": run.notes,
    }
