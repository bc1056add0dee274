"""`ledger diff`: what two states differ in, in facts, weights and scores."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.options import (
    STATE,
    branch_option,
    device_option,
    dtype_option,
    json_option,
    ledger_option,
    opened,
    print_json,
)
from cli.rendering import echo, print_table, short, tell
from cli.watching import watching
from ledger.metrics import METRICS
from ledger.wording import NOTHING, counted, score, size

if TYPE_CHECKING:
    from ledger.diffing import Diff
    from ledger.diffing_facts import FactChange, FactChanges, Side
    from ledger.diffing_scores import ScoreChanges
    from ledger.diffing_weights import WeightChanges

_SIGNS = {"added": "+", "removed": "-", "overridden": "≠"}


@click.command(short_help="What two states differ in: facts, weights, scores.")
@click.argument("a", type=STATE, metavar="A")
@click.argument("b", type=STATE, metavar="[B]", required=False)
@click.option("--stat", is_flag=True, help="Numbers only: no single facts and edits.")
@click.option(
    "--edits",
    "count",
    type=click.IntRange(min=0),
    default=20,
    show_default=True,
    help="Facts and edits of each kind to list.",
)
@click.option("--no-weights", is_flag=True, help="Leave out the weights: answers at once.")
@click.option(
    "--evaluate",
    is_flag=True,
    help="Score both states now on the edits that hold in both; nothing is recorded.",
)
@device_option
@dtype_option
@branch_option
@ledger_option
@json_option
def diff(
    stat: bool,
    count: int,
    no_weights: bool,
    ledger_dir: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """What the state B (default: now) differs in from the state A.

    A and B are turns, also of different branches; 0 is the base. Facts: those added (+), removed
    (-), and those with another answer (≠). Weights, of each tensor: the norm of the difference
    beside that of the base's matrix, its rank, the share of the stored numbers that changed, and
    the cosine between the two changes of the base. Scores: from the evaluations that both states
    have of the same edits.

    \b
    Example: ledger diff 3 5
             ledger diff main other-branch --stat
             ledger diff HEAD~1 --no-weights --json
    """
    from ledger.diffing import diff as compare

    with watching(quiet=as_json) as progress:
        found = compare(opened(ledger_dir), weights=not no_weights, progress=progress, **options)
    if as_json:
        print_json(found.to_json(stat=stat))
        return
    _print(found, 0 if stat else count, stat=stat)


def _print(found: "Diff", count: int, *, stat: bool) -> None:
    echo(click.style(f"{_name(found.a)} → {_name(found.b)}", bold=True))
    _print_facts(found.facts, count, stat=stat)
    if found.weights is not None:
        _print_weights(found.weights)
    if found.scores is not None:
        _print_scores(found.scores, count, stat=stat)
    for note in found.notes:
        tell(f"note: {note}")


def _name(side: "Side") -> str:
    return "the base" if side.hash is None else f"turn {side.turn} ({side.hash[:7]})"


def _print_facts(facts: "FactChanges", count: int, *, stat: bool) -> None:
    groups = facts.groups()
    numbers = ", ".join(f"{len(group):,} {name}" for name, group in groups.items())
    tell(f"facts: {numbers}" if any(groups.values()) else "facts: the same")
    shown = [row for name, group in groups.items() for row in _fact_rows(name, group[:count])]
    if shown:
        headings = ("", "turns", "prompt", "old", "new")
        print_table(headings, shown, right="turns")
    if not stat:
        for name, group in groups.items():
            if len(group) > count:
                tell(f"… and {len(group) - count:,} more {name} (--edits {len(group)})")


def _fact_rows(name: str, changes: Sequence["FactChange"]) -> Iterator[tuple[str, ...]]:
    for change in changes:
        told = change.new or change.old
        assert told is not None
        turns = [str(fact.number) for fact in change if fact is not None]
        yield (
            _SIGNS[name],
            " → ".join(turns),
            short(told.prompt, 60),
            NOTHING if change.old is None else short(change.old.target, 30),
            NOTHING if change.new is None else short(change.new.target, 30),
        )


def _print_weights(weights: "WeightChanges") -> None:
    if not weights.tensors:
        tell("weights: the same patches")
    else:
        tell(f"weights: {counted(len(weights.tensors), 'tensors')} with other patches")
        print_table(
            ("tensor", "relative norm", "rank", "changed", "cosine"),
            [
                (
                    one.tensor,
                    _figure(one.compared.relative_norm),
                    str(one.compared.rank),
                    f"{one.compared.changed:.2%}",
                    score(one.compared.cosine),
                )
                for one in weights.tensors
            ],
            right="relative norm|rank|changed|cosine",
            whole="tensor",
        )
    for side, sign in (("a", "-"), ("b", "+")):
        for memory in weights.memories:
            if memory.side == side:
                what = f"of turn {memory.turn} beside {memory.tensor}, {size(memory.bytes)}"
                tell(f"{sign} side memory {what}")


def _figure(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}"


def _print_scores(scores: "ScoreChanges", count: int, *, stat: bool) -> None:
    how = "as recorded" if scores.recorded else "just now"
    tell(
        f"scores, {how}, on {counted(scores.n, 'edits')}: {scores.better:,} better, "
        f"{scores.worse:,} worse; flipped: {scores.gained:,} gained, {scores.lost:,} lost"
    )
    rows = [
        (METRICS[metric], score(scores.a[metric]), score(scores.b[metric]))
        for metric in scores.a
        if scores.a[metric] is not None or scores.b[metric] is not None
    ]
    print_table(("metric", "A", "B"), rows, right="A|B")
    if scores.edits[:count]:
        print_table(
            ("", "turn", "prompt", "target", "A", "B"),
            [
                (
                    _flip(one.flipped, better=one.b > one.a),
                    NOTHING if one.turn is None else str(one.turn),
                    short(one.prompt, 60),
                    short(one.target, 30),
                    score(one.a),
                    score(one.b),
                )
                for one in scores.edits[:count]
            ],
            right="turn|A|B",
        )
    if len(scores.edits) > count and not stat:
        left = len(scores.edits) - count
        tell(f"… and {left:,} more edits that changed (--edits {len(scores.edits)})")


def _flip(flipped: bool, *, better: bool) -> str:
    if flipped:
        return "gained" if better else "lost"
    return "better" if better else "worse"
