"""Merge a branch into another: what it has that the other has not, repeated there as turns.

The turns are recorded in one transaction. Where both branches had changed a fact to different
targets, the one that is to hold is edited once more after it, in a turn of its own, on the model as
it is then: weights of both sides are added up, and pull it both ways. If that is interrupted, the
next merge goes on with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ledger import database, history
from ledger.branch_conflicts import winning
from ledger.copying import Draft, told_turn
from ledger.facts import Fact
from ledger.history import Step
from ledger.merge_notes import MergeNote
from ledger.merge_plan import OURS, SUM, THEIRS, MergeBranch, Plan, check_conflicts, plan_merge
from ledger.orm import TurnRow
from ledger.progress import Progress, silent
from ledger.refs import Rev
from ledger.wording import turn_numbers
from ledger.workspace import Ledger
from patches.errors import HistoryError

if TYPE_CHECKING:
    from ledger.adding import Added
    from ledger.side_scores import SideScores


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A merge that was recorded, as far as there was something to do.

    rollback: the turn that undoes what the other branch has undone. blends: turns that take the
    place of patches of both sides. edited_again: turns with the facts that were to hold.
    """

    plan: Plan
    rollback: int | None = None
    blends: list[int] = field(default_factory=list)
    edited_again: list["Added"] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    scores: list["SideScores"] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger merge --json``; fields are only ever added."""
        return {
            **self.plan.to_json(),
            "rollback": self.rollback,
            "blends": self.blends,
            "edited_again": [added.to_json() for added in self.edited_again],
            "notes": self.notes,
            "scores": {side.side: side.to_json() for side in self.scores},
        }


def merge_branch(
    ledger: Ledger,
    rev: Rev,
    options: MergeBranch,
    *,
    plan: Plan | None = None,
    progress: Progress = silent,
) -> Joined:
    """Merge the branch, tag or turn that `rev` names into the current branch.

    plan: of this merge, if it has been made already; it holds as long as nothing is added here.
    HistoryError, with nothing recorded, if facts conflict and it is not said whose are to hold.
    Facts that an interrupted merge has left to be edited again are edited first.
    """
    plan = plan or plan_merge(ledger, rev)
    check_conflicts(plan, options)
    again = []
    if plan.interrupted is not None:
        again += _edit_again(ledger, plan.interrupted, plan.pending, options, progress)
        plan = replace(plan_merge(ledger, rev), interrupted=plan.interrupted, pending=plan.pending)
    if plan.apart.is_merged:
        return Joined(plan=plan, edited_again=again)
    return _Merge(ledger, plan, options, progress).run(again)


class _Merge:
    """A merge in progress."""

    def __init__(
        self, ledger: Ledger, plan: Plan, options: MergeBranch, progress: Progress
    ) -> None:
        self._ledger = ledger
        self._plan = plan
        self._options = options
        self._progress = progress

    def run(self, again: "Sequence[Added]") -> Joined:
        """again: turns made before it."""
        plan, options = self._plan, self._options
        facts = winning(plan.conflicts, options.on_conflict)
        if facts:
            _check_can_be_edited(self._ledger, facts)
        rollback, blends, notes, note = self._record()
        made = _edit_again(self._ledger, note, facts, options, self._progress) if facts else []
        return Joined(
            plan=plan,
            rollback=rollback,
            blends=[step.number for step in blends],
            edited_again=[*again, *made],
            notes=notes,
            scores=self._scores(made) if options.evaluate else [],
        )

    def _record(self) -> tuple[int | None, list[Step], list[str], MergeNote]:
        """Everything but the facts to be edited again, in one transaction."""
        apart = self._plan.apart
        with database.reading(self._ledger.engine) as session:
            draft = Draft(self._ledger, apart.ours, history.tensors_at(session, apart.ours))
            rollback = self._roll_back(draft)
            for repeat in apart.repeats:
                draft.copy(
                    session,
                    repeat.source,
                    replaces=repeat.replaces,
                    message=self._options.message,
                    notes=[f"copied from {told_turn(repeat.source, self._plan.name)}"],
                )
        blends, notes = self._blend(draft)
        note = self._note(draft)
        draft.note(str(note))
        draft.record(self._progress)
        return rollback, blends, notes, note

    def _roll_back(self, draft: Draft) -> int | None:
        apart = self._plan.apart
        if not apart.undoes:
            return None
        told = f"merge of {self._plan.name}: what it has undone"
        if apart.brought_back:
            told += f", and brought back ({turn_numbers(apart.brought_back)})"
        step = draft.roll_back(apart.undoes, message=self._options.message or told, notes=[told])
        return step.number

    def _blend(self, draft: Draft) -> tuple[list[Step], list[str]]:
        if self._options.strategy == SUM:
            return [], []
        from ledger.blending import Blending, blend
        from patches.merging import Merge

        plan, options = self._plan, self._options
        given = {} if options.density is None else {"density": options.density}
        how = Merge(method=options.strategy, weights=options.weights, seed=options.seed, **given)
        fork = history.state_hash(plan.apart.ours[: plan.apart.fork])
        blending = Blending(
            how=how,
            settings={"branch": plan.name, "fork": fork, "theirs": plan.head},
            message=options.message or f"merge {plan.name} by {options.strategy}",
            device=options.device,
            dtype=options.dtype,
        )
        return blend(self._ledger, draft, plan.apart.fork, blending, progress=self._progress)

    def _note(self, draft: Draft) -> MergeNote:
        plan = self._plan
        return MergeNote(
            name=plan.name,
            head=plan.head,
            first=len(plan.apart.ours) + 1,
            last=len(draft.line),
            winner=self._options.on_conflict if plan.conflicts else None,
            conflicts=len(plan.conflicts),
        )

    def _scores(self, again: "Sequence[Added]") -> "list[SideScores]":
        from ledger.side_scores import score_sides

        plan, options = self._plan, self._options
        with database.reading(self._ledger.engine) as session:
            line = history.line(session, self._ledger.branch)
        numbers = {repeat.number for repeat in plan.apart.repeats}
        new = [step for step in history.edits_in_force(line) if step.number > plan.apart.fork]
        made = {added.turn for added in again}
        sides = {
            OURS: [step for step in new if step.number not in numbers | made],
            THEIRS: [step for step in new if step.number in numbers],
        }
        if options.on_conflict == OURS:
            # Theirs have overridden those of ours that were edited again; theirs hold as they came.
            sides[OURS] += [step for step in new if step.number in made]
        return score_sides(
            self._ledger,
            sides,
            unscored=[step.id for step in new if step.number in made],
            sample=options.sample,
            seed=options.seed,
            device=options.device,
            dtype=options.dtype,
            progress=self._progress,
        )


def _check_can_be_edited(ledger: Ledger, facts: Sequence[Fact]) -> None:
    """HistoryError if one of these facts was edited by a method that this program does not have."""
    from patches.editors import EDITORS

    with database.reading(ledger.engine) as session:
        for turn_id in sorted({fact.turn_id for fact in facts}):
            turn = session.get_one(TurnRow, turn_id)
            if turn.method not in EDITORS:
                raise HistoryError(
                    f"facts of turn {turn.number} of {turn.branch} are to hold, and must be edited "
                    f"once more, but this program cannot edit by {turn.method}; nothing was "
                    "recorded. Choose the other side with --on-conflict"
                )


def _edit_again(
    ledger: Ledger,
    note: MergeNote,
    facts: Sequence[Fact],
    options: MergeBranch,
    progress: Progress,
) -> "list[Added]":
    """Edit the facts that are to hold after a merge once more."""
    from ledger.replaying import edit_again

    return edit_again(
        ledger,
        facts,
        message=f"merge of {note.name}: facts changed on both sides, {note.winner} hold",
        device=options.device,
        dtype=options.dtype,
        evaluate=options.evaluate,
        progress=progress,
    )
