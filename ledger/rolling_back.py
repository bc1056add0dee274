"""Roll back: record a turn that undoes others, with the digests of the state it leads to."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ledger import database, environment, history
from ledger.history import Step
from ledger.progress import Progress, silent
from ledger.rebuilding import digests_of
from ledger.recording import NewTurn, record_turn
from ledger.refs import Rev
from ledger.states import open_state
from ledger.wording import turn_numbers
from ledger.workspace import Ledger
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
    ledger: Ledger, rev: Rev, *, message: str = "", progress: Progress = silent
) -> RolledBack:
    """Undo exactly the turn that `rev` names; undoing a rollback brings back what it undid.

    HistoryError if there is no such turn, it is undone already, or part of a merge in force.
    """

    def choose(turns: Sequence[Step], number: int) -> list[int]:
        turn = history.find_turn(turns, number)
        if not turn.in_force:
            by = next(t.number for t in turns if t.in_force and number in t.undoes)
            raise HistoryError(
                f"turn {number} is rolled back already, by turn {by}; to bring it back: "
                f"ledger rollback turn {by}"
            )
        return [number]

    return _rollback(ledger, rev, choose, message, "roll back turn {}", progress)


def rollback_to(
    ledger: Ledger, rev: Rev, *, message: str = "", progress: Progress = silent
) -> RolledBack:
    """Return to the state as it was at the turn that `rev` names; 0 is the base.

    HistoryError if there is no such turn, or the state is that one already.
    """

    def choose(turns: Sequence[Step], number: int) -> list[int]:
        if history.patches_in_force(turns, number) == history.patches_in_force(turns):
            raise HistoryError(f"the state is that of turn {number} already; nothing to roll back")
        return [turn.number for turn in turns[number:]]

    return _rollback(ledger, rev, choose, message, "roll back to turn {}", progress)


def _rollback(
    ledger: Ledger,
    rev: Rev,
    choose: Callable[[Sequence[Step], int], list[int]],
    message: str,
    otherwise: str,
    progress: Progress,
) -> RolledBack:
    started = time.perf_counter()
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch)
        if not turns:
            raise HistoryError("nothing to roll back: the ledger has no turns yet")
        number = history.number_on(session, ledger.branch, turns, rev)
    undoes = choose(turns, number)
    relation: dict[int, Sequence[int]] = {turn.number: turn.undoes for turn in turns}
    relation[len(turns) + 1] = undoes
    active = history.active_turns(relation)
    in_force = [t for t in turns if t.kind in history.CHANGING and t.number in active]
    before = {turn.number for turn in history.edits_in_force(turns)}
    used = history.patches_among(turns, active)
    used_before = {turn.number for turn in history.patches_in_force(turns)}
    tensors = digests_of(ledger, open_state(ledger, turns, used).patches, progress)
    rebuilt = time.perf_counter() - started
    record_turn(
        ledger,
        NewTurn(
            parent=turns[-1].id,
            kind="rollback",
            seed=0,
            message=message or otherwise.format(number),
            notes=[editor_state_note(in_force)],
            undoes=[turns[n - 1].id for n in undoes],
            tensors=tensors,
            environment={"versions": environment.versions(), "device": "cpu"},
            seconds={"rebuild": rebuilt, "total": time.perf_counter() - started},
            needs=[turn.patch_digest for turn in used if turn.patch_digest],
        ),
    )
    numbers = [turn.number for turn in in_force]
    return RolledBack(
        turn=len(turns) + 1,
        undoes=undoes,
        in_force=numbers,
        brought_back=[number for number in numbers if number not in before],
        separated=[t.number for t in used if t.in_force and t.number not in used_before],
    )


def editor_state_note(in_force: Sequence[Step]) -> str:
    """What the next turn of edits goes on from. Statistics are those of the turns that are left, as
    if the others had never been: they are merged anew, nothing is subtracted."""
    numbers = [turn.number for turn in in_force if turn.editor_state_digest]
    return (
        f"editor state: the next edits go on from that of {turn_numbers(numbers)}"
        if numbers
        else "editor state: the next edits start afresh"
    )
