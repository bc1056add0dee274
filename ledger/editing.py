"""Add edits: one turn per batch of rows, each solved, scored and recorded as a whole."""

from collections.abc import Iterable, Iterator, Sequence

import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from ledger import database, history, settings
from ledger.adding import Added, AddEdits, Plan, Run, sample_size
from ledger.conflicts import ABORT, Conflict, refuse
from ledger.datasets import Dataset, open_dataset, read_rows
from ledger.history import Step
from ledger.orm import DatasetRow, TurnRow
from ledger.progress import Progress, silent
from ledger.selection import Batch, Earlier, Selector, planning
from ledger.turn_work import Head, Work, has_memories
from ledger.workspace import Ledger
from patches.editors import EDITORS
from patches.errors import HistoryError

__all__ = ["AddEdits", "Added", "Plan", "Run", "add_edits", "plan_edits"]


def plan_edits(ledger: Ledger, options: AddEdits) -> Plan:
    """What `add_edits` would record, without loading the model's weights."""
    dataset = open_dataset(options.source, mapping=options.mapping or None, licence=options.licence)
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch)
        done = Earlier.of(session, history.edits_in_force(turns), dataset, trust=options.resume)
    return _planned(ledger, options, dataset, turns, done)


def add_edits(ledger: Ledger, options: AddEdits, *, progress: Progress = silent) -> Run:
    """Prepare a run: read the source, load the model at the branch's head, settle the settings.

    Nothing is recorded until `Run.turns` is iterated; each item is a turn that now exists. Stop at
    any time: whole turns stay, and the same call goes on where it stopped. HistoryError, with
    nothing recorded, if a row conflicts with what holds and the options say abort; SettingError if
    no row can have a score that the gate asks for.
    """
    dataset = open_dataset(options.source, mapping=options.mapping or None, licence=options.licence)
    with database.reading(ledger.engine) as session:
        turns = history.line(session, ledger.branch)
        earlier = _earlier_run(session, turns, dataset) if options.resume else None
        done = Earlier.of(session, history.edits_in_force(turns), dataset, trust=options.resume)
    request = options.request()
    if options.on_conflict == ABORT:
        refuse(_planned(ledger, options, dataset, turns, done).conflicts, first=len(turns) + 1)
    torch.manual_seed(options.seed)
    method = options.method if earlier is None else earlier.method or options.method
    if options.gate is not None:
        rows = read_rows(dataset, offset=options.offset, limit=options.limit)
        edits = (row.edit for row in rows if row.edit is not None)
        options.gate.check(edits, memories=has_memories(turns, [method]))
    head = Head(ledger, turns, device=options.device, dtype=options.dtype, progress=progress)
    if earlier is None:
        request, told = settings.under(settings.chosen(ledger, method), request)
        prepared = EDITORS[method].prepare(head.live, head.tokenizer, request)
        hyperparameters, notes = prepared.hyperparameters, (*told, *prepared.notes)
    else:
        hyperparameters, notes = dict(earlier.hyperparameters), ()
    editor = head.editor(method, hyperparameters, seed=options.seed)
    size = options.turn_size or EDITORS[method].turn_size
    selector = Selector(
        head.standing,
        tokenizer=head.tokenizer,
        longest=head.longest,
        on_conflict=options.on_conflict,
        first=head.number,
        earlier=done,
    )
    rows = read_rows(dataset, offset=options.offset, limit=options.limit)

    def work(batch: Batch) -> Work:
        return Work(
            batch=batch,
            source=dataset.uri,
            dataset=dataset,
            hyperparameters=hyperparameters,
            seed=options.seed,
            message=options.message,
            notes=notes,
            evaluate=options.evaluate,
            retention=sample_size(options.retention, size, evaluate=options.evaluate),
            on_conflict=options.on_conflict,
            gate=options.gate,
        )

    def turns_of(batches: Iterable[Batch]) -> Iterator[Added]:
        for batch in batches:
            added = head.add(editor, work(batch))
            if added.rejected:
                selector.rejected()
            yield added

    return Run(
        dataset=dataset,
        hyperparameters=hyperparameters,
        notes=notes,
        counts=selector.counts,
        turns=turns_of(selector.batches(rows, size)),
    )


def _planned(
    ledger: Ledger,
    options: AddEdits,
    dataset: Dataset,
    turns: Sequence[Step],
    done: Earlier,
) -> Plan:
    standing, selector = planning(ledger, turns, options.on_conflict, done)
    rows = read_rows(dataset, offset=options.offset, limit=options.limit)
    size = options.turn_size or EDITORS[options.method].turn_size
    counted: list[int] = []
    skipped: list[tuple[int, str]] = []
    conflicts: list[Conflict] = []
    for batch in selector.batches(rows, size):
        standing.plan(batch.facts)
        counted.append(len(batch.edits))
        skipped += batch.skipped
        conflicts += batch.overrides
    return Plan(
        dataset=dataset,
        turns=counted,
        skipped=skipped + selector.counts.unrecorded,
        conflicts=conflicts,
        known=selector.counts.known,
    )


def _earlier_run(session: Session, turns: Sequence[Step], dataset: Dataset) -> TurnRow:
    """The last edit turn from this dataset."""
    same = set(session.scalars(select(DatasetRow.id).where(DatasetRow.sha256 == dataset.sha256)))
    for turn in reversed(turns):
        if turn.kind == "edit" and turn.dataset_id in same:
            return history.row_of(session, turn)
    raise HistoryError(
        f"nothing to resume: no turn was made from {dataset.uri}; run without --resume"
    )
