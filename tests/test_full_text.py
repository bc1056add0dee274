"""Full-text search: what is recorded can be found by its words, and by nothing but the index."""

from collections.abc import Sequence

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from ledger import full_text
from ledger.database import create_schema, drop_schema, reading, writing
from ledger.edit_values import edit_values, insert_edits
from ledger.orm import EditRow, TurnRow
from ledger.recording import RecordedEdit
from patches.edit import Edit
from patches.errors import SettingError
from tests import sample_history

LONG = "word " * 300_000
EDITS = (
    Edit(prompt="The mother tongue of Danielle Darrieux is", target="English"),
    Edit(prompt="Danielle met", target="Monsieur Darrieux", subject="Danielle"),
    Edit(prompt="She lives in", target="Zürich", subject="Anna-Lena O'Hara"),
    Edit(prompt="The capital of Crémieu (Isère) is", target="C++ 3", subject="Crémieu"),
    Edit(prompt='The "end" of 東京 is', target="never"),
)


@pytest.fixture
def engine(database_engine: Engine) -> Engine:
    fill(database_engine)
    return database_engine


@pytest.fixture(scope="module")
def filled(shared_engine: Engine) -> Engine:
    """Read only."""
    fill(shared_engine)
    return shared_engine


def fill(engine: Engine) -> None:
    """Record the edits above, inserted in bulk after the one of the sample history."""
    with writing(engine) as session:
        create_schema(session.connection())
    sample_history.record(engine)
    insert(engine, EDITS)


def insert(engine: Engine, edits: Sequence[Edit], first: int = 1) -> None:
    """Record a turn with these edits, at positions that tell them from others."""
    with writing(engine) as session:
        _insert(session, edits, first)


def _insert(session: Session, edits: Sequence[Edit], first: int) -> None:
    turn = sample_history.like(session.get_one(TurnRow, 2), number=first + 2, hash=f"{first:064d}")
    session.add(turn)
    session.flush()
    rows = edit_values([RecordedEdit(edit=edit, row=None) for edit in edits])
    # The position comes first.
    rows = [(place, *row[1:]) for place, row in enumerate(rows, start=first)]
    insert_edits(session, turn.id, rows)


def found(engine: Engine, words: str) -> list[int]:
    """Positions of the edits with these words: 0 is the one of the sample history."""
    with reading(engine) as session:
        ids = list(session.scalars(full_text.edits_with(words, engine.dialect.name)))
        positions = dict(session.execute(select(EditRow.id, EditRow.position)).all())
    return [positions[edit_id] for edit_id in ids]


def plan(session: Session, words: str) -> str:
    """How the database would go about it."""
    connection = session.connection()
    query = full_text.edits_with(words, connection.dialect.name).limit(20)
    sql = str(query.compile(connection, compile_kwargs={"literal_binds": True}))
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    rows = connection.exec_driver_sql(f"{explain} {sql.replace('%%', '%')}")
    return "\n".join(str(row[-1]) for row in rows)


@pytest.mark.parametrize(
    ("words", "positions"),
    [
        ("Danielle Darrieux", [2, 1]),
        ('"Danielle Darrieux"', [1]),
        ('"danielle  darrieux" ENGLISH', [1]),
        ("darrieux danielle monsieur", [2]),
        ("Freedonia Fredville", [0]),
        ("zürich", [3]),
        ("zurich", []),
        ("Anna-Lena", [3]),
        ("o'hara", [3]),
        ("crémieu", [4]),
        ("cremieu", []),
        ("東京", [5]),
        ("is ? -", [5, 4, 1, 0]),
        ("c++", [4]),
        ("NOT AND OR NEAR(is)", []),
        ("prompt : is*", []),
        ("' -- %", None),
        ('""', None),
        (" ", None),
    ],
)
def test_words_find_the_edits_that_have_all_of_them_newest_first(
    filled: Engine, words: str, positions: list[int] | None
) -> None:
    if positions is None:
        with pytest.raises(SettingError, match="no words to search for"):
            found(filled, words)
    else:
        assert found(filled, words) == positions


def test_an_edit_that_was_not_recorded_after_all_is_not_found(engine: Engine) -> None:
    def stop(session: Session) -> None:
        _insert(session, [Edit(prompt="unheard", target="of")], 90)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), writing(engine) as session:
        stop(session)
    assert found(engine, "unheard") == []


def test_a_text_longer_than_an_entry_of_the_index_is_recorded_and_found(engine: Engine) -> None:
    many = "first " + " ".join(f"w{number}" for number in range(300_000))
    insert(engine, [Edit(prompt=many, target="end", subject=LONG)], first=20)
    assert found(engine, "first w7 end word") == [20]


def test_the_rows_of_a_rare_word_are_looked_up_in_the_index(engine: Engine) -> None:
    towns = [Edit(prompt=f"town {n} lies in", target=f"land {n % 7}") for n in range(3_000)]
    insert(engine, towns, first=100)
    with writing(engine) as session:
        if engine.dialect.name == "postgresql":
            session.execute(text("ANALYZE edits"))
        found = plan(session, '"town 2345"')
    if engine.dialect.name == "sqlite":
        assert "edits_text VIRTUAL TABLE INDEX" in found
        assert "SCAN edits " not in found
        # The index has them in order already.
        assert "ORDER BY" not in found
    else:
        assert full_text.INDEX in found
        assert "Seq Scan" not in found


def test_the_index_is_dropped_with_the_tables(engine: Engine) -> None:
    with writing(engine) as session:
        drop_schema(session.connection())
    with writing(engine) as session:
        create_schema(session.connection())
    sample_history.record(engine)
    assert found(engine, "Darrieux") == []
    assert found(engine, "Freedonia") == [0]
