"""`ledger evaluate`, `verify` and `gc`: does the model know it, and is everything as recorded."""

import sys
from pathlib import Path

import click

from cli.options import (
    branch_option,
    device_option,
    dtype_option,
    json_option,
    ledger_option,
    opened,
    print_json,
    seed_option,
)
from cli.rendering import plain, print_scores, size
from cli.watching import watching
from ledger.wording import counted


@click.command(short_help="Score a state beside the un-edited base.")
@click.option("--at", type=click.IntRange(min=1), help="The state after this turn (default: now).")
@click.option("--turn", type=click.IntRange(min=1), help="Only the edits of this turn.")
@click.option("--edits", "per_edit", is_flag=True, help="With --json: the outcome of every edit.")
@seed_option
@device_option
@dtype_option
@branch_option
@ledger_option
@json_option
def evaluate(
    at: int | None,
    turn: int | None,
    per_edit: bool,
    seed: int,
    device: str,
    dtype: str | None,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """Score a state on the edits in force, beside the un-edited base, and record the scores.

    \b
    Example: ledger evaluate --at 5
             ledger evaluate --turn 3 --json
    """
    from ledger.evaluating import evaluate as score_state

    with watching(quiet=as_json) as progress:
        done = score_state(
            opened(ledger_dir),
            at=at,
            turn=turn,
            device=device,
            dtype=dtype,
            seed=seed,
            progress=progress,
        )
    if as_json:
        print_json(done.to_json(per_edit=per_edit))
        return
    whose = "the edits in force" if turn is None else f"the edits of turn {turn}"
    click.echo(f"the state at turn {done.turn} on {whose}, in {done.seconds:.1f} s")
    print_scores(done.base, done.state, done.n)


@click.command(short_help="Is everything as recorded: history, patches, base, models?")
@click.option(
    "--model",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also check this written checkpoint.",
)
@ledger_option
@json_option
def verify(model: Path | None, ledger_dir: Path | None, as_json: bool) -> None:
    """Recompute the chain of hashes, all digests and the base's fingerprint.

    Says exactly what does not agree, and then exits with status 1.

    \b
    Example: ledger verify --model ./patched
    """
    from ledger.verifying import problems_text
    from ledger.verifying import verify as check
    from ledger.verifying_checkpoint import verify_checkpoint

    ledger = opened(ledger_dir)
    with watching(quiet=as_json) as progress:
        found = check(ledger, progress=progress)
        if model is not None:
            verify_checkpoint(ledger, model, found, progress=progress)
    if as_json:
        print_json(found.to_json())
    else:
        for note in problems_text(found.notes):
            click.echo(f"note: {plain(note)}")
        for problem in problems_text(found.problems):
            click.echo(f"WRONG {plain(problem)}")
        checked = ", ".join(counted(count, what) for what, count in found.checked.items())
        verdict = "all as recorded" if found.ok else counted(len(found.problems), "problems")
        click.echo(f"{checked}: {verdict}")
    if not found.ok:
        sys.exit(1)


@click.command(short_help="Remove files of the patch store that no turn needs.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
@ledger_option
@json_option
def gc(dry_run: bool, ledger_dir: Path | None, as_json: bool) -> None:
    """Remove files that no turn refers to, as an interrupted run leaves them: in the patch store,
    and of pulls.

    \b
    Example: ledger gc --dry-run
    """
    from ledger.cleaning import collect_garbage

    found = collect_garbage(opened(ledger_dir), dry_run=dry_run)
    if as_json:
        print_json(found.to_json())
        return
    verb = "would remove" if dry_run else "removed"
    click.echo(f"{verb} {len(found.files)} files, {size(found.bytes)}")
