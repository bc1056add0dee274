"""Roll back: record a turn that undoes others, with the digests of the state it leads to."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ledger import database, environment, history
from ledger.progress import Progress, silent
from ledger.recording import NewTurn, record_turn
from ledger.states import open_state
from ledger.workspace import Ledger
from patches.application import patched_bytes
from patches.canonical import sha256
from patches.errors import HistoryError


@dataclass(frozen=True, kw_only=True)
class RolledBack:
    """A rollback that was recorded as `turn`. in_force: the edit turns now in force.

    separated: turns whose patches stand for themselves again, since a merge of them was undone.
    """

    turn: int
    undoes: list[int]
    in_force: list[int]
    brought_back: list[int]
    separated: list[int]

    def to_json(self) -> dict[str, Any]:
        return {
            "turn": self.turn,
            "undoes": self.undoes,
            "in_force": self.in_force,
            "brought_back": self.brought_back,
            "separated": self.separated,
        }


def rollback_turn(
    ledger: Ledger, number: int, *, message: str = "", progress: Progress = silent
) -> RolledBack:
    """Undo exactly turn `number`; undoing a rollback brings back what it undid.

    HistoryError if there is no such turn, it is undone already, or part of a merge in force.
    """

    def choose(turns: Sequence[history.Turn]) -> list[int]:
        turn = history.find_turn(turns, number)
        if not turn.in_force:
            by = next(t.number for t in turns if t.in_force and number in t.undoes)
            raise HistoryError(
                f"turn {number} is rolled back already, by turn {by}; to bring it back: "
                f"ledger rollback turn {by}"
            )
        return [number]

    return _rollback(ledger, choose, message or f"roll back turn {number}", progress)


def rollback_to(
    ledger: Ledger, number: int, *, message: str = "", progress: Progress = silent
) -> RolledBack:
    """Return to the state as it was at turn `number`; 0 is the base.

    HistoryError if there is no such turn, or the state is that one already.
    """

    def choose(turns: Sequence[history.Turn]) -> list[int]:
        if history.patches_in_force(turns, number) == history.patches_in_force(turns):
            raise HistoryError(f"the state is that of turn {number} already; nothing to roll back")
        return [turn.number for turn in turns[number:]]

    return _rollback(ledger, choose, message or f"roll back to turn {number}", progress)


def _rollback(
    ledger: Ledger,
    choose: Callable[[Sequence[history.Turn]], list[int]],
    message: str,
    progress: Progress,
) -> RolledBack:
    started = time.perf_counter()
    with database.reading(ledger.engine) as session:
        turns = history.turns(session, ledger.branch)
    if not turns:
        raise HistoryError("nothing to roll back: the ledger has no turns yet")
    undoes = choose(turns)
    relation: dict[int, Sequence[int]] = {turn.number: turn.undoes for turn in turns}
    relation[len(turns) + 1] = undoes
    active = history.active_turns(relation)
    in_force = [t for t in turns if t.row.kind in history.CHANGING and t.number in active]
    before = {turn.number for turn in history.edits_in_force(turns)}
    used = history.patches_among(turns, active)
    used_before = history.patches_in_force(turns)
    tensors = _digests(ledger, turns, used, progress)
    rebuilt = time.perf_counter() - started
    record_turn(
        ledger,
        NewTurn(
            parent=turns[-1].row.id,
            kind="rollback",
            seed=0,
            message=message,
            undoes=[turns[n - 1].row.id for n in undoes],
            tensors=tensors,
            environment={"versions": environment.versions(), "device": "cpu"},
            seconds={"rebuild": rebuilt, "total": time.perf_counter() - started},
        ),
    )
    numbers = [turn.number for turn in in_force]
    return RolledBack(
        turn=len(turns) + 1,
        undoes=undoes,
        in_force=numbers,
        brought_back=[number for number in numbers if number not in before],
        separated=[t.number for t in used if t.in_force and t not in used_before],
    )


def _digests(
    ledger: Ledger, turns: Sequence[history.Turn], used: Sequence[history.Turn], progress: Progress
) -> dict[str, str]:
    """SHA-256 of every tensor that the patches of `used` change, rebuilt."""
    builders = patched_bytes(ledger.checkpoint, open_state(ledger, turns, used).patches)
    digests = {}
    for done, (name, build) in enumerate(builders.items(), start=1):
        digests[name] = sha256(build())
        progress("rebuild", done, len(builders))
    return digests
