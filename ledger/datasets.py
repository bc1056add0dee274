"""Datasets: where edits come from, and the stream of their rows.

    dataset = open_dataset("facts.json")
    for row in read_rows(dataset, offset=100, limit=100):
        ...row.number, row.edit or row.reason...

A source is a JSON, JSON lines, CSV or Parquet file, a file on the Hub
(``hf://datasets/owner/name@revision/path/file.json``), or a whole repository of it
(``hf://datasets/owner/name@revision?config=c&split=s``). No file is ever held in memory as a whole.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice

from ledger.canonical_row import UnusableRowError, edit_from_row
from ledger.layouts import (
    MAPPED,
    MAPPING_KEYS,
    Rename,
    check_mapped_fields,
    check_mapping,
    recognise,
    rename_by,
)
from ledger.records import READERS, UnreadableRecord, detect_format
from ledger.sources import (
    HUB_PREFIX,
    digest_bytes,
    digest_repository,
    find_file,
    open_bytes,
    parse_address,
    require_datasets_library,
    resolve_commit,
    stream_repository,
)
from patches.edit import Edit
from patches.errors import DatasetError, SettingError

HUB = "hub"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a dataset: an edit, or the reason why it cannot be used.

    number: position in the source, from 0, whatever the offset of reading.
    """

    number: int
    edit: Edit | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What the ledger records about where edits came from.

    uri: absolute path, or ``hf://`` address at a commit; `open_dataset` takes it again.
    revision: the commit, for a source on the Hub.
    sha256: of the bytes of the file. A whole repository on the Hub is no one file, and a digest
        over its rows would mean reading all of them first: there it is the digest of the
        repository's name, commit, configuration and split.
    format: json, jsonl, csv, parquet or hub.
    layout: canonical, counterfact, counterfact-nested, zsre, fever, wikibigedit, ultraeditbench,
        wise-hallucination, wise-temporal or mapped.
    mapping: which field of the source holds what, when the layout is ``mapped``; else empty.
    licence: as stated by the caller or on the card of the Hub repository.
    """

    uri: str
    revision: str | None
    sha256: str
    format: str
    layout: str
    mapping: dict[str, str] = field(default_factory=dict)
    licence: str | None


def parse_mapping(text: str) -> dict[str, str]:
    """Read ``prompt=src,target=alt`` as {"prompt": "src", "target": "alt"}.

    Raises DatasetError for anything else, for unknown and repeated keys, and if the prompt or the
    target is not mapped.
    """
    mapping: dict[str, str] = {}
    for part in text.split(","):
        key, equals, name = (piece.strip() for piece in part.partition("="))
        if not (key and equals and name):
            raise DatasetError(
                f"The mapping has {part.strip()!r} where KEY=FIELD is expected; write it like "
                f"prompt=src,target=alt. Known keys: {', '.join(MAPPING_KEYS)}."
            )
        if key in mapping:
            raise DatasetError(f"The mapping names {key} twice; leave one of them out.")
        mapping[key] = name
    check_mapping(mapping)
    return mapping


def open_dataset(
    source: str, *, mapping: Mapping[str, str] | None = None, licence: str | None = None
) -> Dataset:
    """Identify a source of edits: its digest, format and, by its first row, its layout.

    mapping: which field holds what, in place of a known layout (see `parse_mapping`).
    Raises DatasetError if the source cannot be read, holds no rows, or is of no known layout.
    """
    if mapping is not None:
        check_mapping(mapping)
    found = _identify(source)
    first = next(_records(found), None)
    if first is None:
        raise DatasetError(f"{found.uri} holds no rows; there are no edits in it.")
    if not isinstance(first, Mapping):
        raise DatasetError(f"{found.uri}: row 0 cannot be used: {_no_fields(first)}.")
    if mapping is not None:
        check_mapped_fields(mapping, first, found.uri)
        layout = MAPPED
    else:
        layout = _recognise(first, found)
    return replace(
        found, layout=layout, mapping=dict(mapping or {}), licence=licence or found.licence
    )


def read_rows(dataset: Dataset, *, offset: int = 0, limit: int | None = None) -> Iterator[Row]:
    """Stream the rows of a dataset from `offset` on, at most `limit` of them.

    Both count rows of the source, usable or not. Rows that cannot be used come with a reason.
    Raises SettingError for a negative number; DatasetError, when it gets there, where the source
    cannot be read on.
    """
    for name, value in (("offset", offset), ("limit", limit)):
        if value is not None and value < 0:
            raise SettingError(f"The {name} is {value}; it counts rows, so give 0 or more.")
    rename = rename_by(dataset.layout, dataset.mapping)
    end = None if limit is None else offset + limit
    numbered = islice(enumerate(_records(dataset)), offset, end)
    return (_row(number, record, rename) for number, record in numbered)


def _recognise(first: Mapping[str, object], found: Dataset) -> str:
    try:
        return recognise(first, found.uri)
    except DatasetError as error:
        if found.format != "csv":
            raise
        raise DatasetError(f"{error} The first line of a CSV file must name its fields.") from None


def _identify(source: str) -> Dataset:
    """The dataset, with its layout still open."""
    if not source.startswith(HUB_PREFIX):
        return _identify_file(str(find_file(source)))
    address = parse_address(source)
    if address.path is None:
        require_datasets_library()
        address = replace(address, split=address.split or "train")
    commit = resolve_commit(address)
    pinned = replace(address, revision=commit.sha)
    if pinned.path is None:
        found = _unread(str(pinned), sha256=digest_repository(pinned), kind=HUB)
    else:
        found = _identify_file(str(pinned))
    return replace(found, revision=commit.sha, licence=commit.licence)


def _identify_file(uri: str) -> Dataset:
    with open_bytes(uri) as stream:
        kind = detect_format(stream, uri)
        stream.seek(0)
        return _unread(uri, sha256=digest_bytes(stream), kind=kind)


def _unread(uri: str, *, sha256: str, kind: str) -> Dataset:
    return Dataset(uri=uri, revision=None, sha256=sha256, format=kind, layout="", licence=None)


def _records(dataset: Dataset) -> Iterator[object]:
    """The rows of a dataset as its format gives them."""
    if dataset.format == HUB:
        yield from stream_repository(parse_address(dataset.uri))
        return
    reader = READERS.get(dataset.format)
    if reader is None:
        known = ", ".join([*READERS, HUB])
        raise DatasetError(f"There is no format named {dataset.format!r}; known are {known}.")
    try:
        with open_bytes(dataset.uri) as stream:
            yield from reader(stream, dataset.uri)
    except OSError as error:
        raise DatasetError(f"{dataset.uri} cannot be read on: {error}.") from error


def _row(number: int, record: object, rename: Rename) -> Row:
    if not isinstance(record, Mapping):
        return Row(number=number, edit=None, reason=_no_fields(record))
    try:
        return Row(number=number, edit=edit_from_row(rename(record)), reason=None)
    except UnusableRowError as error:
        return Row(number=number, edit=None, reason=str(error))


def _no_fields(record: object) -> str:
    if isinstance(record, UnreadableRecord):
        return record.reason
    return f"it is not an object with named fields, but {type(record).__name__}"
