"""`ledger completion`: the scripts, and what a shell that has them is offered."""

import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class

from cli.main import commands, main
from ledger.branching import create_branch, create_tag, switch
from ledger.newest_turns import newest_turns
from ledger.workspace import Ledger
from tests.branch_scenes import capital, turn
from tests.command_line import LEDGER, call, done
from tests.plain_ledgers import add_several, build, new_ledger

Capture = pytest.CaptureFixture[str]
COUNT = 22
NEWEST = [str(number) for number in range(COUNT, 2, -1)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """22 turns on main; a tag, a branch of two turns, and an empty branch."""
    folder = tmp_path_factory.mktemp("completion")
    with new_ledger(folder / "ledger", build(folder / "model")) as ledger:
        turn(ledger, 0, capital("France", "Rome"))
        turn(ledger, 1, capital("Japan", "Oslo"))
        create_branch(ledger, "try")
        create_branch(ledger, "empty", 0)
        create_tag(ledger, "v1", 2)
        add_several(ledger, COUNT - 2)
        yield ledger


@pytest.fixture
def ledger(made: Ledger, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("LEDGER_DIR", str(made.folder))
    return made


def offered(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, line: str, shell: str = "bash"
) -> list[str]:
    """What the shell is told when TAB is pressed at the end of the line."""
    words = line.split(" ")
    monkeypatch.setenv("_LEDGER_COMPLETE", f"{shell}_complete")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([])
    told = capfd.readouterr()
    assert (stop.value.code, told.err) == (0, "")
    return told.out.splitlines()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_what_the_shell_takes(capsys: Capture, shell: str) -> None:
    script = done(capsys, "completion", shell).out
    kind = get_completion_class(shell)
    assert kind is not None
    assert script == kind(commands, {}, "ledger", "_LEDGER_COMPLETE").source()
    assert f"_LEDGER_COMPLETE={shell}_complete" in script
    assert shell in done(capsys, "completion", "--help").out


def test_another_shell_is_refused(capsys: Capture) -> None:
    outcome = call(capsys, "completion", "cmd")
    assert outcome.status == 2
    assert "'cmd' is not one of 'bash', 'zsh', 'fish'" in outcome.err


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("ledger rollb", ["rollback"]),
        ("ledger rollback ", ["to", "turn"]),
        ("ledger log --gr", ["--graph"]),
        ("ledger log --kind m", ["merge"]),
        ("ledger completion ", ["bash", "zsh", "fish"]),
        ("ledger show ", [*NEWEST, "HEAD", "v1", "empty", "main", "try"]),
        ("ledger show 2", ["22", "21", "20"]),
        ("ledger apply --to x --at ", [*NEWEST, "0", "HEAD", "v1", "empty", "main", "try"]),
        ("ledger show --branch try ", ["2", "1", "HEAD", "v1", "empty", "main", "try"]),
        ("ledger show --branch empty ", ["v1", "empty", "main", "try"]),
        ("ledger diff 1 H", ["HEAD"]),
        ("ledger log --branch ", ["empty", "main", "try"]),
        ("ledger switch t", ["try"]),
        ("ledger merge ", ["empty", "main", "try"]),
        ("ledger branch --delete e", ["empty"]),
        ("ledger tag --delete ", ["v1"]),
        ("ledger reflog ", ["v1", "empty", "main", "try"]),
        ("ledger search ", []),
    ],
)
@pytest.mark.usefixtures("ledger")
def test_names_are_offered_where_they_belong(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, line: str, names: list[str]
) -> None:
    found = [told.removeprefix("plain,") for told in offered(capfd, monkeypatch, line)]
    assert [name for name in found if name] == names


@pytest.mark.parametrize("line", ["ledger add-edits ./f", "ledger tune --data ./f"])
def test_files_are_left_to_the_shell(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    assert offered(capfd, monkeypatch, line) == ["file,./f"]


@pytest.mark.usefixtures("ledger")
def test_shells_that_tell_more_get_it_without_signs_that_do_something(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ledger.newest_turns.newest_turns", lambda *_: [(1, "\x1b[31mred\n\u202ealert")]
    )
    lines = offered(capfd, monkeypatch, "ledger show ", "zsh")
    assert lines[:3] == ["plain", "1", r"\x1b[31mred \u202ealert"]
    assert lines[3:6] == ["plain", "HEAD", "the newest turn"]
    assert lines[6:9] == ["plain", "v1", "tag at turn 2"]


def test_nothing_is_said_where_there_is_no_ledger_or_it_is_damaged(
    capfd: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LEDGER_DIR", str(tmp_path / "none"))
    assert offered(capfd, monkeypatch, "ledger show ") == [""]
    with new_ledger(tmp_path / "ledger", build(tmp_path / "model")):
        pass
    monkeypatch.setenv("LEDGER_DIR", str(tmp_path / "ledger"))
    assert offered(capfd, monkeypatch, "ledger switch ") == ["plain,main"]
    (tmp_path / "ledger" / "ledger.db").write_bytes(b"no database" * 1000)
    assert offered(capfd, monkeypatch, "ledger switch ") == [""]
    (tmp_path / "ledger" / "config.json").write_text("{")
    assert offered(capfd, monkeypatch, "ledger show ") == [""]


def test_completing_loads_nothing_that_is_slow_to_load(ledger: Ledger) -> None:
    script = (
        "import sys\nfrom cli.main import main\n"
        "try:\n    main([])\nexcept SystemExit:\n    pass\n"
        "print({'torch', 'transformers', 'numpy', 'matplotlib', 'flask'} & set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        env={
            **os.environ,
            "LEDGER_DIR": str(ledger.folder),
            "_LEDGER_COMPLETE": "bash_complete",
            "COMP_WORDS": "ledger show ",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert ended.stdout.splitlines()[0] == f"plain,{COUNT}"
    assert ended.stdout.splitlines()[-1] == "set()"


def test_the_newest_turns_are_those_of_the_branch(database_url: str, tmp_path: Path) -> None:
    with new_ledger(tmp_path / "ledger", build(tmp_path / "model"), database_url) as ledger:
        assert newest_turns(ledger, 3) == []
        add_several(ledger, 2)
        create_branch(ledger, "try")
        add_several(ledger, 3, start=2)
        assert [number for number, _ in newest_turns(ledger, 3)] == [5, 4, 3]
        assert [number for number, _ in newest_turns(ledger, 9)] == [5, 4, 3, 2, 1]
        switch(ledger, "try")
        assert [number for number, _ in newest_turns(ledger, 3)] == [2, 1]


def typed(keys: str, expected: str, **environment: str) -> str:
    """What an interactive bash with the script shows when these keys are pressed, at least until
    it shows what is expected."""
    ours, theirs = pty.openpty()
    path = f"{LEDGER.parent}{os.pathsep}{os.environ['PATH']}"
    running = subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        env={**os.environ, "PATH": path, "TERM": "dumb", "PS1": "ready$ ", **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    os.write(ours, b'eval "$(ledger completion bash)"; echo lo""aded\n')
    shown = _until(ours, "\nloaded")
    os.write(ours, keys.encode())
    shown = _until(ours, expected)
    running.kill()
    running.wait()
    os.close(ours)
    return shown


def _until(terminal: int, expected: str) -> str:
    shown, end = "", time.monotonic() + 60
    while expected not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 1 << 16).decode().replace("\r", "")
    return shown


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("ledger bis\t", "ledger bisect "),
        ("ledger switch t\t", "ledger switch try "),
        ("ledger add-edits ./on\t", "ledger add-edits ./only-one.json "),
    ],
)
def test_a_real_bash_completes_what_is_typed(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: str, expected: str
) -> None:
    (tmp_path / "only-one.json").write_text("[]")
    monkeypatch.chdir(tmp_path)
    assert expected in typed(keys, expected, LEDGER_DIR=str(ledger.folder))
