"""Canonical bytes: equal content gives equal bytes, so that a digest names the content."""

import hashlib
import json
from json.encoder import encode_basestring
from typing import Any

# Kept, and without the look-out for cycles (they end in a RecursionError anyway): both show when
# 100,000 edits are hashed.
_ENCODER = json.JSONEncoder(
    sort_keys=True,
    separators=(",", ":"),
    ensure_ascii=False,
    allow_nan=False,
    check_circular=False,
)

quoted = encode_basestring
"""A text as `canonical_json` has it, as text: of these is put together what is hashed often."""


def canonical_json(content: Any) -> bytes:
    """`content` as JSON with sorted keys, no white space, UTF-8; NaN and infinity are refused."""
    return _ENCODER.encode(content).encode()


Piece = bytes | bytearray | memoryview
"""A part of what is written, or all of it, without a copy."""


def sha256(content: Piece) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
