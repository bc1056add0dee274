"""Verify: recompute every hash and digest, and say exactly what does not agree."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger import chain, database
from ledger.orm import (
    BlobRow,
    DatasetRow,
    EditRow,
    EvaluationRow,
    KeyframeRow,
    OutcomeRow,
    PublicationRow,
    RefMoveRow,
    RefRow,
    ReplacementRow,
    SkippedRow,
    TurnRow,
    UndoRow,
)
from ledger.progress import Progress, silent
from ledger.verifying_refs import wrong_refs
from ledger.verifying_settings import wrong_settings, wrong_trials
from ledger.verifying_states import needed_but_pruned
from ledger.wording import turn_numbers
from ledger.workspace import Ledger
from patches.checkpoint import fingerprint, tensor_digests
from patches.edit import Edit
from patches.errors import CheckpointError

_TOGETHER = 500
"""Turns and files that are in memory at once."""
# As in the headers of the files; `patches.patch` writes them, and would bring torch along.
_FORMATS = {"patch": "edit-ledger-patch", "editor-state": "edit-ledger-state"}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing that does not agree. subject: e.g. ``turn 3``, ``patch 12ab…``, ``tensor x``."""

    subject: str
    what: str

    def to_json(self) -> dict[str, str]:
        return {"subject": self.subject, "what": self.what}


@dataclass(kw_only=True)
class Verified:
    """What was checked, and what was found. notes: worth knowing, nothing wrong."""

    checked: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.problems

    def count(self, what: str, number: int = 1) -> None:
        self.checked[what] = self.checked.get(what, 0) + number

    def found(self, subject: str, what: str) -> None:
        self.problems.append(Problem(subject=subject, what=what))

    def note(self, subject: str, what: str) -> None:
        self.notes.append(Problem(subject=subject, what=what))

    def to_json(self) -> dict[str, Any]:
        return {
            "ok": self.ok,
            "checked": self.checked,
            "problems": [problem.to_json() for problem in self.problems],
            "notes": [note.to_json() for note in self.notes],
        }


def verify(ledger: Ledger, *, progress: Progress = silent) -> Verified:
    """The chain of hashes, every blob's digest, and the base's fingerprint."""
    result = Verified()
    try:
        with database.reading(ledger.engine) as session:
            by_id = _verify_chain(session, ledger, result, progress)
            _verify_refs(session, ledger, result)
            _verify_evaluations(session, result)
            _verify_publications(session, by_id, result)
            _verify_hashes("settings", wrong_settings(session, ledger), result)
            _verify_hashes("trials", wrong_trials(session), result)
            _verify_blobs(session, ledger, result, progress)
            _verify_keyframes(session, ledger, result)
            for subject, what, is_wrong in needed_but_pruned(session, ledger):
                (result.found if is_wrong else result.note)(subject, what)
    except ValueError as error:
        result.found("database", f"a value in it is no JSON, or no time ({error})")
    _verify_base(ledger, result, progress)
    return result


class _Known(NamedTuple):
    """What others refer to a turn by."""

    number: int
    hash: str


def _verify_chain(
    session: Session, ledger: Ledger, result: Verified, progress: Progress
) -> dict[int, _Known]:
    """Every turn's hash; the turns by row id."""
    light = select(TurnRow.id, TurnRow.number, TurnRow.hash).order_by(TurnRow.id)
    by_id = {turn_id: _Known(number, digest) for turn_id, number, digest in session.execute(light)}
    undoes = _numbers(session, by_id, UndoRow.turn_id, UndoRow.undone_id)
    replaces = _numbers(session, by_id, ReplacementRow.turn_id, ReplacementRow.replaced_id)
    datasets = {row.id: row for row in session.scalars(select(DatasetRow))}
    made_here = _made_here(session)
    query = select(TurnRow).order_by(TurnRow.id).execution_options(yield_per=_TOGETHER)
    for done, turn in enumerate(session.scalars(query), start=1):
        subject = f"turn {turn.number}" + ("" if turn.branch == "main" else f" of {turn.branch}")
        _verify_origin(ledger, turn, turn.id in made_here, subject, result)
        if turn.withheld.get("edits") and turn.origin != ledger.base.ledger_id:
            result.count("withheld edits", turn.edits)
        else:
            _verify_edits(session, turn, subject, result)
        parent = by_id[turn.parent_id] if turn.parent_id is not None else None
        if turn.number != (1 if parent is None else parent.number + 1):
            result.found(subject, "its number does not follow that of its parent")
        content = chain.turn_content(
            turn,
            base=ledger.base.fingerprint,
            dataset=_dataset_identity(turn, datasets, subject, result),
            skipped=_skipped(session, turn, subject, result),
            undoes=undoes.get(turn.id, []),
            replaces=replaces.get(turn.id, []),
            parent=None if parent is None else parent.hash,
        )
        if chain.content_hash(content) != turn.hash:
            result.found(
                subject,
                "its content does not give its hash: the turn, or one before it, was altered",
            )
        result.count("turns")
        progress("turns", done, len(by_id))
    return by_id


def _numbers(
    session: Session, by_id: dict[int, _Known], later: Any, earlier: Any
) -> dict[int, list[int]]:
    """Row id of a turn → numbers of the earlier turns that it undoes, or replaces."""
    found: dict[int, list[int]] = {}
    for turn_id, earlier_id in session.execute(select(later, earlier)):
        found.setdefault(turn_id, []).append(by_id[earlier_id].number)
    return found


def _made_here(session: Session) -> set[int]:
    """Row ids of the turns that a branch has moved to by their being recorded."""
    moved = RefMoveRow.to_turn_id == TurnRow.id
    query = select(TurnRow.id).join(RefMoveRow, moved & (RefMoveRow.action == TurnRow.kind))
    return set(session.scalars(query))


def _dataset_identity(
    turn: TurnRow, datasets: dict[int, DatasetRow], subject: str, result: Verified
) -> str | None:
    """That of its dataset as it is now; of one that was kept back, as it was told."""
    if turn.dataset_id is None:
        told: str | None = turn.withheld.get("dataset")
        return told
    dataset = datasets[turn.dataset_id]
    identity = chain.dataset_identity(dataset)
    if identity != dataset.identity:
        result.found(subject, f"its dataset {dataset.uri} has been altered")
    return identity


def _skipped(
    session: Session, turn: TurnRow, subject: str, result: Verified
) -> list[tuple[int, str]]:
    query = select(SkippedRow.row, SkippedRow.reason).where(SkippedRow.turn_id == turn.id)
    skipped = [(row, reason) for row, reason in session.execute(query)]
    if len(skipped) != turn.skipped:
        result.found(subject, f"has {len(skipped)} skipped rows, recorded were {turn.skipped}")
    return skipped


def _verify_origin(
    ledger: Ledger, turn: TurnRow, made_here: bool, subject: str, result: Verified
) -> None:
    """A turn that was made here keeps nothing back; of a pulled one, what is told is as it came."""
    if made_here or turn.origin == ledger.base.ledger_id or not turn.withheld:
        if turn.withheld or turn.origin != ledger.base.ledger_id:
            result.found(subject, "where it comes from, or what was kept back, has been altered")
    elif turn.withheld.get("digest") != chain.withheld_digest(turn, turn.withheld):
        result.found(subject, "what its publisher tells of it has been altered")


def _verify_edits(session: Session, turn: TurnRow, subject: str, result: Verified) -> None:
    query = select(EditRow).where(EditRow.turn_id == turn.id).order_by(EditRow.position)
    digests = []
    for place, edit in enumerate(session.scalars(query.execution_options(yield_per=1000))):
        digest = chain.edit_digest(_texts(edit), edit.row, edit.probes)
        if (edit.position, edit.digest) != (place, digest) or _keys(edit) != _found_keys(edit):
            result.found(subject, f"edit {edit.position} ({edit.prompt!r}) has been altered")
        digests.append(digest)
        result.count("edits")
    if len(digests) != turn.edits:
        result.found(subject, f"has {len(digests)} edits, recorded were {turn.edits}")
    elif chain.edits_digest(digests) != turn.edits_digest:
        result.found(subject, "its edits are not those that were recorded")


def _found_keys(row: EditRow) -> tuple[int | None, ...]:
    return row.prompt_key, row.subject_key, row.fact_key


def _keys(row: EditRow) -> tuple[int | None, ...]:
    """What its keys must be."""
    return (
        chain.prompt_key(row.prompt),
        chain.subject_key(row.subject),
        chain.fact_key(row.subject, row.relation),
    )


def _texts(row: EditRow) -> Edit:
    """The edit without its probes, which are hashed as they are stored and may be unreadable."""
    return Edit(
        prompt=row.prompt,
        target=row.target,
        subject=row.subject,
        old_target=row.old_target,
        relation=row.relation,
    )


def _verify_refs(session: Session, ledger: Ledger, result: Verified) -> None:
    for subject, what in wrong_refs(session, ledger):
        result.found(subject, what)
    result.count("refs", session.scalars(select(func.count()).select_from(RefRow)).one())


def _verify_evaluations(session: Session, result: Verified) -> None:
    for evaluation in session.scalars(select(EvaluationRow).order_by(EvaluationRow.id)):
        turn = session.get_one(TurnRow, evaluation.turn_id)
        query = (
            select(EditRow.digest, OutcomeRow.base, OutcomeRow.state)
            .join(OutcomeRow, OutcomeRow.edit_id == EditRow.id)
            .where(OutcomeRow.evaluation_id == evaluation.id)
            .order_by(EditRow.turn_id, EditRow.position)
        )
        outcomes = [(digest, base, state) for digest, base, state in session.execute(query)]
        scope = evaluation.scope_turn_id
        scope_turn = None if scope is None else session.get_one(TurnRow, scope).hash
        content = chain.evaluation_content(
            evaluation, turn=turn.hash, scope_turn=scope_turn, outcomes=outcomes
        )
        if chain.content_hash(content) != evaluation.hash:
            result.found(
                f"evaluation {evaluation.id} of turn {turn.number}", "its scores have been altered"
            )
        result.count("evaluations")


def _verify_publications(session: Session, turns: dict[int, _Known], result: Verified) -> None:
    for row in session.scalars(select(PublicationRow).order_by(PublicationRow.id)):
        turn = turns[row.turn_id]
        content = chain.publication_content(row, turn=turn.hash)
        if chain.content_hash(content) != row.hash:
            result.found(
                f"publication {row.id} of turn {turn.number}", "its record has been altered"
            )
        result.count("publications")


def _verify_hashes(what: str, rows: Iterable[tuple[str, str | None]], result: Verified) -> None:
    for subject, wrong in rows:
        if wrong is not None:
            result.found(subject, wrong)
        result.count(what)


def _verify_blobs(session: Session, ledger: Ledger, result: Verified, progress: Progress) -> None:
    users = _users(session)
    missing = set(users)
    given_up: set[int] = set()
    query = select(BlobRow).order_by(BlobRow.digest).execution_options(yield_per=_TOGETHER)
    for done, blob in enumerate(session.scalars(query), start=1):
        missing.discard(blob.digest)
        if blob.pruned_at is not None and not ledger.store.path(blob.digest).exists():
            given_up.update(users.get(blob.digest, []))
            result.count("pruned patches" if blob.kind == "patch" else "pruned editor states")
        else:
            _verify_blob(ledger, blob, users.get(blob.digest, []), result)
        progress("patches", done, max(done, len(users)))
    for digest in sorted(missing):
        result.found(f"blob {digest[:12]}… of {_turns(users[digest])}", "its record is missing")
    if given_up:
        result.note(turn_numbers(given_up), "files were given up: ledger gc --prune")


def _verify_blob(ledger: Ledger, blob: BlobRow, users: Sequence[int], result: Verified) -> None:
    what = "patches" if blob.kind == "patch" else "editor states"
    subject = f"{blob.kind} {blob.digest[:12]}… of {_turns(users)}"
    problem = ledger.store.problem(blob.digest)
    if problem is not None:
        result.found(subject, f"{problem}: {ledger.store.path(blob.digest)}")
    else:
        _verify_blob_row(ledger, blob, result)
    result.count(what)


def _verify_blob_row(ledger: Ledger, blob: BlobRow, result: Verified) -> None:
    """What the database says of a file agrees with the file."""
    subject = f"{blob.kind} {blob.digest[:12]}…"
    path = ledger.store.path(blob.digest)
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        metadata = json.loads(file.read(size))["__metadata__"]
    if blob.bytes != path.stat().st_size:
        result.found(subject, "its recorded size has been altered")
    if metadata["format"] != _FORMATS[blob.kind]:
        result.found(subject, "its recorded kind has been altered")
    described = json.loads(metadata.get("changes", "{}"))
    if described != blob.changes:
        result.found(subject, "its recorded description has been altered")
    if sum("routing" in change for change in described.values()) != blob.memories:
        result.found(subject, "its recorded number of side memories has been altered")
    if metadata.get("base", ledger.base.fingerprint) != ledger.base.fingerprint:
        result.found(subject, "it was made for another base model")


def _verify_keyframes(session: Session, ledger: Ledger, result: Verified) -> None:
    """They may be missing, but not be wrong: states are built from them."""
    for digest in session.scalars(select(KeyframeRow.digest).order_by(KeyframeRow.digest)):
        if ledger.store.path(digest).exists():
            result.count("keyframes")
            problem = ledger.store.problem(digest)
            if problem is not None:
                result.found(
                    f"damaged keyframe {digest[:12]}…", f"{problem}; remove it with: ledger gc"
                )


def _turns(numbers: Sequence[int]) -> str:
    return ", ".join(f"turn {number}" for number in numbers) or "no turn"


def _users(session: Session) -> dict[str, list[int]]:
    """Blob digest → numbers of the turns that refer to it."""
    users: dict[str, list[int]] = {}
    query = select(TurnRow.number, TurnRow.patch_digest, TurnRow.editor_state_digest)
    for number, *digests in session.execute(query.order_by(TurnRow.number)):
        for digest in digests:
            if digest is not None:
                users.setdefault(digest, []).append(number)
    return users


def _verify_base(ledger: Ledger, result: Verified, progress: Progress) -> None:
    """The base's files give the recorded fingerprint; if not, which tensors changed."""
    try:
        checkpoint = ledger.checkpoint
        digests = tensor_digests(
            checkpoint, progress=lambda done, total: progress("base", done, total)
        )
    except CheckpointError as error:
        result.found("base model", str(error))
        return
    for name in _differing(digests, {name: t[2] for name, t in ledger.base.tensors.items()}):
        result.found(f"base model, tensor {name}", "its bytes are not those recorded at init")
    if fingerprint(checkpoint, digests) != ledger.base.fingerprint and result.ok:
        result.found("base model", "the recorded fingerprint has been altered")
    result.count("base tensors", len(digests))


def _differing(found: dict[str, str], recorded: dict[str, str]) -> Iterator[str]:
    for name in sorted({*found, *recorded}):
        if found.get(name) != recorded.get(name):
            yield name


def problems_text(problems: Sequence[Problem]) -> list[str]:
    """One sentence per problem."""
    return [f"{problem.subject}: {problem.what}" for problem in problems]
