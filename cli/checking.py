"""`ledger verify` and `gc`: is everything as recorded, and is there more than is needed?"""

import sys
from pathlib import Path

import click

from cli.options import json_option, ledger_option, lock_timeout_option, opened, print_json
from cli.rendering import print_table, tell
from cli.watching import watching
from ledger.wording import counted, size


@click.command(short_help="Is everything as recorded: history, patches, base, models?")
@click.option(
    "--model",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also check this written checkpoint.",
)
@click.option(
    "--since",
    metavar="HASH|FILE",
    help="Also prove that today's history extends a remembered one: a hash that ledger attest or "
    "ledger log has printed (16 digits or more), or a file of ledger attest --out.",
)
@click.option(
    "--key",
    metavar="PUBLIC",
    type=click.Path(path_type=Path, dir_okay=False),
    help="With --since FILE: the public key (PEM) that it must be signed with.",
)
@ledger_option
@json_option
def verify(
    model: Path | None,
    since: str | None,
    key: Path | None,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """Recompute the journal, the chain of hashes, all digests and the base's fingerprint.

    Says exactly what does not agree, and then exits with status 1.

    \b
    Example: ledger verify --model ./patched
             ledger verify --since 2026-03.json --key public.pem
    """
    from ledger.verifying import problems_text
    from ledger.verifying import verify as check
    from ledger.verifying_checkpoint import verify_checkpoint
    from ledger.verifying_since import remembered

    if model is not None and not model.exists():
        raise click.BadParameter(f"Directory '{model}' does not exist.", param_hint="--model")
    if key is not None and since is None:
        raise click.UsageError("--key goes with --since FILE")
    past = None if since is None else remembered(since, key)
    ledger = opened(ledger_dir)
    with watching(quiet=as_json) as progress:
        found = check(ledger, since=past, progress=progress)
        if model is not None:
            verify_checkpoint(ledger, model, found, progress=progress)
    if as_json:
        print_json(found.to_json())
    else:
        for note in problems_text(found.notes):
            tell(f"note: {note}")
        for problem in problems_text(found.problems):
            tell(f"WRONG {problem}")
        if found.since is not None:
            came = {k: v for k, v in found.since.to_json().items() if k != "entry"}
            more = ", ".join(counted(count, what) for what, count in came.items())
            tell(f"since journal entry {found.since.entry}: {more}")
        checked = ", ".join(counted(count, what) for what, count in found.checked.items())
        verdict = "all as recorded" if found.ok else counted(len(found.problems), "problems")
        tell(f"{checked}: {verdict}")
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
@lock_timeout_option
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
            tell(path)
    heaps = [(_REASONS[reason], heap) for reason, heap in found.heaps.items() if heap.files]
    if heaps:
        print_table(
            ("what", "files", "bytes"),
            [(what, f"{len(heap.files):,}", size(heap.bytes)) for what, heap in heaps],
            right="files|bytes",
        )
    verb = "would remove" if dry_run else "removed"
    tell(f"{verb} {counted(len(found.files), 'files')}, {size(found.bytes)}")
    if found.prunable.files:
        more = f"{counted(len(found.prunable.files), 'files')}, {size(found.prunable.bytes)}"
        tell(f"{more} more that no branch or tag needs would go with: ledger gc --prune")


_REASONS = {
    "strays": "left by interrupted runs",
    "copies": "copies here of files that nobody needs",
    "keyframes": "keyframes of other states, or damaged",
    "squashed": "patches replaced by a squash or merge",
    "unreachable": "of turns without a branch or tag",
}
