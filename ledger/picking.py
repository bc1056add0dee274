"""Cherry-pick: a turn from anywhere in the ledger, its patch as it is, on the current branch."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy.orm import Session

from ledger import database, history
from ledger.branch_conflicts import answers
from ledger.conflicts import ABORT, OVERRIDE, Conflict, conflict_notes
from ledger.copying import Draft, told_turn
from ledger.divergence import origins
from ledger.facts import Fact, facts_of
from ledger.history import Step
from ledger.progress import Progress, silent
from ledger.refs import Rev, resolve
from ledger.workspace import Ledger
from patches.errors import HistoryError


@dataclass(frozen=True, kw_only=True)
class Picked:
    """A turn that was recorded as a copy of another. source: its number, on the branch `branch`.

    replaces: the turns here that a merge takes the place of. overrides: its edits that others in
    force here contradict; repeats: those that say what is in force already.
    """

    turn: int
    kind: str
    method: str | None
    edits: int
    source: int
    branch: str
    hash: str
    replaces: list[int]
    overrides: list[Conflict]
    repeats: list[Conflict]

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger cherry-pick --json``; fields are only ever added."""
        return {
            "turn": self.turn,
            "kind": self.kind,
            "method": self.method,
            "edits": self.edits,
            "copied_from": {"turn": self.source, "branch": self.branch, "hash": self.hash},
            "replaces": self.replaces,
            "overrides": [asdict(one) for one in self.overrides],
            "repeats": [asdict(one) for one in self.repeats],
        }


def cherry_pick(
    ledger: Ledger,
    revs: Sequence[Rev],
    *,
    on_conflict: str = OVERRIDE,
    message: str = "",
    progress: Progress = silent,
) -> list[Picked]:
    """Repeat the turns that `revs` name after the newest turn of the branch, in this order.

    A merge comes with the turns that it takes the place of, where they are not in force here. All
    are recorded in one transaction. HistoryError, with nothing recorded, if one is a rollback, the
    base or in force here already; or if on_conflict is ``abort`` and an edit of theirs contradicts
    one in force here.
    """
    with database.reading(ledger.engine) as session:
        line = history.line(session, ledger.branch)
        draft = Draft(ledger, line, history.tensors_at(session, line))
        basket = _Basket(session, draft, line, message)
        for rev in revs:
            basket.pick(rev, resolve(session, ledger.branch, rev))
    if on_conflict == ABORT:
        _check_no_conflict(basket.picked)
    draft.record(progress)
    return basket.picked


class _Basket:
    """Turns being picked."""

    def __init__(self, session: Session, draft: Draft, line: Sequence[Step], message: str) -> None:
        self.picked: list[Picked] = []
        self._session = session
        self._draft = draft
        self._in_force = history.edits_in_force(line)
        self._message = message
        roots = origins(session, line)
        # Root of a turn → the number of the one in force here that goes back to it.
        self._here = {roots[s.hash]: s.number for s in line if s.in_force}

    def pick(self, rev: Rev, turn_id: int | None) -> None:
        if turn_id is None:
            raise HistoryError(f"{rev} is the base, which every branch has")
        source = history.line_to(self._session, turn_id)
        step = source[-1]
        if step.kind == "rollback":
            raise HistoryError(
                f"turn {step.number} of {step.branch} is a rollback, which has no patch; here the "
                "same is undone with: ledger rollback turn"
            )
        here = self._number_here(step)
        if here is not None:
            what = "" if here == step.number else f", as turn {here}"
            raise HistoryError(
                f"turn {step.number} of {step.branch} is in force here already{what}"
            )
        self._add(source, step)

    def _number_here(self, step: Step) -> int | None:
        return self._here.get(self._root(step))

    def _root(self, step: Step) -> str:
        return origins(self._session, [step])[step.hash]

    def _add(self, source: Sequence[Step], step: Step) -> int:
        """Copy one turn after those that it replaces; its number here."""
        taken = {number for one in self._draft.line if one.in_force for number in one.replaces}
        replaces = []
        for part in (source[number - 1] for number in step.replaces):
            number = self._number_here(part)
            if number in taken:
                raise HistoryError(
                    f"turn {step.number} of {step.branch} is a merge of turns of which one is part "
                    f"of another merge here (turn {number}); pick the others one by one"
                )
            replaces.append(self._add(source, part) if number is None else number)
        facts = facts_of(self._session, [step])
        overrides, repeats = _meeting(self._session, self._in_force, facts)
        made = self._draft.copy(
            self._session,
            step,
            replaces=replaces,
            message=self._message,
            notes=[
                f"copied from {told_turn(step, step.branch)}",
                *conflict_notes(overrides, OVERRIDE),
            ],
        )
        self._here[self._root(step)] = made.number
        self.picked.append(
            Picked(
                turn=made.number,
                kind=made.kind,
                method=made.method,
                edits=made.edits,
                source=step.number,
                branch=step.branch,
                hash=step.hash,
                replaces=list(made.replaces),
                overrides=overrides,
                repeats=repeats,
            )
        )
        return made.number


def _meeting(
    session: Session, in_force: Sequence[Step], facts: Sequence[Fact]
) -> tuple[list[Conflict], list[Conflict]]:
    """What holds here about the questions of `facts`: with another target, and with the same."""
    told = answers(session, in_force, facts)
    met = [
        Conflict(
            row=new.row,
            prompt=new.prompt,
            target=new.target,
            turn=old.number,
            old_row=old.row,
            old_target=old.target,
        )
        for new in facts
        for old in told.holding(new)
    ]
    return (
        [one for one in met if one.target != one.old_target],
        [one for one in met if one.target == one.old_target],
    )


def _check_no_conflict(picked: Sequence[Picked]) -> None:
    found = [(one, conflict) for one in picked for conflict in one.overrides]
    if found:
        one, first = found[0]
        raise HistoryError(
            f"turn {one.source} of {one.branch} has {first.prompt!r} as {first.target!r}, here "
            f"{first.older} has {first.old_target!r}; such conflicts in all: {len(found)}. Nothing "
            f"was recorded: with --on-conflict {OVERRIDE} the newer one overrides"
        )
