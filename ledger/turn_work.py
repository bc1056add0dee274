"""The work of one turn of edits: solved, stored, applied, scored and recorded as a whole."""

import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ledger import database, environment, history, keyframes
from ledger.adding import Added
from ledger.conflicts import OVERRIDE, Standing, conflict_notes
from ledger.datasets import Dataset
from ledger.evaluating import measure
from ledger.gates import FIGURE, Gate, Verdict
from ledger.history import Step
from ledger.models import load_tokenizer
from ledger.other_branches import OtherBranches
from ledger.progress import Progress
from ledger.recording import Blob, NewEvaluation, NewTurn, record_turns
from ledger.retaining import EarlierEdits, Kept
from ledger.rolling_back import editor_state_note
from ledger.selection import Batch
from ledger.states import live_state, open_state
from ledger.workspace import Ledger
from patches.canonical import Piece
from patches.editors import EDITORS, Editor, Facts, Result
from patches.editors.wise import METHOD as WISE
from patches.errors import EditingError, EditLedgerError, HistoryError
from patches.patch import (
    PatchFile,
    PatchHeader,
    PatchInMemory,
    describe,
    patch_pieces,
    state_pieces,
)
from patches.tokens import context_length


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one turn is to be: its edits, and what they are solved with.

    source: where the edits come from, for people. copied_from: hash of the turn that is edited
    again. retention: earlier edits to score. gate: what the turn must score to be in force.
    """

    batch: Batch
    source: str
    dataset: Dataset | None
    hyperparameters: Mapping[str, Any]
    seed: int
    message: str
    notes: Sequence[str] = ()
    evaluate: bool = True
    retention: int = 0
    gate: Gate | None = None
    on_conflict: str = OVERRIDE
    copied_from: str | None = None


class Head:
    """The head of a branch, to which turns of edits are added: its state as a live model, and what
    is in force. Adding a turn costs the same however many came before."""

    def __init__(
        self,
        ledger: Ledger,
        turns: Sequence[Step],
        *,
        device: str,
        dtype: str | None,
        progress: Progress,
    ) -> None:
        """turns: those of the branch at hand."""
        in_force = history.edits_in_force(turns)
        used = history.patches_in_force(turns)
        self.ledger = ledger
        self.progress = progress
        self.live = live_state(ledger, turns, device=device, dtype=dtype, progress=progress)
        self.tokenizer = load_tokenizer(ledger.checkpoint.folder)
        self.longest = context_length(self.live.model.config)
        self.standing = Standing(ledger, in_force)
        self.number = len(turns) + 1
        self._parent = turns[-1].id if turns else None
        self._parent_patch = used[-1].patch_digest if used else None
        self._row = keyframes.Growing(ledger, used)
        with database.reading(ledger.engine) as session:
            self._tensors = history.tensors_at(session, turns)
        self._earlier = EarlierEdits(ledger, in_force, self.standing)
        self._others = OtherBranches(ledger, turns)
        self._states = [
            (step.method, step.editor_state_digest) for step in in_force if step.editor_state_digest
        ]

    def editor(self, method: str, hyperparameters: Mapping[str, Any], *, seed: int) -> Editor:
        """An editor that goes on from the editor states in force."""
        if method not in EDITORS:
            raise HistoryError(
                f"this program has no editing method {method}, only {', '.join(EDITORS)}; "
                "update edit-ledger"
            )
        kind = EDITORS[method]
        digests = [digest for other, digest in self._states if other == method]
        states = keyframes.folded_states(self.ledger, kind, digests)
        return kind.start(self.live, self.tokenizer, hyperparameters, states, seed=seed)

    def add(self, editor: Editor, work: Work) -> Added:
        """Make one turn of the work, and move on to it.

        One that fails its gate is recorded together with the rollback that undoes it, and the state
        stays what it was. EditingError and others say which rows it was: then nothing of it was
        recorded, but the live model may have moved on.
        """
        started = time.perf_counter()
        environment.start_peak_memory(self.live.device)
        result = self._solve(editor, work)
        seconds = dict(result.seconds)
        applied = time.perf_counter()
        header = self._header(editor.method, work)
        # The files are written while the weights are built; both are there before the commit.
        with ThreadPoolExecutor(max_workers=1) as writer:
            storing = writer.submit(self._store, header, result)
            tensors = self._apply(PatchInMemory(header, result.changes), work)
            seconds["apply"] = time.perf_counter() - applied
            made = storing.result()
        seconds["store"] = time.perf_counter() - applied - seconds["apply"]
        scores = self._measure(work)
        seconds["evaluate"] = 0.0 if scores is None else scores.seconds
        kept = self._score_earlier(work)
        if kept is not None:
            seconds["retention"] = kept.scores.seconds
        seconds["total"] = time.perf_counter() - started
        verdict = _verdict(work.gate, scores, kept)
        new = self._new(made, work, tensors, seconds, scores, kept, verdict)
        added = self._added(made, work, seconds, scores, kept, verdict)
        if verdict is not None and not verdict.passed:
            self._reject(new, verdict)
        else:
            recorded = record_turns(self.ledger, [new])[0]
            editor.accept(result)
            self._move_on(recorded, made, work, tensors)
        return added

    def _solve(self, editor: Editor, work: Work) -> Result:
        batch = work.batch
        try:
            return editor.edit(
                Facts(edits=[one.edit for one in batch.edits], encoded=batch.encoded),
                progress=lambda done: self.progress("edit", done, len(batch.edits)),
            )
        except EditLedgerError as error:
            raise self._failed(work, error) from error

    def _where(self, work: Work) -> str:
        first, last = work.batch.edits[0].row, work.batch.edits[-1].row
        rows = "" if first is None or last is None else f"rows {first} to {last} of "
        return f"turn {self.number} ({rows}{work.source})"

    def _header(self, method: str, work: Work) -> PatchHeader:
        return PatchHeader(
            base=self.ledger.base.fingerprint,
            method=method,
            hyperparameters=work.hyperparameters,
            turn=self.number,
            parent=self._parent_patch,
        )

    def _store(self, header: PatchHeader, result: Result) -> "_Made":
        """Write the turn's files; it may run beside anything that changes neither."""
        changes = {name: describe(change).to_json() for name, change in result.changes.items()}
        patch = self._put(patch_pieces(header, result.changes), changes)
        state = self._put(state_pieces(header.method, result.state)) if result.state else None
        return _Made(method=header.method, result=result, patch=patch, state=state)

    def _put(self, content: Sequence[Piece], changes: Mapping[str, Any] | None = None) -> Blob:
        digest = self.ledger.store.put(*content)
        return Blob(digest=digest, bytes=sum(map(len, content)), changes=dict(changes or {}))

    def _apply(self, patch: PatchFile, work: Work) -> dict[str, str]:
        """Bring the live model on by the patch; the digests of its tensors."""
        try:
            self.live.advance(patch)
            tensors = self.live.digests()
        except EditLedgerError as error:
            raise self._failed(work, error) from error
        if patch.changes and not self._moves(patch, tensors):
            lost = EditingError(
                "the shift is lost in the rounding of every weight, so it changes nothing; take "
                "larger steps, or more edits in a turn: --turn-size"
            )
            raise self._failed(work, lost)
        return tensors

    def _moves(self, patch: PatchFile, tensors: Mapping[str, str]) -> bool:
        """Whether a tensor of the patch has, by its SHA-256, other bytes than before the turn."""
        base = self.ledger.base.tensors
        return any(tensors[n] != self._tensors.get(n, base[n][2]) for n in patch.changes)

    def _failed(self, work: Work, error: EditLedgerError) -> EditLedgerError:
        return type(error)(f"{self._where(work)}: {error}. Nothing of it was recorded")

    def _measure(self, work: Work) -> NewEvaluation | None:
        if not work.evaluate:
            return None
        edits = [recorded.edit for recorded in work.batch.edits]
        return measure(self.live, self.tokenizer, edits, seed=work.seed, progress=self.progress)

    def _score_earlier(self, work: Work) -> Kept | None:
        sample = self._earlier.draw(
            work.retention, work.batch.facts, seed=work.seed, number=self.number
        )
        if sample is None:
            return None
        return sample.score(self.live, self.tokenizer, seed=work.seed, progress=self.progress)

    def _new(
        self,
        made: "_Made",
        work: Work,
        tensors: dict[str, str],
        seconds: dict[str, float],
        scores: NewEvaluation | None,
        kept: Kept | None,
        verdict: Verdict | None,
    ) -> NewTurn:
        judged = {} if verdict is None else {FIGURE: verdict.to_json()}
        return NewTurn(
            parent=self._parent,
            kind="edit",
            method=made.method,
            hyperparameters=dict(work.hyperparameters),
            seed=work.seed,
            message=work.message,
            dataset=work.dataset,
            edits=work.batch.edits,
            skipped=work.batch.recorded_skips,
            patch=made.patch,
            editor_state=made.state,
            tensors=tensors,
            environment=self._environment(),
            seconds=seconds,
            peak_memory=environment.peak_memory(self.live.device),
            notes=(
                *work.notes,
                *made.result.notes,
                *conflict_notes(work.batch.overrides, work.on_conflict),
            ),
            figures={**made.result.figures, **judged},
            evaluation=scores,
            samples=[] if kept is None else [(kept.scores, kept.edits)],
            copied_from=work.copied_from,
        )

    def _environment(self) -> dict[str, Any]:
        return environment.describe(self.live.device, next(self.live.model.parameters()).dtype)

    def _reject(self, new: NewTurn, verdict: Verdict) -> None:
        """Record the turn and, with it, the rollback that undoes it; the model goes back too."""
        started = time.perf_counter()
        with database.reading(self.ledger.engine) as session:
            turns = history.line_to(session, self._parent)
        used = history.patches_in_force(turns)
        state = open_state(self.ledger, turns, used)
        self.live.set_state(state.patches, state.memories)
        back = NewTurn(
            parent=None,
            kind="rollback",
            seed=0,
            message=f"rejected by the gate: {'; '.join(verdict.failed)}",
            notes=[editor_state_note(history.edits_in_force(turns))],
            undoes_new=[0],
            tensors=self.live.digests(),
            environment=self._environment(),
            seconds={"total": time.perf_counter() - started},
            needs=[step.patch_digest for step in used if step.patch_digest],
        )
        self._parent = record_turns(self.ledger, [new, back])[-1]
        self.number += 2

    def _added(
        self,
        made: "_Made",
        work: Work,
        seconds: dict[str, float],
        scores: NewEvaluation | None,
        kept: Kept | None,
        verdict: Verdict | None,
    ) -> Added:
        return Added(
            turn=self.number,
            edits=len(work.batch.edits),
            skipped=work.batch.skipped,
            overrides=work.batch.overrides,
            patch_bytes=made.patch.bytes,
            seconds=seconds,
            figures=made.result.figures,
            notes=[*made.result.notes, *self._others.notes(work.batch.facts)],
            scores=None if scores is None else {"base": scores.base, "state": scores.state},
            retention=None if kept is None else kept.retained,
            copied_from=work.copied_from,
            gate=verdict,
        )

    def _move_on(self, turn_id: int, made: "_Made", work: Work, tensors: Mapping[str, str]) -> None:
        """The turn is recorded: it is part of the line from now on."""
        self._tensors = {**self._tensors, **tensors}
        self.standing.grow(turn_id, self.number)
        self._earlier.grow(turn_id, len(work.batch.edits))
        self._row.grow(made.patch.digest, made.patch.bytes, self.live)
        if made.state is not None:
            self._states.append((made.method, made.state.digest))
        self._parent = turn_id
        self._parent_patch = made.patch.digest
        self.number += 1


def has_memories(turns: Sequence[Step], methods: Iterable[str | None]) -> bool:
    """Whether there are side memories in the state, or will be once these methods have edited."""
    return WISE in methods or any(step.has_memory for step in history.patches_in_force(turns))


def _verdict(gate: Gate | None, scores: NewEvaluation | None, kept: Kept | None) -> Verdict | None:
    if gate is None:
        return None
    means = {} if scores is None else scores.state
    return gate.judge(means, None if kept is None else kept.retained.now)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Made:
    """What a turn came to, its files stored."""

    method: str
    result: Result
    patch: Blob
    state: Blob | None
