"""Branches and tags: made, moved and removed, each with a record, and what they refuse."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from ledger import database
from ledger.branching import (
    Move,
    create_branch,
    create_tag,
    delete_branch,
    delete_tag,
    list_branches,
    list_tags,
    reflog,
    switch,
)
from ledger.orm import EntryRow, RefRow
from ledger.reporting import log, status
from ledger.rolling_back import rollback_turn
from ledger.verifying import problems_text, verify
from ledger.verifying_refs import wrong_refs
from ledger.workspace import Ledger, open_ledger
from patches.errors import HistoryError, SettingError
from tests import plain_ledgers
from tests.command_line import call, done
from tests.ledgers import contents, copied

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_ledgers.build(tmp_path_factory.mktemp("branches") / "model")


@pytest.fixture
def ledger(tmp_path: Path, model: Path, database_url: str) -> Iterator[Ledger]:
    """Turns 1 to 3 on main."""
    with plain_ledgers.new_ledger(tmp_path / "ledger", model, database_url) as made:
        plain_ledgers.add_several(made, 3)
        yield made


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """Folder of a ledger with turns 1 to 3 on main, on SQLite. Read only."""
    folder = tmp_path_factory.mktemp("recorded") / "ledger"
    with plain_ledgers.new_ledger(folder, model) as made:
        plain_ledgers.add_several(made, 3)
    return folder


@pytest.fixture
def quick(tmp_path: Path, recorded: Path) -> Iterator[Ledger]:
    """A copy of it."""
    with copied(recorded, tmp_path / "ledger") as opened:
        yield opened


def hashes(ledger: Ledger) -> list[str]:
    return [turn.hash for turn in log(ledger)]


def problems(ledger: Ledger) -> str:
    return "\n".join(problems_text(verify(ledger).problems))


def told(move: Move) -> tuple[object, ...]:
    before, after = (turn and turn[0] for turn in (move.before, move.after))
    return move.ref, move.action, before, after


def test_a_branch_goes_its_own_way_from_where_it_begins(ledger: Ledger) -> None:
    first, second, third = hashes(ledger)
    made = create_branch(ledger, "try", 2)
    assert (made.turn, made.hash, made.is_current) == (2, second, False)
    assert switch(ledger, "try").is_current
    rollback_turn(ledger, 1)
    plain_ledgers.add_several(ledger, 1, start=7)
    assert [turn.number for turn in log(ledger)] == [1, 2, 3, 4]
    assert hashes(ledger)[:2] == [first, second]
    switch(ledger, "main")
    assert hashes(ledger) == [first, second, third]
    assert [(ref.name, ref.turn, ref.is_current) for ref in list_branches(ledger)] == [
        *(("main", 3, True), ("try", 4, False)),
    ]
    assert problems(ledger) == ""


def test_every_state_of_a_branch_is_that_of_its_own_turns(quick: Ledger) -> None:
    third = plain_ledgers.state(quick)
    create_branch(quick, "try", 1)
    switch(quick, "try")
    assert plain_ledgers.state(quick) == plain_ledgers.state(quick, 1) != third
    plain_ledgers.add_several(quick, 1, start=7)
    assert plain_ledgers.recorded(quick) == plain_ledgers.state(quick)
    assert plain_ledgers.state(quick, "main") == third


def test_a_branch_begins_at_the_newest_turn_or_at_the_base(quick: Ledger) -> None:
    newest = hashes(quick)[-1]
    assert create_branch(quick, "here").hash == newest
    assert (create_branch(quick, "base", 0).turn, list_branches(quick)[0].hash) == (0, "empty")
    switch(quick, "base")
    assert (log(quick), status(quick).to_json()["turn"]) == ([], 0)
    plain_ledgers.add_several(quick, 2, start=7)
    assert len(hashes(quick)) == 2
    assert problems(quick) == ""


def test_the_branch_that_was_switched_to_is_there_the_next_time(quick: Ledger) -> None:
    switch(quick, "try", create=True, at=1)
    with open_ledger(quick.folder) as again:
        assert again.branch == "try"
        assert len(hashes(again)) == 1


def test_a_deleted_branch_leaves_its_turns_and_a_clean_ledger(ledger: Ledger) -> None:
    switch(ledger, "try", create=True, at=2)
    plain_ledgers.add_several(ledger, 1, start=7)
    newest = hashes(ledger)[-1]
    switch(ledger, "main")
    was = delete_branch(ledger, "try")
    assert (was.name, was.turn, was.hash) == ("try", 3, newest)
    assert [ref.name for ref in list_branches(ledger)] == ["main"]
    assert problems(ledger) == ""
    assert create_branch(ledger, "again", newest[:12]).turn == 3
    assert create_branch(ledger, "try", newest).hash == newest
    assert problems(ledger) == ""


def test_a_branch_made_again_cannot_record_a_turn_that_there_was(ledger: Ledger) -> None:
    switch(ledger, "try", create=True, at=2)
    plain_ledgers.add_several(ledger, 2, start=7)
    newest = hashes(ledger)[-1]
    switch(ledger, "main")
    delete_branch(ledger, "try")
    for at in (0, 2, 3):
        with pytest.raises(HistoryError, match=f"ledger branch try --at {newest[:12]}"):
            create_branch(ledger, "try", at)
    plain_ledgers.add_several(ledger, 2, start=17)
    switch(ledger, "try", create=True)
    plain_ledgers.add_several(ledger, 1, start=27)
    assert log(ledger)[-1].number == 6
    assert problems(ledger) == ""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("main", "main cannot be deleted"), ("try", "current branch"), ("none", "no branch none")],
)
def test_a_branch_that_is_needed_is_not_deleted(quick: Ledger, name: str, sentence: str) -> None:
    switch(quick, "try", create=True)
    before = contents(quick)
    with pytest.raises(HistoryError, match=sentence):
        delete_branch(quick, name)
    assert contents(quick) == before


@pytest.mark.parametrize(
    "name", ["HEAD", "12", "a..b", "-x", "a b", "x~1", "", "é", "x/", "a" * 201]
)
def test_a_name_that_could_mean_something_else_is_refused(quick: Ledger, name: str) -> None:
    before = contents(quick)
    for make in (create_branch, create_tag):
        with pytest.raises(SettingError, match="cannot name a branch or tag"):
            make(quick, name)
    assert contents(quick) == before


def test_a_branch_and_a_tag_never_have_the_same_name(quick: Ledger) -> None:
    create_branch(quick, "try")
    create_tag(quick, "v1")
    before = contents(quick)
    for make, name, what in (
        (create_branch, "try", "a branch try already, at turn 3"),
        (create_branch, "v1", "a tag v1 already, at turn 3"),
        (create_tag, "try", "a branch try already"),
        (create_tag, "main", "a branch main already"),
    ):
        with pytest.raises(HistoryError, match=f"there is {what}"):
            make(quick, name)
    with pytest.raises(HistoryError, match="a branch try already"):
        create_tag(quick, "try", 1, force=True)
    assert contents(quick) == before


def test_what_is_no_branch_cannot_be_switched_to(quick: Ledger) -> None:
    create_tag(quick, "v1", 1)
    with pytest.raises(HistoryError, match="ledger switch --create NAME --at v1"):
        switch(quick, "v1")
    with pytest.raises(HistoryError, match="there is no branch none"):
        switch(quick, "none")
    assert quick.branch == open_ledger(quick.folder).branch == "main"


def test_a_tag_stays_where_it_is_unless_it_is_forced(ledger: Ledger) -> None:
    assert create_tag(ledger, "v1", 2).turn == 2
    plain_ledgers.add_several(ledger, 1, start=7)
    assert [(ref.name, ref.turn) for ref in list_tags(ledger)] == [("v1", 2)]
    with pytest.raises(HistoryError, match="move it: ledger tag --force v1 TURN"):
        create_tag(ledger, "v1")
    assert create_tag(ledger, "v1", "HEAD", force=True).turn == 4
    assert create_tag(ledger, "v1", 4).turn == 4
    assert [told(move) for move in reflog(ledger, "v1")] == [
        *(("v1", "force", 2, 4), ("v1", "tag", None, 2)),
    ]
    assert problems(ledger) == ""
    assert delete_tag(ledger, "v1").turn == 4
    assert list_tags(ledger) == []
    with pytest.raises(HistoryError, match="no tag v1"):
        delete_tag(ledger, "v1")
    assert problems(ledger) == ""


def test_a_tag_needs_a_turn(quick: Ledger, tmp_path: Path, model: Path) -> None:
    with pytest.raises(HistoryError, match="a tag names a turn"):
        create_tag(quick, "base", 0)
    empty = plain_ledgers.new_ledger(tmp_path / "empty", model)
    with empty, pytest.raises(HistoryError, match="a tag names a turn"):
        create_tag(empty, "v1")


def test_each_of_the_two_deletions_takes_its_own_kind(quick: Ledger) -> None:
    create_tag(quick, "v1")
    create_branch(quick, "try")
    with pytest.raises(HistoryError, match="v1 is a tag"):
        delete_branch(quick, "v1")
    with pytest.raises(HistoryError, match="try is a branch"):
        delete_tag(quick, "try")


def test_the_reflog_tells_every_move_newest_first(ledger: Ledger) -> None:
    switch(ledger, "try", create=True, at=2)
    rollback_turn(ledger, 1)
    create_tag(ledger, "v1", 1)
    switch(ledger, "main")
    delete_branch(ledger, "try")
    moves = reflog(ledger)
    assert [told(move) for move in moves] == [
        ("try", "delete", 3, None),
        ("v1", "tag", None, 1),
        ("try", "rollback", 2, 3),
        ("try", "create", None, 2),
        ("main", "import", 2, 3),
        ("main", "import", 1, 2),
        ("main", "import", None, 1),
        ("main", "init", None, None),
    ]
    assert reflog(ledger, last=2) == moves[:2]
    assert reflog(ledger, "try", last=1) == moves[:1]
    assert [told(move)[1] for move in reflog(ledger, "try")] == ["delete", "rollback", "create"]
    with pytest.raises(HistoryError, match="never was a branch or tag none"):
        reflog(ledger, "none")


def test_verify_finds_refs_that_were_moved_made_or_removed_without_a_record(
    ledger: Ledger,
) -> None:
    create_tag(ledger, "v1", 1)
    create_branch(ledger, "try", 1)
    turn = {number: step.id for number, step in enumerate(plain_ledgers.line(ledger), start=1)}
    v1, main = RefRow.name == "v1", RefRow.name == "main"
    alterations = (
        (update(RefRow).where(v1).values(turn_id=turn[2]), "tag v1: was moved without a record"),
        (update(RefRow).where(main).values(turn_id=turn[2]), "branch main: was moved without"),
        (update(RefRow).where(v1).values(kind="branch"), "branch v1: was turned from a tag"),
        (update(RefRow).where(v1).values(name="v2"), "tag v2: was made without a record"),
        (delete(RefRow).where(v1), "branch or tag v1: was removed without a record"),
        (
            delete(EntryRow).where(EntryRow.ref == "main", EntryRow.to_turn_id == turn[2]),
            "branch main: its recorded moves do not follow one another",
        ),
        (delete(EntryRow).where(EntryRow.ref == "v1"), "tag v1: was made without a record"),
    )
    assert ledger.base.tensors
    for alteration, problem in alterations:
        # Nothing is committed, so that each finds the ledger as it was.
        with Session(ledger.engine) as session:
            session.execute(alteration)
            found = "\n".join(": ".join(problem) for problem in wrong_refs(session, ledger))
        assert problem in found
    assert problems(ledger) == ""


def test_verify_tells_of_a_ref_that_was_moved(quick: Ledger) -> None:
    create_tag(quick, "v1", 1)
    newest = plain_ledgers.line(quick)[-1].id
    with database.writing(quick.engine) as session:
        session.execute(update(RefRow).where(RefRow.name == "v1").values(turn_id=newest))
    assert problems(quick) == "tag v1: was moved without a record"


def test_the_commands_make_list_and_delete(capsys: Capture, quick: Ledger) -> None:
    where = ("--ledger", str(quick.folder))
    newest = hashes(quick)[-1]
    assert "branch try begins at turn 2 (" in done(capsys, "branch", "try", "--at", "2", *where).out
    listed = done(capsys, "branch", *where).out.splitlines()
    assert listed[0].split() == ["branch", "turn", "hash", "message"]
    assert listed[1].split() == ["*", "main", "3", newest[:7]]
    assert listed[2].split()[:2] == ["try", "2"]
    assert (
        "on branch new, at the base" in done(capsys, "switch", "-c", "new", "--at", "0", *where).out
    )
    assert "on branch main, at turn 3" in done(capsys, "switch", "main", *where).out
    assert "no tags yet" in done(capsys, "tag", *where).out
    assert f"tag v1 is at turn 3 ({newest[:12]})" in done(capsys, "tag", "v1", *where).out
    assert "tag v1 is at turn 1" in done(capsys, "tag", "v1", "HEAD~2", "--force", *where).out
    assert done(capsys, "tag", *where).out.splitlines()[1].split()[:2] == ["v1", "1"]
    assert (
        "deleted tag v1, which was at turn 1" in done(capsys, "tag", "--delete", "v1", *where).out
    )
    gone = done(capsys, "branch", "--delete", "try", *where).out
    [again] = [line for line in gone.splitlines() if "to bring it back: ledger " in line]
    words = again.partition("to bring it back: ledger ")[2].split()
    assert "branch try begins at turn 2" in done(capsys, *words, *where).out
    assert "deleted branch new" in done(capsys, "branch", "-d", "new", *where).out


def test_the_commands_tell_programs(capsys: Capture, quick: Ledger) -> None:
    where = ("--ledger", str(quick.folder), "--json")
    newest = hashes(quick)[-1]
    expected = {"kind": "branch", "name": "main", "turn": 3, "hash": newest, "message": ""}
    assert done(capsys, "branch", *where).json() == [{**expected, "current": True}]
    assert done(capsys, "switch", "main", *where).json() == {**expected, "current": True}
    assert done(capsys, "tag", "v1", "2", *where).json()["turn"] == 2
    assert [tag["name"] for tag in done(capsys, "tag", *where).json()] == ["v1"]
    assert done(capsys, "tag", "-d", "v1", *where).json()["deleted"]["name"] == "v1"
    first = done(capsys, "reflog", "--last", "1", *where).json()
    assert [(m["ref"], m["action"], m["from"]["turn"], m["to"]) for m in first] == [
        ("v1", "delete", 2, None)
    ]
    assert len(done(capsys, "reflog", *where).json()) == 6


def test_the_reflog_as_a_table_shows_the_newest_and_says_that_there_are_more(
    capsys: Capture, quick: Ledger
) -> None:
    where = ("--ledger", str(quick.folder))
    for _ in range(50):
        create_tag(quick, "v1", 1)
        delete_tag(quick, "v1")
    lines = done(capsys, "reflog", *where).out.splitlines()
    assert lines[0].split() == ["ref", "action", "from", "to", "when"]
    assert lines[1].split()[:2] == ["v1", "delete"]
    assert (len(lines), lines[-1]) == (102, "there are earlier ones: --all, or --last N")
    assert len(done(capsys, "reflog", "--all", *where).out.splitlines()) == 105
    assert len(done(capsys, "reflog", "main", *where).out.splitlines()) == 5


@pytest.mark.parametrize(
    "words",
    [
        *("branch --at 2", "branch --delete", "branch -d try --at 1", "branch a b"),
        *("switch", "switch main --at 1", "tag --force", "tag -d", "tag -d v1 2", "tag x 0"),
        *("tag -d v1 --force", "reflog --last 1 --all", "branch HEAD", "tag 12"),
    ],
)
def test_wrong_usage_is_told_apart_and_changes_nothing(
    capsys: Capture, quick: Ledger, words: str
) -> None:
    before = contents(quick)
    outcome = call(capsys, *words.split(), "--ledger", str(quick.folder))
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("error: ")
    assert contents(quick) == before
