"""What names a turn: numbers, HEAD, branches, tags, ``~N`` and hashes, in every command."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import update

from ledger import database
from ledger.applying import apply_to_folder
from ledger.branching import create_branch, create_tag, delete_branch, switch
from ledger.history import number_on
from ledger.orm import TurnRow
from ledger.refs import Rev, names_of_turns, resolve
from ledger.reporting import log, show
from ledger.rolling_back import rollback_turn
from ledger.sharing.pulling import pull
from ledger.verifying import verify
from ledger.workspace import Ledger, open_ledger
from patches.errors import HistoryError, SettingError
from tests import plain_ledgers
from tests.command_line import call, done
from tests.ledgers import add, contents, facts, files, new_ledger, write_facts
from tests.test_push import push

Capture = pytest.CaptureFixture[str]
FIRST_OF_TRY = 4
"""The row id of turn 3 of branch try; turns 1 to 3 of main have theirs as row ids."""


@pytest.fixture
def ledger(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, database_url: str
) -> Iterator[Ledger]:
    """Turns 1 to 3 on main, v1 at 2; try begins there and has one more, turn 3."""
    model = plain_ledgers.build(tmp_path_factory.mktemp("refs") / "model")
    with plain_ledgers.new_ledger(tmp_path / "ledger", model, database_url) as made:
        plain_ledgers.add_several(made, 3)
        create_tag(made, "v1", 2)
        create_branch(made, "try", "v1")
        made.branch = "try"
        plain_ledgers.add_several(made, 1, start=9)
        made.branch = "main"
        create_branch(made, "none", 0)
        yield made


def found(ledger: Ledger, rev: Rev | None, branch: str = "main") -> int | None:
    with database.reading(ledger.engine) as session:
        return resolve(session, branch, rev)


MEANT: tuple[tuple[Rev | None, int | None, int | None], ...] = (
    *((None, 3, 4), ("HEAD", 3, 4), ("HEAD~0", 3, 4), ("HEAD~", 2, 2), ("HEAD~3", None, None)),
    *((0, None, None), (1, 1, 1), (3, 3, 4), ("0", None, None), ("3", 3, 4), ("3~1", 2, 2)),
    *(("main", 3, 3), ("try", 4, 4), ("none", None, None), ("none~0", None, None)),
    *(("v1", 2, 2), ("v1~1", 1, 1), ("try~1", 2, 2), ("HEAD~1~1", 1, 1), ("main~2", 1, 1)),
)
"""A name, and the row ids of the turns that it means on main and on try."""
NOTHING: tuple[tuple[Rev, str], ...] = (
    (4, "no turn 4: the turns are 1 to 3"),
    (-1, "no turn -1"),
    ("HEAD~4", "HEAD is turn 3, there are not so many"),
    ("v1~3", "v1 is turn 2"),
    ("abc", "nothing is called abc"),
    ("v2", "nothing is called v2"),
    ("ABCDEF", "nothing is called ABCDEF"),
    ("v1~x", "nothing is called v1~x"),
    ("~1", "nothing is called ~1"),
    ("head", "nothing is called head"),
    ("", "nothing is called"),
    ("12345678901234567890", "nothing is called"),
)


def test_a_name_is_looked_up_on_the_branch_at_hand(ledger: Ledger) -> None:
    for rev, on_main, on_try in MEANT:
        assert (found(ledger, rev), found(ledger, rev, "try")) == (on_main, on_try), rev


def test_a_hash_names_its_turn_from_four_digits_on(ledger: Ledger) -> None:
    change(ledger, {1: "ab12" + "0" * 60, 2: "ab13" + "0" * 60, 3: "1234567" + "0" * 57})
    assert (found(ledger, "ab12"), found(ledger, "ab13"), found(ledger, "ab13~1")) == (1, 2, 1)
    assert found(ledger, "ab12" + "0" * 60, "none") == 1
    # What the log shows of a hash may have no letter in it.
    assert (found(ledger, "1234567"), found(ledger, "1234567~2")) == (3, 1)
    with pytest.raises(HistoryError, match=r"no turn 123456: the turns are 1 to 3"):
        found(ledger, "123456")


def test_hashes_that_begin_alike_are_told_apart_by_more_digits(ledger: Ledger) -> None:
    change(ledger, {1: "ab12" + "0" * 60, 2: "ab12c" + "0" * 59})
    with pytest.raises(HistoryError, match=r"several turns begin with ab12 .*write more of it"):
        found(ledger, "ab12")
    assert found(ledger, "ab12c") == 2


def test_a_branch_or_tag_comes_before_a_hash(ledger: Ledger) -> None:
    change(ledger, {1: "abcd" + "0" * 60})
    assert found(ledger, "abcd") == 1
    create_tag(ledger, "abcd", 3)
    assert (found(ledger, "abcd"), found(ledger, "abcd0")) == (3, 1)


def test_what_names_no_turn_is_told_so(ledger: Ledger) -> None:
    for rev, sentence in NOTHING:
        with pytest.raises(HistoryError, match=sentence):
            found(ledger, rev)
    with pytest.raises(HistoryError, match="no branch nowhere; the branches are main, none, try"):
        found(ledger, 1, "nowhere")


def test_a_turn_of_another_branch_has_no_number_on_this_one(ledger: Ledger) -> None:
    with database.reading(ledger.engine) as session:
        turns = plain_ledgers.line(ledger)
        numbers = [number_on(session, "main", turns, rev) for rev in ("v1", "try~1", "HEAD", 0)]
        assert numbers == [2, 2, 3, 0]
        with pytest.raises(HistoryError, match="try is not a turn that branch main has gone"):
            number_on(session, "main", turns, "try")
    with pytest.raises(HistoryError, match="try is not a turn that branch main has gone"):
        rollback_turn(ledger, "try")


def test_every_turn_knows_the_names_that_point_to_it(ledger: Ledger) -> None:
    create_branch(ledger, "also", 2)
    with database.reading(ledger.engine) as session:
        assert names_of_turns(session) == {
            2: [("branch", "also"), ("tag", "v1")],
            3: [("branch", "main")],
            FIRST_OF_TRY: [("branch", "try")],
        }
    told = [(turn.to_json()["refs"], turn.to_json()["tags"]) for turn in log(ledger)]
    assert told == [([], []), (["also", "v1"], ["v1"]), (["main"], [])]
    assert show(ledger, "try").to_json()["refs"] == ["try"]


def change(ledger: Ledger, hashes: dict[int, str]) -> None:
    """Give turns other hashes, by row id."""
    with database.writing(ledger.engine) as session:
        for number, digest in hashes.items():
            session.execute(update(TurnRow).where(TurnRow.id == number).values(hash=digest))


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A folder with a ledger of two turns of real edits, and one more on branch try, which begins
    at turn 1; the tag v1 is there."""
    folder = tmp_path_factory.mktemp("edited")
    with new_ledger(folder / "ledger", tiny_llama) as made:
        add(made, write_facts(folder / "facts.json", facts(4)), turn_size=2)
        create_tag(made, "v1", 1)
        switch(made, "try", create=True, at="v1")
        add(made, write_facts(folder / "more.json", facts(2, start=9)), evaluate=False)
        switch(made, "main")
    return folder


# All that turn 1 is called on main; the words in braces stand for its hash and its beginning.
NAMES = ("1", "v1", "HEAD~1", "HEAD~", "try~1", "main~1", "2~1", "{short}", "{hash}")


def words(folder: Path, name: str) -> str:
    with open_ledger(folder / "ledger") as opened:
        digest = log(opened)[0].hash
    return name.format(hash=digest, short=digest[:12])


def copied(folder: Path, to: Path) -> tuple[str, str]:
    """The option that names a copy of the ledger, for commands that record."""
    shutil.copytree(folder / "ledger", to)
    return "--ledger", str(to)


@pytest.mark.parametrize("name", NAMES)
def test_commands_that_read_take_every_name(
    capsys: Capture, edited: Path, tmp_path: Path, name: str
) -> None:
    where = ("--ledger", str(edited / "ledger"), "--json")
    rev = words(edited, name)
    assert done(capsys, "show", rev, *where).json()["turn"] == 1
    model = done(capsys, "apply", "--at", rev, "--to", str(tmp_path / "model"), *where).json()
    assert (model["turn"], model["in_force"]) == (1, [1])
    out = tmp_path / "changes"
    written = done(
        capsys, "export", "--format", "safetensors", "--out", str(out), "--at", rev, *where
    ).json()
    assert (written["turn"], written["hash"]) == (1, model["hash"])


@pytest.mark.parametrize("name", ["v1", "HEAD~1", "{short}"])
def test_evaluate_scores_the_state_that_is_named(
    capsys: Capture, edited: Path, tmp_path: Path, name: str
) -> None:
    where = (*copied(edited, tmp_path / "ledger"), "--json")
    rev = words(edited, name)
    scored = done(capsys, "evaluate", "--at", rev, "--turn", rev, *where).json()
    assert (scored["turn"], scored["scope"], scored["n"]) == (1, 1, 2)


@pytest.mark.parametrize("name", NAMES)
def test_rollback_takes_every_name(
    capsys: Capture, edited: Path, tmp_path: Path, name: str
) -> None:
    where = (*copied(edited, tmp_path / "ledger"), "--json")
    rev = words(edited, name)
    undone = done(capsys, "rollback", "turn", rev, *where).json()
    assert (undone["turn"], undone["undoes"], undone["in_force"]) == (3, [1], [2])
    rev = {"HEAD~1": "HEAD~2", "HEAD~": "HEAD~~", "main~1": "main~2"}.get(rev, rev)
    back = done(capsys, "rollback", "to", rev, *where).json()
    assert (back["turn"], back["in_force"]) == (4, [1])


def test_a_state_of_another_branch_is_applied_by_its_name(
    capsys: Capture, edited: Path, tmp_path: Path
) -> None:
    where = ("--ledger", str(edited / "ledger"), "--json")
    theirs = done(capsys, "apply", "--at", "try", "--to", str(tmp_path / "a"), *where).json()
    same = done(capsys, "apply", "--branch", "try", "--to", str(tmp_path / "b"), *where).json()
    ours = done(capsys, "apply", "--to", str(tmp_path / "c"), *where).json()
    assert theirs["hash"] == same["hash"] != ours["hash"]
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


@pytest.mark.parametrize(
    "command",
    ["show {}", "rollback turn {}", "rollback to {}", "apply --to x --at {}", "evaluate --at {}"],
)
@pytest.mark.parametrize("rev", ["v2", "HEAD~9", "ffffffff", "9"])
def test_a_name_of_nothing_is_one_sentence_and_status_1(
    capsys: Capture,
    edited: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    rev: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call(capsys, *command.format(rev).split(), "--ledger", str(edited / "ledger"))
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.count("\n") == 1
    assert rev.split("~")[0] in outcome.err


@pytest.mark.parametrize("rev", ["-1", " "])
def test_what_cannot_be_a_name_is_wrong_usage(capsys: Capture, edited: Path, rev: str) -> None:
    where = ("--ledger", str(edited / "ledger"))
    assert call(capsys, "apply", "--to", "x", f"--at={rev}", *where).status == 2
    assert call(capsys, "show", "0", *where).status == 2


def test_status_and_log_tell_the_names_at_the_head(
    capsys: Capture, edited: Path, tmp_path: Path
) -> None:
    where = copied(edited, tmp_path / "ledger")
    done(capsys, "tag", "reviewed", *where)
    done(capsys, "branch", "also", *where)
    told = done(capsys, "status", "--json", *where).json()
    assert (told["refs"], told["tags"]) == (["also", "main", "reviewed"], ["reviewed"])
    shown = done(capsys, "status", *where).out
    assert re.search(r"(?m)^branch +main at turn 2 \(", shown)
    assert re.search(r"(?m)^also +also, tag reviewed$", shown)
    first, second = done(capsys, "log", *where).out.splitlines()[1:]
    assert first.endswith("  (tag: v1)")
    assert second.endswith("  (HEAD -> main, also, tag: reviewed)")
    first, second = done(capsys, "log", "--branch", "try", *where).out.splitlines()[1:]
    assert first.endswith("  (tag: v1)")
    assert second.endswith("  (try)")


def weights(folder: Path) -> str:
    return files(folder)["model.safetensors"]


@pytest.mark.usefixtures("hub")
def test_a_branch_is_published_pulled_and_branched_from_again(
    edited: Path, tmp_path: Path, tiny_llama: Path
) -> None:
    with open_ledger(shutil.copytree(edited / "ledger", tmp_path / "theirs")) as theirs:
        switch(theirs, "try")
        push(theirs, "me/edits", "patch")
        published = [turn.hash for turn in log(theirs)]
        theirs_now = apply_to_folder(theirs, tmp_path / "a").tensors
    with new_ledger(tmp_path / "ours", tiny_llama) as ours:
        pull(ours, "me/edits@try", branch="theirs")
        create_tag(ours, "as-pulled", "theirs")
        switch(ours, "here", create=True, at="theirs~1")
        add(ours, write_facts(tmp_path / "here.json", facts(2, start=15)), evaluate=False)
        assert verify(ours).problems == []
        assert apply_to_folder(ours, tmp_path / "b", at="as-pulled").tensors == theirs_now
        switch(ours, "main")
        newest = delete_branch(ours, "here")
        assert newest.turn == 2
        ours.branch = "theirs"
        assert [turn.hash for turn in log(ours)] == published
        # Three turns are to come; a second turn of a branch called so has been recorded here.
        switch(ours, "long", create=True, at=newest.hash)
        add(ours, write_facts(tmp_path / "long.json", facts(4, start=17)), turn_size=1)
        switch(ours, "main")
        delete_branch(ours, "long")
        before = contents(ours)
        with pytest.raises(HistoryError, match=r"turns up to 6 .* on a branch long"):
            pull(ours, "me/edits@try", branch="long")
        with pytest.raises(SettingError, match="'two words' cannot name a branch"):
            pull(ours, "me/edits@try", branch="two words")
        assert contents(ours) == before
        assert pull(ours, "me/edits@try", branch="here").turn == 2
        assert verify(ours).problems == []
