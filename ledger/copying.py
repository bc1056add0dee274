"""Turns that repeat others, drafted after a line and then recorded together.

A copy is a new turn with the patch, the edits, the settings and the editor state of its source. A
draft holds the turns to come as steps of the line, numbered as they will be, so that states can be
built before anything is recorded.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy.orm import Session

from ledger import environment, history
from ledger.history import Step
from ledger.orm import BlobRow
from ledger.progress import Progress, silent
from ledger.rebuilding import digests_after, digests_of
from ledger.recording import Blob, NewTurn, RecordedEdit, record_turns
from ledger.states import open_patch, open_state
from ledger.workspace import Ledger
from patches.errors import HistoryError
from patches.patch import PatchFile


@dataclass(frozen=True, kw_only=True)
class _Planned:
    """A turn to come. used: whose patches make up the state after it; None: those of the state
    before, and its own."""

    step: Step
    new: NewTurn
    used: list[Step] | None


class Draft:
    """Turns that will follow a line, all of them or none.

    line: the turns that are there, and then those to come, whose row ids are negative. used: those
    whose patches make up the state. sources: number of a copy → the turn that it repeats.
    """

    def __init__(self, ledger: Ledger, line: Sequence[Step], tensors: dict[str, str]) -> None:
        """tensors: as recorded with the last turn of `line`."""
        self.line = list(line)
        self.used = history.patches_in_force(line)
        self.sources: dict[int, Step] = {}
        self._ledger = ledger
        self._count = len(line)
        self._start = self.used
        self._tensors = tensors
        self._planned: list[_Planned] = []
        self._started = time.perf_counter()

    def copy(
        self,
        session: Session,
        source: Step,
        *,
        replaces: Sequence[int] = (),
        message: str,
        notes: Sequence[str],
    ) -> Step:
        """Repeat `source`; message: if empty, that of the source, or the first note. HistoryError
        if its edits are not here."""
        row = history.row_of(session, source)
        edits = [
            RecordedEdit(edit=history.edit_of(edit), row=edit.row)
            for edit in history.edit_rows(session, [source.id])
        ]
        if len(edits) != row.edits:
            raise HistoryError(
                f"the texts of the edits of turn {source.number} ({source.hash[:12]}…) are not "
                "here: it was pulled without them, and cannot be copied. Have it pushed with "
                "--include-edits, and run ledger pull"
            )
        new = NewTurn(
            parent=None,
            kind=row.kind,
            seed=row.seed,
            message=message or row.message or notes[0],
            method=row.method,
            hyperparameters=row.hyperparameters,
            dataset_id=row.dataset_id,
            edits=edits,
            patch=_blob(session, row.patch_digest),
            editor_state=_blob(session, row.editor_state_digest),
            notes=notes,
            figures=row.figures,
            copied_from=row.hash,
        )
        step = source._replace(copied_from=source.hash, skipped=0)
        planned = self._plan(step, new, undoes=(), replaces=replaces)
        self.sources[planned.number] = source
        return planned

    def roll_back(self, undoes: Sequence[int], *, message: str, notes: Sequence[str]) -> Step:
        """Undo turns of the line by their numbers."""
        step = _STEP._replace(kind="rollback")
        new = NewTurn(parent=None, kind="rollback", seed=0, message=message, notes=notes)
        return self._plan(step, new, undoes=undoes, replaces=())

    def merge(self, new: NewTurn, *, replaces: Sequence[int]) -> Step:
        """Put the patch of `new` in the place of those of turns of the line."""
        assert new.patch is not None
        step = _STEP._replace(
            kind="merge",
            method=new.method,
            patch_digest=new.patch.digest,
            patch_bytes=new.patch.bytes,
            memories=sum("routing" in change for change in new.patch.changes.values()),
        )
        return self._plan(step, new, undoes=(), replaces=replaces)

    def note(self, text: str) -> None:
        """Add a note to the last turn."""
        last = self._planned[-1]
        new = replace(last.new, notes=[*last.new.notes, text])
        self._planned[-1] = replace(last, new=new)

    def source_id(self, step: Step) -> int:
        """The row id of a turn of the line, or of the one that it will repeat."""
        return self.sources.get(step.number, step).id

    def record(self, progress: Progress = silent) -> list[int]:
        """Record all in one transaction; their row ids. One tensor at a time is in memory."""
        states = self._digests(progress)
        device = {"versions": environment.versions(), "device": "cpu"}
        seconds = time.perf_counter() - self._started
        news = [
            replace(
                planned.new,
                tensors=tensors,
                environment=planned.new.environment or device,
                seconds=planned.new.seconds or {"total": seconds / len(states)},
            )
            for planned, tensors in zip(self._planned, states, strict=True)
        ]
        parent = self.line[self._count - 1].id if self._count else None
        news[0] = replace(news[0], parent=parent)
        needs = [step.patch_digest for step in self.used if step.patch_digest]
        news[-1] = replace(news[-1], needs=needs)
        return record_turns(self._ledger, news)

    def _plan(
        self, step: Step, new: NewTurn, *, undoes: Sequence[int], replaces: Sequence[int]
    ) -> Step:
        place = len(self._planned)
        step = step._replace(
            id=-1 - place,
            branch=self._ledger.branch,
            number=len(self.line) + 1,
            parent_id=self.line[-1].id if self.line else None,
            hash="",
            undoes=tuple(sorted(undoes)),
            replaces=tuple(sorted(replaces)),
            in_force=True,
        )
        self.line.append(step)
        if undoes or replaces:
            self.used = history.patches_in_force(self.line)
        else:
            self.used = [*self.used, step]
        self._planned.append(
            _Planned(
                step=step,
                new=replace(
                    new,
                    undoes=[self.line[number - 1].id for number in step.undoes],
                    replaces=[self.line[n - 1].id for n in step.replaces if n <= self._count],
                    replaces_new=[n - self._count - 1 for n in step.replaces if n > self._count],
                ),
                used=self.used if undoes or replaces else None,
            )
        )
        return step

    def _digests(self, progress: Progress) -> list[dict[str, str]]:
        """The state's digests after each turn to come."""
        found: list[dict[str, str]] = []
        now, start = dict(self._tensors), self._start
        rest = list(self._planned)
        while rest:
            if rest[0].used is not None:
                start = rest.pop(0).used or []
                now = digests_of(self._ledger, self._open(start), progress)
                found.append(now)
            run = []
            while rest and rest[0].used is None:
                run.append(rest.pop(0).step)
            if run:
                added = [open_patch(self._ledger, step) for step in run]
                for digests in digests_after(self._ledger, self._open(start), added, progress):
                    now = now | digests
                    found.append(now)
        return found

    def _open(self, used: Sequence[Step]) -> Sequence[PatchFile]:
        return open_state(self._ledger, self.line, used).patches


def told_turn(step: Step, branch: str) -> str:
    """A turn by the name that it has elsewhere."""
    return f"turn {step.number} of {branch} ({step.hash[:12]})"


def _blob(session: Session, digest: str | None) -> Blob | None:
    if digest is None:
        return None
    row = session.get_one(BlobRow, digest)
    return Blob(digest=digest, bytes=row.bytes, changes=row.changes)


_STEP = Step(
    id=0,
    branch="",
    number=0,
    parent_id=None,
    kind="",
    method=None,
    edits=0,
    skipped=0,
    patch_digest=None,
    editor_state_digest=None,
    hash="",
    dataset_id=None,
    copied_from=None,
    memories=0,
    patch_bytes=0,
    undoes=(),
    replaces=(),
    in_force=True,
)
