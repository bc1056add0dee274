"""`ledger log`: the turns, those among them that are looked for, and the tree that they form."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cli.graph import decorated, print_graph
from cli.options import (
    branch_option,
    chosen_branch,
    json_option,
    ledger_option,
    opened,
    print_json,
)
from cli.rendering import print_table, short, tell
from cli.sparklines import print_scores_over_turns
from ledger.history import KINDS
from ledger.wording import counted, numbers, score, size
from ledger.workspace import Ledger, current_branch

if TYPE_CHECKING:
    from ledger.finding import Wanted

F = TypeVar("F", bound=Callable[..., Any])
MOST = 100
"""Turns that are shown at most, unless the command is told otherwise."""
_FILTERS = (
    click.option("--subject", help="Turns with an edit about this subject."),
    click.option("--prompt", help="Turns with an edit of this prompt."),
    click.option("--target", help="Turns with an edit to this answer."),
    click.option("--dataset", help="Part of the dataset's address, or how its SHA-256 begins."),
    click.option(
        "--since",
        metavar="WHEN",
        help="Recorded at or after: 2026-03-29, 2026-03-29T12:00 (UTC), or 3d, 2h ago.",
    ),
    click.option("--until", metavar="WHEN", help="Recorded at or before; of a date, its end."),
    click.option("--method", metavar="NAME", help="E.g. ultraedit, wise, lora."),
    click.option("--kind", type=click.Choice(KINDS)),
    click.option("--min-score", type=float, help="Edit success on the turn's own edits, at least."),
    click.option("--max-score", type=float, help="The same, at most."),
    click.option("--in-force", is_flag=True, help="Without turns that are rolled back."),
)


def _filters(command: F) -> F:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


@click.command(short_help="The turns, what is in force, and where branches point.")
@click.option("-n", "--last", type=click.IntRange(min=1), help="Only the last N turns.")
@click.option("--all", "everything", is_flag=True, help=f"All turns, not only the last {MOST}.")
@click.option("--graph", "as_graph", is_flag=True, help="All branches as a tree, newest first.")
@click.option("--scores", "as_lines", is_flag=True, help="Also how the scores went, as lines.")
@_filters
@branch_option
@ledger_option
@json_option
def log(
    last: int | None,
    everything: bool,
    as_graph: bool,
    as_lines: bool,
    ledger_dir: Path | None,
    as_json: bool,
    **asked: Any,
) -> None:
    """The turns, oldest first: what was edited, how well, and what is in force.

    Filters can be combined; subject, prompt and target are then those of one edit. A turn that
    copies another's says from which. With --json, all turns unless --last is given.

    With --scores, each score is drawn over the turns shown, from 0 (low) to 1 (high): those of each
    turn's state on its own edits, and what it keeps of earlier ones.

    \b
    Example: ledger log --last 10
             ledger log --subject "Danielle Darrieux" --in-force
             ledger log --since 3d --max-score 0.8
             ledger log --graph
             ledger log --scores --all
    """
    if last and everything:
        raise click.UsageError("--last and --all exclude each other")
    if as_graph and as_lines:
        raise click.UsageError("--graph shows no scores; leave out --scores")
    wanted = _wanted(asked)
    if as_graph:
        if not wanted.is_all:
            raise click.UsageError("--graph shows every turn; leave out the filters")
        _print_tree(opened(ledger_dir), last, everything, as_json)
        return
    from ledger.reporting import log as read_log

    ledger = opened(ledger_dir)
    is_cut = wanted.is_all and not (last or everything or as_json)
    turns = read_log(ledger, last=MOST if is_cut else last, wanted=wanted)
    chosen = [turn.to_json() for turn in turns]
    if as_json:
        print_json(chosen)
    elif not chosen:
        tell(_NOTHING if wanted.is_all else "no turn matches")
    else:
        if is_cut and chosen[0]["turn"] > 1:
            earlier = counted(chosen[0]["turn"] - 1, "earlier turns")
            tell(f"{earlier}: --all, or --last N")
        _print_turns(chosen, current_branch(ledger.folder))
        if as_lines:
            print_scores_over_turns(chosen)


_NOTHING = "no turns yet; add some with: ledger add-edits FACTS"


def _wanted(asked: dict[str, Any]) -> "Wanted":
    from ledger.finding import Wanted, moment

    now = datetime.now(UTC)
    for name in ("since", "until"):
        if asked[name] is not None:
            asked[name] = moment(asked[name], now, is_end=name == "until")
    return Wanted(**asked)


def _print_tree(ledger: Ledger, last: int | None, everything: bool, as_json: bool) -> None:
    from ledger.tree import graph

    most = last or (None if everything or as_json else MOST)
    nodes = graph(ledger, branch=chosen_branch(), last=most)
    if as_json:
        print_json([node.to_json() for node in nodes])
        return
    if not nodes:
        tell(_NOTHING)
    print_graph(nodes, current_branch(ledger.folder))
    waiting = {node.parent_id for node in nodes} - {node.id for node in nodes} - {None}
    if waiting and not last:
        tell("there are earlier turns: --all, or --last N")


def _print_turns(chosen: list[dict[str, Any]], branch: str) -> None:
    headings = [
        *("turn", "state", "what", "edits", "success", "general.", "stable", "patch"),
        *("recorded", "hash", "message"),
    ]
    rows = [_log_row(turn, branch) for turn in chosen]
    if any(turn["published"] for turn in chosen):
        headings.append("pushed to")
        rows = [(*row, _pushed(turn)) for row, turn in zip(rows, chosen, strict=True)]
    print_table(headings, rows, right="turn|edits|success|general.|stable|patch")


def _log_row(turn: dict[str, Any], branch: str) -> tuple[str, ...]:
    scores = turn["scores"]["state"] if turn["scores"] else {}
    what = turn["method"] or f"undo {numbers(turn['undoes'])}"
    if turn["replaces"]:
        what = f"merge {numbers(turn['replaces'])}"
    names = decorated(turn["refs"], turn["tags"], branch)
    copied = f"from {turn['copied_from'][:7]}: " if turn["copied_from"] else ""
    return (
        str(turn["turn"]),
        "rejected" if turn["rejected"] else turn["state"].replace("_", " "),
        what,
        str(turn["edits"]) if turn["edits"] else "-",
        score(scores.get("edit_success")),
        score(scores.get("generalization")),
        score(scores.get("stability")),
        size(turn["patch"]["bytes"]) if turn["patch"] else "-",
        turn["created_at"][:16].replace("T", " "),
        turn["hash"][:7],
        f"{names} {copied}{short(turn['message'], 60)}".strip(),
    )


def _pushed(turn: dict[str, Any]) -> str:
    return ", ".join(dict.fromkeys(f"{p['repo']} ({p['form']})" for p in turn["published"]))
