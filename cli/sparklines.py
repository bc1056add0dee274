"""`ledger log --scores`: how the scores went from turn to turn, one line a score."""

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from cli.rendering import print_table, tell, terminal_width
from ledger.metrics import METRICS
from ledger.wording import is_number, score

# What stands for no share, and for shares from 0 to 1.
_BLOCKS = "·▁▂▃▄▅▆▇█"
# Tenths, where blocks cannot be written.
_DIGITS = "-0123456789"
_OWN = ("edit_success", "generalization", "locality", "stability")
_KEPT = "earlier edits kept"
_FIGURES = ("first", "last", "lowest", "highest", "base")
_MOST, _FEWEST = 60, 10
# The columns of all that stands beside a line: the name of the score, and the figures.
_BESIDE = 60

Shares = Sequence[float | None]


def print_scores_over_turns(turns: Sequence[dict[str, Any]]) -> None:
    """Each score as it went over the turns, with its first, last, lowest and highest value, and the
    mean of the base's on the same edits.

    turns: at least one, as ``ledger log --json`` tells them, oldest first.
    """
    tell("")
    room = max(_FEWEST, min(_MOST, (terminal_width() or _MOST + _BESIDE) - _BESIDE))
    each = -(-len(turns) // room)
    rows = [
        (name, sparkline(_joined(shares, each), _signs()), *_figures(shares), score(_mean(base)))
        for name, shares, base in _scores(turns)
        if any(share is not None for share in shares)
    ]
    if not rows:
        tell("no scores: none of these turns was evaluated when it was recorded")
        return
    span = f"turns {turns[0]['turn']} to {turns[-1]['turn']}"
    print_table(("score", span, *_FIGURES), rows, right="|".join(_FIGURES), whole=span)
    if each > 1:
        tell(f"each sign is the mean of {each} turns")


def _scores(turns: Sequence[dict[str, Any]]) -> Iterator[tuple[str, Shares, Shares]]:
    """Name of each score, its values in the turns' states, and those of the base."""
    scores = [turn["scores"] or {"state": {}, "base": {}} for turn in turns]
    for key in _OWN:
        states, bases = ([_share(one[of].get(key)) for one in scores] for of in ("state", "base"))
        yield METRICS[key], states, bases
    kept = [_share((turn["retention"] or {}).get("now")) for turn in turns]
    yield _KEPT, kept, ()


def _share(value: object) -> float | None:
    return float(value) if is_number(value) else None


def _joined(shares: Shares, each: int) -> list[float | None]:
    """The means of so many after one another."""
    return [_mean(shares[start : start + each]) for start in range(0, len(shares), each)]


def _mean(shares: Shares) -> float | None:
    known = [share for share in shares if share is not None]
    return sum(known) / len(known) if known else None


def _figures(shares: Shares) -> list[str]:
    known = [share for share in shares if share is not None]
    return [score(one) for one in (known[0], known[-1], min(known), max(known))]


def sparkline(shares: Shares, signs: str = _BLOCKS) -> str:
    """A sign per share: the first of `signs` for none, the others for shares from 0 to 1."""
    steps = len(signs) - 1
    return "".join(
        signs[0] if share is None else signs[1 + max(0, min(int(share * steps), steps - 1))]
        for share in shares
    )


def _signs() -> str:
    try:
        _BLOCKS.encode(sys.stdout.encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return _DIGITS
    return _BLOCKS
