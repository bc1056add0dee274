"""The facts of a published history, checked against the digests that its chain covers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ledger import chain
from ledger.recording import RecordedEdit, edit_values
from ledger.sharing.manifest import PublishedTurn
from patches.edit import Edit
from patches.errors import ManifestError

_TEXTS = {
    "prompt": (str,),
    "target": (str,),
    "subject": (str, type(None)),
    "old_target": (str, type(None)),
    "relation": (str, type(None)),
    "probes": (dict,),
}


def read_published_edits(
    path: Path, turns: Sequence[PublishedTurn]
) -> dict[int, list[dict[str, Any]]]:
    """Turn number → the columns of its edits, for every turn whose facts are published.

    ManifestError, with the line, if one is malformed, or the facts of a turn are not those that
    its hash covers.
    """
    found: dict[int, list[RecordedEdit]] = {}
    with path.open(encoding="utf-8", newline="\n") as lines:
        try:
            for number, line in enumerate(lines, start=1):
                turn, edit = _parse(line, f"{path.name}, line {number}")
                found.setdefault(turn, []).append(edit)
        except UnicodeDecodeError as error:
            raise ManifestError(f"{path.name}: not UTF-8 ({error})") from error
    values = {turn: edit_values(edits) for turn, edits in found.items()}
    recorded = {turn.number: turn.content["edits"] for turn in turns}
    for turn, rows in values.items():
        digest = chain.edits_digest(row["digest"] for row in rows)
        if [len(rows), digest] != recorded.get(turn):
            raise ManifestError(
                f"{path.name}: its edits of turn {turn} are not those that were recorded"
            )
    return values


def _parse(line: str, where: str) -> tuple[int, RecordedEdit]:
    try:
        value = {"relation": None, **json.loads(line)}
        turn, row = value["turn"], value["row"]
        if type(turn) is not int or type(row) not in (int, type(None)):
            raise TypeError("turn and row must be numbers")
        for name, types in _TEXTS.items():
            if type(value[name]) not in types:
                raise TypeError(f"{name} is a {type(value[name]).__name__}")
        edit = Edit.restore(**{name: value[name] for name in _TEXTS})
        if not edit.target or edit.probes() != value["probes"]:
            raise ValueError("the target is empty, or the probes are malformed")
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ManifestError(f"{where}: not a published edit ({error!r})") from error
    return turn, RecordedEdit(edit=edit, row=row)
