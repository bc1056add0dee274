"""`ledger squash`: one patch in place of many."""

from pathlib import Path

import click

from cli.options import (
    TURN,
    branch_option,
    json_option,
    ledger_option,
    lock_timeout_option,
    message_option,
    opened,
    print_json,
)
from cli.rendering import print_table, tell
from cli.watching import watching
from ledger.wording import counted, size, turn_numbers


def _span(
    context: click.Context, option: click.Parameter, text: str
) -> tuple[int | str, int | str]:
    first, dots, last = text.partition("..")
    if not (first and dots and last):
        raise click.BadParameter(f"{text!r} is not a range of turns like 1..5", param=option)
    return TURN.convert(first, option, context), TURN.convert(last, option, context)


@click.command(short_help="Make one patch of those of many turns.")
@click.argument("span", metavar="A..B", callback=_span)
@click.option("--rank", type=click.IntRange(1), help="At most this rank for every tensor.")
@click.option(
    "--max-error",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="As small as this relative error of every tensor allows.",
)
@message_option
@branch_option
@ledger_option
@lock_timeout_option
@json_option
def squash(
    span: tuple[int | str, int | str],
    rank: int | None,
    max_error: float | None,
    message: str,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """Make one patch of those of turns A to B that are in force, as a turn; A and B are numbers,
    tags, branches, HEAD~2 or beginnings of hashes.

    Their edits stay in force. The originals are kept, and rolling the squash back brings them back,
    until ledger gc --prune removes them. Without --rank and --max-error nothing is lost but what
    float32 cannot hold.

    \b
    Example: ledger squash 1..200
             ledger squash 1..HEAD --max-error 1e-3 -m "release 2"
    """
    from ledger.squashing import squash as make_one

    with watching(quiet=as_json) as progress:
        done = make_one(
            opened(ledger_dir, working=True),
            *span,
            rank=rank,
            max_error=max_error,
            message=message,
            progress=progress,
        )
    if as_json:
        print_json(done.to_json())
        return
    tell(
        f"turn {done.turn} makes one patch of {turn_numbers(done.replaces)}: "
        f"{size(done.bytes_after)} instead of {size(done.bytes_before)}, "
        f"{counted(done.edits, 'edits')} stay in force"
    )
    print_table(
        ("tensor", "rank", "error"),
        [
            *(
                (name, str(done.ranks[name] or "-"), _error(error))
                for name, error in done.errors.items()
            ),
            ("all", "", _error(done.error)),
        ],
        right="rank|error",
        whole="tensor",
    )
    same = len(done.errors) - len(done.other_bytes)
    tell(
        f"{same} of {counted(len(done.errors), 'tensors')} keep the bytes they had"
        + (f", {done.other_bytes[0]} has others" if done.other_bytes else "")
    )
    tell(f"take it back: ledger rollback turn {done.turn}; remove the originals: ledger gc --prune")


def _error(error: float) -> str:
    return f"{error:.2e}" if error else "exact"
