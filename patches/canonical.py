"""Canonical bytes: equal content gives equal bytes, so that a digest names the content."""

import hashlib
import json
from typing import Any


def canonical_json(content: Any) -> bytes:
    """`content` as JSON with sorted keys, no white space, UTF-8; NaN and infinity are refused."""
    text = json.dumps(
        content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )
    return text.encode()


def sha256(content: bytes | bytearray | memoryview) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
