"""Every command used wrongly: one sentence that says what to do, the right status, no change.

The tables (`tests.wrong_uses`) have a row for every command; a command without one fails a test.
"""

import contextlib
import ctypes
import io
import json
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
from safetensors.torch import load_file, save_file

from cli.main import commands, main
from ledger.branching import create_branch
from ledger.database import VERSION_TABLE
from ledger.rolling_back import rollback_turn
from ledger.workspace import open_ledger
from tests import processes
from tests.command_line import Outcome, call
from tests.ledgers import add, contents, facts, files, new_ledger, write_facts
from tests.tiny_models import build
from tests.wrong_uses import (
    FROM_ONE,
    MAKE_ONE,
    NEED_MODEL,
    NEED_NONE,
    NO_TURN,
    RIGHT,
    ROWS,
    STAY,
    TURNS,
)

Capture = pytest.CaptureFixture[str]


def leaves(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[str]:
    """Every command that does something, as it is typed."""
    if not isinstance(command, click.Group):
        yield " ".join(words)
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None
        yield from leaves(found, (*words, name))


def test_every_command_has_its_rows() -> None:
    assert set(leaves(commands)) == set(ROWS) == {*RIGHT, *NEED_NONE}
    assert {*TURNS, *NEED_MODEL} <= set(ROWS)


# The scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A folder with a ledger of three turns on two branches, models, and files that are none."""
    place = tmp_path_factory.mktemp("wrong")
    shutil.copytree(tiny_llama, place / "model")
    with new_ledger(place / "ledger", place / "model") as made:
        add(made, write_facts(place / "old.json", facts(4)), turn_size=2, evaluate=False)
        create_branch(made, "side", at=1)
        rollback_turn(made, 1)
    write_facts(place / "facts.json", facts(3, start=10))
    (place / "full").mkdir()
    (place / "full" / "note.txt").write_text("precious")
    for name in ("hollow", "changed"):
        shutil.copytree(place / "model", place / name)
    (place / "hollow" / "model.safetensors").unlink()
    alter(place / "changed")
    build(place / "gpt2", "gpt2")
    return place


def alter(model: Path) -> None:
    path = model / "model.safetensors"
    tensors = {name: tensor + 1 for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.fixture
def here(scene: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The scene as the present folder, with its ledger selected."""
    monkeypatch.chdir(scene)
    monkeypatch.setenv("LEDGER_DIR", "ledger")
    return scene


def state(place: Path) -> object:
    """All rows and all files; the database's own are told by its rows."""
    with open_ledger(place / "ledger") as ledger:
        rows = contents(ledger)
    found = files(place)
    return rows, {name: found[name] for name in found if "ledger.db" not in name}


def sentence(outcome: Outcome, what: str) -> str:
    """The one line of an error."""
    assert outcome.status in (1, 2), (what, outcome)
    assert outcome.out == "", what
    assert outcome.err.startswith("error: "), (what, outcome.err)
    assert len(outcome.err.splitlines()) == 1, (what, outcome.err)
    assert "Traceback" not in outcome.err
    return outcome.err


# Wrong arguments, missing files, wrong models


@pytest.mark.parametrize("command", ROWS)
def test_wrong_arguments_are_one_sentence_and_change_nothing(
    capsys: Capture, here: Path, command: str
) -> None:
    before = state(here)
    rows = [*ROWS[command], ("--no-such-option", 2, "No such option")]
    for arguments, status, fragment in rows:
        outcome = call(capsys, *command.split(), *arguments.split())
        assert fragment in sentence(outcome, arguments), arguments
        assert outcome.status == status, (arguments, outcome.err)
    assert state(here) == before


def test_groups_and_no_command_are_wrong_use_with_a_list_of_commands(capsys: Capture) -> None:
    for words in ([], ["rollback"], ["db"]):
        outcome = call(capsys, *words)
        assert (outcome.status, outcome.out) == (2, "")
        assert "Commands:" in outcome.err


@pytest.mark.parametrize("command", TURNS)
def test_a_wrong_turn_is_one_sentence_and_changes_nothing(
    capsys: Capture, here: Path, command: str
) -> None:
    before = state(here)
    outcome = call(capsys, *TURNS[command].format(99).split())
    assert NO_TURN in sentence(outcome, command)
    assert outcome.status == 1
    for name in ("later", "beefbeef"):
        outcome = call(capsys, *TURNS[command].format(name).split())
        # Shards are named by numbers only.
        fragment = "is not a range" if command == "merge-shards" else f"nothing is called {name}"
        assert fragment in sentence(outcome, name), name
    if command in FROM_ONE:
        outcome = call(capsys, *TURNS[command].format(0).split())
        assert "0 is not a turn: the first is 1" in sentence(outcome, command)
        assert outcome.status == 2
    assert state(here) == before


def test_a_turn_of_another_branch_is_not_one_of_this(capsys: Capture, here: Path) -> None:
    """Branch side ends at turn 1: main's second is none of it, by number or as what leads there."""
    before = state(here)
    for words in ("rollback turn", "rollback to", "apply --to out --at", "tag new"):
        outcome = call(capsys, *words.split(), "2", "--branch", "side")
        assert "there is no turn 2: the turns are 1 to 1" in sentence(outcome, words)
    for words in ("rollback turn", "rollback to"):
        sentence(call(capsys, *words.split(), "main~1", "--branch", "side"), words)
    assert state(here) == before


def test_a_wrong_model_is_one_sentence_and_changes_nothing(
    capsys: Capture, here: Path, tmp_path: Path
) -> None:
    """Gone, without weights, of another architecture, and altered since it was recorded."""
    before = state(here)
    scenes = {
        None: "no such folder",
        "hollow": "no weights in it",
        "gpt2": "is not the model of this ledger",
        "changed": "is not what was recorded at init",
    }
    model, aside = here / "model", tmp_path / "aside"
    model.rename(aside)
    try:
        for stand_in, fragment in scenes.items():
            if stand_in is not None:
                model.symlink_to(here / stand_in)
            for line in NEED_MODEL.values():
                assert fragment in sentence(call(capsys, *line.split()), line), line
            model.unlink(missing_ok=True)
    finally:
        aside.rename(model)
    assert state(here) == before


# Wrong ledgers


def no_database(folder: Path) -> None:
    (folder / "ledger.db").unlink()


def other_database(folder: Path) -> None:
    no_database(folder)
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as connection:
        connection.execute("CREATE TABLE notes (text)")


def newer_database(folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(folder / "ledger.db")) as connection:
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        connection.commit()


def only_files(folder: Path) -> None:
    (folder / "config.json").unlink()


def config(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "config.json").write_bytes(content)


OTHER = json.dumps({"format": 99}).encode()
WRONG_LEDGERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another folder": (only_files, "is not a ledger; create one with: ledger init"),
    "no database": (no_database, "the ledger's database is missing; restore it"),
    "a text as database": (lambda f: (f / "ledger.db").write_text("x" * 9999), "Restore it from"),
    "another database": (other_database, "holds no ledger; create one with: ledger init"),
    "a newer database": (newer_database, "update edit-ledger"),
    "half a config": (config(b'{"format": 1,'), "restore it, or make a new ledger elsewhere"),
    "a list as config": (config(b"[]"), "restore it, or make a new ledger elsewhere"),
    "no text as config": (config(b"\xff\x00"), "restore it, or make a new ledger elsewhere"),
    "a newer config": (config(OTHER), "update edit-ledger"),
}


@pytest.mark.parametrize("kind", WRONG_LEDGERS)
def test_a_wrong_ledger_is_one_sentence_for_every_command_and_stays_as_it_is(
    capsys: Capture, here: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    damage, fragment = WRONG_LEDGERS[kind]
    ledger = tmp_path / "ledger"
    shutil.copytree(here / "ledger", ledger)
    damage(ledger)
    monkeypatch.setenv("LEDGER_DIR", str(ledger))
    before = files(ledger)
    for command, line in RIGHT.items():
        # It would say that its own folder is no place for a new ledger, or make one.
        if command in MAKE_ONE or (kind == "a newer database" and command == "db current"):
            continue
        said = sentence(call(capsys, *line.split()), line)
        # What is read first may be missing too.
        assert fragment in said or command == "pull", (line, said)
    assert {n: d for n, d in files(ledger).items() if n in before} == before
    assert not (here / "out").exists()


def test_without_a_ledger_every_command_says_how_to_make_one(
    capsys: Capture, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(scene)
    before = state(scene)
    for command, line in RIGHT.items():
        if command not in MAKE_ONE:
            said = sentence(call(capsys, *line.split()), line)
            assert "create one with: ledger init --model MODEL" in said, line
    assert state(scene) == before


# No permission


# Commands that write somewhere, in a folder where nothing can be written.
LOCKED = {
    "init --model model --ledger locked/new": "cannot be created",
    "apply --to locked/out": "locked",
    "rollback turn 2 --to locked/out": "locked",
    "export --format safetensors --out locked/out": "locked",
    "clone ./full --ledger locked/new": "",
    "add-edits secret.json": "secret.json cannot be read: Permission denied",
    "tune --data secret.json": "secret.json cannot be read: Permission denied",
    "import secret": "secret",
    "evaluate --suite perplexity --text secret.json": "secret.json",
    "attest --out locked/out.json": "locked",
    "plot timeline --out locked/chart.svg": "locked",
    "report --no-verify --no-weights --out locked/report.html": "locked",
    "db copy --to sqlite:///locked/new.db": "locked",
}
_RIGHTS_OF_ROOT = (1 << 1) | (1 << 2) | (1 << 3)  # to override what a file's mode allows
_CAPABILITIES_3 = 0x20080522


def give_up_rights() -> None:
    """Let modes of files bind this process, even if it is root's (capset(2))."""
    if os.geteuid():
        return
    system = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES_3, 0)
    # Effective, permitted and inheritable, each of 32 capabilities; then of the next 32.
    held = (ctypes.c_uint32 * 6)()
    assert system.capget(header, held) == 0
    for number in range(3):
        held[number] &= ~_RIGHTS_OF_ROOT
    assert system.capset(header, held) == 0


def run_without_rights(report: processes.Report, place: str, lines: list[str]) -> None:
    """In a process of its own: run the commands, and report how each ended."""
    os.chdir(place)
    os.environ["LEDGER_DIR"] = "ledger"
    give_up_rights()
    for line in lines:
        out, err = io.StringIO(), io.StringIO()
        status: object = 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(line.split())
            except SystemExit as stop:
                status = stop.code
        report((line, status, out.getvalue(), err.getvalue()))


def without_rights(place: Path, lines: list[str]) -> dict[str, Outcome]:
    """How the commands end there, in a process that gives up its rights."""
    found: dict[str, Outcome] = {}
    for report in processes.finish(run_without_rights, str(place), lines):
        assert isinstance(report, tuple)
        line, status, out, err = report
        found[line] = Outcome(status=status, out=out, err=err)
    assert [*found] == lines
    return found


@pytest.fixture
def locked(scene: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the scene, with a folder that cannot be written to and files that are secret."""
    place = tmp_path / "scene"
    shutil.copytree(scene, place)
    (place / "locked").mkdir(mode=0o555)
    shutil.copytree(place / "model", place / "secret")
    (place / "secret.json").write_text("[]")
    for name in ("secret.json", "secret"):
        (place / name).chmod(0)
    yield place
    for path in [place, *place.rglob("*")]:
        path.chmod(0o755)


@pytest.mark.skipif(sys.platform != "linux", reason="rights are given up as Linux does it")
def test_without_permission_every_command_says_so_and_changes_nothing(locked: Path) -> None:
    with open_ledger(locked / "ledger") as ledger:
        before = contents(ledger)
    for line, outcome in without_rights(locked, [*LOCKED]).items():
        assert LOCKED[line] in sentence(outcome, line), (line, outcome.err)
    assert [*(locked / "locked").iterdir()] == []
    with open_ledger(locked / "ledger") as ledger:
        assert contents(ledger) == before


@pytest.mark.skipif(sys.platform != "linux", reason="rights are given up as Linux does it")
def test_in_a_ledger_that_cannot_be_written_every_command_ends_well_or_with_one_sentence(
    locked: Path,
) -> None:
    ledger = locked / "ledger"
    for path in [ledger, *ledger.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = files(locked / "ledger")
    lines = [line for command, line in RIGHT.items() if command not in (*MAKE_ONE, *STAY)]
    for line, outcome in without_rights(locked, lines).items():
        if outcome.status:
            sentence(outcome, line)
    assert files(locked / "ledger") == before
