"""Verify: recompute every hash and digest, and say exactly what does not agree."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from ledger import chain, database
from ledger.orm import (
    BlobRow,
    DatasetRow,
    EntryRow,
    KeyframeRow,
    RefRow,
    ReplacementRow,
    SkippedRow,
    TurnRow,
    UndoRow,
)
from ledger.progress import Progress, silent
from ledger.verifying_edits import wrong_edits
from ledger.verifying_journal import Journal, KnownTurn, known_turns, wrong_entries, wrong_rows
from ledger.verifying_references import (
    earlier_turns,
    in_order,
    lost_references,
    numbers,
    off_the_line,
)
from ledger.verifying_refs import wrong_refs
from ledger.verifying_results import wrong_evaluations, wrong_publications
from ledger.verifying_settings import wrong_settings, wrong_trials
from ledger.verifying_since import Comparison, Remembered, Since
from ledger.verifying_states import needed_but_pruned
from ledger.wording import turn_numbers
from ledger.workspace import Ledger
from patches.checkpoint import fingerprint, tensor_digests
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
    """What was checked, and what was found. notes: worth knowing, nothing wrong.

    since: what came after the history that it was held against, if it was.
    """

    checked: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[Problem] = field(default_factory=list)
    since: Since | None = None

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
            **({} if self.since is None else {"since": self.since.to_json()}),
        }


def verify(
    ledger: Ledger, *, since: Remembered | None = None, progress: Progress = silent
) -> Verified:
    """The journal, the chain of hashes, every blob's digest, and the base's fingerprint.

    Not to be found: that the newest entries of the journal were cut off together with all that
    they record. Whoever remembers one of them finds it: since.
    """
    result = Verified()
    if not _has_base(ledger, result):
        return result
    with database.reading(ledger.engine) as session:
        turns = _verify_records(session, ledger, result, progress, since)
        with _readable(result):
            _verify_blobs(session, ledger, result, progress)
            _verify_keyframes(session, ledger, result)
            if in_order(turns):
                for subject, what, is_wrong in needed_but_pruned(session, ledger):
                    (result.found if is_wrong else result.note)(subject, what)
    with _readable(result):
        _verify_base(ledger, result, progress)
    return result


def verify_records(session: Session, ledger: Ledger, *, progress: Progress = silent) -> Verified:
    """The part of `verify` for which a database alone is enough, in whichever database.

    session: of the records; ledger: whose base they must be for.
    """
    result = Verified()
    _verify_records(session, ledger, result, progress)
    return result


def _has_base(ledger: Ledger, result: Verified) -> bool:
    """Whether the record of the base can be read; everything else is held against it."""
    try:
        return bool(ledger.base.ledger_id)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        result.found("base model, its record", f"cannot be read ({error}); restore the database")
        return False


@contextmanager
def _readable(result: Verified) -> Iterator[None]:
    """Turn what cannot even be read into a problem."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        result.found("database", f"a value in it is no JSON, or no time ({error})")


def _verify_records(
    session: Session,
    ledger: Ledger,
    result: Verified,
    progress: Progress,
    since: Remembered | None = None,
) -> Mapping[int, KnownTurn]:
    """What the database records; the turns by row id."""
    turns = known_turns(session)
    with _readable(result):
        for subject, what in lost_references(session):
            result.found(subject, what)
        _verify_chain(session, ledger, turns, result, progress)
    journal = Journal()
    with _readable(result):
        _verify_journal(session, turns, journal, result)
    with _readable(result):
        _verify_refs(session, ledger, result)
        _verify_hashes("evaluations", wrong_evaluations(session, turns), result)
        _verify_hashes("publications", wrong_publications(session, turns), result)
        _verify_hashes("settings", wrong_settings(session, ledger), result)
        _verify_hashes("trials", wrong_trials(session), result)
    if since is not None:
        with _readable(result):
            compared = Comparison(session, ledger, turns, journal)
            for subject, what in compared.problems(since):
                result.found(subject, what)
            result.since = compared.since(since)
    return turns


def _verify_journal(
    session: Session, turns: Mapping[int, KnownTurn], journal: Journal, result: Verified
) -> None:
    """Read it into `journal`."""
    for subject, what in wrong_entries(session, turns, journal):
        result.found(subject, what)
    for subject, what in wrong_rows(session, turns, journal):
        result.found(subject, what)
    result.count("journal entries", len(journal.entries))


def _verify_chain(
    session: Session,
    ledger: Ledger,
    by_id: Mapping[int, KnownTurn],
    result: Verified,
    progress: Progress,
) -> None:
    """Every turn's hash."""
    undoes = earlier_turns(session, UndoRow.turn_id, UndoRow.undone_id)
    replaces = earlier_turns(session, ReplacementRow.turn_id, ReplacementRow.replaced_id)
    datasets = {row.id: row for row in session.scalars(select(DatasetRow))}
    made_here = _made_here(session)
    query = select(TurnRow).order_by(TurnRow.id).execution_options(yield_per=_TOGETHER)
    for done, turn in enumerate(session.scalars(query), start=1):
        subject = by_id[turn.id].name
        withheld: Any = turn.withheld
        if not isinstance(withheld, dict):
            result.found(subject, "what was kept back of it has been altered")
            continue
        _verify_origin(ledger, turn, turn.id in made_here, subject, result)
        if turn.withheld.get("edits") and turn.origin != ledger.base.ledger_id:
            result.count("withheld edits", turn.edits)
        else:
            _verify_edits(session, turn, subject, result)
        earlier = undoes.get(turn.id, set()) | replaces.get(turn.id, set())
        if earlier and off_the_line(by_id[turn.id], earlier, by_id):
            result.found(subject, "it undoes or replaces a turn that did not lead to it")
        parent = None if turn.parent_id is None else by_id.get(turn.parent_id)
        if turn.number != (1 if parent is None else parent.number + 1):
            result.found(subject, "its number does not follow that of its parent")
        content = chain.turn_content(
            turn,
            base=ledger.base.fingerprint,
            dataset=_dataset_identity(turn, datasets, subject, result),
            skipped=_skipped(session, turn, subject, result),
            undoes=numbers(by_id, undoes.get(turn.id)),
            replaces=numbers(by_id, replaces.get(turn.id)),
            parent=None if parent is None else parent.hash,
        )
        # Hashes leave figures out where there are none: by {}, not by another nothing.
        if chain.content_hash(content) != turn.hash or not _is_object(turn.figures):
            result.found(
                subject,
                "its content does not give its hash: the turn, or one before it, was altered",
            )
        result.count("turns")
        progress("turns", done, len(by_id))


def _is_object(value: object) -> bool:
    return isinstance(value, dict)


def _made_here(session: Session) -> set[int]:
    """Row ids of the turns that a branch has moved to by their being recorded."""
    moved = EntryRow.to_turn_id == TurnRow.id
    query = select(TurnRow.id).join(EntryRow, moved & (EntryRow.action == TurnRow.kind))
    return set(session.scalars(query))


def _dataset_identity(
    turn: TurnRow, datasets: dict[int, DatasetRow], subject: str, result: Verified
) -> str | None:
    """That of its dataset as it is now; of one that was kept back, as it was told."""
    if turn.dataset_id is None:
        told: str | None = turn.withheld.get("dataset")
        return told
    dataset = datasets.get(turn.dataset_id)
    if dataset is None:
        return None
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
    for wrong in wrong_edits(session, turn):
        if wrong is None:
            result.count("edits")
        else:
            result.found(subject, wrong)


def _verify_refs(session: Session, ledger: Ledger, result: Verified) -> None:
    for subject, what in wrong_refs(session, ledger):
        result.found(subject, what)
    result.count("refs", session.scalars(select(func.count()).select_from(RefRow)).one())


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
        if blob.pruned_at is not None and ledger.store.stored(blob.digest) is None:
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
        result.found(subject, f"{problem}: {ledger.store.where(blob.digest)}")
    else:
        _verify_blob_row(ledger, blob, result)
    result.count(what)


def _verify_blob_row(ledger: Ledger, blob: BlobRow, result: Verified) -> None:
    """What the database says of a file agrees with the file."""
    subject = f"{blob.kind} {blob.digest[:12]}…"
    store = ledger.store
    length = int.from_bytes(store.beginning(blob.digest, 8), "little")
    metadata = json.loads(store.beginning(blob.digest, 8 + length)[8:])["__metadata__"]
    stored = store.stored(blob.digest)
    if stored is None or blob.bytes != stored.bytes:
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
        if ledger.store.stored(digest) is not None:
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
