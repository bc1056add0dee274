"""Attest: what to remember of a history, so that what comes later can be held against it.

Whoever can write to the database and to the store can write another history, with hashes that hold
among themselves. Against that helps a hash that lies elsewhere: the one of the newest entry of the
journal covers all that is recorded up to it. `ledger.verifying_since` compares.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from ledger import database, journal
from ledger.chain import timestamp
from ledger.orm import EMPTY, EditRow, EvaluationRow, RefRow, TurnRow
from ledger.signing_key import ALGORITHM, sign, signature_problem
from ledger.whole_files import write_whole
from ledger.workspace import Ledger
from patches.canonical import canonical_json
from patches.errors import SettingError

FORMAT, VERSION = "edit-ledger-attestation", 1
_LARGEST = 64 << 20
_COUNTED = {"turns": TurnRow, "edits": EditRow, "evaluations": EvaluationRow}


@dataclass(frozen=True, kw_only=True)
class NamedTurn:
    """A branch or tag, and the number and hash of its turn: 0 and ``empty`` if it has none."""

    kind: str
    name: str
    turn: int
    hash: str


@dataclass(frozen=True, kw_only=True)
class Signature:
    """key: SHA-256 of the public key (DER, SubjectPublicKeyInfo). value: over the canonical JSON
    of the attestation without its signature, in base64."""

    key: str
    value: str


@dataclass(frozen=True, kw_only=True)
class Attestation:
    """What a ledger records at a moment. entry, hash: of the newest entry of its journal.

    counts: ``turns``, ``edits`` and ``evaluations``.
    """

    ledger: str
    base: str
    entry: int
    hash: str
    refs: tuple[NamedTurn, ...]
    counts: Mapping[str, int]
    created_at: str
    signature: Signature | None = None

    def content(self) -> dict[str, Any]:
        """What is signed."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "ledger": self.ledger,
            "base": self.base,
            "entry": self.entry,
            "hash": self.hash,
            "refs": [
                {"kind": ref.kind, "name": ref.name, "turn": ref.turn, "hash": ref.hash}
                for ref in self.refs
            ],
            "counts": dict(self.counts),
            "created_at": self.created_at,
        }

    def to_json(self) -> dict[str, Any]:
        """The contract of ``ledger attest --json``, and of what --out writes."""
        if self.signature is None:
            return self.content()
        signature = {
            "algorithm": ALGORITHM,
            "key": self.signature.key,
            "value": self.signature.value,
        }
        return {**self.content(), "signature": signature}


def attest(ledger: Ledger, *, key: Path | None = None) -> Attestation:
    """What the ledger records now. Nothing is checked: run `ledger.verifying.verify` for that.

    key: file with a private key (PEM, elliptic curve) to sign with; SettingError if it is none, or
    the library for it is not installed.
    """
    with database.reading(ledger.engine) as session:
        entry, digest = journal.newest(session)
        refs = session.execute(
            select(RefRow.kind, RefRow.name, TurnRow.number, TurnRow.hash)
            .outerjoin(TurnRow, TurnRow.id == RefRow.turn_id)
            .order_by(RefRow.kind, RefRow.name)
        )
        plain = Attestation(
            ledger=ledger.base.ledger_id,
            base=ledger.base.fingerprint,
            entry=entry,
            hash=digest,
            refs=tuple(
                NamedTurn(kind=kind, name=name, turn=number or 0, hash=turn or EMPTY)
                for kind, name, number, turn in refs
            ),
            counts={
                what: session.scalars(select(func.count()).select_from(table)).one()
                for what, table in _COUNTED.items()
            },
            created_at=timestamp(datetime.now(UTC)),
        )
    if key is None:
        return plain
    fingerprint, value = sign(canonical_json(plain.content()), key)
    return replace(plain, signature=Signature(key=fingerprint, value=value))


def write_attestation(attestation: Attestation, path: Path) -> None:
    """Write it as JSON."""
    text = json.dumps(attestation.to_json(), indent=2, ensure_ascii=False)
    write_whole(path, f"{text}\n".encode())


def read_attestation(path: Path) -> Attestation:
    """What `write_attestation` has written; SettingError if it is something else."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
        return _parsed(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise SettingError(
            f"{path}: is not what ledger attest --out has written ({error})"
        ) from error


def wrong_signature(attestation: Attestation, key: Path) -> str | None:
    """What is wrong with its signature; None if it was made with the private key that belongs to
    the public key (PEM, elliptic curve) in file `key`. SettingError if that is none."""
    signature = attestation.signature
    if signature is None:
        return "is not signed"
    content = canonical_json(attestation.content())
    return signature_problem(content, signature.key, signature.value, key)


def _parsed(content: dict[str, Any]) -> Attestation:
    if content["format"] != FORMAT:
        raise ValueError(f"its format is {content['format']!r}")
    if content["version"] != VERSION:
        raise ValueError(f"version {content['version']!r}, this program reads {VERSION}")
    signature = content.get("signature")
    found = Attestation(
        ledger=_text(content["ledger"]),
        base=_text(content["base"]),
        entry=_number(content["entry"]),
        hash=_text(content["hash"]),
        refs=tuple(_named_turn(ref) for ref in content["refs"]),
        counts={what: _number(content["counts"][what]) for what in _COUNTED},
        created_at=_text(content["created_at"]),
        signature=signature
        and Signature(key=_text(signature["key"]), value=_text(signature["value"])),
    )
    if found.to_json() != content:
        raise ValueError("it holds more than it may")
    return found


def _named_turn(ref: dict[str, Any]) -> NamedTurn:
    texts = {name: _text(ref[name]) for name in ("kind", "name", "hash")}
    return NamedTurn(turn=_number(ref["turn"]), **texts)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value
