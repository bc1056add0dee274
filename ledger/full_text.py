"""Full-text search over edits: their prompts, targets and subjects.

SQLite has an FTS5 table beside ``edits`` that holds the words but not the texts, and to which `add`
adds; PostgreSQL has an index on an expression, which queries must repeat to the letter. Words are
the same whatever their case, but not without their accents. Edits are never changed or deleted, so
that insertion is all there is to keep up with.

The migration 0004 has a copy of what `create` runs; a test compares what both make.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import (
    ColumnClause,
    Connection,
    Select,
    bindparam,
    column,
    func,
    literal_column,
    or_,
    select,
    table,
    text,
)
from sqlalchemy.orm import Session

from ledger.orm import EditRow
from ledger.search_terms import Term, Terms, parse

NAME = "edits_text"
"""The table of SQLite, whose own tables are called the same with a suffix."""
INDEX = "ix_edits_text"
"""The index of PostgreSQL."""
# PostgreSQL would take 'AC/DC' for the name of a file and '3.14' for one word: what stands between
# words as FTS5 sees them is made a space. An index entry of PostgreSQL has an end; a text that long
# is still found by its beginning.
_BETWEEN = r"[!-/:-@\[-`{-~]+"
_DOCUMENT = (
    "to_tsvector('simple', regexp_replace(left(edits.prompt, 50000) || ' ' || "
    "left(edits.target, 50000) || ' ' || left(coalesce(edits.subject, ''), 50000), "
    f"'{_BETWEEN}', ' ', 'g'))"
)
_CREATE: Mapping[str, tuple[str, ...]] = {
    "sqlite": (
        f"CREATE VIRTUAL TABLE {NAME} USING fts5 (prompt, target, subject, content='edits', "
        "content_rowid='id', columnsize=0, tokenize='unicode61 remove_diacritics 0')",
    ),
    "postgresql": (f"CREATE INDEX {INDEX} ON edits USING gin (({_DOCUMENT}))",),
}
_DROP: Mapping[str, tuple[str, ...]] = {
    "sqlite": (f"DROP TABLE IF EXISTS {NAME}",),
    "postgresql": (f"DROP INDEX IF EXISTS {INDEX}",),
}
_TABLE = table(NAME, column("rowid"))
# A sum is in no index: the rows are found by their words, not by going through all of them.
_unordered = EditRow.id + 0
_PAGE, _NEAR = 500, 2_000


def create(connection: Connection) -> None:
    """Create the index of an empty table of edits. Part of the caller's transaction."""
    _run(connection, _CREATE)


def drop(connection: Connection) -> None:
    """The inverse of `create`."""
    _run(connection, _DROP)


def add(session: Session, turn_id: int) -> None:
    """Add the edits of a turn, which have just been inserted, to the index.

    All of them at once: within a trigger FTS5 writes its index out for every row, which makes the
    insertion of many edits several times slower.
    """
    if session.get_bind().dialect.name == "sqlite":
        session.execute(
            text(
                f"INSERT INTO {NAME} (rowid, prompt, target, subject) "
                "SELECT id, prompt, target, subject FROM edits WHERE turn_id = :turn"
            ),
            {"turn": turn_id},
        )


def rebuild(session: Session) -> None:
    """Index all edits anew, after they have been inserted from elsewhere."""
    if session.get_bind().dialect.name == "sqlite":
        session.execute(text(f"INSERT INTO {NAME} ({NAME}) VALUES ('rebuild')"))


def belongs(name: str | None) -> bool:
    """Whether a table or index of this name is part of the index, which the ORM does not know."""
    return name is not None and (name in (NAME, INDEX) or name.startswith(f"{NAME}_"))


def edits_with(words: str, dialect: str) -> Select[int]:
    """Row ids of the edits that may have every one of the words, newest first; the others have not.

    Words in double quotes must stand beside each other (`ledger.search_terms`, which decides). All
    edits that have them are looked at, however many; `newest_first` takes them as they are wanted.
    dialect: of the database. SettingError if there are no words.
    """
    return _candidates(parse(words), dialect)


def newest_first(
    session: Session, terms: Terms, spans: Iterable[tuple[int, int]]
) -> Iterator[Sequence[int]]:
    """Row ids of the edits that may have what `terms` say, page by page; the others have not.

    spans: the rows to look at: first and last, both inclusive, the newest span first.
    """
    if session.get_bind().dialect.name == "sqlite":
        yield from _walked(session, terms, spans)
    else:
        yield from _sorted(session, terms, list(spans))


def _walked(
    session: Session, terms: Terms, spans: Iterable[tuple[int, int]]
) -> Iterator[Sequence[int]]:
    """FTS5 goes through the rows of its index backwards, and stops at the limit."""
    query, row = _candidates(terms, "sqlite").limit(_PAGE), _TABLE.c.rowid
    for first, last in spans:
        while page := session.scalars(query.where(row >= first, row <= last)).all():
            yield page
            last = page[-1] - 1


def _sorted(
    session: Session, terms: Terms, spans: Sequence[tuple[int, int]]
) -> Iterator[Sequence[int]]:
    """The index of PostgreSQL is in no order: all of its rows are sorted.

    So the newest edits are looked at first, without it: what many edits have is among them.
    """
    if not spans:
        return
    query, row = _candidates(terms, "postgresql").limit(_PAGE), EditRow.id
    near = max(spans[0][0], spans[0][1] - _NEAR)
    if page := session.scalars(query.where(row > near, row <= spans[0][1])).all():
        yield page
    last = page[-1] - 1 if len(page) == _PAGE else near
    # Room for the rows of a word that is everywhere; else each would be made into words again.
    session.execute(text("SET LOCAL work_mem = '64MB'"))
    within = or_(*(_unordered.between(first, last) for first, last in spans))
    while page := session.scalars(query.where(within, _unordered <= last)).all():
        yield page
        last = page[-1] - 1


def _candidates(terms: Terms, dialect: str) -> Select[int]:
    return _in_table(terms) if dialect == "sqlite" else _by_expression(terms)


def _in_table(terms: Terms) -> Select[int]:
    asked = " ".join(map(_phrase, terms.required))
    asked += "".join(f" NOT {_phrase(term)}" for term in terms.excluded)
    return (
        select(EditRow.id)
        .join(_TABLE, _TABLE.c.rowid == EditRow.id)
        .where(text(f"{NAME} MATCH :words").bindparams(bindparam("words", asked)))
        # Not by the id of the edit: only this order is that of the index.
        .order_by(_TABLE.c.rowid.desc())
    )


def _phrase(term: Term) -> str:
    return f'"{" ".join(term.words)}"' + ("*" if term.is_beginning else "")


def _by_expression(terms: Terms) -> Select[int]:
    document: ColumnClause[Any] = literal_column(_DOCUMENT)
    words = [word for term in terms.required for word in _lexemes(term)]
    # A phrase must not be there, but its words may be.
    words += [f"!{_lexemes(term)[0]}" for term in terms.excluded if len(term.words) == 1]
    texts = func.concat_ws(" ", EditRow.prompt, EditRow.target, EditRow.subject)
    phrases = [term for term in terms.required if len(term.words) > 1]
    return (
        select(EditRow.id)
        .where(
            document.bool_op("@@")(func.to_tsquery(text("'simple'"), " & ".join(words))),
            *(texts.bool_op("~*")(_pattern(term)) for term in phrases),
        )
        .order_by(_unordered.desc())
    )


def _lexemes(term: Term) -> list[str]:
    """Its words as PostgreSQL's queries have them; letters and digits need no escaping."""
    found = [f"'{word}'" for word in term.words]
    return [*found[:-1], f"{found[-1]}:*"] if term.is_beginning else found


def _pattern(term: Term) -> str:
    """A regular expression of what has the phrase, and a little more: whatever the database takes
    for a letter. It is many times faster than to compare places of words."""
    return "[^a-z0-9]+".join(re.sub(r"[^a-z0-9]", ".", word) for word in term.words)


def _run(connection: Connection, statements: Mapping[str, tuple[str, ...]]) -> None:
    for statement in statements[connection.dialect.name]:
        connection.exec_driver_sql(statement)
