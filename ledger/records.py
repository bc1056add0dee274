"""The file formats of datasets, each read row by row in constant memory.

A row comes as an object of Python (a mapping, when the file is as it should be), or as
`UnreadableRecord` where one row is malformed but the next ones can be read. A file that cannot be
read on raises DatasetError with the row and the line or byte.
"""

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from ledger.canonical_row import LONGEST_ROW
from ledger.parquet_rows import read_parquet
from ledger.wording import field_names
from patches.errors import DatasetError
from patches.strict_json import without_repeats

Reader = Callable[[BinaryIO, str], Iterator[object]]

_CHUNK = 1 << 18
_UTF8_MARK = codecs.BOM_UTF8
_SPACE = re.compile(r"[ \t\n\r]*")
# Of two values of one field, readers would take different ones.
_DECODER = json.JSONDecoder(object_pairs_hook=without_repeats)
# How near to the end of the text an error lies that more text may mend: the length of "\uD83D"
# and of "-Infinity", with room.
_NEAR_END = 16


@dataclass(frozen=True, kw_only=True)
class UnreadableRecord:
    """One row that is malformed, in a file that can be read on."""

    reason: str


def detect_format(stream: BinaryIO, name: str) -> str:
    """The format of a file by its first bytes, and by its name where those leave it open.

    Returns json, jsonl, csv or parquet. Leaves the stream at an unspecified position. Raises
    DatasetError for an empty file and one of no known format.
    """
    start = stream.read(4)
    if start == b"PAR1":
        return "parquet"
    stream.seek(0)
    first = _first_sign(stream)
    if not first:
        raise DatasetError(f"{name} is empty; there are no edits in it.")
    suffix = name.rsplit(".", 1)[-1].lower()
    if suffix in ("csv", "parquet"):
        return suffix
    # Of a file in another encoding, the reader says at which byte it stops being UTF-8.
    if first == b"[" or (suffix == "json" and first >= b"\x80"):
        return "json"
    if suffix in ("jsonl", "ndjson"):
        return "jsonl"
    if first == b"{" and _has_lines_of_json(stream):
        return "jsonl"
    if suffix == "json" or first == b"{":
        raise DatasetError(
            f"{name} must hold an array of objects, [{{...}}, {{...}}], or one object per line. "
            "Put its rows into an array."
        )
    raise DatasetError(
        f"{name} is of no known format; give it the ending .json, .jsonl, .csv or .parquet."
    )


def _first_sign(stream: BinaryIO) -> bytes:
    """The first byte that is neither a byte order mark nor white space; the stream is put on it."""
    at = len(_UTF8_MARK) if stream.read(3) == _UTF8_MARK else 0
    stream.seek(at)
    while chunk := stream.read(_CHUNK):
        rest = chunk.lstrip()
        if rest:
            stream.seek(at + len(chunk) - len(rest))
            return rest[:1]
        at += len(chunk)
    return b""


def _has_lines_of_json(stream: BinaryIO) -> bool:
    """Whether a line holds a whole object and more lines follow."""
    try:
        first = json.loads(stream.readline(LONGEST_ROW))
    except (ValueError, RecursionError):
        return False
    return isinstance(first, dict) and bool(_first_sign_after(stream))


def _first_sign_after(stream: BinaryIO) -> bytes:
    while chunk := stream.read(_CHUNK):
        if rest := chunk.lstrip():
            return rest[:1]
    return b""


def read_json(stream: BinaryIO, name: str) -> Iterator[object]:
    """The elements of a JSON array."""
    window = _Window(stream, name)
    if window.peek() != "[":
        raise window.error("an array was expected")
    window.skip()
    if window.peek() == "]":
        window.skip()
    else:
        yield from _elements(window)
    if window.peek():
        raise window.error("there is more text after the end of the array")


def _elements(window: "_Window") -> Iterator[object]:
    while True:
        yield window.value()
        sign = window.peek()
        if not sign:
            raise window.error("the file ends in the middle of the array")
        if sign not in ",]":
            raise window.error("expected a comma or the end of the array")
        window.skip()
        if sign == "]":
            return


class _Window:
    """The part of a JSON text that is being parsed.

    A parser of events (ijson) would do the same, but its fast backend turns lone surrogates into
    question marks and nested brackets into gigabytes; the standard decoder does neither.
    """

    def __init__(self, stream: BinaryIO, name: str) -> None:
        self._stream = stream
        self._name = name
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text = ""
        self._at = 0
        self._lines = 0
        self._bytes = 0
        self._bad_byte: int | None = None
        self._ended = False
        self._rows = 0

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            space = _SPACE.match(self._text, self._at)
            self._at = space.end() if space else self._at
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def skip(self) -> None:
        """Step over one character."""
        self._at += 1

    def value(self) -> object:
        """The JSON value that begins here. Raises DatasetError if it is malformed."""
        self.peek()
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._is_cut_short(error) and self._more():
                    continue
                raise self.error(error.msg, at=error.pos) from None
            except ValueError as error:
                raise self.error(str(error)) from None
            except RecursionError:
                raise self.error("the row is nested too deeply") from None
            # A number that ends where the text ends may have more digits to come.
            if end == len(self._text) and self._text[end - 1] not in '}]"' and self._more():
                continue
            self._at = end
            self._rows += 1
            return value

    def error(self, what: str, *, at: int | None = None) -> DatasetError:
        """What is wrong, with the row (counted from 0) and the line (from 1)."""
        line = 1 + self._lines + self._text.count("\n", 0, self._at if at is None else at)
        return DatasetError(
            f"{self._name}: malformed JSON in row {self._rows}, line {line}: {what}. "
            "Correct the file and try again."
        )

    def _is_cut_short(self, error: json.JSONDecodeError) -> bool:
        """Whether the value may only be malformed because the rest of it was not read yet."""
        if error.msg.startswith("Unterminated string"):
            return True
        return error.pos >= len(self._text.rstrip()) - _NEAR_END

    def _more(self) -> bool:
        """Read on, at least as much as is waiting; False at the end of the file."""
        if self._ended:
            return False
        waiting = len(self._text) - self._at
        if waiting > LONGEST_ROW:
            raise self.error(f"a row of more than {LONGEST_ROW >> 20} million characters")
        self._lines += self._text.count("\n", 0, self._at)
        # Doubling keeps the work on a long row linear, since it is parsed anew each time.
        text = self._next_text(max(_CHUNK, waiting))
        self._text = self._text[self._at :] + text
        self._at = 0
        return bool(text) or self._more()

    def _next_text(self, size: int) -> str:
        """The text of the next `size` bytes; of a bad byte, first what stands before it."""
        if self._bad_byte is not None:
            line = 1 + self._lines + self._text.count("\n", self._at)
            raise DatasetError(
                f"{self._name} is not UTF-8: byte {self._bad_byte}, in row {self._rows}, line "
                f"{line}, cannot be decoded. Convert the file to UTF-8."
            )
        chunk = self._stream.read(size)
        self._bytes += len(chunk)
        try:
            text = self._decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            self._bad_byte = self._bytes - len(error.object) + error.start
            return error.object[: error.start].decode()
        self._ended = not chunk
        return text


def read_jsonl(stream: BinaryIO, name: str) -> Iterator[object]:
    """The values on the lines of a file; blank lines are no rows."""
    row = 0
    for number, line in _lines(stream, name):
        if not line.strip(" \t\r\n"):
            continue
        try:
            yield json.loads(line, object_pairs_hook=without_repeats)
        except RecursionError:
            raise _bad_line(name, row, number, "the row is nested too deeply") from None
        except ValueError as error:
            what = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise _bad_line(name, row, number, what) from None
        row += 1


def _bad_line(name: str, row: int, line: int, what: str) -> DatasetError:
    return DatasetError(
        f"{name}: malformed JSON in row {row}, line {line}: {what}. Correct the file and try again."
    )


def read_csv(stream: BinaryIO, name: str) -> Iterator[object]:
    """The rows of a CSV file as mappings from the names in its first row to texts."""
    # The limit belongs to the whole process; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST_ROW))
    row = _CsvRow(name)
    reader = csv.reader(row.lines(stream), strict=True)
    header: list[str] = []
    rows = 0
    try:
        for values in reader:
            row.begin()
            if not values:
                continue
            if not header:
                header = _check_header(values, name)
                continue
            yield _csv_record(header, values)
            rows += 1
    except csv.Error as error:
        raise DatasetError(
            f"{name}: malformed CSV in row {rows}, line {reader.line_num}: {error}. "
            "Correct the file and try again."
        ) from None


class _CsvRow:
    """Keeps a row within bounds that goes over many lines, in quotes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._length = 0

    def begin(self) -> None:
        """What is read from now on belongs to the next row."""
        self._length = 0

    def lines(self, stream: BinaryIO) -> Iterator[str]:
        """The lines of the file; DatasetError if a row gets too long."""
        for number, line in _lines(stream, self._name):
            self._length += len(line)
            if self._length > LONGEST_ROW:
                raise DatasetError(
                    f"{self._name}: the row that ends after line {number} is longer than "
                    f"{LONGEST_ROW >> 20} million characters; is a quotation mark missing?"
                )
            yield line


def _check_header(names: list[str], name: str) -> list[str]:
    header = [field.strip() for field in names]
    if not any(header):
        raise DatasetError(f"{name}: the first line of a CSV file must name its fields.")
    twice = sorted(field for field, count in Counter(header).items() if field and count > 1)
    if twice:
        raise DatasetError(
            f"{name}: the first line of a CSV file must name its fields, each once; "
            f"{field_names(twice, quote=True)} is there more than once."
        )
    return header


def _csv_record(header: list[str], values: list[str]) -> object:
    if len(values) != len(header):
        return UnreadableRecord(
            reason=f"{len(values)} values, but the first line names {len(header)} fields"
        )
    return dict(zip(header, values, strict=True))


def _lines(stream: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their numbers from 1, with their ends."""
    number, at = 0, 0
    while line := stream.readline(LONGEST_ROW):
        number += 1
        if len(line) == LONGEST_ROW and not line.endswith(b"\n"):
            raise DatasetError(
                f"{name}: line {number} is longer than {LONGEST_ROW >> 20} MiB; is this a file "
                "with one row per line?"
            )
        body = line.removeprefix(_UTF8_MARK) if number == 1 else line
        try:
            yield number, body.decode()
        except UnicodeDecodeError as error:
            raise DatasetError(
                f"{name} is not UTF-8: byte {at + len(line) - len(body) + error.start}, in line "
                f"{number}, cannot be decoded. Convert the file to UTF-8."
            ) from None
        at += len(line)


READERS: dict[str, Reader] = {
    "json": read_json,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
}
