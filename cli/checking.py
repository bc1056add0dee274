"""`ledger verify` and `gc`: is everything as recorded, and is there more than is needed?"""

import sys
from pathlib import Path

import click

from cli.options import json_option, ledger_option, opened, print_json
from cli.rendering import plain, print_table, size
from cli.watching import watching
from ledger.wording import counted


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


@click.command(short_help="Remove files of the patch store that nobody needs.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed, file by file.")
@click.option(
    "--prune",
    is_flag=True,
    help="Also the patches that a squash or merge has replaced on every branch and tag, and those "
    "that no branch or tag leads to.",
)
@ledger_option
@json_option
def gc(dry_run: bool, prune: bool, ledger_dir: Path | None, as_json: bool) -> None:
    """Remove what interrupted runs and pulls have left, and keyframes of states that no branch or
    tag goes through any more.

    With --prune, patches that no branch or tag needs go too: a squash whose originals are gone
    cannot be rolled back, nor states between them be built. Turns, edits and scores stay.

    \b
    Example: ledger gc --prune --dry-run
             ledger gc --prune
    """
    from ledger.cleaning import collect_garbage

    found = collect_garbage(opened(ledger_dir), dry_run=dry_run, prune=prune)
    if as_json:
        print_json(found.to_json())
        return
    if dry_run:
        for path in found.files:
            click.echo(plain(str(path)))
    heaps = [(_REASONS[reason], heap) for reason, heap in found.heaps.items() if heap.files]
    if heaps:
        print_table(
            ("what", "files", "bytes"),
            [(what, f"{len(heap.files):,}", size(heap.bytes)) for what, heap in heaps],
            right="files|bytes",
        )
    verb = "would remove" if dry_run else "removed"
    click.echo(f"{verb} {counted(len(found.files), 'files')}, {size(found.bytes)}")
    if found.prunable.files:
        more = f"{counted(len(found.prunable.files), 'files')}, {size(found.prunable.bytes)}"
        click.echo(f"{more} more that no branch or tag needs would go with: ledger gc --prune")


_REASONS = {
    "strays": "left by interrupted runs",
    "keyframes": "keyframes of other states, or damaged",
    "squashed": "patches replaced by a squash or merge",
    "unreachable": "of turns without a branch or tag",
}
