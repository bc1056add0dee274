"""`ledger push`, `pull` and `clone`: states and histories on the Hub."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli import completing
from cli.options import (
    at_option,
    branch_option,
    json_option,
    ledger_option,
    lock_timeout_option,
    opened,
    print_json,
)
from cli.rendering import print_facts, print_table, tell
from cli.watching import watching
from ledger.wording import counted, size

if TYPE_CHECKING:
    from ledger.sharing.pulling import Pulled

verify_option = click.option(
    "--verify",
    "key",
    metavar="KEY",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A public key (PEM): refuse what is not signed with its other half.",
)


@click.command(short_help="Publish the model, the history or an adapter on the Hub.")
@click.argument("repo", metavar="OWNER/NAME[@BRANCH]")
@click.option(
    "--as",
    "form",
    type=click.Choice(["model", "patch", "adapter"]),
    default="model",
    show_default=True,
    help="The edited checkpoint; the history with its patches, for ledger pull; or a LoRA adapter "
    "for PEFT.",
)
@at_option
@click.option("--tag", metavar="NAME", help="Name of the commit on the Hub (default: turn-N).")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("-m", "--message", default="", help="Message of the commit.")
@click.option("--include-edits", is_flag=True, help="Publish the facts too: prompts and answers.")
@click.option(
    "--base-model",
    metavar="OWNER/NAME[@REV]",
    help="The base model's id on the Hub, if the ledger was made from a folder.",
)
@click.option("--rank", type=click.IntRange(min=1), help="Adapter: at most this rank, by SVD.")
@click.option(
    "--max-error",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Adapter: the smallest rank with at most this relative error, by SVD.",
)
@click.option(
    "--sign",
    "key",
    metavar="KEY",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Sign all files with this private key (PEM, elliptic curve).",
)
@click.option("--dry-run", is_flag=True, help="Only say what would be sent.")
@branch_option
@ledger_option
@lock_timeout_option
@json_option
def push(dry_run: bool, ledger_dir: Path | None, as_json: bool, **options: Any) -> None:
    """Publish a state on the Hugging Face Hub, in one commit, with a card and a tag.

    Facts are only published with --include-edits. Log in before with `hf auth login`, or set
    HF_TOKEN; the ledger never stores a token.

    \b
    Example: ledger push me/my-model --base-model owner/base
             ledger push me/my-model-edits --as patch --dry-run
    """
    from ledger.sharing.publishing import prepared_push, send
    from ledger.sharing.staging import Push

    ledger = opened(ledger_dir)
    _quieten_client()
    with watching(quiet=as_json) as progress:
        preparing = prepared_push(ledger, Push(**options), progress=progress)
        prepared = click.get_current_context().with_resource(preparing)
        pushed = None if dry_run else send(ledger, prepared, progress=progress)
    if pushed is None:
        found = prepared.to_json()
        if as_json:
            print_json(found)
        else:
            _print_plan(found)
        return
    done = pushed.to_json()
    if as_json:
        print_json(done)
        return
    where = f"{done['repo']}@{done['revision']}"
    what = f"the {done['form']} at turn {done['turn']}"
    if done["new_commit"]:
        tell(
            f"{where}: {what} in commit {done['commit'][:12]}, tag {done['tag']}; "
            f"{counted(done['changed_files'], 'files')} sent ({size(done['changed_bytes'])}) of "
            f"{done['files']} ({size(done['bytes'])})"
        )
    else:
        tell(f"{where} has {what} already, in commit {done['commit'][:12]}")
    for note in done["notes"]:
        tell(f"note: {note}")


def _print_plan(found: dict[str, Any]) -> None:
    print_table(
        ("file", "bytes", ""),
        [
            (file["name"], f"{file['bytes']:,}", "to send" if file["changed"] else "there already")
            for file in found["list"]
        ]
        + [(name, "", "to delete") for name in found["deleted"]],
        right="bytes",
        whole="file",
    )
    new = "a new repository" if found["new_repository"] else "as it is"
    tell(
        f"would push the {found['form']} at turn {found['turn']} to {found['repo']}"
        f"@{found['revision']} ({new}), tag {found['tag']}: "
        f"{counted(found['changed_files'], 'files')} to send ({size(found['changed_bytes'])})"
    )
    for note in found["notes"]:
        tell(f"note: {note}")


def _quieten_client() -> None:
    """No bars of progress of the client's own. Nor, unless a person is looking, its words on tries
    that failed: what comes of them in the end is told in one line."""
    from huggingface_hub.utils import logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    if not sys.stderr.isatty():
        logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # as they ship it


@click.command(short_help="Bring a published history into this ledger.")
@click.argument("source", metavar="OWNER/NAME[@REV]|DIR", shell_complete=completing.files)
@click.option(
    "--branch",
    metavar="NAME",
    shell_complete=completing.branches,
    help="The branch for it (default: the repository's name).",
)
@verify_option
@ledger_option
@lock_timeout_option
@json_option
def pull(
    source: str, branch: str | None, key: Path | None, ledger_dir: Path | None, as_json: bool
) -> None:
    """Bring a history that `ledger push --as patch` has published into a branch of this ledger.

    Base, chain of hashes and every file are checked before anything is recorded. Pull again to get
    the turns that were published since.

    \b
    Example: ledger pull them/their-edits
             ledger apply --branch them/their-edits --to ./their-model
    """
    from ledger.sharing.pulling import pull as bring

    ledger = opened(ledger_dir, working=True)
    _quieten_client()
    with watching(quiet=as_json) as progress:
        done = bring(ledger, source, branch=branch, key=key, progress=progress)
    if as_json:
        print_json(done.to_json())
    else:
        _print_pulled(done)


@click.command(short_help="Start a ledger with a published history.")
@click.argument("source", metavar="OWNER/NAME[@REV]|DIR", shell_complete=completing.files)
@click.option(
    "--model",
    metavar="PATH_OR_ID",
    help="Its base model, if it was published without an id, or to use a copy that is here.",
)
@click.option("--database", "database_url", metavar="URL", help="As of ledger init.")
@click.option("--store", metavar="DIR|URL", help="As of ledger init.")
@verify_option
@ledger_option
@json_option
def clone(
    source: str, key: Path | None, ledger_dir: Path | None, as_json: bool, **options: Any
) -> None:
    """Start a ledger with a history that `ledger push --as patch` has published, as its main.

    \b
    Example: ledger clone them/their-edits --model ./SmolLM2-135M-Instruct
             ledger apply --to ./their-model
    """
    from ledger.sharing.pulling import clone as start

    _quieten_client()
    with watching(quiet=as_json) as progress:
        ledger, done = start(source, folder=ledger_dir, key=key, progress=progress, **options)
    folder = str(ledger.folder)
    fingerprint = ledger.base.fingerprint
    ledger.close()
    if as_json:
        print_json({"ledger": folder, "fingerprint": fingerprint, **done.to_json()})
        return
    print_facts([("ledger", folder), ("fingerprint", fingerprint)])
    _print_pulled(done)


def _print_pulled(done: "Pulled") -> None:
    where = done.source + (f" at commit {done.commit[:12]}" if done.commit else "")
    signed = ", signed by that key" if done.signed else ""
    if done.completed:
        tell(f"the texts of {counted(done.completed, 'edits')} came along now")
    if not done.turns:
        tell(f"branch {done.branch} has all {counted(done.turn, 'turns')} of {where}{signed}")
        return
    tell(
        f"branch {done.branch} is at turn {done.turn} ({done.hash[:12]}): "
        f"{counted(len(done.turns), 'turns')} from {where}, {size(done.bytes)}{signed}"
    )
    if done.withheld:
        tell(f"the texts of {counted(done.withheld, 'edits')} were not published")
