"""The chain of hashes: every turn's hash covers its content and the hash before it.

    hash = sha256(canonical JSON of the turn's content, edit digests, patch digest,
                  editor-state digest, parent hash)

`edit_digest` and `turn_content` define what is covered; recording and verifying both use them. The
other functions ending in `_content` do the same for the other rows, and `entry_content` for the
journal, which is a chain of its own through everything that is recorded.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from struct import Struct
from typing import Any

from ledger.orm import (
    EMPTY,
    BaseRow,
    BlobRow,
    DatasetRow,
    EntryRow,
    EvaluationRow,
    KeyframeRow,
    PublicationRow,
    SettingsRow,
    TrialRow,
    TurnRow,
)
from patches.canonical import canonical_json, quoted, sha256
from patches.edit import Edit

_SIGNED = Struct("<q").unpack


def edit_digest(edit: Edit, row: int | None, probes: str) -> str:
    """SHA-256 of an edit and the dataset row it came from. probes: its probes as stored."""
    subject, old = edit.subject, edit.old_target
    # Canonical JSON, in half the time: every edit that is recorded or verified comes through here.
    text = (
        f"[{'null' if row is None else row},{quoted(edit.prompt)},{quoted(edit.target)},"
        f"{'null' if subject is None else quoted(subject)},"
        f"{'null' if old is None else quoted(old)},{quoted(probes)}"
    )
    # Schemas before 0004 did not have relations; their digests hold.
    more = "]" if edit.relation is None else f",{quoted(edit.relation)}]"
    return sha256((text + more).encode())


def edits_digest(digests: Iterable[str]) -> str:
    """SHA-256 over the digests of a turn's edits, in order."""
    return sha256("".join(digests).encode())


def prompt_key(prompt: str) -> int:
    """A signed 64-bit hash of the prompt, normalised (NFC, single spaces), for look-ups."""
    return _key(_normal(prompt))


def subject_key(subject: str | None) -> int | None:
    """The same of a subject; None if there is none."""
    return subject_keys(subject, None)[0]


def fact_key(subject: str | None, relation: str | None) -> int | None:
    """The same of a subject and what of it is told; None unless both are known."""
    return subject_keys(subject, relation)[1] if relation else None


def subject_keys(subject: str | None, relation: str | None) -> tuple[int | None, int | None]:
    """`subject_key` and `fact_key`, with the subject normalised once."""
    if not subject or not (name := _normal(subject)):
        return None, None
    told = _normal(relation) if relation else ""
    return _key(name), _key(f"{name}\0{told}") if told else None


def _normal(text: str) -> str:
    # Nearly every text is so already, and looking takes less than splitting it.
    if "  " not in text and text.isascii() and text.isprintable():
        return text.strip(" ")
    normal = text if text.isascii() else unicodedata.normalize("NFC", text)
    return " ".join(normal.split())


def _key(text: str) -> int:
    key: int = _SIGNED(hashlib.blake2b(text.encode(), digest_size=8).digest())[0]
    return key


def dataset_identity(dataset: DatasetRow) -> str:
    """SHA-256 over what makes two sources the same."""
    return sha256(
        canonical_json(
            [
                dataset.uri,
                dataset.revision,
                dataset.sha256,
                dataset.format,
                dataset.layout,
                dataset.mapping,
                dataset.licence,
            ]
        )
    )


def turn_content(
    turn: TurnRow,
    *,
    base: str,
    dataset: str | None,
    skipped: Sequence[tuple[int, str]],
    undoes: Sequence[int],
    replaces: Sequence[int],
    parent: str | None,
) -> dict[str, Any]:
    """Everything that a turn's hash covers.

    base: fingerprint. dataset: identity. skipped: (row, reason). undoes, replaces: turn numbers.
    parent: the hash before it.
    """
    # What schema 0001 did not have is left out where it is empty, so that its hashes hold.
    added: dict[str, Any] = {
        "figures": turn.figures or None,
        "replaces": sorted(replaces) or None,
        "copied_from": turn.copied_from,
    }
    return {
        **{name: value for name, value in added.items() if value is not None},
        "base": base,
        "branch": turn.branch,
        "number": turn.number,
        "kind": turn.kind,
        "method": turn.method,
        "hyperparameters": turn.hyperparameters,
        "seed": turn.seed,
        "message": turn.message,
        "author": turn.author,
        "dataset": dataset,
        "rows": [turn.first_row, turn.last_row],
        "edits": [turn.edits, turn.edits_digest],
        "skipped": [[row, reason] for row, reason in sorted(skipped)],
        "undoes": sorted(undoes),
        "patch": turn.patch_digest,
        "editor_state": turn.editor_state_digest,
        "tensors": turn.tensors,
        "environment": turn.environment,
        "seconds": turn.seconds,
        "peak_memory": turn.peak_memory,
        "notes": turn.notes,
        "created_at": timestamp(turn.created_at),
        "parent": parent or EMPTY,
    }


def content_hash(content: dict[str, Any]) -> str:
    """SHA-256 of canonical JSON."""
    return sha256(canonical_json(content))


def evaluation_content(
    evaluation: EvaluationRow,
    *,
    turn: str,
    scope_turn: str | None,
    outcomes: Sequence[tuple[str, Any, Any]],
) -> dict[str, Any]:
    """Everything that an evaluation's hash covers.

    turn: the hash of its turn. scope_turn: that of the turn whose edits were scored, if of one
    turn. outcomes: (edit digest, base, state), in edit order.
    """
    return {
        "turn": turn,
        "scope": [evaluation.scope, scope_turn],
        "protocol": evaluation.protocol,
        "seed": evaluation.seed,
        "n": evaluation.n,
        "base": evaluation.base,
        "state": evaluation.state,
        "environment": evaluation.environment,
        "seconds": evaluation.seconds,
        "created_at": timestamp(evaluation.created_at),
        "outcomes": [list(outcome) for outcome in outcomes],
    }


def withheld_digest(turn: TurnRow, withheld: dict[str, Any]) -> str:
    """SHA-256 over where a pulled turn comes from and what is told of it beyond its hash."""
    told = {name: value for name, value in withheld.items() if name != "digest"}
    return content_hash({"turn": turn.hash, "origin": turn.origin, "withheld": told})


def publication_content(publication: PublicationRow, *, turn: str) -> dict[str, Any]:
    """Everything that a publication's hash covers. turn: the hash of its turn."""
    return {
        "turn": turn,
        "form": publication.form,
        "repo": publication.repo,
        "revision": publication.revision,
        "commit": publication.commit,
        "tag": publication.tag,
        "created_at": timestamp(publication.created_at),
    }


def settings_content(settings: SettingsRow, *, base: str) -> dict[str, Any]:
    """Everything that the hash of chosen settings covers. base: fingerprint."""
    return {
        "base": base,
        "method": settings.method,
        "values": settings.values,
        "evidence": settings.evidence,
        "created_at": timestamp(settings.created_at),
    }


def trial_content(trial: TrialRow) -> dict[str, Any]:
    """Everything that the hash of a trial covers; its study stands for what it was made on."""
    return {
        "study": trial.study,
        "key": trial.key,
        "values": trial.values,
        "result": trial.result,
        "failure": trial.failure,
        "seconds": trial.seconds,
        "created_at": timestamp(trial.created_at),
    }


def base_content(base: BaseRow) -> dict[str, Any]:
    """Everything that is recorded of the base model."""
    return {
        "ledger_id": base.ledger_id,
        "fingerprint": base.fingerprint,
        "uri": base.uri,
        "revision": base.revision,
        "architecture": base.architecture,
        "licence": base.licence,
        "tensors": base.tensors,
        "created_at": timestamp(base.created_at),
    }


def dataset_content(dataset: DatasetRow) -> dict[str, Any]:
    """Everything that is recorded of a dataset."""
    return {
        "identity": dataset.identity,
        "uri": dataset.uri,
        "revision": dataset.revision,
        "sha256": dataset.sha256,
        "format": dataset.format,
        "layout": dataset.layout,
        "mapping": dataset.mapping,
        "licence": dataset.licence,
        "created_at": timestamp(dataset.created_at),
    }


def blob_content(blob: BlobRow) -> dict[str, Any]:
    """Everything that is recorded of a file, also whether it was given up."""
    pruned_at = blob.pruned_at
    return {
        "digest": blob.digest,
        "kind": blob.kind,
        "bytes": blob.bytes,
        "changes": blob.changes,
        "memories": blob.memories,
        "created_at": timestamp(blob.created_at),
        "pruned_at": None if pruned_at is None else timestamp(pruned_at),
    }


def keyframe_content(keyframe: KeyframeRow) -> dict[str, Any]:
    """Everything that is recorded of a keyframe."""
    return {
        "key": keyframe.key,
        "kind": keyframe.kind,
        "digest": keyframe.digest,
        "bytes": keyframe.bytes,
        "created_at": timestamp(keyframe.created_at),
    }


def entry_content(
    entry: EntryRow, *, previous: str, left: str | None, reached: str | None
) -> dict[str, Any]:
    """Everything that the hash of an entry of the journal covers.

    previous: the hash of the entry before it. left, reached: the hashes of the turns that its ref
    pointed to before and points to since.
    """
    return {
        "previous": previous,
        "entry": entry.id,
        "action": entry.action,
        "ref": entry.ref,
        "from": left,
        "to": reached,
        "records": entry.records,
        "created_at": timestamp(entry.created_at),
    }


def timestamp(moment: datetime) -> str:
    """ISO 8601 in UTC with microseconds."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")
