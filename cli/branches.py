"""`ledger branch`, `switch`, `tag` and `reflog`: names for turns, and how they have moved."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli import completing
from cli.options import (
    STATE,
    TURN,
    branch_option,
    json_option,
    ledger_option,
    lock_timeout_option,
    opened,
    print_json,
)
from cli.rendering import print_table, short, tell

if TYPE_CHECKING:
    from ledger.branching import Ref

_MESSAGE = 60
MOST = 100
"""Lines that a listing shows at most, unless it is told otherwise."""


@click.command(short_help="List, make or delete branches.")
@click.argument("name", required=False, metavar="[NAME]", shell_complete=completing.branches)
@click.option(
    "--at",
    type=STATE,
    metavar="TURN",
    help="Where the new branch begins; 0: at the base (default: the newest turn).",
)
@click.option("-d", "--delete", is_flag=True, help="Delete the branch; its turns stay.")
@ledger_option
@lock_timeout_option
@json_option
def branch(
    name: str | None, at: int | str | None, delete: bool, ledger_dir: Path | None, as_json: bool
) -> None:
    """List the branches, make one, or delete one.

    A branch is a name that moves along with the turns recorded on it. A new one begins with all
    turns up to TURN; go there with ledger switch.

    \b
    Example: ledger branch
             ledger branch try --at 3
             ledger branch --delete try
    """
    from ledger import branching

    if name is None:
        if delete or at is not None:
            raise click.UsageError("give the name of the branch")
        found = branching.list_branches(opened(ledger_dir))
        _print_list(found, as_json)
    elif delete:
        if at is not None:
            raise click.UsageError("--at goes with a new branch, not with --delete")
        was = branching.delete_branch(opened(ledger_dir), name)
        _print_deleted(was, as_json)
    else:
        made = branching.create_branch(opened(ledger_dir), name, at)
        _print_one(made, f"branch {name} begins at", as_json)


@click.command(short_help="Work on another branch.")
@click.argument("name", metavar="NAME", shell_complete=completing.branches)
@click.option("-c", "--create", is_flag=True, help="Make the branch first.")
@click.option("--at", type=STATE, metavar="TURN", help="With --create: where it begins.")
@ledger_option
@lock_timeout_option
@json_option
def switch(
    name: str, create: bool, at: int | str | None, ledger_dir: Path | None, as_json: bool
) -> None:
    """Make NAME the branch that commands work on when they are not told --branch.

    This is for this ledger folder alone, also where several share a database. Models that were
    written stay as they are: write them again with ledger apply.

    \b
    Example: ledger switch main
             ledger switch --create try --at 3
    """
    from ledger import branching

    if at is not None and not create:
        raise click.UsageError("--at goes with --create; to go back, use: ledger rollback to")
    found = branching.switch(opened(ledger_dir), name, create=create, at=at)
    _print_one(found, f"on branch {name}, at", as_json)


@click.command(short_help="List, make or delete tags.")
@click.argument("name", required=False, metavar="[NAME]", shell_complete=completing.tags)
@click.argument("turn", required=False, type=TURN, metavar="[TURN]")
@click.option("-f", "--force", is_flag=True, help="Move the tag if there is one.")
@click.option("-d", "--delete", is_flag=True, help="Delete the tag; its turn stays.")
@branch_option
@ledger_option
@lock_timeout_option
@json_option
def tag(
    name: str | None,
    turn: int | str | None,
    force: bool,
    delete: bool,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """List the tags, make one, or delete one.

    A tag is a name that stays at its turn, by default the newest.

    \b
    Example: ledger tag reviewed-2026-03
             ledger tag v1 7
             ledger tag --delete v1
    """
    from ledger import branching

    if name is None:
        if delete or force:
            raise click.UsageError("give the name of the tag")
        _print_list(branching.list_tags(opened(ledger_dir)), as_json)
    elif delete:
        if force or turn is not None:
            raise click.UsageError("--delete takes the name alone")
        _print_deleted(branching.delete_tag(opened(ledger_dir), name), as_json)
    else:
        made = branching.create_tag(opened(ledger_dir), name, turn, force=force)
        _print_one(made, f"tag {name} is at", as_json)


@click.command(short_help="How branches and tags have moved.")
@click.argument("ref", required=False, metavar="[REF]", shell_complete=completing.refs)
@click.option("-n", "--last", type=click.IntRange(min=1), help="Only the last N moves.")
@click.option("--all", "everything", is_flag=True, help=f"All, not only the last {MOST}.")
@ledger_option
@json_option
def reflog(
    ref: str | None, last: int | None, everything: bool, ledger_dir: Path | None, as_json: bool
) -> None:
    """How branches and tags have moved, or REF alone, newest first.

    Also those that were deleted: the hashes here bring them back. With --json, all moves.

    \b
    Example: ledger reflog main --last 10
             ledger reflog deleted-branch
    """
    from ledger.branching import reflog as read_moves

    if last and everything:
        raise click.UsageError("--last and --all exclude each other")
    most = last or (None if everything or as_json else MOST)
    # One more tells whether there are more.
    moves = read_moves(opened(ledger_dir), ref, last=most and most + 1)
    shown = moves[:most]
    if as_json:
        print_json([move.to_json() for move in shown])
        return
    print_table(
        ("ref", "action", "from", "to", "when"),
        [
            (
                move.ref,
                move.action,
                _turn(move.before),
                _turn(move.after),
                move.to_json()["created_at"][:19].replace("T", " "),
            )
            for move in shown
        ],
        whole="when",
    )
    if len(moves) > len(shown) and not last:
        tell("there are earlier ones: --all, or --last N")


def _turn(turn: tuple[int, str] | None) -> str:
    return "-" if turn is None else f"{turn[0]} ({turn[1][:7]})"


def _print_list(refs: list["Ref"], as_json: bool) -> None:
    if as_json:
        print_json([ref.to_json() for ref in refs])
        return
    if not refs:
        tell("no tags yet; name the newest turn with: ledger tag NAME")
        return
    print_table(
        ("", refs[0].kind, "turn", "hash", "message"),
        [
            (
                "*" if ref.is_current else "",
                ref.name,
                str(ref.turn),
                ref.hash[:7],
                short(ref.message, _MESSAGE),
            )
            for ref in refs
        ],
        right="turn",
    )


def _print_one(ref: "Ref", what: str, as_json: bool) -> None:
    if as_json:
        print_json(ref.to_json())
    else:
        tell(f"{what} {_place(ref)}")


def _print_deleted(ref: "Ref", as_json: bool) -> None:
    if as_json:
        print_json({"deleted": ref.to_json()})
        return
    tell(f"deleted {ref.kind} {ref.name}, which was at {_place(ref)}")
    if ref.turn:
        again = f"ledger {ref.kind} {ref.name} {'--at ' if ref.kind == 'branch' else ''}"
        tell(f"its turns stay in the ledger; to bring it back: {again}{ref.hash[:12]}")


def _place(ref: "Ref") -> str:
    return f"turn {ref.turn} ({ref.hash[:12]})" if ref.turn else "the base, without turns"
