"""The facts of a published history, checked against the digests that its chain covers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ledger import chain
from ledger.canonical_row import LONGEST_ROW
from ledger.edit_values import EditValues, digests, edit_values
from ledger.recording import RecordedEdit
from ledger.sharing.manifest import PublishedTurn
from patches.edit import Edit
from patches.errors import ManifestError
from patches.strict_json import strict_json

# A row of a dataset (see `ledger.canonical_row`) as JSON, with every character escaped.
_LONGEST_LINE = 8 * LONGEST_ROW

_TEXTS = {
    "prompt": (str,),
    "target": (str,),
    "subject": (str, type(None)),
    "old_target": (str, type(None)),
    "relation": (str, type(None)),
    "probes": (dict,),
}


def read_published_edits(path: Path, turns: Sequence[PublishedTurn]) -> dict[int, list[EditValues]]:
    """Turn number → the columns of its edits, for every turn whose facts are published.

    ManifestError, with the line, if one is malformed, or the facts of a turn are not those that
    its hash covers.
    """
    found: dict[int, list[RecordedEdit]] = {}
    with path.open("rb") as lines:
        number = 0
        while line := lines.readline(_LONGEST_LINE + 1):
            number += 1
            if len(line) > _LONGEST_LINE:
                raise ManifestError(f"{path.name}, line {number}: is longer than any edit")
            turn, edit = _parse(line, f"{path.name}, line {number}")
            found.setdefault(turn, []).append(edit)
    values = {turn: edit_values(edits) for turn, edits in found.items()}
    recorded = {turn.number: turn.content["edits"] for turn in turns}
    for turn, rows in values.items():
        digest = chain.edits_digest(digests(rows))
        if [len(rows), digest] != recorded.get(turn):
            raise ManifestError(
                f"{path.name}: its edits of turn {turn} are not those that were recorded"
            )
    return values


def _parse(line: bytes, where: str) -> tuple[int, RecordedEdit]:
    try:
        value = {"relation": None, **strict_json(line)}
        turn, row = value["turn"], value["row"]
        if type(turn) is not int or type(row) not in (int, type(None)):
            raise TypeError("turn and row must be numbers")
        for name, types in _TEXTS.items():
            if type(value[name]) not in types:
                raise TypeError(f"{name} is a {type(value[name]).__name__}")
        _check_probes(value["probes"])
        edit = Edit.restore(**{name: value[name] for name in _TEXTS})
        if not edit.target or edit.probes() != value["probes"]:
            raise ValueError("the target is empty, or the probes are malformed")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(f"{where}: not a published edit ({error!r:.300})") from error
    return turn, RecordedEdit(edit=edit, row=row)


def _check_probes(probes: dict[str, Any]) -> None:
    """TypeError unless these are lists of rephrasings, or of prompts with answers, all of text."""
    for kind, rows in probes.items():
        texts = rows if kind == "rephrasings" else [text for pair in rows for text in pair]
        if not isinstance(rows, list) or any(type(text) is not str for text in texts):
            raise TypeError(f"the {kind} are not texts")
