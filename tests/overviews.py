"""Overviews of made-up histories, to draw."""

from collections.abc import Sequence
from typing import Any

from ledger.overview.retained import Cell, Retained
from ledger.overview.timeline import Point, Timeline, Whole
from ledger.overview.weights import Change, WeightChanges

WHEN = "2026-03-29T12:00:00.000000+00:00"


def point(turn: int, **changes: Any) -> Point:
    """A turn of 40 edits by UltraEdit that went well."""
    plain: dict[str, Any] = {
        "turn": turn,
        "hash": f"{turn:064x}",
        "kind": "edit",
        "method": "ultraedit",
        "in_force": True,
        "rejected": False,
        "undoes": (),
        "replaces": (),
        "undone_by": None,
        "edits": 40,
        "skipped": 0,
        "edits_in_force": 40 * turn,
        "message": "",
        "author": "somebody",
        "created_at": WHEN,
        "n": 40,
        "base": {"edit_success": 0.1 + 0.01 * (turn % 3)},
        "state": {
            "edit_success": 1 - 0.01 * (turn % 7),
            "generalization": 0.8 + 0.02 * (turn % 5),
            "stability": 0.97,
            "locality": None,
        },
        "kept": None if turn == 1 else {"n": 20, "then": 1.0, "now": 0.99 - 0.005 * (turn % 9)},
    }
    return Point(**{**plain, **changes})


def rollback(turn: int, *undoes: int, **changes: Any) -> Point:
    """A turn that takes others back."""
    plain: dict[str, Any] = {"kind": "rollback", "method": None, "edits": 0, "undoes": undoes}
    return point(turn, **{**plain, "n": None, "base": {}, "state": {}, "kept": None, **changes})


def timeline(points: Sequence[Point], *, wholes: Sequence[Whole] = ()) -> Timeline:
    return Timeline(
        branch="main", turns=len(points), points=tuple(points), wholes=tuple(wholes), notes=()
    )


def whole(turn: int, success: float | None) -> Whole:
    """Scores on all edits in force."""
    state = {"edit_success": success, "generalization": 0.8}
    return Whole(turn=turn, n=100, base={"edit_success": 0.1}, state=state, created_at=WHEN)


def eventful() -> Timeline:
    """Ten turns with two methods, an import, a failed gate, two rollbacks and a merge."""
    gone = {"in_force": False}
    return timeline(
        [
            point(1),
            point(2, **gone, undone_by=7),
            point(3, method="wise", edits=20, edits_in_force=100),
            point(4, method="lora", kind="import", edits=0, n=None, state={}, edits_in_force=100),
            point(5, **gone, rejected=True, undone_by=6, edits_in_force=140),
            rollback(6, 5, edits_in_force=100),
            rollback(7, 2, edits_in_force=60),
            point(8, method="memit", edits_in_force=100),
            point(9, edits=55, edits_in_force=155),
            rollback(10, kind="merge", method="ties", replaces=(8, 9), edits_in_force=155),
        ],
        wholes=[whole(4, 0.93), whole(10, 0.91)],
    )


def long_history(turns: int) -> Timeline:
    """Every tenth turn takes the one before it back."""
    return timeline(
        [
            rollback(turn, turn - 1, edits_in_force=32 * turn)
            if turn % 10 == 0
            else point(turn, edits_in_force=32 * turn, in_force=turn % 10 != 9)
            for turn in range(1, turns + 1)
        ]
    )


def triangle(turns: int, *, base: bool = True) -> Retained:
    """Every turn's edits are forgotten a little, those of turn 2 more; turn 3's end early."""
    numbers = tuple(range(1, turns + 1))
    cells = [
        Cell(turn=i, at=j, n=10, success=max(0.0, 1 - (0.09 if i == 2 else 0.02) * (j - i)))
        for i in numbers
        for j in numbers
        if j >= i and (i != 3 or j < 6)
    ]
    return Retained(
        turns=numbers,
        states=numbers,
        cells=tuple(cells),
        base={turn: 0.05 + 0.01 * (turn % 5) for turn in numbers} if base else {},
        recorded=turns,
        notes=(),
    )


def changes(turns: int, tensors: Sequence[str], *, share: float | None = 0.01) -> WeightChanges:
    """Every turn changes every tensor, later tensors more."""
    numbers = tuple(range(1, turns + 1))
    found = [
        Change(
            turn=turn,
            tensor=name,
            norm=0.5 * (place + 1),
            share=None if share is None else share * (place + 1) * (1 + turn % 4),
            kind="low-rank",
            rank=40,
        )
        for turn in numbers
        for place, name in enumerate(tensors)
    ]
    return WeightChanges(turns=numbers, tensors=tuple(tensors), changes=tuple(found), notes=())


def layers(first: int, last: int, rest: str = "mlp.down_proj") -> list[str]:
    return [f"model.layers.{at}.{rest}.weight" for at in range(first, last + 1)]


UNSCORED = timeline([point(1, n=None, base={}, state={}, kept=None)])
HOLES = timeline(
    [
        point(1, base={"edit_success": None}, state={"edit_success": float("nan")}),
        point(2, state={"edit_success": 1e308, "stability": "high"}, kept={"now": None}),
        point(3, state={"generalization": 7.0}, method=None),
    ],
    wholes=[whole(2, None)],
)
CONTENTS: dict[str, dict[str, Any]] = {
    "timeline": {
        "none": timeline([]),
        "one": timeline([point(1)]),
        "eventful": eventful(),
        "holes": HOLES,
        "adapters": timeline([point(1, kind="import", method="lora", edits=0, edits_in_force=0)]),
        "far": timeline([point(turn) for turn in range(19_990, 20_021)]),
        "long": long_history(2000),
    },
    "scores": {
        "none": timeline([]),
        "one": timeline([point(1)], wholes=[whole(1, 0.9)]),
        "unscored": UNSCORED,
        "eventful": eventful(),
        "holes": HOLES,
        "long": long_history(2000),
    },
    "retention": {
        "none": triangle(0),
        "one": triangle(1),
        "ten": triangle(10),
        "no base": triangle(4, base=False),
        "forty": triangle(40),
    },
    "weights": {
        "none": changes(0, []),
        "one": changes(1, ["lm_head.weight"]),
        "eight": changes(9, layers(20, 27)),
        "no shares": changes(3, layers(0, 1), share=None),
        "all zero": changes(2, layers(0, 1), share=0.0),
        "many": changes(200, layers(0, 31) + layers(0, 31, "mlp.up_proj")),
    },
}
"""Kind of chart → contents of all sorts, by name."""
