"""Verify: recompute every hash and digest, and say exactly what does not agree."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger import chain, database
from ledger.orm import (
    PULL,
    BlobRow,
    DatasetRow,
    EditRow,
    EvaluationRow,
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
from ledger.workspace import Ledger
from patches.checkpoint import fingerprint, tensor_digests
from patches.edit import Edit
from patches.errors import CheckpointError

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
            _verify_blobs(session, ledger, result, progress)
    except ValueError as error:
        result.found("database", f"a value in it is no JSON, or no time ({error})")
    _verify_base(ledger, result, progress)
    return result


def _verify_chain(
    session: Session, ledger: Ledger, result: Verified, progress: Progress
) -> dict[int, TurnRow]:
    """Every turn's hash; the turns by row id."""
    rows = list(session.scalars(select(TurnRow).order_by(TurnRow.id)))
    by_id = {row.id: row for row in rows}
    undoes: dict[int, list[int]] = {}
    for undo in session.scalars(select(UndoRow)):
        undoes.setdefault(undo.turn_id, []).append(by_id[undo.undone_id].number)
    replaces: dict[int, list[int]] = {}
    for row in session.scalars(select(ReplacementRow)):
        replaces.setdefault(row.turn_id, []).append(by_id[row.replaced_id].number)
    made_here = set(session.scalars(select(RefMoveRow.to_turn_id).where(RefMoveRow.action != PULL)))
    for done, turn in enumerate(rows, start=1):
        subject = f"turn {turn.number}" + ("" if turn.branch == "main" else f" of {turn.branch}")
        _verify_origin(ledger, turn, turn.id in made_here, subject, result)
        if turn.withheld.get("edits") and turn.origin != ledger.base.ledger_id:
            result.count("withheld edits", turn.edits)
        else:
            _verify_edits(session, turn, subject, result)
        dataset = None if turn.dataset_id is None else session.get(DatasetRow, turn.dataset_id)
        if dataset is not None and chain.dataset_identity(dataset) != dataset.identity:
            result.found(subject, f"its dataset {dataset.uri} has been altered")
        withheld = turn.withheld.get("dataset")
        parent = by_id[turn.parent_id] if turn.parent_id is not None else None
        if turn.number != (1 if parent is None else parent.number + 1):
            result.found(subject, "its number does not follow that of its parent")
        skipped = list(session.scalars(select(SkippedRow).where(SkippedRow.turn_id == turn.id)))
        if len(skipped) != turn.skipped:
            result.found(subject, f"has {len(skipped)} skipped rows, recorded were {turn.skipped}")
        content = chain.turn_content(
            turn,
            base=ledger.base.fingerprint,
            dataset=withheld if dataset is None else chain.dataset_identity(dataset),
            skipped=[(row.row, row.reason) for row in skipped],
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
        progress("turns", done, len(rows))
    return by_id


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
        found = (edit.position, digest, chain.prompt_key(edit.prompt))
        if found != (place, edit.digest, edit.prompt_key):
            result.found(subject, f"edit {edit.position} ({edit.prompt!r}) has been altered")
        digests.append(digest)
        result.count("edits")
    if len(digests) != turn.edits:
        result.found(subject, f"has {len(digests)} edits, recorded were {turn.edits}")
    elif chain.edits_digest(digests) != turn.edits_digest:
        result.found(subject, "its edits are not those that were recorded")


def _texts(row: EditRow) -> Edit:
    """The edit without its probes, which are hashed as they are stored and may be unreadable."""
    return Edit(
        prompt=row.prompt, target=row.target, subject=row.subject, old_target=row.old_target
    )


def _verify_refs(session: Session, ledger: Ledger, result: Verified) -> None:
    """A branch points to a turn that no other turn of the branch, made here, follows."""
    here = TurnRow.origin == ledger.base.ledger_id
    for ref in session.scalars(select(RefRow).where(RefRow.kind == "branch")):
        own = select(func.max(TurnRow.number)).where(here, TurnRow.branch == ref.name)
        newest = session.scalar(own)
        head = None if ref.turn_id is None else session.get(TurnRow, ref.turn_id)
        if newest is not None and (head is None or head.number < newest):
            at = "nothing" if head is None else f"turn {head.number}"
            result.found(f"branch {ref.name}", f"points to {at}, its newest turn is {newest}")
        result.count("refs")


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


def _verify_publications(session: Session, turns: dict[int, TurnRow], result: Verified) -> None:
    for row in session.scalars(select(PublicationRow).order_by(PublicationRow.id)):
        turn = turns[row.turn_id]
        content = chain.publication_content(row, turn=turn.hash)
        if chain.content_hash(content) != row.hash:
            result.found(
                f"publication {row.id} of turn {turn.number}", "its record has been altered"
            )
        result.count("publications")


def _verify_blobs(session: Session, ledger: Ledger, result: Verified, progress: Progress) -> None:
    blobs = list(session.scalars(select(BlobRow).order_by(BlobRow.digest)))
    users = _users(session)
    for digest in sorted(set(users) - {blob.digest for blob in blobs}):
        result.found(f"blob {digest[:12]}… of {_turns(users[digest])}", "its record is missing")
    for done, blob in enumerate(blobs, start=1):
        problem = ledger.store.problem(blob.digest)
        if problem is not None:
            result.found(
                f"{blob.kind} {blob.digest[:12]}… of {_turns(users.get(blob.digest, []))}",
                f"{problem}: {ledger.store.path(blob.digest)}",
            )
        else:
            _verify_blob_row(ledger, blob, result)
        result.count("patches" if blob.kind == "patch" else "editor states")
        progress("patches", done, len(blobs))


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
    if json.loads(metadata.get("changes", "{}")) != blob.changes:
        result.found(subject, "its recorded description has been altered")
    if metadata.get("base", ledger.base.fingerprint) != ledger.base.fingerprint:
        result.found(subject, "it was made for another base model")


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
