"""Replay: edit turns again, from what is recorded of them, on another state or base model.

The texts, rows, settings and seeds come from the database, so that the files of facts are not
needed. What is solved is new: each replayed turn is a turn of its own, with its own patch.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from sqlalchemy.orm import Session

from ledger import database, history
from ledger.adding import Added, check_conflict_options, check_gate, sample_size
from ledger.branching import create_branch
from ledger.conflicts import ABORT, OVERRIDE, Conflict, refuse
from ledger.facts import Fact
from ledger.gates import Gate
from ledger.history import Step
from ledger.orm import TurnRow
from ledger.progress import Progress, silent
from ledger.recorded_edits import RecordedEdits, of_facts, of_turn
from ledger.refs import Rev, branches, resolve
from ledger.selection import Selector, planning
from ledger.turn_work import Head, Work, has_memories
from ledger.workspace import Ledger
from patches.canonical import canonical_json
from patches.edit import Edit
from patches.editors import EDITORS, Editor, Prepared, Request
from patches.errors import HistoryError, ModelError, SettingError

_NOT_EDITED = {
    "rollback": "is a rollback",
    "import": "was imported: there are no edits to make again (ledger cherry-pick takes its patch)",
    "merge": "is a merge of patches, without edits of its own",
}


@dataclass(frozen=True, kw_only=True)
class Replay:
    """Which turns to edit again, and where.

    first, last: the range. onto: the turn at which a new branch begins, called `branch`; without
    it, the turns come on top of the current branch. defaults: settings that suit the model, in
    place of the recorded ones. gate: what a turn must score to be in force.
    """

    first: Rev
    last: Rev
    onto: Rev | None = None
    branch: str | None = None
    defaults: bool = False
    on_conflict: str = OVERRIDE
    retention: int | None = None
    evaluate: bool = True
    gate: Gate | None = None
    device: str = "auto"
    dtype: str | None = None

    def __post_init__(self) -> None:
        check_conflict_options(self.on_conflict, self.retention)
        check_gate(self.gate, self.retention, evaluate=self.evaluate)
        if self.branch is not None and self.onto is None:
            raise SettingError("--as names the branch that --onto makes: give --onto TURN too")


@dataclass(kw_only=True)
class Replayed:
    """A replay; iterate `turns` to make it happen.

    branch: where its turns are recorded. chosen: the turns to edit again. left_out: those that are
    not, with the reason; it grows as the replay goes on.
    """

    branch: str
    chosen: list[int]
    left_out: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    turns: Iterator[Added]


def replay(
    ledger: Ledger, options: Replay, *, source: Ledger | None = None, progress: Progress = silent
) -> Replayed:
    """Prepare to edit turns again; nothing is recorded until the turns are iterated.

    source: the ledger that they come from, maybe of another base model. Stop at any time: whole
    turns stay, and the same call goes on. HistoryError if there is nothing to edit again, or a
    branch of that name is there and is not this replay's; ModelError if the recorded settings do
    not fit the model; SettingError if no edit can have a score that the gate asks for.
    """
    origin = source or ledger
    if origin.url == ledger.url and origin.folder != ledger.folder:
        raise SettingError(
            f"{origin.folder} and {ledger.folder} have one database; is LEDGER_DATABASE set? "
            "Leave out --from-ledger, or unset it"
        )
    with database.reading(origin.engine) as session:
        chosen = _chosen(session, origin, options)
    left_out = [(step.number, reason) for step in chosen if (reason := _unusable(step))]
    usable = [step for step in chosen if not _unusable(step)]
    if not usable:
        told = "; ".join(f"turn {number} {reason}" for number, reason in left_out[:5])
        raise HistoryError(f"there are no edits in force to make again: {told}")
    name = options.branch or f"replay-{chosen[0].number}-{chosen[-1].number}"
    turns = _target(ledger, options, name, chosen)
    if options.on_conflict == ABORT:
        refuse(_conflicts(ledger, origin, turns, usable), first=len(turns) + 1)
    if options.gate is not None:
        memories = has_memories(turns, [step.method for step in usable])
        options.gate.check(_edits(origin, usable), memories=memories)
    there = ledger if options.onto is None else _at(ledger, name)
    head = Head(there, turns, device=options.device, dtype=options.dtype, progress=progress)
    found = Replayed(
        branch=there.branch,
        chosen=[step.number for step in usable],
        left_out=left_out,
        turns=iter(()),
    )
    if not options.defaults and origin.base.fingerprint != ledger.base.fingerprint:
        found.notes.append(
            "the settings are those for another base model; --defaults takes those for this one"
        )
    work = _Replaying(ledger, origin, head, options, turns, found)
    found.turns = work.turns(usable)
    return found


def edit_again(
    ledger: Ledger,
    facts: Sequence[Fact],
    *,
    message: str,
    device: str = "auto",
    dtype: str | None = None,
    evaluate: bool = True,
    progress: Progress = silent,
) -> list[Added]:
    """Edit these recorded edits once more, also where they hold, on the current branch's head.

    Each is made with the method, settings and seed of its turn; one new turn for those that share
    them and their dataset, more if they are many.
    """
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch)
        groups = of_facts(session, facts)
    head = Head(ledger, turns, device=device, dtype=dtype, progress=progress)
    selector = _selector(head, OVERRIDE)
    added = []
    for source in groups:
        torch.manual_seed(source.row.seed)
        editor = head.editor(
            source.row.method or "", source.row.hyperparameters, seed=source.row.seed
        )
        size = EDITORS[editor.method].turn_size
        for start in range(0, len(source.rows), size):
            batch = selector.whole(source.rows[start : start + size], again=True)
            work = Work(
                batch=batch,
                source=source.told,
                dataset=source.dataset,
                hyperparameters=source.row.hyperparameters,
                seed=source.row.seed,
                message=message,
                evaluate=evaluate,
            )
            added.append(head.add(editor, work))
    return added


class _Replaying:
    """A replay in progress."""

    def __init__(
        self,
        ledger: Ledger,
        origin: Ledger,
        head: Head,
        options: Replay,
        turns: Sequence[Step],
        found: Replayed,
    ) -> None:
        self._ledger = ledger
        self._origin = origin
        self._head = head
        self._options = options
        self._found = found
        self._done = {step.copied_from: step.number for step in turns if step.in_force}
        self._selector = _selector(head, options.on_conflict)
        self._editor: tuple[bytes, Editor] | None = None
        self._prepared: dict[bytes, Prepared] = {}

    def turns(self, chosen: Sequence[Step]) -> Iterator[Added]:
        """Edit one after the other."""
        for step in chosen:
            if step.hash in self._done:
                self._leave_out(step, f"is here already, as turn {self._done[step.hash]}")
                continue
            source = of_turn(self._origin, step)
            if source is None:
                self._leave_out(step, "was pulled without the texts of its edits")
                continue
            work = self._work(source)
            if not work.batch.edits:
                reasons = sorted({reason for _, reason in work.batch.skipped})
                self._leave_out(step, f"has nothing left to edit: {reasons[0]}")
                continue
            editor = self._editor_of(source, work.hyperparameters)
            self._start_branch()
            added = self._head.add(editor, work)
            if added.rejected:
                self._selector.rejected()
            yield added

    def _leave_out(self, step: Step, reason: str) -> None:
        self._found.left_out.append((step.number, reason))

    def _work(self, source: RecordedEdits) -> Work:
        options, row = self._options, source.row
        batch = self._selector.whole(source.rows)
        prepared = self._settings(source) if batch.edits else Prepared(hyperparameters={})
        told = f"replay of turn {row.number}"
        return Work(
            batch=batch,
            source=source.told,
            dataset=source.dataset,
            hyperparameters=prepared.hyperparameters,
            seed=row.seed,
            message=f"{told}: {row.message}" if row.message else told,
            notes=prepared.notes,
            evaluate=options.evaluate,
            retention=sample_size(options.retention, len(batch.edits), evaluate=options.evaluate),
            on_conflict=options.on_conflict,
            gate=options.gate,
            copied_from=row.hash,
        )

    def _settings(self, source: RecordedEdits) -> Prepared:
        """What the turn is made with: as recorded, or as suits the model."""
        row = source.row
        if not self._options.defaults:
            return Prepared(hyperparameters=row.hyperparameters)
        # Sentences of the user's own say nothing about the model.
        pool = row.hyperparameters.get("pool")
        request = Request(seed=row.seed, outside=None if pool is None else tuple(pool))
        key = canonical_json([row.method, row.seed, pool])
        if key not in self._prepared:
            kind = EDITORS[row.method or ""]
            self._prepared[key] = kind.prepare(self._head.live, self._head.tokenizer, request)
        return self._prepared[key]

    def _editor_of(self, source: RecordedEdits, hyperparameters: Mapping[str, Any]) -> Editor:
        """The editor of the turn before, where it is made alike."""
        key = canonical_json([source.row.method, source.row.seed, dict(hyperparameters)])
        if self._editor is None or self._editor[0] != key:
            self._editor = key, self._start_editor(source.row, hyperparameters)
        return self._editor[1]

    def _start_editor(self, row: TurnRow, hyperparameters: Mapping[str, Any]) -> Editor:
        torch.manual_seed(row.seed)
        try:
            return self._head.editor(row.method or "", hyperparameters, seed=row.seed)
        except ModelError as error:
            raise ModelError(
                f"the settings of turn {row.number} do not fit this model ({error}); --defaults "
                "takes those that suit it"
            ) from error

    def _start_branch(self) -> None:
        """Make the branch of --onto, now that its first turn is about to come."""
        name = self._found.branch
        if self._options.onto is None:
            return
        with database.reading(self._ledger.engine) as session:
            known = name in branches(session)
        if not known:
            create_branch(self._ledger, name, self._options.onto)


def _chosen(session: Session, origin: Ledger, options: Replay) -> list[Step]:
    """The turns of the range: as the current branch sees them if they are on it."""
    first = resolve(session, origin.branch, options.first)
    last = resolve(session, origin.branch, options.last)
    line = history.line(session, origin.branch)
    if last not in {step.id for step in line}:
        line = history.line_to(session, last)
    numbers = {step.id: step.number for step in line}
    if first is None or last is None:
        raise HistoryError("turn 0 is the base: there are no edits in it to make again")
    if first not in numbers or numbers[first] > numbers[last]:
        raise HistoryError(
            f"{options.first} is not one of the turns that led to {options.last}; give the older "
            "one first: ledger replay FROM..TO"
        )
    return line[numbers[first] - 1 : numbers[last]]


def _unusable(step: Step) -> str | None:
    """Why a turn cannot be edited again."""
    if step.kind in _NOT_EDITED:
        return _NOT_EDITED[step.kind]
    if not step.in_force:
        return "is rolled back"
    if step.method not in EDITORS:
        return f"was made by {step.method}, which this program cannot edit with"
    return None


def _target(ledger: Ledger, options: Replay, name: str, chosen: Sequence[Step]) -> list[Step]:
    """The turns that the replay comes on top of: also those of its own, if it goes on."""
    with database.reading(ledger.engine) as session:
        if options.onto is None:
            return history.line(session, ledger.branch)
        start = history.line(session, ledger.branch, options.onto)
        if name not in branches(session):
            return start
        turns = history.line(session, name)
    hashes = {step.hash for step in chosen}
    later = turns[len(start) :]
    own = {step.number for step in later if step.copied_from in hashes}
    if turns[: len(start)] != start or not all(
        step.number in own or (step.undoes and own.issuperset(step.undoes)) for step in later
    ):
        raise HistoryError(
            f"there is a branch {name} already, and it is not this replay's; choose another name: "
            "--as BRANCH"
        )
    return turns


def _at(ledger: Ledger, branch: str) -> Ledger:
    """The same ledger at another branch, with the same connections."""
    assert ledger.engine is not None
    other = copy.copy(ledger)
    other.branch = branch
    return other


def _conflicts(
    ledger: Ledger, origin: Ledger, turns: Sequence[Step], chosen: Sequence[Step]
) -> list[Conflict]:
    """What of the chosen turns conflicts with what is in force, or among themselves."""
    standing, selector = planning(ledger, turns, ABORT)
    done = {step.copied_from for step in turns if step.in_force}
    found: list[Conflict] = []
    for step in chosen:
        source = None if step.hash in done else of_turn(origin, step)
        if source is not None:
            batch = selector.whole(source.rows)
            standing.plan(batch.facts)
            found += batch.overrides
    return found


def _edits(origin: Ledger, chosen: Sequence[Step]) -> Iterator[Edit]:
    """What the chosen turns edited, as far as its texts are here."""
    for step in chosen:
        source = of_turn(origin, step)
        yield from (row.edit for row in (source.rows if source else ()) if row.edit is not None)


def _selector(head: Head, on_conflict: str) -> Selector:
    return Selector(
        head.standing,
        tokenizer=head.tokenizer,
        longest=head.longest,
        on_conflict=on_conflict,
        first=head.number,
    )
