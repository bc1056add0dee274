"""`ledger merge-shards` and `ledger route`: side memories, merged and looked into."""

from pathlib import Path
from typing import Any

import click

from cli.options import (
    at_option,
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
from cli.rendering import echo, print_scores, print_table, short, tell
from cli.watching import watching
from ledger.wording import size, turn_numbers, visible


def _span(_context: click.Context, option: click.Parameter, text: str) -> tuple[int, int]:
    first, dots, last = text.partition("..")
    if not (dots and first.isdecimal() and last.isdecimal() and 0 < int(first) <= int(last)):
        raise click.BadParameter(f"{text!r} is not a range of turns like 1..5", param=option)
    return int(first), int(last)


def weights_given(
    _context: click.Context, option: click.Parameter, text: str | None
) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise click.BadParameter(f"{text!r} are not numbers like 0.4,0.6", param=option) from error


@click.command("merge-shards", short_help="Merge side memories of several turns into one.")
@click.argument("span", metavar="A..B", callback=_span)
@click.option(
    "--method",
    default="ties",
    show_default=True,
    help="ties, linear, sign, magnitude, magnitude_norm, dare, dare_linear, dare_ties or slerp.",
)
@click.option(
    "--density", default=0.53, show_default=True, help="Share of the entries that are kept."
)
@click.option(
    "--weights", metavar="W1,W2,…", callback=weights_given, help="One per shard (default: equal)."
)
@click.option("--no-evaluate", is_flag=True, help="Leave out the scores.")
@seed_option
@device_option
@dtype_option
@message_option
@branch_option
@ledger_option
@lock_timeout_option
@json_option
def merge_shards(
    span: tuple[int, int],
    method: str,
    density: float,
    weights: tuple[float, ...] | None,
    no_evaluate: bool,
    seed: int,
    ledger_dir: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Merge the side memories of turns A to B that are in force into one, as a turn (WISE-Merge).

    The threshold is taken anew on the edits of all of them. The shards are kept: rolling the merge
    back brings them back.

    \b
    Example: ledger merge-shards 1..5
             ledger merge-shards 1..2 --method slerp
    """
    from ledger.merging import merge_shards as merge
    from patches.merging import Merge

    how = Merge(method=method, density=density, weights=weights, seed=seed)
    with watching(quiet=as_json) as progress:
        done = merge(
            opened(ledger_dir, working=True),
            *span,
            how,
            evaluate=not no_evaluate,
            progress=progress,
            **options,
        )
    if as_json:
        print_json(done.to_json())
        return
    tell(
        f"turn {done.turn} merges the side memories of {turn_numbers(done.merges)} by "
        f"{done.method}: {size(done.patch_bytes)}, threshold {done.threshold:.4g}"
    )
    for note in done.notes:
        tell(f"note: {note}")
    if done.scores:
        print_scores(done.scores["base"], done.scores["state"], done.scores["n"])


@click.command(short_help="Which side memory a prompt goes to, and why.")
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT…")
@at_option
@device_option
@dtype_option
@branch_option
@ledger_option
@json_option
def route(
    prompts: tuple[str, ...],
    at: int | str | None,
    device: str,
    dtype: str | None,
    ledger_dir: Path | None,
    as_json: bool,
) -> None:
    """Which side memory each PROMPT goes to: its activation in every one, beside the threshold.

    A prompt goes to the memory whose threshold it exceeds most, and to the main weights if it
    exceeds none.

    \b
    Example: ledger route "What is the product made by UniFirst?" "Who wrote Hamlet?"
    """
    from ledger.routing import route as find_routes

    with watching(quiet=as_json) as progress:
        found = find_routes(
            opened(ledger_dir), prompts, at=at, device=device, dtype=dtype, progress=progress
        )
    if as_json:
        print_json([routed.to_json() for routed in found])
        return
    for routed in found:
        where = f"side memory of {turn_numbers(routed.turns)}" if routed.turns else "main weights"
        echo(f"{click.style(visible(short(routed.prompt, 100)), bold=True)}: {where}")
        print_table(
            ("turn", "activation", "threshold", "strength", "", "matrix"),
            [
                (
                    str(one.turn),
                    f"{one.activation:.2f}",
                    f"{one.threshold:.2f}",
                    f"{one.strength:.2f}",
                    "goes here" if one.chosen else "",
                    one.tensor,
                )
                for one in routed.memories
            ],
            right="turn|activation|threshold|strength",
            whole="matrix",
        )
