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
from patches.canonical import sha256
from patches.checkpoint import fingerprint_of
from patches.errors import ManifestError

MANIFEST = "manifest.json"
EDITS = "edits.jsonl"
FORMAT = "edit-ledger-manifest"
VERSION = 1
KINDS = ("edit", "rollback", "merge", "import")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_BLOB = re.compile(r"(patches|states)/([0-9a-f]{64})\.safetensors")
_TEXT, _MAYBE_TEXT = (str,), (str, type(None))
# What `chain.turn_content` gives.
_CONTENT: dict[str, tuple[type, ...]] = {
    "base": _TEXT,
    "branch": _TEXT,
    "number": (int,),
    "kind": _TEXT,
    "method": _MAYBE_TEXT,
    "hyperparameters": (dict,),
    "seed": (int,),
    "message": _TEXT,
    "author": _TEXT,
    "dataset": _MAYBE_TEXT,
    "rows": (list,),
    "edits": (list,),
    "skipped": (list,),
    "undoes": (list,),
    "patch": _MAYBE_TEXT,
    "editor_state": _MAYBE_TEXT,
    "tensors": (dict,),
    "environment": (dict,),
    "seconds": (dict,),
    "peak_memory": (int, type(None)),
    "notes": (list,),
    "created_at": _TEXT,
    "parent": _TEXT,
}
_ADDED = {"figures": (dict,), "replaces": (list,)}
_TURN: dict[str, tuple[type, ...]] = {
    "hash": _TEXT,
    "origin": _TEXT,
    "content": (dict,),
    "dataset": (dict, type(None)),
    "source": (dict, type(None)),
    "scores": (dict, type(None)),
    "evaluation": (dict, type(None)),
}
_BASE: dict[str, tuple[type, ...]] = {
    "fingerprint": _TEXT,
    "uri": _MAYBE_TEXT,
    "revision": _MAYBE_TEXT,
    "architecture": _TEXT,
    "licence": _MAYBE_TEXT,
    "tensors": (dict,),
}
_DATASET: dict[str, tuple[type, ...]] = {
    "uri": _TEXT,
    "revision": _MAYBE_TEXT,
    "sha256": _TEXT,
    "format": _TEXT,
    "layout": _TEXT,
    "mapping": (dict,),
    "licence": _MAYBE_TEXT,
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
        content = json.loads(data, object_pairs_hook=_without_repeats, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"{where}: not readable as JSON ({error})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ManifestError(f"{where}: not the manifest of a published ledger")
    if content.get("version") != VERSION:
        raise ManifestError(
            f"{where}: version {content.get('version')!r}, this program reads {VERSION}; "
            "update edit-ledger"
        )
    base = _fields(content.get("base"), _BASE, f"{where}: base")
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


def _fields(
    value: object,
    expected: Mapping[str, tuple[type, ...]],
    where: str,
    optional: Mapping[str, tuple[type, ...]] | None = None,
) -> dict[str, Any]:
    """`value` as an object with exactly the expected fields, each of an expected type."""
    if not isinstance(value, dict):
        raise ManifestError(f"{where}: is not an object")
    allowed = {**expected, **(optional or {})}
    for name in expected:
        if name not in value:
            raise ManifestError(f"{where}: lacks {name}")
    for name, found in value.items():
        if name not in allowed:
            raise ManifestError(f"{where}: has the unknown field {name!r}; update edit-ledger")
        # type(), since true and false are numbers to isinstance.
        if type(found) not in allowed[name]:
            raise ManifestError(f"{where}: {name} is a {type(found).__name__}")
    return value


def _turn(value: object, where: str) -> PublishedTurn:
    fields = _fields(value, _TURN, where)
    content = _fields(fields["content"], _CONTENT, where, _ADDED)
    if content["kind"] not in KINDS:
        raise ManifestError(f"{where}: of the unknown kind {content['kind']!r}; update edit-ledger")
    for name in ("patch", "editor_state"):
        if content[name] is not None and not _DIGEST.fullmatch(content[name]):
            raise ManifestError(f"{where}: {name} is no SHA-256")
    _check_numbers(content, where)
    if not 0 < len(fields["origin"]) <= 36:
        raise ManifestError(f"{where}: the ledger that it comes from is not named")
    if fields["dataset"] is not None:
        _fields(fields["dataset"], _DATASET, f"{where}: dataset")
    return PublishedTurn(**fields)


def _check_numbers(content: dict[str, Any], where: str) -> None:
    """The lists of a turn hold what the database can take."""
    counts = content["edits"]
    if len(counts) != 2 or type(counts[0]) is not int or type(counts[1]) is not str:
        raise ManifestError(f"{where}: edits must be a number and a digest")
    if not 0 <= counts[0] < 2**31 or not _DIGEST.fullmatch(counts[1]):
        raise ManifestError(f"{where}: edits must be a number and a digest")
    rows = content["rows"]
    if len(rows) != 2 or any(type(row) not in (int, type(None)) for row in rows):
        raise ManifestError(f"{where}: rows must be two numbers")
    for skip in content["skipped"]:
        if not isinstance(skip, list) or list(map(type, skip)) != [int, str]:
            raise ManifestError(f"{where}: skipped must be rows with reasons")
    for name in ("undoes", "replaces"):
        earlier = content.get(name, [])
        if any(type(n) is not int or not 0 < n < content["number"] for n in earlier):
            raise ManifestError(f"{where}: {name} must be numbers of earlier turns")
    numbers = [content["seed"], content["peak_memory"] or 0, *(row or 0 for row in rows)]
    if any(not 0 <= number < 2**63 for number in numbers):
        raise ManifestError(f"{where}: a number in it is out of range")


def _files(value: object, where: str) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict):
        raise ManifestError(f"{where}: files are missing")
    found = {}
    for name, file in value.items():
        blob = _BLOB.fullmatch(name)
        if blob is None and name not in (EDITS, "ledger.json"):
            raise ManifestError(
                f"{where}: names the file {name!r}, which has no place in a published ledger"
            )
        fields = _fields(file, {"sha256": _TEXT, "bytes": (int,)}, f"{where}: file {name}")
        if not _DIGEST.fullmatch(fields["sha256"]) or (blob and blob[2] != fields["sha256"]):
            raise ManifestError(f"{where}: file {name}: its SHA-256 is not its name")
        found[name] = fields
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


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Two fields of one name would let two readers see two histories."""
    if len(values := dict(pairs)) < len(pairs):
        raise ValueError("a field occurs twice")
    return values


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")
