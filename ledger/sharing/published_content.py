"""What a published turn may hold: every value of a type that the ledger stores and shows.

It comes from elsewhere, and whoever writes a manifest also writes the hashes in it: what has the
right hash can still be of the wrong kind.
"""

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ledger.gates import FIGURE
from patches.errors import ManifestError

Types = Mapping[str, tuple[type, ...]]

KINDS = ("edit", "rollback", "merge", "import")
DIGEST = re.compile(r"[0-9a-f]{64}")
TEXT, MAYBE_TEXT = (str,), (str, type(None))
_MAYBE = (type(None),)
_NUMBER = (int, float)
_LARGEST = 2**63

# What `chain.turn_content` gives.
_CONTENT: Types = {
    "base": TEXT,
    "branch": TEXT,
    "number": (int,),
    "kind": TEXT,
    "method": MAYBE_TEXT,
    "hyperparameters": (dict,),
    "seed": (int,),
    "message": TEXT,
    "author": TEXT,
    "dataset": MAYBE_TEXT,
    "rows": (list,),
    "edits": (list,),
    "skipped": (list,),
    "undoes": (list,),
    "patch": MAYBE_TEXT,
    "editor_state": MAYBE_TEXT,
    "tensors": (dict,),
    "environment": (dict,),
    "seconds": (dict,),
    "peak_memory": (int, type(None)),
    "notes": (list,),
    "created_at": TEXT,
    "parent": TEXT,
}
_ADDED: Types = {"figures": (dict,), "replaces": (list,), "copied_from": TEXT}
_DATASET: Types = {
    "uri": TEXT,
    "revision": MAYBE_TEXT,
    "sha256": TEXT,
    "format": TEXT,
    "layout": TEXT,
    "mapping": (dict,),
    "licence": MAYBE_TEXT,
}
_SCORES: Types = {"n": (int,), "base": (dict,), "state": (dict,)}
_VERDICT: Types = {"text": TEXT, "passed": (bool,), "failed": (list,)}
_EVALUATION: Types = {
    "protocol": (dict,),
    "seed": (int,),
    "base": (dict,),
    "state": (dict,),
    "environment": (dict,),
    "seconds": _NUMBER,
    "created_at": TEXT,
    "hash": TEXT,
    "outcomes": (list,),
}


def fields(
    value: object,
    expected: Types,
    where: str,
    optional: Types | None = None,
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
            raise ManifestError(f"{where}: has the unknown field {name!r:.80}; update edit-ledger")
        # type(), since true and false are numbers to isinstance.
        if type(found) not in allowed[name]:
            raise ManifestError(f"{where}: {name} is a {type(found).__name__}")
    return value


def check_content(value: object, where: str) -> None:
    """ManifestError unless `value` is what `chain.turn_content` gives."""
    content = fields(value, _CONTENT, where, _ADDED)
    if content["kind"] not in KINDS:
        raise ManifestError(
            f"{where}: of the unknown kind {content['kind']!r:.80}; update edit-ledger"
        )
    for name in ("patch", "editor_state", "copied_from"):
        if content.get(name) is not None and not DIGEST.fullmatch(content[name]):
            raise ManifestError(f"{where}: {name} is no SHA-256")
    needs_patch = content["kind"] != "rollback"
    if needs_patch != (content["patch"] is not None) or needs_patch != bool(content["method"]):
        raise ManifestError(f"{where}: its kind does not go with its patch and method")
    _check_numbers(content, where)
    _check_values(content, where)
    _check_time(content["created_at"], where)


def _check_numbers(content: dict[str, Any], where: str) -> None:
    """The lists of a turn hold what the database can take."""
    counts = content["edits"]
    if len(counts) != 2 or type(counts[0]) is not int or type(counts[1]) is not str:
        raise ManifestError(f"{where}: edits must be a number and a digest")
    if not 0 <= counts[0] < 2**31 or not DIGEST.fullmatch(counts[1]):
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


def _check_values(content: dict[str, Any], where: str) -> None:
    """The mappings and lists of a turn hold what is shown of them."""
    _all(content["tensors"], TEXT, f"{where}: tensors")
    _all(content["seconds"], _NUMBER, f"{where}: seconds")
    _all(dict(enumerate(content["notes"])), TEXT, f"{where}: notes")
    versions = content["environment"].get("versions", {})
    if type(versions) is not dict:
        raise ManifestError(f"{where}: versions are not an object")
    modules = content["hyperparameters"].get("modules", [])
    if type(modules) is not list:
        raise ManifestError(f"{where}: modules are not a list")
    _all(dict(enumerate(modules)), TEXT, f"{where}: modules")
    figures = dict(content.get("figures", {}))
    if FIGURE in figures:
        verdict = fields(figures.pop(FIGURE), _VERDICT, f"{where}: figure {FIGURE}")
        _all(dict(enumerate(verdict["failed"])), TEXT, f"{where}: figure {FIGURE}")
    for name, figure in figures.items():
        values = figure if type(figure) is list and figure else [figure]
        _all(dict(enumerate(values)), _NUMBER, f"{where}: figure {name}")


def check_source(value: dict[str, Any] | None, where: str) -> None:
    """ManifestError unless `value` are the columns of a dataset, or nothing."""
    if value is not None:
        _all(fields(value, _DATASET, where)["mapping"], TEXT, f"{where}: mapping")


def check_scores(value: dict[str, Any] | None, where: str) -> None:
    """ManifestError unless `value` are the means of an evaluation, or nothing."""
    if value is not None:
        found = fields(value, _SCORES, where)
        for name in ("base", "state"):
            _all(found[name], (*_NUMBER, *_MAYBE), f"{where}: {name}")


def check_evaluation(value: dict[str, Any] | None, where: str) -> None:
    """ManifestError unless `value` is an evaluation with its outcomes, or nothing."""
    if value is None:
        return
    found = fields(value, _EVALUATION, where)
    _check_time(found["created_at"], where)
    if not 0 <= found["seed"] < _LARGEST:
        raise ManifestError(f"{where}: the seed is out of range")
    pairs = [*found["outcomes"], [found["base"], found["state"]]]
    for number, pair in enumerate(pairs):
        if type(pair) is not list or list(map(type, pair)) != [dict, dict]:
            raise ManifestError(f"{where}: outcome {number} is not one of base and state")
        for scores in pair:
            _all(scores, (*_NUMBER, *_MAYBE), f"{where}: outcome {number}")


def _all(values: Mapping[Any, object], types: tuple[type, ...], where: str) -> None:
    for name, value in values.items():
        if type(value) not in types:
            raise ManifestError(f"{where}: {name} is a {type(value).__name__}")


def _check_time(text: str, where: str) -> None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ManifestError(f"{where}: {text[:40]!r} is no time with a time zone")
