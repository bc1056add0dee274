"""Questions to a history are answered through indexes, however large it is.

The statements that the use cases really execute are explained by the database, so that a new one
that reads all edits or turns is found. PostgreSQL is told to avoid what small tables are read by.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Select, event, func, select

from ledger import database, history
from ledger.blaming import blame, blame_all
from ledger.branching import create_branch
from ledger.conflicts import Standing, question
from ledger.finding import Wanted
from ledger.orm import EditRow, TurnRow
from ledger.refs import resolve
from ledger.reporting import log, show
from ledger.rolling_back import rollback_turn
from ledger.searching import nearest, search
from ledger.selection import Earlier
from ledger.tree import graph
from ledger.workspace import Ledger
from patches.edit import Edit
from tests import told_edits
from tests.plain_ledgers import line
from tests.told_edits import edit

Statement = tuple[str, Any]
# Of these there are few rows, or few that are not what is asked for.
READ_WHOLE = {"refs", "undoes", "replacements", "bases", "datasets"}
ROME, TONGUE = "Rome lies in", "The mother tongue of Danielle Darrieux is"
DARRIEUX = "Danielle Darrieux"
TURNS: list[list[Edit]] = [
    [edit(ROME, "Asia", "Rome", "P30"), edit(TONGUE, "English", DARRIEUX, "P103")],
    [edit(f"The city {number} lies in", "AC/DC", f"City {number}", "P30") for number in range(40)],
    [edit("Rome is in", "Africa", "Rome", "P30"), edit(TONGUE, "Dutch", DARRIEUX, "P103")],
]


@pytest.fixture(scope="module")
def ledger(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """The turns above, a fourth that undoes the second, and a branch. Tests only read it."""
    with told_edits.new_ledger(tmp_path_factory.mktemp("plans"), shared_url) as made:
        told_edits.record(made, *TURNS)
        rollback_turn(made, 2)
        create_branch(made, "side", at=1)
        yield made


@contextmanager
def watched(engine: Engine) -> Iterator[list[Statement]]:
    """The queries that are executed inside."""
    seen: list[Statement] = []

    def note(_c: Connection, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if statement.lstrip().startswith(("SELECT", "WITH")):
            seen.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def read_whole(engine: Engine, statement: Statement) -> set[str]:
    """The tables that the database would read from end to end for this query."""
    sql, parameters = statement
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", parameters)
            return {name for row in rows if (name := _scanned(row[-1]))}
        for method in ("seqscan", "mergejoin", "hashjoin"):
            connection.exec_driver_sql(f"SET enable_{method} = off")
        [[plans]] = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {sql}", parameters)
        found = json.loads(plans) if isinstance(plans, str) else plans
        return set(_unguided(found[0]["Plan"], limited=False))


def _scanned(step: str) -> str | None:
    """The table that a step of SQLite's plan goes through; none if it is led by words to search
    for, or if what it goes through was found just before."""
    scan = re.match(r"SCAN (\w+?)(_\d+)?\b(.*)", step)
    if scan is None or scan[1] in ("anon", "CONSTANT"):
        return None
    return None if ":M" in scan[3] else scan[1]


def _unguided(node: dict[str, Any], *, limited: bool) -> Iterator[str]:
    """Tables that PostgreSQL reads without a condition that an index is searched with.

    limited: whether what is above takes a few of the rows only.
    """
    guided = {"Index Cond", "Recheck Cond"} & node.keys() or (limited and "Filter" not in node)
    if "Relation Name" in node and not guided:
        yield str(node["Relation Name"])
    for inner in node.get("Plans", ()):
        yield from _unguided(inner, limited=node["Node Type"] == "Limit")


def reading(query: Callable[[Ledger, Any], object]) -> Callable[[Ledger], object]:
    def run(ledger: Ledger) -> object:
        with database.reading(ledger.engine) as session:
            return query(ledger, session)

    return run


def prefix(ledger: Ledger) -> str:
    return line(ledger)[1].hash[:8]


def standing(ledger: Ledger) -> object:
    asked = [question(one, row=1, edit_id=-n) for n, one in enumerate(TURNS[0], start=1)]
    return Standing(ledger, line(ledger)).answers(asked)


USE_CASES: dict[str, Callable[[Ledger], object]] = {
    "line": reading(lambda ledger, session: history.line(session, ledger.branch)),
    "line to a hash": reading(lambda led, session: history.line(session, "main", prefix(led))),
    "line to a number": reading(lambda led, session: resolve(session, led.branch, "HEAD~2")),
    "log": log,
    "log of the last": lambda ledger: log(ledger, last=2),
    "log of a subject": lambda ledger: log(ledger, wanted=Wanted(subject=DARRIEUX)),
    "log of a prompt": lambda ledger: log(ledger, wanted=Wanted(prompt=ROME)),
    "log of a target": lambda ledger: log(ledger, wanted=Wanted(target="AC/DC")),
    "log of a dataset": lambda ledger: log(ledger, wanted=Wanted(dataset="facts")),
    "log since": lambda ledger: log(ledger, wanted=Wanted(since=datetime(2020, 1, 1, tzinfo=UTC))),
    "log of scores": lambda ledger: log(ledger, wanted=Wanted(min_score=0.5)),
    "log of a method": lambda ledger: log(ledger, wanted=Wanted(method="x", in_force=True)),
    "graph": lambda ledger: graph(ledger, last=3),
    "show": lambda ledger: show(ledger, 3),
    "show a hash": lambda ledger: show(ledger, prefix(ledger)),
    "search": lambda ledger: search(ledger, "lies"),
    "search on a branch": lambda ledger: on_branch(ledger, "side", search, "lies in"),
    "search for a phrase": lambda ledger: search(ledger, '"mother tongue" dan* -english'),
    "search what holds": lambda ledger: search(ledger, "city 3*", in_force=True),
    "search everywhere": lambda ledger: search(ledger, "rome", everywhere=True),
    "search in vain": lambda ledger: search(ledger, "nowhere"),
    "blame a prompt": lambda ledger: blame(ledger, ROME),
    "blame a subject": lambda ledger: blame(ledger, DARRIEUX, at=3),
    "blame all": lambda ledger: list(blame_all(ledger)),
    "what is near": lambda ledger: nearest(ledger, "Daniele Darieux"),
    "conflicts": standing,
    "rows of before": reading(
        lambda ledger, session: Earlier.of(session, line(ledger), told_edits.SOURCE, trust=True)
    ),
}


def on_branch(ledger: Ledger, name: str, question: Callable[..., object], *words: str) -> object:
    before, ledger.branch = ledger.branch, name
    try:
        return question(ledger, *words)
    finally:
        ledger.branch = before


@pytest.mark.parametrize("name", USE_CASES)
def test_no_question_reads_all_edits_or_turns(ledger: Ledger, name: str) -> None:
    with watched(ledger.engine) as statements:
        USE_CASES[name](ledger)
    assert statements
    for statement in statements:
        found = read_whole(ledger.engine, statement) - READ_WHOLE
        assert not found, f"{found} in {statement[0]}"


def test_neither_does_recording_a_turn(database_url: str, tmp_path: Path) -> None:
    with told_edits.new_ledger(tmp_path, database_url) as made:
        told_edits.record(made, *TURNS)
        with watched(made.engine) as statements:
            told_edits.record(made, [edit("The Tiber lies in", "Africa", "Tiber", "P30")])
            rollback_turn(made, 1)
        for statement in statements:
            found = read_whole(made.engine, statement) - READ_WHOLE
            assert not found, f"{found} in {statement[0]}"


@pytest.mark.parametrize(
    ("query", "tables"),
    [
        (select(EditRow.id).where(EditRow.target == "AC/DC"), {"edits"}),
        (select(func.count()).select_from(EditRow), {"edits"}),
        (select(TurnRow.id).where(TurnRow.message == "x"), {"turns"}),
        (select(EditRow.id).where(EditRow.row == 1).order_by(EditRow.id).limit(1), {"edits"}),
        (select(EditRow.id).where(EditRow.prompt_key == 3), set()),
        (select(func.max(EditRow.id)), set()),
    ],
)
def test_a_query_that_reads_all_is_seen(
    ledger: Ledger, query: Select[Any], tables: set[str]
) -> None:
    with watched(ledger.engine) as statements, database.reading(ledger.engine) as session:
        session.execute(query).all()
    [statement] = statements
    assert read_whole(ledger.engine, statement) == tables
