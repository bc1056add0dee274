"""The manifest of a published history: the chain of turns, and the digest of every file.

A repository that ``ledger push --as patch`` made holds

    manifest.json                   what this module describes
    ledger.json                     the state, as beside a written model
    patches/SHA256.safetensors      the patch of every turn
    states/SHA256.safetensors       the editor's state after every turn
    edits.jsonl                     the facts, if they were published

The manifest has all that the hash of a turn covers, so that a reader can recompute the whole
chain. It comes from elsewhere: nothing in it is believed before it is checked, and no file name is
taken from it that is not of one of the forms above.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ledger import chain
from ledger.orm import EMPTY
from ledger.sharing.published_content import (
    DIGEST,
    MAYBE_TEXT,
    TEXT,
    check_content,
    check_evaluation,
    check_scores,
    check_source,
    fields,
)
from patches.canonical import canonical_json, sha256
from patches.checkpoint import fingerprint_of
from patches.errors import ManifestError
from patches.strict_json import strict_json

MANIFEST = "manifest.json"
EDITS = "edits.jsonl"
FORMAT = "edit-ledger-manifest"
VERSION = 1
_BLOB = re.compile(r"(patches|states)/([0-9a-f]{64})\.safetensors")
_TURN: dict[str, tuple[type, ...]] = {
    "hash": TEXT,
    "origin": TEXT,
    "content": (dict,),
    "dataset": (dict, type(None)),
    "source": (dict, type(None)),
    "scores": (dict, type(None)),
    "evaluation": (dict, type(None)),
}
_BASE: dict[str, tuple[type, ...]] = {
    "fingerprint": TEXT,
    "uri": MAYBE_TEXT,
    "revision": MAYBE_TEXT,
    "architecture": TEXT,
    "licence": MAYBE_TEXT,
    "tensors": (dict,),
}


@dataclass(frozen=True, kw_only=True)
class PublishedTurn:
    """A turn as it is published.

    content: as `chain.turn_content`. dataset: the columns of its dataset, if that is public; else
    source: its file name, digest and layout. evaluation: the scores with what their hash covers, if
    the facts are published; else scores: n and the means.
    """

    hash: str
    origin: str
    content: dict[str, Any]
    dataset: dict[str, Any] | None = None
    source: dict[str, Any] | None = None
    scores: dict[str, Any] | None = None
    evaluation: dict[str, Any] | None = None

    @property
    def number(self) -> int:
        return int(self.content["number"])

    def blobs(self) -> dict[str, str]:
        """File name → digest of the patch and the editor state."""
        found = {"patches": self.content["patch"], "states": self.content["editor_state"]}
        return {f"{kind}/{d}.safetensors": d for kind, d in found.items() if d is not None}


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A published history, oldest turn first.

    base: fingerprint, uri and revision (null for a folder), architecture, licence, and tensors:
    name → [dtype, shape, SHA-256]. files: name → {sha256, bytes}.
    """

    base: dict[str, Any]
    branch: str
    turns: Sequence[PublishedTurn]
    files: Mapping[str, Mapping[str, Any]]

    @property
    def head(self) -> str:
        return self.turns[-1].hash

    def encode(self) -> bytes:
        """Equal content gives equal bytes."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "base": self.base,
            "branch": self.branch,
            "head": self.head,
            "turns": [asdict(turn) for turn in self.turns],
            "files": {name: dict(file) for name, file in self.files.items()},
        }
        # Not sorted: hyperparameters are shown in the order in which they were recorded.
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        return f"{text}\n".encode()


def parse_manifest(data: bytes, where: str) -> Manifest:
    """The inverse of `Manifest.encode`, every claim checked that needs no other file.

    where: for messages. ManifestError if it is malformed, its base is not the one that its tensors
    make up, or a turn's content does not give its hash or does not follow the one before.
    """
    try:
        content = strict_json(data)
        # What is nested deeply can be read, but perhaps not written.
        canonical_json(content)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: not readable as JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ManifestError(f"{where}: not the manifest of a published ledger")
    if content.get("version") != VERSION:
        raise ManifestError(
            f"{where}: version {content.get('version')!r:.40}, this program reads {VERSION}; "
            "update edit-ledger"
        )
    base = fields(content.get("base"), _BASE, f"{where}: base")
    turns = [_turn(value, f"{where}: turn {n}") for n, value in enumerate(_turns(content), 1)]
    if not turns:
        raise ManifestError(f"{where}: holds no turns")
    files = _files(content.get("files"), where)
    found = Manifest(base=base, branch=_branch(content, where), turns=turns, files=files)
    _check_base(found, where)
    _check_chain(found, where)
    _check_files(found, where)
    if content.get("head") != found.head:
        raise ManifestError(f"{where}: names another head than its last turn")
    return found


def _turns(content: dict[str, Any]) -> list[Any]:
    turns = content.get("turns")
    return turns if isinstance(turns, list) else []


def _branch(content: dict[str, Any], where: str) -> str:
    branch = content.get("branch")
    if not isinstance(branch, str) or not 0 < len(branch) <= 200:
        raise ManifestError(f"{where}: the name of the branch is missing or too long")
    return branch


def _turn(value: object, where: str) -> PublishedTurn:
    found = fields(value, _TURN, where)
    check_content(found["content"], where)
    if not 0 < len(found["origin"]) <= 36:
        raise ManifestError(f"{where}: the ledger that it comes from is not named")
    check_source(found["dataset"], f"{where}: dataset")
    check_source(found["source"], f"{where}: source")
    check_scores(found["scores"], f"{where}: scores")
    check_evaluation(found["evaluation"], f"{where}: evaluation")
    return PublishedTurn(**found)


def _files(value: object, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise ManifestError(f"{where}: files are missing")
    found = {}
    for name, file in value.items():
        blob = _BLOB.fullmatch(name)
        if blob is None and name not in (EDITS, "ledger.json"):
            raise ManifestError(
                f"{where}: names the file {name!r:.200}, which has no place in a published ledger"
            )
        entry = fields(file, {"sha256": TEXT, "bytes": (int,)}, f"{where}: file {name}")
        if not DIGEST.fullmatch(entry["sha256"]) or (blob and blob[2] != entry["sha256"]):
            raise ManifestError(f"{where}: file {name}: its SHA-256 is not its name")
        found[name] = entry
    return found


def _check_base(manifest: Manifest, where: str) -> None:
    try:
        found = fingerprint_of(
            {name: (d, tuple(s), h) for name, (d, s, h) in manifest.base["tensors"].items()}
        )
    except (TypeError, ValueError) as error:
        raise ManifestError(f"{where}: the tensors of the base are malformed") from error
    if found != manifest.base["fingerprint"]:
        raise ManifestError(f"{where}: the tensors of the base do not give its fingerprint")


def _check_chain(manifest: Manifest, where: str) -> None:
    parent = EMPTY
    for number, turn in enumerate(manifest.turns, start=1):
        content = turn.content
        if (content["number"], content["parent"]) != (number, parent):
            raise ManifestError(f"{where}: turn {number} does not follow the one before it")
        if content["base"] != manifest.base["fingerprint"]:
            raise ManifestError(f"{where}: turn {number} was made for another base model")
        if chain.content_hash(content) != turn.hash:
            raise ManifestError(
                f"{where}: the content of turn {number} does not give its hash: it was altered"
            )
        parent = turn.hash


def _check_files(manifest: Manifest, where: str) -> None:
    """Every patch and state of a turn is there, and nothing else is."""
    needed = {name for turn in manifest.turns for name in turn.blobs()}
    listed = {name for name in manifest.files if _BLOB.fullmatch(name)}
    for name in sorted(needed ^ listed):
        what = "is not listed" if name in needed else "belongs to no turn"
        raise ManifestError(f"{where}: file {name} {what}")


def file_entry(content: bytes) -> dict[str, Any]:
    """How the manifest names a file."""
    return {"sha256": sha256(content), "bytes": len(content)}
