"""Add edits: one turn per batch of rows, each solved, scored and recorded as a whole."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sqlalchemy.orm import Session

from ledger import database, environment, history
from ledger.datasets import Dataset, Row, open_dataset, read_rows
from ledger.evaluating import measure
from ledger.models import load_tokenizer
from ledger.progress import Progress, silent
from ledger.recording import Blob, NewEvaluation, NewTurn, record_turn
from ledger.selection import Batch, Selection, batches, rows_in_force
from ledger.sentences import read_sentences
from ledger.states import live_state
from ledger.workspace import Ledger
from patches.editors import EDITORS, Editor, Facts, Request, Result
from patches.errors import EditingError, EditLedgerError, HistoryError, SettingError
from patches.live import LiveModel
from patches.patch import PatchFile, PatchHeader, describe, encode_patch, encode_state, read_state
from patches.tokens import context_length


@dataclass(frozen=True, kw_only=True)
class AddEdits:
    """What to add, and how.

    source: a file or ``hf://datasets/…`` address. modules: names or patterns; settings:
    hyperparameter → text. turn_size: edits per turn, by default what suits the method. locality: a
    file of sentences about other things, for methods that keep some prompts apart. resume: go on
    as the last turn from this dataset did.
    """

    source: str
    turn_size: int | None = None
    method: str = "ultraedit"
    modules: tuple[str, ...] = ()
    settings: dict[str, str] = field(default_factory=dict)
    mapping: dict[str, str] = field(default_factory=dict)
    locality: Path | None = None
    licence: str | None = None
    offset: int = 0
    limit: int | None = None
    message: str = ""
    seed: int = 0
    device: str = "auto"
    dtype: str | None = None
    evaluate: bool = True
    resume: bool = False

    def __post_init__(self) -> None:
        if self.turn_size is not None and self.turn_size < 1:
            raise SettingError(f"--turn-size must be at least 1, not {self.turn_size}")
        if self.method not in EDITORS:
            raise SettingError(f"--method is one of {', '.join(EDITORS)}, not {self.method!r}")
        if self.resume and (self.modules or self.settings or self.locality):
            raise SettingError(
                "--resume goes on with the settings of the interrupted run: leave out --set, "
                "--modules and --locality, or leave out --resume"
            )

    def request(self) -> Request:
        """What the editor is asked for; DatasetError if the file of sentences is not usable."""
        return Request(
            modules=self.modules,
            assignments=self.settings,
            seed=self.seed,
            outside=None if self.locality is None else read_sentences(self.locality),
        )


@dataclass(frozen=True, kw_only=True)
class Added:
    """One turn that was recorded, with its skipped rows and, unless left out, its scores."""

    turn: int
    edits: int
    skipped: list[tuple[int, str]]
    patch_bytes: int
    seconds: dict[str, float]
    figures: dict[str, Any]
    notes: list[str]
    scores: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        return {
            "turn": self.turn,
            "edits": self.edits,
            "skipped": [{"row": row, "reason": reason} for row, reason in self.skipped],
            "patch_bytes": self.patch_bytes,
            "seconds": self.seconds,
            "figures": self.figures,
            "notes": self.notes,
            "scores": self.scores,
        }


@dataclass(kw_only=True)
class Run:
    """A run of edits; iterate `turns` to make it happen. counts grow as it goes."""

    dataset: Dataset
    hyperparameters: dict[str, Any]
    notes: tuple[str, ...]
    counts: Selection
    turns: Iterator[Added]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would record. turns: edits per turn; skipped: (row, reason)."""

    dataset: Dataset
    turns: list[int]
    skipped: list[tuple[int, str]]
    known: int

    def to_json(self) -> dict[str, Any]:
        return {
            "dataset": {
                "uri": self.dataset.uri,
                "sha256": self.dataset.sha256,
                "format": self.dataset.format,
                "layout": self.dataset.layout,
            },
            "turns": self.turns,
            "edits": sum(self.turns),
            "skipped": [{"row": row, "reason": reason} for row, reason in self.skipped],
            "known": self.known,
        }


def plan_edits(ledger: Ledger, options: AddEdits) -> Plan:
    """What `add_edits` would record, without loading the model's weights."""
    from transformers import AutoConfig

    dataset = open_dataset(options.source, mapping=options.mapping or None, licence=options.licence)
    counts = Selection()
    folder = ledger.checkpoint.folder
    longest = context_length(AutoConfig.from_pretrained(folder, local_files_only=True))
    tokenizer = load_tokenizer(folder)
    with database.reading(ledger.engine) as session:
        in_force = history.edits_in_force(history.turns(session, ledger.branch))
    size = options.turn_size or EDITORS[options.method].turn_size
    found = list(_batches(ledger, in_force, options, size, dataset, tokenizer, longest, counts))
    return Plan(
        dataset=dataset,
        turns=[len(batch.edits) for batch in found],
        skipped=[skip for batch in found for skip in batch.skipped] + counts.unrecorded,
        known=counts.known,
    )


def add_edits(ledger: Ledger, options: AddEdits, *, progress: Progress = silent) -> Run:
    """Prepare a run: read the source, load the model at the branch's head, settle the settings.

    Nothing is recorded until `Run.turns` is iterated; each item is a turn that now exists. Stop at
    any time: whole turns stay, and the same call goes on where it stopped.
    """
    dataset = open_dataset(options.source, mapping=options.mapping or None, licence=options.licence)
    with database.reading(ledger.engine) as session:
        turns = history.turns(session, ledger.branch)
        earlier = _earlier_run(session, turns, dataset) if options.resume else None
    in_force = history.edits_in_force(turns)
    used = history.patches_in_force(turns)
    request = options.request()
    torch.manual_seed(options.seed)
    live = live_state(
        ledger, turns, None, device=options.device, dtype=options.dtype, progress=progress
    )
    tokenizer = load_tokenizer(ledger.checkpoint.folder)
    kind = EDITORS[options.method if earlier is None else earlier.row.method or options.method]
    if earlier is None:
        prepared = kind.prepare(live, tokenizer, request)
        hyperparameters, notes = prepared.hyperparameters, prepared.notes
    else:
        hyperparameters, notes = dict(earlier.row.hyperparameters), ()
    states = [
        read_state(ledger.store.open(turn.row.editor_state_digest))
        for turn in in_force
        if turn.row.method == kind.method and turn.row.editor_state_digest
    ]
    counts = Selection()
    work = _Work(
        ledger=ledger,
        options=options,
        dataset=dataset,
        live=live,
        tokenizer=tokenizer,
        editor=kind.start(live, tokenizer, hyperparameters, states, seed=options.seed),
        hyperparameters=hyperparameters,
        notes=notes,
        progress=progress,
        parent=turns[-1].row.id if turns else None,
        number=len(turns) + 1,
        parent_patch=used[-1].row.patch_digest if used else None,
    )
    longest = context_length(live.model.config)
    size = options.turn_size or kind.turn_size
    found = _batches(ledger, in_force, options, size, dataset, tokenizer, longest, counts)
    return Run(
        dataset=dataset,
        hyperparameters=hyperparameters,
        notes=notes,
        counts=counts,
        turns=map(work.turn, found),
    )


@dataclass(kw_only=True)
class _Work:
    """A run in progress: the live model is at the state of turn `number` - 1."""

    ledger: Ledger
    options: AddEdits
    dataset: Dataset
    live: LiveModel
    tokenizer: Any
    editor: Editor
    hyperparameters: dict[str, Any]
    notes: tuple[str, ...]
    progress: Progress
    parent: int | None
    number: int
    parent_patch: str | None

    def turn(self, batch: Batch) -> Added:
        """Solve, store, apply, score and record one batch."""
        started = time.perf_counter()
        environment.start_peak_memory(self.live.device)
        try:
            result = self.editor.edit(
                Facts(edits=[one.edit for one in batch.edits], encoded=batch.encoded),
                progress=lambda done: self.progress("edit", done, len(batch.edits)),
            )
        except EditLedgerError as error:
            raise type(error)(
                f"{self._where(batch)}: {error}. Nothing of it was recorded"
            ) from error
        seconds = dict(result.seconds)
        stored = time.perf_counter()
        patch, state = self._store(result)
        seconds["store"] = time.perf_counter() - stored
        applied = time.perf_counter()
        self.live.advance(PatchFile(self.ledger.store.path(patch.digest)))
        broken = self.live.not_finite()
        if broken:
            raise EditingError(
                f"{self._where(batch)}: tensor {broken[0]} would hold numbers that are not finite; "
                "lower the rate: --set learning_rate=…. Nothing of it was recorded"
            )
        tensors = self.live.digests()
        seconds["apply"] = time.perf_counter() - applied
        scores = self._measure(batch)
        seconds["evaluate"] = 0.0 if scores is None else scores.seconds
        seconds["total"] = time.perf_counter() - started
        self._record(batch, result, patch, state, tensors, seconds, scores)
        self.editor.accept(result)
        added = Added(
            turn=self.number,
            edits=len(batch.edits),
            skipped=batch.skipped,
            patch_bytes=patch.bytes,
            seconds=seconds,
            figures=result.figures,
            notes=list(result.notes),
            scores=None if scores is None else {"base": scores.base, "state": scores.state},
        )
        self.number += 1
        self.parent_patch = patch.digest
        return added

    def _where(self, batch: Batch) -> str:
        first, last = batch.edits[0].row, batch.edits[-1].row
        return f"turn {self.number} (rows {first} to {last} of {self.dataset.uri})"

    def _store(self, result: Result) -> tuple[Blob, Blob | None]:
        header = PatchHeader(
            base=self.ledger.base.fingerprint,
            method=self.editor.method,
            hyperparameters=self.hyperparameters,
            turn=self.number,
            parent=self.parent_patch,
        )
        patch = encode_patch(header, result.changes)
        changes = {name: describe(change).to_json() for name, change in result.changes.items()}
        made = Blob(digest=self.ledger.store.put(patch), bytes=len(patch), changes=changes)
        if not result.state:
            return made, None
        state = encode_state(self.editor.method, result.state)
        return made, Blob(digest=self.ledger.store.put(state), bytes=len(state))

    def _measure(self, batch: Batch) -> NewEvaluation | None:
        if not self.options.evaluate:
            return None
        edits = [recorded.edit for recorded in batch.edits]
        return measure(
            self.live, self.tokenizer, edits, seed=self.options.seed, progress=self.progress
        )

    def _record(
        self,
        batch: Batch,
        result: Result,
        patch: Blob,
        state: Blob | None,
        tensors: dict[str, str],
        seconds: dict[str, float],
        scores: NewEvaluation | None,
    ) -> None:
        dtype = next(self.live.model.parameters()).dtype
        self.parent = record_turn(
            self.ledger,
            NewTurn(
                parent=self.parent,
                kind="edit",
                method=self.editor.method,
                hyperparameters=self.hyperparameters,
                seed=self.options.seed,
                message=self.options.message,
                dataset=self.dataset,
                edits=batch.edits,
                skipped=batch.skipped,
                patch=patch,
                editor_state=state,
                tensors=tensors,
                environment=environment.describe(self.live.device, dtype),
                seconds=seconds,
                peak_memory=environment.peak_memory(self.live.device),
                notes=(*self.notes, *result.notes),
                figures=result.figures,
                evaluation=scores,
            ),
        )


def _batches(
    ledger: Ledger,
    in_force: Sequence[history.Turn],
    options: AddEdits,
    turn_size: int,
    dataset: Dataset,
    tokenizer: Any,
    longest: int | None,
    counts: Selection,
) -> Iterator[Batch]:
    ids = [turn.row.id for turn in in_force]

    def known(rows: Sequence[Row]) -> dict[int, str | None]:
        with database.reading(ledger.engine) as session:
            return rows_in_force(session, ids, dataset, rows)

    return batches(
        read_rows(dataset, offset=options.offset, limit=options.limit),
        turn_size=turn_size,
        tokenizer=tokenizer,
        longest=longest,
        known=known,
        counts=counts,
    )


def _earlier_run(session: Session, turns: list[history.Turn], dataset: Dataset) -> history.Turn:
    """The last edit turn from this dataset."""
    for turn in reversed(turns):
        source = history.dataset_of(session, turn.row)
        if turn.row.kind == "edit" and source is not None and source.sha256 == dataset.sha256:
            return turn
    raise HistoryError(
        f"nothing to resume: no turn was made from {dataset.uri}; run without --resume"
    )
