"""From rows of a dataset to the batches that become turns: what is used, skipped, known already."""

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import count, islice
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger.conflicts import ABORT, OVERRIDE, SKIP, Answers, Conflict, Standing, question, refuse
from ledger.datasets import Dataset, Row
from ledger.facts import Fact
from ledger.history import Step, chunks, edits_in_force
from ledger.models import load_tokenizer
from ledger.orm import DatasetRow, SkippedRow
from ledger.recording import RecordedEdit
from ledger.workspace import Ledger
from patches.edit import Edit
from patches.tokens import Encoded, context_length, encode


@dataclass(kw_only=True)
class Batch:
    """What becomes one turn. skipped: (row, reason), up to the next usable row.

    facts: the edits as what they ask. overrides: the conflicts of edits with older facts that hold.
    kept: those of skipped rows, whose older fact was kept.
    """

    edits: list[RecordedEdit] = field(default_factory=list)
    encoded: list[Encoded] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    overrides: list[Conflict] = field(default_factory=list)
    kept: list[Conflict] = field(default_factory=list)

    @property
    def recorded_skips(self) -> list[tuple[int, str]]:
        """`skipped` as the turn records it, without texts of other edits."""
        reasons = {conflict.row: conflict.recorded_reason for conflict in self.kept}
        return [(row, reasons.get(row, reason)) for row, reason in self.skipped if row >= 0]


@dataclass(kw_only=True)
class Selection:
    """Counts over a whole run. known: rows whose edit is in force from this very dataset.

    unrecorded: rows skipped after the last turn, which no turn can record.
    """

    usable: int = 0
    skipped: int = 0
    known: int = 0
    unrecorded: list[tuple[int, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Earlier:
    """What turns in force have done with the rows of a dataset of the same bytes, wherever it lay,
    that was read in the same way.

    turns: row ids of these turns. skipped: the rows that they skipped. trust: an edit of theirs
    counts as done also where something else has overridden it since.
    """

    turns: Set[int] = frozenset()
    skipped: Set[int] = frozenset()
    trust: bool = False

    @classmethod
    def of(
        cls, session: Session, in_force: Sequence[Step], dataset: Dataset, *, trust: bool
    ) -> "Earlier":
        query = select(DatasetRow).where(
            DatasetRow.sha256 == dataset.sha256, DatasetRow.layout == dataset.layout
        )
        same = {row.id for row in session.scalars(query) if row.mapping == dataset.mapping}
        steps = [step for step in in_force if step.dataset_id in same]
        skipped: set[int] = set()
        for some in chunks([step.id for step in steps if step.skipped]):
            rows = select(SkippedRow.row).where(SkippedRow.turn_id.in_(some))
            skipped |= set(session.scalars(rows))
        return cls(turns={step.id for step in steps}, skipped=skipped, trust=trust)


class Selector:
    """Decides of every row whether it is edited, skipped, or known, and cuts turns.

    first: the number of the turn that the first batch becomes. Each batch must have become a turn,
    or part of the plan in `standing`, before the next is asked for.
    """

    def __init__(
        self,
        standing: Standing,
        *,
        tokenizer: Any,
        longest: int | None,
        on_conflict: str,
        first: int,
        earlier: Earlier | None = None,
    ) -> None:
        self.counts = Selection()
        self._standing = standing
        self._tokenizer = tokenizer
        self._longest = longest
        self._on_conflict = on_conflict
        self._first = self._number = first
        self._earlier = earlier or Earlier()
        self._ids = count(-1, -1)
        self._is_stale = False

    def rejected(self) -> None:
        """The batch that was given last is not in force: its turn was undone by the next one."""
        self._number += 1
        self._is_stale = True

    def batches(self, rows: Iterable[Row], turn_size: int) -> Iterator[Batch]:
        """Cut the usable rows into batches of `turn_size`; the last may be smaller.

        A row that contradicts one of the batch begins the next, which overrides it. Rows are read a
        turn at a time.
        """
        batch = Batch()
        stream = iter(rows)
        while chunk := list(islice(stream, turn_size)):
            known = self._known(chunk)
            for fact in batch.facts:
                known.answers.add(fact)
            for row in chunk:
                verdict = self._judged(row, known)
                full = verdict.contradicts or len(batch.edits) == turn_size
                if full and verdict.is_accepted:
                    self._number += 1
                    yield batch
                    batch = Batch()
                    if self._is_stale:
                        known = self._known(chunk)
                        self._is_stale = False
                    verdict = self._judged(row, known)
                self._enter(row, verdict, known, batch)
        if batch.edits:
            self._number += 1
            yield batch
        else:
            self.counts.unrecorded += batch.skipped

    def whole(self, rows: Sequence[Row], *, again: bool = False) -> Batch:
        """All usable rows as one batch, though they may contradict each other; it may be empty.

        again: also those that hold already.
        """
        batch = Batch()
        known = self._known(rows)
        for row in rows:
            self._enter(row, self._judged(row, known, again=again), known, batch)
        if batch.edits:
            self._number += 1
        return batch

    def _known(self, rows: Sequence[Row]) -> "_Known":
        usable = [(row.number, row.edit) for row in rows if row.edit is not None]
        encoded = encode(
            self._tokenizer, [e.prompt for _, e in usable], [e.target for _, e in usable]
        )
        questions = {
            number: question(edit, row=_row(number), edit_id=next(self._ids))
            for number, edit in usable
        }
        return _Known(
            encoded={number: item for (number, _), item in zip(usable, encoded, strict=True)},
            questions=questions,
            answers=self._standing.answers(questions.values()),
        )

    def _judged(self, row: Row, known: "_Known", *, again: bool = False) -> "_Verdict":
        if row.edit is None:
            verdict = _Verdict(reason=row.reason or "unusable")
        elif reason := _unusable(known.encoded[row.number], self._longest):
            verdict = _Verdict(reason=reason)
        else:
            asked = known.questions[row.number]
            verdict = self._compared(row.edit, asked, known.answers, again=again)
        # What was skipped before is looked at again: the reason may have gone meanwhile.
        return replace(verdict, known=True) if row.number in self._earlier.skipped else verdict

    def _compared(self, edit: Edit, asked: Fact, answers: Answers, *, again: bool) -> "_Verdict":
        """What becomes of a usable row, beside what is in force about its question."""
        holding = answers.holding(asked)
        if self._is_done(asked, answers) or self._is_settled(asked, holding):
            return _Verdict(known=True, reason="dealt with")
        conflicts = [
            _conflict(edit, asked, older) for older in holding if older.target != asked.target
        ]
        same = [older for older in holding if older.prompt_key == asked.prompt_key]
        if conflicts and self._on_conflict == ABORT:
            refuse(conflicts, first=self._first)
        if conflicts and self._on_conflict == SKIP:
            return _Verdict(reason=conflicts[-1].reason, conflicts=conflicts)
        if same and not conflicts and not again:
            return _Verdict(reason=self._duplicate(same[-1]))
        within = any(conflict.turn == self._number for conflict in conflicts)
        return _Verdict(conflicts=conflicts, contradicts=within)

    def _is_done(self, asked: Fact, answers: Answers) -> bool:
        """Whether the edit of this very row is in force, and was not overridden from elsewhere."""
        mine = [
            fact
            for fact in answers.about(asked)
            if fact.row == asked.row and fact.turn_id in self._earlier.turns
        ]
        if not mine or self._earlier.trust:
            return bool(mine)
        last = mine[-1]
        while last.edit_id in answers.over:
            last = answers.over[last.edit_id]
        return self._is_own(last)

    def _is_settled(self, asked: Fact, holding: Sequence[Fact]) -> bool:
        """Whether a row that was skipped has been overridden by later rows of its file."""
        if asked.row is None or asked.row not in self._earlier.skipped:
            return False
        others = [fact for fact in holding if fact.target != asked.target]
        return bool(others) and all(
            self._is_own(fact) and fact.row is not None and fact.row > asked.row for fact in others
        )

    def _is_own(self, fact: Fact) -> bool:
        """Whether it is from the dataset at hand: of an earlier run, or of this one."""
        return fact.turn_id in self._earlier.turns or fact.number >= self._first

    def _duplicate(self, older: Fact) -> str:
        if older.number == self._number:
            return f"duplicate of row {older.row}"
        return f"duplicate of an edit in force (turn {older.number})"

    def _enter(self, row: Row, verdict: "_Verdict", known: "_Known", batch: Batch) -> None:
        """Put a row where it belongs."""
        if verdict.known and verdict.reason:
            self.counts.known += 1
        elif verdict.reason is not None or row.edit is None:
            self.counts.skipped += 1
            batch.skipped.append((row.number, verdict.reason or "unusable"))
            batch.kept += verdict.conflicts[-1:]
        else:
            asked = known.questions[row.number]
            fact = asked._replace(number=self._number, position=len(batch.edits))
            self.counts.usable += 1
            batch.edits.append(RecordedEdit(edit=row.edit, row=asked.row))
            batch.encoded.append(known.encoded[row.number])
            batch.facts.append(fact)
            batch.overrides += verdict.conflicts
            known.answers.add(fact)


def planning(
    ledger: Ledger, turns: Sequence[Step], on_conflict: str, earlier: Earlier | None = None
) -> tuple[Standing, Selector]:
    """A selector for turns that would follow `turns`, made without the model's weights; each of its
    batches is to be told to the first."""
    from transformers import AutoConfig

    folder = ledger.checkpoint.folder
    standing = Standing(ledger, edits_in_force(turns))
    selector = Selector(
        standing,
        tokenizer=load_tokenizer(folder),
        longest=context_length(AutoConfig.from_pretrained(folder, local_files_only=True)),
        # A plan tells of all conflicts.
        on_conflict=OVERRIDE if on_conflict == ABORT else on_conflict,
        first=len(turns) + 1,
        earlier=earlier,
    )
    return standing, selector


@dataclass(frozen=True, kw_only=True)
class _Known:
    """What is known of some rows, by their numbers."""

    encoded: Mapping[int, Encoded]
    questions: Mapping[int, Fact]
    answers: Answers


@dataclass(frozen=True, kw_only=True)
class _Verdict:
    """What becomes of a row. reason: why it is not edited. known: it was dealt with before.

    contradicts: one of the conflicts is with the turn that is being put together.
    """

    reason: str | None = None
    known: bool = False
    conflicts: Sequence[Conflict] = ()
    contradicts: bool = False

    @property
    def is_accepted(self) -> bool:
        return self.reason is None


def _row(number: int) -> int | None:
    """The row of an edit, as it is recorded: a negative number stands for none."""
    return number if number >= 0 else None


def _conflict(edit: Edit, asked: Fact, older: Fact) -> Conflict:
    return Conflict(
        row=asked.row,
        prompt=edit.prompt,
        target=edit.target,
        turn=older.number,
        old_row=older.row,
        old_target=older.target,
    )


def _unusable(encoded: Encoded, longest: int | None) -> str | None:
    if not encoded.answer:
        return "target without tokens"
    if encoded.first < 0:
        return "prompt without tokens"
    length = len(encoded.ids) + 1
    if longest is not None and length > longest:
        return f"prompt and target have {length} tokens, the model takes {longest}"
    return None
