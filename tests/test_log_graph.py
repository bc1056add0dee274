"""`ledger log --graph`: the tree of turns, what is told of each, and the lanes between them."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cli.graph import drawn
from ledger import database
from ledger.branching import create_branch, create_tag, delete_branch, switch
from ledger.new_turn import NewTurn
from ledger.orm import TurnRow
from ledger.recording import record_turn, record_turns
from ledger.rolling_back import rollback_turn
from ledger.tree import Node, graph
from ledger.workspace import Ledger
from patches.errors import HistoryError
from tests import plain_ledgers
from tests.command_line import call, done

Capture = pytest.CaptureFixture[str]
FIELDS = {
    *("turn", "hash", "parent", "branch", "kind", "method", "state", "rolled_back_on", "edits"),
    *("message", "created_at", "copied_from", "refs", "tags", "rejected"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_ledgers.build(tmp_path_factory.mktemp("graph") / "model")


@pytest.fixture
def ledger(tmp_path: Path, model: Path, database_url: str) -> Iterator[Ledger]:
    """Turns 1 and 2 on main, 2 to 4 on try, of which 4 undoes 1; 3 undoes 2 on main."""
    with plain_ledgers.new_ledger(tmp_path / "ledger", model, database_url) as made:
        plain_ledgers.add_several(made, 2)
        create_tag(made, "v1", 2)
        switch(made, "try", create=True, at=1)
        plain_ledgers.add_several(made, 2, start=7)
        rollback_turn(made, 1)
        switch(made, "main")
        rollback_turn(made, 2, message="no [bold]\x1b[31m")
        yield made


def node(number: int, parent: int | None) -> Node:
    return Node(
        id=number,
        parent_id=parent,
        turn=number,
        hash=f"{number:064x}",
        parent=None,
        branch="main",
        kind="edit",
        method=None,
        edits=0,
        message="",
        created_at=datetime(2026, 3, 29, tzinfo=UTC),
        copied_from=None,
        refs=(),
        tags=(),
        rolled_back_on=(),
        is_rolled_back=False,
        is_rejected=False,
    )


def drawing(parents: Sequence[int | None]) -> list[tuple[str, int | None]]:
    """Lines of the tree in which turn n has the parent ``parents[n - 1]``, with their turns."""
    nodes = [node(number, parent) for number, parent in enumerate(parents, start=1)]
    return [(line, None if one is None else one.id) for line, one in drawn(nodes[::-1])]


def lanes(parents: Sequence[int | None]) -> list[str]:
    return [line for line, _ in drawing(parents)]


def led_to(lines: list[tuple[str, int | None]], start: int) -> int | None:
    """The turn that an eye gets to which follows the lane down from the ``*`` in line `start`."""
    column = lines[start][0].index("*")
    for line, turn in lines[start + 1 :]:
        at = dict(enumerate(line))
        if column % 2:
            # From a slash on across another lane, or into the lane on its left.
            column -= 2 if at.get(column - 2) == "/" else 1
        elif at.get(column, " ") == " " and at.get(column - 1) == "/":
            column -= 1
        if at.get(column) == "*":
            return turn
        if at.get(column) not in ("|", "/"):
            return None
    return None


TREES = st.integers(1, 24).flatmap(
    lambda count: st.tuples(
        *(st.none() | st.integers(max(1, n - 6), n) if n else st.none() for n in range(count))
    )
)


@settings(max_examples=300, deadline=None)
@given(TREES)
def test_following_a_lane_down_leads_to_the_parent(parents: tuple[int | None, ...]) -> None:
    lines = drawing(parents)
    shown = [(at, turn) for at, (_, turn) in enumerate(lines) if turn is not None]
    assert [turn for _, turn in shown] == list(range(len(parents), 0, -1))
    for at, turn in shown:
        assert led_to(lines, at) == parents[turn - 1], "\n".join(line for line, _ in lines)


def test_lanes_are_drawn_as_git_draws_them() -> None:
    assert lanes([None, 1, 2]) == ["*", "*", "*"]
    assert lanes([None, 1, 1]) == ["*", "| *", "|/", "*"]
    assert lanes([None, 1, 2, 1]) == ["*", "| *", "| *", "|/", "*"]
    crossing = ["*", "| *", "| | *", "| |/", "|/|", "| | *", "| |/", "* |", "|/", "*"]
    assert lanes([None, 1, 1, 2, 1, 2]) == crossing


def test_a_turn_under_the_end_of_another_tree_does_not_look_like_its_parent() -> None:
    assert lanes([None, None]) == ["*", "", "*"]
    assert lanes([None, 1, None, None, 2]) == ["*", "| *", "|", "| *", "*", "*"]
    assert lanes([None, 1, None, 2, 3]) == ["*", "| *", "* |", " /", "*", "*"]


def test_the_tree_has_every_turn_once_newest_first(ledger: Ledger) -> None:
    nodes = graph(ledger)
    assert [(one.branch, one.turn) for one in nodes] == [
        *(("main", 3), ("try", 4), ("try", 3), ("try", 2), ("main", 2), ("main", 1)),
    ]
    by_hash = {one.hash: one for one in nodes}
    parents = [one.parent and by_hash[one.parent] for one in nodes]
    assert [one and (one.branch, one.turn) for one in parents] == [
        *(("main", 2), ("try", 3), ("try", 2), ("main", 1), ("main", 1), None),
    ]
    assert [one.refs for one in nodes] == [("main",), ("try",), (), (), ("v1",), ()]
    assert [one.tags for one in nodes] == [(), (), (), (), ("v1",), ()]


def test_a_turn_says_on_which_branches_it_is_rolled_back(ledger: Ledger) -> None:
    def undone() -> list[tuple[int, tuple[str, ...], bool]]:
        nodes = [one for one in graph(ledger) if one.kind == "import" and one.branch == "main"]
        return [(one.turn, one.rolled_back_on, one.is_rolled_back) for one in nodes]

    # Turn 2 was on no other branch; turn 1 was, and is undone on the other.
    assert undone() == [(2, ("main",), True), (1, ("try",), False)]
    rollback_turn(ledger, 1)
    assert undone() == [(2, ("main",), True), (1, ("main", "try"), True)]
    rollback_turn(ledger, 3)
    assert undone() == [(2, (), False), (1, ("main", "try"), True)]


def test_a_tag_alone_keeps_turns_in_the_tree_and_a_deleted_branch_does_not(
    ledger: Ledger,
) -> None:
    create_tag(ledger, "kept", "try~1")
    delete_branch(ledger, "try")
    nodes = [one for one in graph(ledger) if one.branch == "try"]
    assert [(one.turn, one.refs, one.is_rolled_back) for one in nodes] == [
        (3, ("kept",), False),
        (2, (), False),
    ]
    assert [one.turn for one in graph(ledger, branch="main")] == [3, 2, 1]


def test_only_the_newest_turns_or_those_of_one_branch(ledger: Ledger) -> None:
    everything = graph(ledger)
    assert graph(ledger, last=2) == everything[:2]
    theirs = graph(ledger, branch="try")
    assert [one.turn for one in theirs] == [4, 3, 2, 1]
    assert theirs[-1].rolled_back_on == ("try",)
    create_branch(ledger, "base", 0)
    assert graph(ledger, branch="base") == []
    with pytest.raises(HistoryError, match="there is no branch none"):
        graph(ledger, branch="none")


def test_many_turns_are_read_in_parts(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = graph(ledger)
    monkeypatch.setattr("ledger.tree._TOGETHER", 2)
    assert graph(ledger) == everything


def test_an_empty_ledger_has_an_empty_tree(capsys: Capture, tmp_path: Path, model: Path) -> None:
    with plain_ledgers.new_ledger(tmp_path / "empty", model) as empty:
        assert graph(empty) == []
    where = ("--ledger", str(tmp_path / "empty"))
    assert done(capsys, "log", "--graph", *where).out.startswith("no turns yet")
    assert done(capsys, "log", "--graph", "--json", *where).json() == []


def test_the_command_draws_the_tree_with_names_and_marks(capsys: Capture, ledger: Ledger) -> None:
    with database.reading(ledger.engine) as session:
        source = session.get_one(TurnRow, plain_ledgers.line(ledger)[0].id).hash
    switch(ledger, "try")
    turns = plain_ledgers.line(ledger)
    record_turn(
        ledger,
        NewTurn(parent=turns[-1].id, kind="rollback", seed=0, message="", copied_from=source),
    )
    shown = done(capsys, "log", "--graph", "--ledger", str(ledger.folder)).out
    short = {(one.branch, one.turn): one.hash[:7] for one in graph(ledger)}
    assert shown.splitlines() == [
        f"* {short['try', 5]} 5 (HEAD -> try) rollback, from {source[:7]}",
        f"| * {short['main', 3]} 3 (main) rollback: no [bold]\\x1b[31m",
        f"* | {short['try', 4]} 4 rollback: roll back turn 1",
        f"* | {short['try', 3]} 3 import (x)",
        f"* | {short['try', 2]} 2 import (x)",
        f"| * {short['main', 2]} 2 (tag: v1) import (x), rolled back",
        "|/",
        f"* {short['main', 1]} 1 import (x), rolled back on try",
    ]


def test_the_command_tells_programs(capsys: Capture, ledger: Ledger) -> None:
    where = ("--graph", "--json", "--ledger", str(ledger.folder))
    nodes = done(capsys, "log", *where).json()
    assert all(set(one) == FIELDS for one in nodes)
    assert [one["state"] for one in nodes] == [*["in_force"] * 4, "rolled_back", "in_force"]
    assert nodes[4]["rolled_back_on"] == ["main"]
    assert nodes[0]["parent"] == nodes[4]["hash"]
    assert [one["turn"] for one in done(capsys, "log", "--branch", "try", *where).json()] == [
        *(4, 3, 2, 1),
    ]
    assert done(capsys, "log", "--last", "2", *where).json() == nodes[:2]
    outcome = call(capsys, "log", "--kind", "edit", *where)
    assert (outcome.status, "leave out the filters" in outcome.err) == (2, True)


def test_the_tree_for_people_ends_after_a_hundred_turns_and_says_so(
    capsys: Capture, tmp_path: Path, model: Path
) -> None:
    with plain_ledgers.new_ledger(tmp_path / "ledger", model) as long:
        record_turns(long, [NewTurn(parent=None, kind="rollback", seed=0, message="")] * 105)
    where = ("--graph", "--ledger", str(tmp_path / "ledger"))
    lines = done(capsys, "log", *where).out.splitlines()
    assert (len(lines), lines[-1]) == (101, "there are earlier turns: --all, or --last N")
    assert lines[0].split()[2] == "105"
    assert len(done(capsys, "log", "--all", *where).out.splitlines()) == 105
    assert len(done(capsys, "log", "--last", "3", *where).out.splitlines()) == 3
    assert len(done(capsys, "log", "--json", *where).json()) == 105
