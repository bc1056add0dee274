"""Which values one kind of database takes, and the other does not."""

from collections.abc import Sequence

from sqlalchemy import Integer, String, Table

_LARGEST = 2**31 - 1


def unstorable(table: Table, row: Sequence[object], dialect: str) -> str | None:
    """Why a row, in the order of the table's columns, cannot be kept in a database of `dialect`.

    SQLite takes every text and number whatever the column says; PostgreSQL does not.
    """
    if dialect != "postgresql":
        return None
    for column, value in zip(table.columns, row, strict=True):
        if isinstance(value, str) and "\0" in value:
            return f"{column.name} holds a NUL character, which PostgreSQL does not store"
        if isinstance(value, str) and isinstance(column.type, String):
            most = column.type.length
            if most is not None and len(value) > most:
                return f"{column.name} is longer than the {most} characters that it may have"
        if type(column.type) is Integer and isinstance(value, int) and abs(value) > _LARGEST:
            return f"{column.name} is larger than {_LARGEST}"
    return None
