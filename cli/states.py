"""`ledger apply` and `ledger rollback`: states of the model, written and undone."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import (
    STATE,
    TURN,
    at_option,
    branch_option,
    json_option,
    ledger_option,
    lock_timeout_option,
    message_option,
    opened,
    print_json,
)
from cli.rendering import tell
from cli.starting import importing
from cli.watching import watching
from ledger.wording import numbers, size, turn_numbers

if TYPE_CHECKING:
    from ledger.applying import Applied
    from ledger.rolling_back import RolledBack
    from ledger.workspace import Ledger

link_option = click.option(
    "--link",
    is_flag=True,
    help="Hard links for unchanged files: no bytes are copied, but a program that writes into "
    "such a file in place would change the base.",
)


to_option = click.option(
    "--to",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also rewrite the model in this folder.",
)


@click.command(short_help="Write the edited model as a checkpoint.")
@click.option(
    "--to",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write: new, empty, or one that this ledger wrote.",
)
@at_option
@link_option
@branch_option
@ledger_option
@json_option
def apply(
    to: Path, at: int | str | None, link: bool, ledger_dir: Path | None, as_json: bool
) -> None:
    """Write the edited model as a checkpoint that transformers loads.

    The weights are the base's bytes plus every patch in force, rounded once; files without an
    edited tensor are taken over byte for byte. The folder changes all at once or not at all.

    \b
    Example: ledger apply --to ./patched
             ledger apply --to ./as-of-turn-5 --at 5
    """
    applied = write_state(opened(ledger_dir), to, at=at, link=link, as_json=as_json)
    if as_json:
        print_json(applied.to_json())
    else:
        print_applied(applied)


def write_state(
    ledger: "Ledger", to: Path, *, at: int | str | None, link: bool, as_json: bool
) -> "Applied":
    """Write the state at `at`, None for the head, with progress for people."""
    with importing():
        from ledger.applying import apply_to_folder
    with watching(quiet=as_json) as progress:
        return apply_to_folder(ledger, to, at=at, link=link, progress=progress)


def print_applied(applied: "Applied") -> None:
    """Say what was written, for people."""
    what = f"{turn_numbers(applied.in_force)} in force" if applied.in_force else "nothing in force"
    tell(f"{applied.folder}: the model at turn {applied.turn}, with {what} ({applied.hash[:12]})")
    tell(
        f"{len(applied.tensors)} tensors patched ({size(applied.bytes_written)} written), "
        f"{applied.files} files, {size(applied.bytes_taken_over)} taken over from the base"
    )
    if applied.memories:
        tell(
            f"side memories of {turn_numbers(applied.memories)} beside the weights: load it with "
            "ledger.load_patched"
        )
    for note in applied.notes:
        tell(f"note: {note}")
    for name in applied.left_out:
        tell(f"left out {name}: the same weights in another format, un-edited")


@click.group(short_help="Undo a turn, or go back to one.")
def rollback() -> None:
    """Undo a turn, or go back to one; recorded as a turn of its own, so it can be undone too.

    \b
    Example: ledger rollback turn 3
             ledger rollback to 5 --to ./patched
    """


@rollback.command("turn")
@click.argument("turn", type=TURN, metavar="N")
@to_option
@link_option
@message_option
@branch_option
@ledger_option
@lock_timeout_option
@json_option
def rollback_turn(turn: int | str, **options: Any) -> None:
    """Undo exactly turn N: base + all other patches, bit for bit.

    Undoing a rollback brings back what it undid. The next edits go on from the editor state of the
    turns that are left, as if N had never been.

    \b
    Example: ledger rollback turn 3 --to ./patched
    """
    from ledger.rolling_back import rollback_turn as undo

    _roll_back(undo, turn, **options)


@rollback.command("to")
@click.argument("turn", type=STATE, metavar="N")
@to_option
@link_option
@message_option
@branch_option
@ledger_option
@lock_timeout_option
@json_option
def rollback_to(turn: int | str, **options: Any) -> None:
    """Return to the state as it was at turn N; 0 is the base.

    The next edits go on from the editor state of turn N.

    \b
    Example: ledger rollback to 5
    """
    from ledger.rolling_back import rollback_to as undo

    _roll_back(undo, turn, **options)


def _roll_back(
    undo: Any,
    turn: int | str,
    *,
    to: Path | None,
    link: bool,
    message: str,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    ledger = opened(ledger_dir, working=True)
    if to is not None:
        from ledger.applying import check_folder

        check_folder(ledger, to)
    with watching(quiet=as_json) as progress:
        done: RolledBack = undo(ledger, turn, message=message, progress=progress)
    applied = None if to is None else write_state(ledger, to, at=None, link=link, as_json=as_json)
    if as_json:
        content = done.to_json()
        content["applied"] = None if applied is None else applied.to_json()
        print_json(content)
        return
    line = f"turn {done.turn} rolls back {turn_numbers(done.undoes)}"
    if done.brought_back:
        line += f", which brings back {turn_numbers(done.brought_back)}"
    if done.separated:
        line += f", which takes {turn_numbers(done.separated)} apart again"
    tell(f"{line}; in force: {numbers(done.in_force)}")
    if applied is not None:
        print_applied(applied)
    else:
        tell("rewrite the model with: ledger apply --to DIR")
