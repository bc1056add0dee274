"""`ledger cherry-pick` and `ledger merge`: turns of other branches, repeated here."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import completing
from cli.editing import print_conflicts, print_turn
from cli.memories import weights_given
from cli.options import (
    STATE,
    TURN,
    branch_option,
    device_option,
    dtype_option,
    json_option,
    ledger_option,
    lock_timeout_option,
    message_option,
    opened,
    print_json,
    seed_option,
)
from cli.rendering import print_table, short, tell
from cli.starting import importing
from cli.watching import watching
from ledger.metrics import METRICS
from ledger.wording import counted, score, turn_numbers, visible

if TYPE_CHECKING:
    from ledger.history import Step
    from ledger.joining import Joined
    from ledger.merge_plan import Plan
    from ledger.picking import Picked
    from ledger.side_scores import SideScores

_SHOWN = 20


@click.command("cherry-pick", short_help="Repeat single turns of another branch here.")
@click.argument("turns", nargs=-1, required=True, type=TURN, metavar="TURN…")
@click.option(
    "--on-conflict",
    type=click.Choice(["override", "abort"]),
    default="override",
    show_default=True,
    help="What to do if an edit of it answers a question otherwise than an edit in force here.",
)
@message_option
@branch_option
@ledger_option
@lock_timeout_option
@json_option
def cherry_pick(
    turns: tuple[int | str, ...],
    on_conflict: str,
    message: str,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """Repeat each TURN, wherever in the ledger it is, on the current branch: its patch as it is,
    with its edits and settings, as a new turn.

    A merge or squash brings the turns along that it takes the place of. All TURNs are recorded, or
    none. To edit the same facts again instead: ledger replay.

    \b
    Example: ledger cherry-pick 3f9a2c
             ledger cherry-pick feature~1 feature
    """
    from ledger.picking import cherry_pick as pick

    with watching(quiet=as_json) as progress:
        picked = pick(
            opened(ledger_dir, working=True),
            turns,
            on_conflict=on_conflict,
            message=message,
            progress=progress,
        )
    if as_json:
        print_json([one.to_json() for one in picked])
        return
    for one in picked:
        _print_picked(one)
    tell("rewrite the model with: ledger apply --to DIR")


def _print_picked(picked: "Picked") -> None:
    source = f"turn {picked.source} of {picked.branch}"
    line = f"turn {picked.turn} repeats {source}: {_what(picked)}"
    if picked.replaces:
        line += f", in place of {turn_numbers(picked.replaces)}"
    tell(line)
    print_conflicts(picked.overrides, "overrides")
    for same in picked.repeats[:_SHOWN]:
        row = "an edit" if same.row is None else f"row {same.row}"
        tell(f"{row} says what {same.older} does: '{short(visible(same.target), 40)}'")
    _print_more(len(picked.repeats), "edits")


def _what(turn: "Picked | Step") -> str:
    return f"{turn.method}, {counted(turn.edits, 'edits')}" if turn.edits else str(turn.method)


@click.command(short_help="Bring what another branch has into this one.")
@click.argument("theirs", type=STATE, metavar="BRANCH", shell_complete=completing.branches)
@click.option(
    "--strategy",
    type=click.Choice(["sum", "linear", "ties", "dare", "slerp"]),
    default="sum",
    show_default=True,
    help="sum adds the patches up, each a turn of its own; the others blend what both sides have "
    "made of the weights.",
)
@click.option("--density", type=float, help="Share of the entries that ties and dare keep (0.53).")
@click.option(
    "--weights",
    metavar="A,B",
    callback=weights_given,
    help="Of this branch and of BRANCH in a blend (default: 0.5,0.5).",
)
@seed_option
@click.option(
    "--on-conflict",
    type=click.Choice(["ours", "theirs", "abort"]),
    default="abort",
    show_default=True,
    help="Whose facts hold where both sides have changed them to different targets.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be done; change nothing.")
@click.option("--no-evaluate", is_flag=True, help="Leave out the scores of both sides' edits.")
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Edits of each side to score at the most.",
)
@device_option
@dtype_option
@message_option
@branch_option
@ledger_option
@lock_timeout_option
@json_option
def merge(
    theirs: int | str,
    dry_run: bool,
    no_evaluate: bool,
    ledger_dir: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Bring what BRANCH (or a tag, or any turn) has since it parted from the current branch into
    the current branch.

    Its turns in force are repeated here with their patches as they are, and can be undone one by
    one; what it has undone of the common turns is undone here. A --strategy other than sum adds a
    turn that takes the place of the patches of both sides; rolling it back leaves the sum.

    Facts that both sides have changed to different targets are listed before anything is done, and
    stop the merge, unless --on-conflict says which are to hold; these are edited once more at the
    end. A merge that was interrupted there goes on with the same command.

    \b
    Example: ledger merge feature --dry-run
             ledger merge feature --on-conflict theirs -m "release 2"
             ledger merge feature --strategy ties --density 0.4
    """
    from ledger.merge_plan import MergeBranch, check_conflicts, plan_merge

    chosen = MergeBranch(evaluate=not no_evaluate, **options)
    ledger = opened(ledger_dir, working=not dry_run)
    plan = plan_merge(ledger, theirs)
    stops = bool(plan.conflicts) and chosen.on_conflict == "abort"
    if dry_run or stops:
        if as_json:
            print_json(plan.to_json())
        else:
            _print_plan(plan)
        if not dry_run:
            check_conflicts(plan, chosen)
        return
    if not as_json:
        _print_conflicts(plan)
    with importing():
        from ledger.joining import merge_branch
    with watching(quiet=as_json) as progress:
        done = merge_branch(ledger, theirs, chosen, plan=plan, progress=progress)
    if as_json:
        print_json(done.to_json())
    else:
        _print_joined(done)


def _print_plan(plan: "Plan") -> None:
    _print_interrupted(plan)
    _print_conflicts(plan)
    if plan.apart.is_merged:
        more = "nothing more" if plan.pending else "nothing"
        tell(f"{plan.name} is merged already: there is {more} to do")
        _print_left_out(plan)
        return
    if plan.apart.undoes:
        tell(f"would undo {turn_numbers(plan.apart.undoes)}, as {plan.name} has")
    _print_brought_back(plan, "would bring back")
    _print_repeats(plan, "would repeat")


def _print_joined(done: "Joined") -> None:
    plan, apart = done.plan, done.plan.apart
    _print_interrupted(plan)
    if apart.is_merged:
        for added in done.edited_again:
            print_turn(added)
        tell(f"{plan.name} is merged already: there is nothing more to do")
        _print_left_out(plan)
        return
    if done.rollback is not None:
        tell(f"turn {done.rollback} undoes {turn_numbers(apart.undoes)}, as {plan.name} has")
        _print_brought_back(plan, "brings back")
    _print_repeats(plan, "repeats")
    if done.blends:
        verb = "takes" if len(done.blends) == 1 else "take"
        tell(
            f"{turn_numbers(done.blends)} {verb} the place of the patches of both sides; rolled "
            "back, they are added up"
        )
    for note in done.notes:
        tell(f"note: {note}")
    for added in done.edited_again:
        print_turn(added)
    _print_scores(done.scores)
    tell("rewrite the model with: ledger apply --to DIR")


def _print_interrupted(plan: "Plan") -> None:
    if plan.interrupted is not None:
        note = plan.interrupted
        tell(
            f"the merge of {note.name} in turns {note.first} to {note.last} was interrupted: "
            f"{counted(len(plan.pending), 'facts')} had still to be edited again"
        )


def _print_repeats(plan: "Plan", verb: str) -> None:
    for repeat in plan.apart.repeats[:_SHOWN]:
        source = f"turn {repeat.source.number} of {plan.name}"
        tell(f"turn {repeat.number} {verb} {source}: {_what(repeat.source)}")
    _print_more(len(plan.apart.repeats), "turns")
    _print_left_out(plan)


def _print_brought_back(plan: "Plan", verb: str) -> None:
    if plan.apart.brought_back:
        tell(f"this {verb} {turn_numbers(plan.apart.brought_back)}")


def _print_conflicts(plan: "Plan") -> None:
    if not plan.conflicts:
        return
    tell(f"{counted(len(plan.conflicts), 'facts')} changed on both sides:")
    rows = [
        (
            short(one.ours.prompt, 60),
            short(one.ours.target, 30),
            str(one.ours.number),
            short(one.theirs.target, 30),
            str(one.turn_of_theirs),
        )
        for one in plan.conflicts[:_SHOWN]
    ]
    headings = ("prompt", "ours", "turn", "theirs", "their turn")
    print_table(headings, rows, right="turn|their turn")
    _print_more(len(plan.conflicts), "facts")


def _print_left_out(plan: "Plan") -> None:
    if plan.not_compared:
        tell(
            f"note: the texts of {counted(plan.not_compared, 'edits')} of this branch are not "
            "here, so whether the other one contradicts them is not known"
        )
    if undone := [step.number for step in plan.apart.undone_here]:
        tell(f"{turn_numbers(undone)} of {plan.name}: rolled back here, and stays so")
    for step, reason in plan.apart.left_out:
        tell(f"turn {step.number} of {plan.name} is left out: {reason}")


def _print_more(count: int, what: str) -> None:
    if count > _SHOWN:
        tell(f"… and {counted(count - _SHOWN, f'more {what}')} (all of them with --json)")


def _print_scores(sides: "Sequence[SideScores]") -> None:
    """What the edits of each side scored before, on their own branch, and now."""
    if not sides:
        return
    headings, right = ["edits"], []
    for side in sides:
        headings += [f"{side.side} before", f"{side.side} now"]
        right += headings[-2:]
    rows = [
        [label, *_side_cells(sides, key)]
        for key, label in METRICS.items()
        if any(side.now.get(key) is not None for side in sides)
    ]
    counts = [cell for side in sides for cell in (str(side.n_then), f"{side.n} of {side.of}")]
    print_table(headings, [["scored", *counts], *rows], right="|".join(right))


def _side_cells(sides: "Sequence[SideScores]", key: str) -> list[str]:
    return [
        cell
        for side in sides
        for cell in (score((side.then or {}).get(key)), score(side.now.get(key)))
    ]
