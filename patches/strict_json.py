"""JSON from anywhere, read so that no two readers can see two contents in it."""

import codecs
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

# An index of a very large model has some ten million bytes.
_LARGEST = 1 << 26

# How NUL and half a character can come into a text: only as an escape.
_SUSPECT = re.compile(r"\\u(0000|[dD][89a-fA-F])")
_NUL = re.compile(r"(?<!\\)(\\\\)*\\u0000")


def read_strict_json(path: Path) -> Any:
    """The value in a file, by `strict_json`. ValueError also for a file that is too large to be
    one of settings or names; OSError if it cannot be read."""
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST >> 20} MiB")
    return strict_json(data)


def strict_json(data: bytes | str) -> Any:
    """The value of a JSON text, as UTF-8 (with or without a byte order mark) if it is bytes.

    ValueError for what readers may take differently or cannot store: a key that occurs twice in
    an object, numbers that are not finite, NUL, halves of characters, nesting that is too deep.
    """
    text = data if isinstance(data, str) else _decoded(data)
    try:
        value = json.loads(
            text, object_pairs_hook=without_repeats, parse_constant=_refuse, parse_float=_finite
        )
        if _SUSPECT.search(text):
            _check_characters(value)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    return value


def _decoded(data: bytes) -> str:
    try:
        return data.removeprefix(codecs.BOM_UTF8).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these keys and values; ValueError if a key occurs twice."""
    if len(found := dict(pairs)) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {ascii(twice)[:80]} occurs twice in an object")
    return found


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is not JSON")


def _finite(number: str) -> float:
    if not math.isfinite(value := float(number)):
        raise ValueError(f"the number {number[:40]} is too large")
    return value


def _check_characters(value: Any) -> None:
    """ValueError if a text holds NUL, or half a character that stands alone."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("a text holds half a character (a lone surrogate)") from error
    if _NUL.search(text):
        raise ValueError("a text holds NUL, which databases cannot store")
