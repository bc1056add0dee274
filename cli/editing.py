"""`ledger add-edits`: record and make edits."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import completing
from cli.options import (
    branch_option,
    device_option,
    dtype_option,
    json_option,
    ledger_option,
    lock_timeout_option,
    message_option,
    opened,
    pairs,
    print_json,
    seed_option,
)
from cli.rendering import settings, short, tell
from cli.watching import watching
from ledger.wording import counted, score, size, turn_numbers, visible

if TYPE_CHECKING:
    from ledger.conflicts import Conflict
    from ledger.editing import Added, AddEdits, Run
    from ledger.gates import Gate
    from ledger.workspace import Ledger

_SHOWN = 20
REJECTED = 3
"""Exit status if a turn failed its gate."""

on_conflict_option = click.option(
    "--on-conflict",
    type=click.Choice(["override", "skip", "abort"]),
    default="override",
    show_default=True,
    help="What to do with an edit that answers a question otherwise than an edit in force.",
)
retention_option = click.option(
    "--retention",
    type=click.IntRange(min=0),
    metavar="K",
    help="After each turn, score K earlier edits in force again, 0 for none (default: one for ten "
    "of the turn; none with --no-evaluate).",
)


def _gate(_context: click.Context, _option: click.Parameter, text: str | None) -> "Gate | None":
    from ledger.gates import Gate

    return None if text is None else Gate.parse(text)


def _mapping(_context: click.Context, _option: click.Parameter, text: str | None) -> dict[str, str]:
    from ledger.datasets import parse_mapping

    return parse_mapping(text) if text else {}


gate_option = click.option(
    "--gate",
    metavar="SCORE>=X,…",
    callback=_gate,
    help="What a turn must score to be in force, e.g. 'edit_success>=.6,stability>=.55'; retention "
    "is the success of the earlier edits scored again. A turn that fails is undone by the next.",
)
mapping_option = click.option(
    "--map",
    "mapping",
    metavar="FIELD=COLUMN,…",
    callback=_mapping,
    help="Fields of an unknown layout, e.g. prompt=src,target=alt.",
)


@click.command("add-edits", short_help="Edit the model with the facts in a file.")
@click.argument("source", shell_complete=completing.files)
@click.option("--turn-size", type=int, help="Edits per turn (default: ultraedit 100, wise 10).")
@click.option(
    "--method",
    default="ultraedit",
    show_default=True,
    help="Editing method: ultraedit shifts weights, wise trains a side memory per turn.",
)
@click.option(
    "--modules",
    multiple=True,
    metavar="PATTERN",
    help="Modules to edit: names, or patterns like '*layers.{20..27}.mlp.down_proj'; repeatable. "
    "wise takes one.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    metavar="KEY=VALUE",
    callback=pairs,
    help="A hyperparameter, e.g. retention=0.3, passes=5, or step=published for the method of the "
    "paper; of wise iterations=25, templates=1, mask_ratio=0.2, batch=1; repeatable.",
)
@click.option(
    "--locality",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="For wise: sentences, one a line, that must stay outside of the side memory, for rows "
    "without locality prompts of their own.",
)
@mapping_option
@click.option("--limit", type=click.IntRange(1), help="Rows to read at the most.")
@click.option("--offset", default=0, help="Rows to leave out at the start.")
@click.option("--licence", help="Licence of the dataset, to be recorded.")
@seed_option
@device_option
@dtype_option
@click.option("--no-evaluate", is_flag=True, help="Leave out the scores of each turn (faster).")
@on_conflict_option
@retention_option
@gate_option
@click.option("--resume", is_flag=True, help="Go on with the settings of the interrupted run.")
@click.option("--dry-run", is_flag=True, help="Say what would be recorded; change nothing.")
@message_option
@branch_option
@ledger_option
@lock_timeout_option
@json_option
def add_edits(
    source: str,
    assignments: Mapping[str, str],
    mapping: dict[str, str],
    no_evaluate: bool,
    dry_run: bool,
    ledger_dir: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Edit the model with the facts in SOURCE, one recorded turn per --turn-size of them.

    SOURCE is a JSON, JSONL, CSV or Parquet file, or hf://datasets/OWNER/NAME[/FILE]. Known layouts
    (CounterFact, ZsRE, FEVER, WikiBigEdit, UltraEditBench, WISE …) are recognised by their fields.

    Stop it at any time: whole turns stay. The same command goes on where it stopped, since rows
    whose edit is in force are recognised.

    A row that answers a question (the same prompt, or subject and relation) otherwise than what is
    in force overrides it, and is listed; see --on-conflict. The newer answer holds.

    What --modules and --set leave open is as ledger settings shows it; ledger tune searches better
    ones.

    A turn that fails --gate, or lacks a score that it asks for, is recorded, but not in force. The
    run goes on without it and ends with exit status 3. The same command, with --resume or without,
    tries the rows again. Until there are earlier edits, retention passes.

    \b
    Example: ledger add-edits facts.json --turn-size 100 -m "Corrections of October"
             ledger add-edits facts.json --method wise
             ledger add-edits facts.json --gate "edit_success>=.6,retention>=.5"
             ledger add-edits qa.csv --map prompt=question,target=answer --dry-run
    """
    from ledger.editing import AddEdits

    chosen = AddEdits(
        source=source,
        settings=dict(assignments),
        mapping=mapping,
        evaluate=not no_evaluate,
        **options,
    )
    ledger = opened(ledger_dir, working=not dry_run)
    if dry_run:
        _print_plan(ledger, chosen, as_json)
    else:
        _run(ledger, chosen, as_json)


def _print_plan(ledger: "Ledger", options: "AddEdits", as_json: bool) -> None:
    from ledger.editing import plan_edits

    plan = plan_edits(ledger, options)
    if as_json:
        print_json(plan.to_json())
        return
    tell(
        f"{plan.dataset.uri}: {plan.dataset.layout} in {plan.dataset.format}, "
        f"SHA-256 {plan.dataset.sha256}"
    )
    tell(
        f"would record {counted(sum(plan.turns), 'edits')} in {counted(len(plan.turns), 'turns')}"
        + (f" of up to {max(plan.turns)}" if plan.turns else "")
    )
    stops = options.on_conflict == "abort"
    print_conflicts(plan.conflicts, "conflicts with" if stops else "would override")
    if stops and plan.conflicts:
        tell("--on-conflict abort: nothing would be recorded")
    print_rows(plan.skipped, plan.known)


def _run(ledger: "Ledger", options: "AddEdits", as_json: bool) -> None:
    from ledger.editing import add_edits as start

    done: list[Added] = []
    with watching(quiet=as_json) as progress:
        run = start(ledger, options, progress=progress)
        if not as_json:
            _print_start(run)
        for added in run.turns:
            done.append(added)
            if not as_json:
                print_turn(added)
    if as_json:
        print_json(_run_json(run, done))
    else:
        _print_end(run, done)
    end_with_gate(done)


def end_with_gate(done: "Sequence[Added]") -> None:
    """End with a status of its own if a turn was rejected."""
    if any(added.rejected for added in done):
        sys.exit(REJECTED)


def in_force(done: "Sequence[Added]") -> "list[Added]":
    """The turns that passed their gate; what failed it is told."""
    if rejected := [added for added in done if added.rejected]:
        numbers = turn_numbers([added.turn for added in rejected])
        edits = counted(sum(added.edits for added in rejected), "edits")
        tell(f"{edits} in {numbers} failed the gate: not in force")
    return [added for added in done if not added.rejected]


def _print_end(run: "Run", done: "Sequence[Added]") -> None:
    print_conflicts([one for added in done for one in added.overrides], "overrides")
    skipped = [skip for added in done for skip in added.skipped]
    print_rows(skipped + run.counts.unrecorded, run.counts.known)
    if kept := in_force(done):
        made = turn_numbers([added.turn for added in kept])
        edits = counted(sum(added.edits for added in kept), "edits")
        tell(f"{edits} recorded in {made}; write the model with: ledger apply --to DIR")
    elif not done:
        tell("nothing to record" + (": every edit is in force" if run.counts.known else ""))


def _print_start(run: "Run") -> None:
    modules: list[str] = run.hyperparameters.get("modules", [])
    span = modules[0] if len(modules) == 1 else f"{modules[0]} … {modules[-1]}"
    tell(
        f"{run.dataset.layout} rows of {run.dataset.uri}",
        f"editing {counted(len(modules), 'modules')} ({span}) with {settings(run.hyperparameters)}",
    )
    for note in run.notes:
        tell(f"note: {note}")


def print_turn(added: "Added") -> None:
    """A turn that was recorded: one line, and its notes."""
    tell(_turn_line(added))
    if added.gate is not None and added.rejected:
        tell(
            f"turn {added.turn}: rejected: {'; '.join(added.gate.failed)} "
            f"(undone by turn {added.turn + 1})"
        )
    for note in added.notes:
        tell(f"note: {note}")


def _turn_line(added: "Added") -> str:
    line = f"turn {added.turn}: {counted(added.edits, 'edits')}"
    if added.overrides:
        line += f", {counted(len(added.overrides), 'facts')} overridden"
    if added.skipped:
        line += f", {counted(len(added.skipped), 'rows')} skipped"
    if added.scores:
        base, state = added.scores["base"], added.scores["state"]
        line += (
            f", success {score(base['edit_success'])} → {score(state['edit_success'])}"
            f", generalisation {score(base['generalization'])} → {score(state['generalization'])}"
            f", stability {score(state['stability'])}"
        )
        if state["generated_match"] is not None:
            line += f", generated {score(state['generated_match'])}"
    if kept := added.retention:
        was = "" if kept.then is None else f" (was {score(kept.then)})"
        line += f", kept {score(kept.now)} of {kept.n} earlier{was}"
    rate = added.edits / added.seconds["total"]
    speed = f"{rate:.1f} edits/s" if rate >= 1 else f"{1 / rate:.1f} s/edit"
    return f"{line}, patch {size(added.patch_bytes)}, {speed}"


def print_conflicts(conflicts: "Sequence[Conflict]", verb: str) -> None:
    """Which rows answer what held before otherwise, as far as there is room."""
    for one in conflicts[:_SHOWN]:
        row = "an edit" if one.row is None else f"row {one.row}"
        older = f"turn {one.turn}" + ("" if one.old_row is None else f", row {one.old_row}")
        old, new = (short(visible(text), 40) for text in (one.old_target, one.target))
        tell(f"{row} {verb} {older}: '{old}' → '{new}'")
    if len(conflicts) > _SHOWN:
        tell(f"… and {len(conflicts) - _SHOWN} more (all of them with --json)")


def print_rows(skipped: list[tuple[int, str]], known: int) -> None:
    """Which rows were left out, and why, as far as there is room."""
    for row, reason in skipped[:_SHOWN]:
        tell(f"skipped row {row}: {reason}")
    if len(skipped) > _SHOWN:
        tell(f"… and {len(skipped) - _SHOWN} more rows skipped (all of them with --json)")
    if known:
        tell(f"{known} rows are recorded and in force already")


def _run_json(run: "Run", done: list["Added"]) -> dict[str, Any]:
    return {
        "dataset": {
            "uri": run.dataset.uri,
            "sha256": run.dataset.sha256,
            "format": run.dataset.format,
            "layout": run.dataset.layout,
        },
        "hyperparameters": run.hyperparameters,
        "notes": list(run.notes),
        "turns": [added.to_json() for added in done],
        "edits": sum(added.edits for added in done),
        "rejected": [added.turn for added in done if added.rejected],
        "known": run.counts.known,
        "unrecorded": [{"row": row, "reason": why} for row, why in run.counts.unrecorded],
    }
