"""How sound files become hostile ones: bytes changed anywhere, and claims changed one by one.

JSON is changed as a value, so that what comes out is well-formed but for what was done to it: an
object is a list of its pairs, which lets a key come twice.
"""

import json
import struct
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy


class _Pairs(list[tuple[str, Any]]):
    """A JSON object, in which a key may come twice."""


class _Text(list[Any]):
    """A JSON text inside a JSON string; its one element is the value."""


class _Raw(str):
    """What is put into a JSON text as it is."""


NUMBERS = (
    "NaN",
    "-Infinity",
    "1e999",
    "-1",
    "0.5",
    "1e308",
    "9" * 400,
    "9" * 5000,
    "4611686018427387904",
)
TEXTS = (
    *("", "x", "../evil", "/etc/passwd", "a\0b", "\x1b[31m", "\u202e", "\ud800", "é" * 300),
    *("{}" * 50, "0" * 64, "F64", "U8", "BF16", "F8_E4M3", "sparse", "low-rank", "side-memory"),
    *("2", "-1", "1_0", "٣", "main\n", "(a+)+$", "CON", "~", "a" * 5000),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, 2, 2**31, 2**63, 2**80),
    *(_Raw(number) for number in NUMBERS),
    *TEXTS,
    *([], [1], [None], [[]], [2**40, 2**40], [0, 2**62], [1, 1, 1], ["a", "b"]),
    *(_Pairs(), _Pairs([("x", 1)]), _Raw("[" * 5000 + "]" * 5000), _Raw('{"a":' * 3000)),
)


def parsed(data: bytes) -> Any:
    """A JSON value of this form; texts in it that are JSON themselves are opened too."""
    return _opened(json.loads(data.decode("utf-8-sig"), object_pairs_hook=_Pairs))


def _opened(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return _Pairs((key, _opened(one)) for key, one in value)
    if isinstance(value, list):
        return [_opened(one) for one in value]
    if isinstance(value, str) and value[:1] in ("{", "["):
        try:
            return _Text([parsed(value.encode())])
        except ValueError:
            return value
    return value


def text_of(value: Any) -> str:
    """The JSON text of such a value."""
    if isinstance(value, _Raw):
        return str(value)
    if isinstance(value, _Text):
        return json.dumps(text_of(value[0]))
    if isinstance(value, _Pairs):
        return f"{{{','.join(f'{json.dumps(key)}:{text_of(one)}' for key, one in value)}}}"
    if isinstance(value, list):
        return f"[{','.join(map(text_of, value))}]"
    return json.dumps(value)


def _containers(value: Any) -> Iterator[list[Any]]:
    """Every list and object in a value, that in JSON texts included."""
    if isinstance(value, list):
        yield value
        for one in value:
            yield from _containers(one[1] if isinstance(value, _Pairs) else one)


@st.composite
def changed_values(draw: DrawFn, samples: Sequence[bytes]) -> Any:
    """A sample's JSON value with a few things changed: other values, missing, repeated, moved."""
    value = parsed(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 3))):
        places = [one for one in _containers(value) if one]
        if not places:
            break
        place = draw(st.sampled_from(places))
        _change(draw, place, draw(st.integers(0, len(place) - 1)))
    return value


def _change(draw: DrawFn, place: list[Any], at: int) -> None:
    what = draw(st.sampled_from(("put", "put", "put", "drop", "repeat", "again", "move")))
    if what == "put":
        new = deepcopy(draw(st.sampled_from(VALUES)))
        place[at] = (place[at][0], new) if isinstance(place, _Pairs) else new
    elif what == "drop" and not isinstance(place, _Text):
        del place[at]
    elif what == "repeat":
        place.append(deepcopy(place[at]))
    elif what == "again" and isinstance(place, _Pairs):
        place.append((place[at][0], deepcopy(draw(st.sampled_from(VALUES)))))
    elif isinstance(place, _Pairs):
        place[at] = (draw(st.sampled_from(TEXTS)), place[at][1])


def _dressed(draw: DrawFn, text: str) -> bytes:
    """As editors and other systems may save a text."""
    data = text.encode("utf-8", "surrogatepass")
    dress = draw(st.sampled_from(("", "", "", "mark", "lines", "16", "bad", "nul")))
    if dress == "mark":
        return b"\xef\xbb\xbf" + data
    if dress == "lines":
        return data.replace(b",", b",\r\n")
    if dress == "16":
        return text.encode("utf-16", "surrogatepass")
    if dress == "bad":
        return data + b"\xff"
    return data + b"\0" if dress == "nul" else data


@st.composite
def json_files(draw: DrawFn, samples: Sequence[bytes]) -> bytes:
    """JSON files that are well-formed but for what was changed."""
    return _dressed(draw, text_of(draw(changed_values(samples))))


@st.composite
def line_files(draw: DrawFn, samples: Sequence[bytes]) -> bytes:
    """Files with a JSON object a line."""
    lines = [line for one in samples for line in one.splitlines() if line.strip(b"\xef\xbb\xbf ")]
    values = draw(st.lists(changed_values(lines), min_size=1, max_size=3))
    end = draw(st.sampled_from(("\n", "\r\n", "\n\n", "\r", "\u2028")))
    return _dressed(draw, end.join(map(text_of, values)))


@st.composite
def tensor_files(draw: DrawFn, samples: Sequence[bytes]) -> bytes:
    """Safetensors files whose headers lie, or whose tensors hold what they should not."""
    sample = draw(st.sampled_from(samples))
    (length,) = struct.unpack("<Q", sample[:8])
    header = text_of(draw(changed_values([sample[8 : 8 + length]])))
    data = bytearray(sample[8 + length :])
    for _ in range(draw(st.integers(0, 2))):
        if data:
            at = draw(st.integers(0, len(data) - 1))
            odd = draw(st.sampled_from((b"\x7f\x80\x00\x00", b"\xff\xff", b"\xc0\x7f", b"\0" * 8)))
            data[at : at + len(odd)] = odd[: len(data) - at]
    told = draw(st.sampled_from((0, 0, 0, 1, -1, 2**40, 2**63)))
    text = header.encode("utf-8", "surrogatepass")
    size = min(max(len(text) + told, 0), 2**64 - 1)
    return struct.pack("<Q", size) + text + bytes(data)


@st.composite
def changed_bytes(draw: DrawFn, samples: Sequence[bytes]) -> bytes:
    """Samples with bits turned, pieces cut out, put in, repeated, or taken from another sample."""
    data = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        until = min(len(data), at + draw(st.sampled_from((1, 2, 4, 16, 1 << 20))))
        what = draw(st.sampled_from(("bit", "cut", "put", "again", "other")))
        if what == "bit" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif what == "cut":
            del data[at:until]
        elif what == "put":
            data[at:at] = draw(st.binary(max_size=12))
        elif what == "again":
            data[at:at] = data[at:until] * draw(st.integers(1, 20))
        elif what == "other":
            data[at:] = draw(st.sampled_from(samples))[at:]
    return bytes(data)


Files = Callable[[Sequence[bytes]], SearchStrategy[bytes]]
