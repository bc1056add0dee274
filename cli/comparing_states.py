"""`ledger evaluate --compare A B`: two states on the same edits, and whether one is better."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from cli.options import print_json
from cli.rendering import echo, print_table, short, tell
from cli.watching import watching
from ledger.metrics import METRICS
from ledger.wording import NOTHING, counted, score

if TYPE_CHECKING:
    from ledger.comparing_states import Comparison
    from ledger.diffing_facts import Side
    from ledger.intervals import Paired
    from ledger.refs import Rev
    from ledger.workspace import Ledger

_SHOWN = 20


def print_comparison(
    ledger: "Ledger",
    a: "Rev",
    b: "Rev",
    *,
    turn: "Rev | None",
    sample: int | None,
    seed: int,
    device: str,
    dtype: str | None,
    workers: str | None,
    as_json: bool,
) -> None:
    """Score both states on the same edits, and print how they differ."""
    from ledger.comparing_states import compare_states
    from ledger.jobs import crew

    with (
        watching(quiet=as_json) as progress,
        crew(ledger, workers, device=device, dtype=dtype) as who,
    ):
        found = compare_states(
            ledger, who, a, b, turn=turn, sample=sample, seed=seed, dtype=dtype, progress=progress
        )
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)


def _print(found: "Comparison") -> None:
    echo(click.style(f"{_name(found.a)} → {_name(found.b)}", bold=True))
    drawn = f" of {found.drawn_from:,}" if found.n < found.drawn_from else ""
    tell(f"on {counted(found.n, 'edits')}{drawn} {_whose(found)}, in {found.seconds:.1f} s")
    print_table(
        ("metric", "A", "B", "B - A", "95 % interval", "better", "worse", "same", "p"),
        list(_rows(found)),
        right="A|B|B - A|95 % interval|better|worse|same|p",
    )
    _print_flips(found)
    for note in _notes(found):
        tell(f"note: {note}")


def _notes(found: "Comparison") -> Iterator[str]:
    if found.not_in_both:
        yield (
            f"{counted(found.not_in_both, 'edits')} left out: in force at one state only, "
            "overridden, or repeated"
        )
    if found.without_texts:
        yield f"{counted(found.without_texts, 'edits')} left out: their texts are not here"


def _name(side: "Side") -> str:
    return "the base" if side.hash is None else f"turn {side.turn} ({side.hash[:7]})"


def _whose(found: "Comparison") -> str:
    if found.scope is not None:
        return f"of turn {found.scope}"
    for side, letter in ((found.a, "B"), (found.b, "A")):
        if side.hash is None:
            return f"that hold at {letter}"
    return "that hold in both"


def _rows(found: "Comparison") -> Iterator[tuple[str, ...]]:
    from ledger.comparing_states import LESS_IS_BETTER

    for metric, one in found.metrics.items():
        yield (
            METRICS[metric] + (" ↓" if metric in LESS_IS_BETTER else ""),
            score(one.mean_a),
            score(one.mean_b),
            _signed(one.difference),
            _within(one),
            f"{one.better:,}",
            f"{one.worse:,}",
            f"{one.same:,}",
            "<0.001" if one.p_value < 0.001 else score(one.p_value),
        )


def _within(one: "Paired") -> str:
    if one.interval is None:
        return NOTHING
    return f"{_signed(one.interval.low)} to {_signed(one.interval.high)}"


def _signed(value: float) -> str:
    # What is zero but for rounding has no sign.
    value = round(value, 9) + 0.0
    return f"{'+' if value > 0 else ''}{score(value)}"


def _print_flips(found: "Comparison") -> None:
    tell(f"whole answers: {found.gained:,} gained, {found.lost:,} lost")
    if not found.flipped:
        return
    print_table(
        ("", "turn", "row", "prompt", "target", "A", "B"),
        [
            (
                "gained" if one.gained else "lost",
                str(one.turn),
                NOTHING if one.row is None else str(one.row),
                short(one.prompt, 60),
                short(one.target, 30),
                score(one.a),
                score(one.b),
            )
            for one in found.flipped[:_SHOWN]
        ],
        right="turn|row|A|B",
    )
    if len(found.flipped) > _SHOWN:
        left = counted(len(found.flipped) - _SHOWN, "more edits")
        tell(f"… and {left} that flipped (--json lists them)")
