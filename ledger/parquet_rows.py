"""The rows of Parquet files, which are columns that may be packed very tightly.

A file of a few kilobytes can hold one long text for each of a million rows. Texts are therefore
kept as numbers of a dictionary, as they are in the file, until their row is handed over.
"""

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from ledger.canonical_row import LONGEST_ROW
from patches.errors import DatasetError

_CHUNK = 1 << 18
# The dictionary comes with every batch, so that small ones would copy it again and again.
_BATCH = 4096


def read_parquet(stream: BinaryIO, name: str) -> Iterator[object]:
    """The rows of a Parquet file. What Arrow unpacks at once, up to a row group's column, has to
    fit into the memory."""
    import pyarrow
    import pyarrow.parquet

    rows = 0
    try:
        schema = pyarrow.parquet.read_schema(stream)
        for part in _parts(_open(stream), name):
            # In objects of Python, texts take a tenth of the time that numbers of them do.
            records: list[object] = part.cast(schema).to_pylist()
            yield from records
            rows += len(records)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise DatasetError(
            f"{name}: malformed Parquet at row {rows} or after: {first_line:.300}. "
            "Write the file anew and try again."
        ) from error


def _open(stream: BinaryIO) -> Any:
    import pyarrow.parquet

    stream.seek(0)
    schema = pyarrow.parquet.read_metadata(stream).schema
    columns = [schema.column(at) for at in range(len(schema))]
    stream.seek(0)
    return pyarrow.parquet.ParquetFile(
        stream,
        # With a buffer, a column of a row group is not read as a whole.
        buffer_size=_CHUNK,
        read_dictionary=[one.path for one in columns if one.physical_type == "BYTE_ARRAY"],
    )


def _parts(file: Any, name: str) -> Iterator[Any]:
    """The rows in parts that are each of bounded size as objects of Python."""
    for group in range(file.num_row_groups):
        longest = _Longest()
        for batch in file.iter_batches(batch_size=_BATCH, row_groups=[group]):
            leaves = [leaf for column in batch.columns for leaf in _leaves(column)]
            longest.see(leaves)
            if max([longest.bytes, *map(len, leaves)]) > LONGEST_ROW:
                raise DatasetError(
                    f"{name}: a row has more than {LONGEST_ROW >> 20} million characters or "
                    "values; is this a file of edits?"
                )
            # Of all columns, and the lists in them, as many values in a row as on average.
            values = max(1, sum(map(len, leaves)) // max(1, batch.num_rows))
            step = max(1, LONGEST_ROW // (longest.bytes * values))
            for start in range(0, batch.num_rows, step):
                yield batch.slice(start, step)


class _Longest:
    """The bytes of the longest text so far in a row group, 1 at least.

    The dictionaries in it only grow: what was seen of them need not be looked at again.
    """

    def __init__(self) -> None:
        self.bytes = 1
        self._seen: dict[int, int] = {}

    def see(self, leaves: Sequence[Any]) -> None:
        """Look at the next batch, always with the same leaves."""
        import pyarrow.compute

        for place, leaf in enumerate(leaves):
            if pyarrow.types.is_dictionary(leaf.type):
                new = leaf.dictionary.slice(self._seen.get(place, 0))
                self._seen[place] = len(leaf.dictionary)
                found = pyarrow.compute.max(pyarrow.compute.binary_length(new)).as_py()
                self.bytes = max(self.bytes, found or 0)


def _leaves(array: Any) -> Iterator[Any]:
    """The arrays of single values in an array of whatever these are put together to."""
    import pyarrow.types

    kind = array.type
    if pyarrow.types.is_struct(kind):
        for at in range(kind.num_fields):
            yield from _leaves(array.field(at))
    elif pyarrow.types.is_map(kind):
        yield from _leaves(array.keys)
        yield from _leaves(array.items)
    elif pyarrow.types.is_list(kind) or pyarrow.types.is_large_list(kind):
        yield from _leaves(array.flatten())
    else:
        yield array
