"""What the command says when something is wrong: one sentence, the right status, no traceback."""

import contextlib
import io
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import demo
from cli.main import main
from ledger.history import find_turn
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.verifying import verify
from ledger.workspace import open_ledger
from tests.command_line import Outcome, call, done, process
from tests.ledgers import add, contents, fact, facts, new_ledger, write_facts
from tests.processes import Report, Running

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> str:
    """A ledger of two turns, the first undone by the third. No test may change it."""
    folder = tmp_path_factory.mktemp("errors") / "ledger"
    with new_ledger(folder, tiny_llama) as made:
        add(made, write_facts(folder.parent / "facts.json", facts(4)), turn_size=2, evaluate=False)
        rollback_turn(made, 1)
    return str(folder)


@pytest.fixture
def here(ledger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, with the ledger above selected. Its contents must not change."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEDGER_DIR", ledger)
    with open_ledger(ledger) as opened:
        before = contents(opened)
        yield tmp_path
        assert contents(opened) == before


def assert_one_sentence(outcome: Outcome, status: int) -> None:
    assert outcome.status == status, outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.endswith("\n")
    assert len(outcome.err.splitlines()) == 1


ERRORS = [
    ("show 9", "there is no turn 9: the turns are 1 to 3"),
    ("rollback turn 9", "there is no turn 9"),
    ("rollback turn 1", "rolled back already, by turn 3"),
    ("rollback to 9", "there is no turn 9"),
    ("rollback to 3", "nothing to roll back"),
    ("evaluate --at 9", "there is no turn 9"),
    ("evaluate --turn 3", "it has no edits to score"),
    ("apply --to out --at 9", "there is no turn 9"),
    ("apply --to full", "full"),
    ("rollback turn 2 --to full", "full"),
    ("init --model full", "is a ledger already"),
    ("add-edits missing.json", "missing.json"),
    ("add-edits strange.json", "strange.json"),
    ("add-edits facts.json --map foo=bar", "unknown keys: foo"),
    ("add-edits facts.json --map prompt", "prompt=src"),
    ("add-edits facts.json --map prompt=nowhere,target=target", "nowhere"),
    ("log --ledger elsewhere", "is not a ledger; create one with: ledger init"),
]


@pytest.mark.parametrize(("line", "fragment"), ERRORS, ids=[line for line, _ in ERRORS])
@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_an_error_is_one_sentence_and_changes_nothing(
    capsys: Capture, here: Path, line: str, fragment: str, options: list[str]
) -> None:
    (here / "full").mkdir()
    (here / "full" / "precious.txt").write_text("precious")
    (here / "strange.json").write_text('[{"colour": "red"}]')
    write_facts(here / "facts.json", facts(2, start=10))
    outcome = call(capsys, *line.split(), *options)
    assert_one_sentence(outcome, 1)
    assert fragment in outcome.err
    assert not (here / "out").exists()


WRONG_USAGE = [
    ("nope", "No such command 'nope'; see: ledger --help"),
    ("log --xyzzy", "No such option '--xyzzy'; see: ledger log --help"),
    ("show", "Missing argument 'TURN'"),
    ("show 0", "0 is not a turn: the first is 1"),
    ("log --last 0", "--last"),
    ("apply", "Missing option '--to'"),
    ("rollback turn 0", "0"),
    ("rollback sideways", "No such command 'sideways'"),
    ("add-edits facts.json --turn-size 0", "--turn-size must be at least 1"),
    ("add-edits facts.json --method rome", "--method is one of ultraedit"),
    ("add-edits facts.json --set learning_rate", "is not KEY=VALUE"),
    ("add-edits facts.json --set colour=red", "no hyperparameter 'colour'"),
    ("add-edits facts.json --set learning_rate=fast", "learning_rate=fast"),
    ("add-edits facts.json --set batch_size=0", "batch_size"),
    ("add-edits facts.json --device warp", "--device warp"),
    ("add-edits facts.json --dtype int8", "int8"),
    ("add-edits facts.json --seed -1", "--seed"),
    ("add-edits facts.json --resume --set ridge=2", "--resume"),
]


@pytest.mark.parametrize(("line", "fragment"), WRONG_USAGE, ids=[line for line, _ in WRONG_USAGE])
def test_wrong_usage_is_one_sentence_and_status_two(
    capsys: Capture, here: Path, line: str, fragment: str
) -> None:
    write_facts(here / "facts.json", facts(2, start=10))
    outcome = call(capsys, *line.split())
    assert_one_sentence(outcome, 2)
    assert fragment in outcome.err


def test_a_pattern_that_matches_nothing_lists_what_there_is(capsys: Capture, here: Path) -> None:
    write_facts(here / "facts.json", facts(2, start=10))
    outcome = call(capsys, "add-edits", "facts.json", "--modules", "*.mlp.sideways_proj")
    assert outcome.status in (1, 2)
    assert_one_sentence(outcome, outcome.status)
    assert "sideways_proj" in outcome.err
    assert "model.layers.*.mlp.down_proj" in outcome.err


def test_without_a_ledger_the_sentence_says_how_to_make_one(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call(capsys, "log")
    assert_one_sentence(outcome, 1)
    assert "ledger init --model" in outcome.err


@pytest.mark.parametrize("line", ["rollback turn 1", "rollback to 0", "evaluate", "apply --at 1"])
def test_an_empty_ledger_has_nothing_to_work_on(
    capsys: Capture,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done(capsys, "init", "--model", str(tiny_llama))
    words = [*line.split(), *(["--to", "out"] if line.startswith("apply") else [])]
    assert_one_sentence(call(capsys, *words), 1)
    assert not (tmp_path / "out").exists()


def test_without_words_the_help_is_shown_as_wrong_usage(capsys: Capture) -> None:
    outcome = call(capsys)
    assert (outcome.status, outcome.out) == (2, "")
    assert outcome.err.startswith("Usage: ledger")


@pytest.mark.usefixtures("here")
def test_a_message_with_line_breaks_stays_one_sentence(capsys: Capture) -> None:
    outcome = call(capsys, "add-edits", "no\nsuch\nfile.json")
    assert_one_sentence(outcome, 1)


def test_rows_that_cannot_be_read_are_named(capsys: Capture, here: Path) -> None:
    (here / "broken.json").write_text('[{"prompt": "It is", "target": "a"},')
    outcome = call(capsys, "add-edits", "broken.json", "--json")
    assert_one_sentence(outcome, 1)
    assert "broken.json: malformed JSON in row 1, line 1" in outcome.err


def test_a_path_that_cannot_be_is_one_sentence(capsys: Capture, here: Path) -> None:
    (here / "file").write_text("a file, where a folder should be")
    outcome = call(capsys, "apply", "--to", str(here / "file" / "below"))
    assert_one_sentence(outcome, 1)


def test_an_edit_that_fails_names_turn_and_rows(capsys: Capture, here: Path) -> None:
    write_facts(here / "facts.json", [fact(number) for number in (11, 12)])
    outcome = call(capsys, "add-edits", "facts.json", "--set", "learning_rate=1e60", "--json")
    assert_one_sentence(outcome, 1)
    assert "turn 4 (rows 0 to 1 of" in outcome.err
    assert "Nothing of it was recorded" in outcome.err


def test_errors_of_the_installed_command_show_no_traceback(ledger: str) -> None:
    assert_one_sentence(process("show", "9", "--ledger", ledger), 1)
    assert_one_sentence(process("log", "--nope"), 2)


def test_a_failed_verification_says_what_is_wrong_and_ends_with_status_one(
    capsys: Capture, tiny_llama: Path, tmp_path: Path
) -> None:
    folder = str(tmp_path / "ledger")
    with new_ledger(tmp_path / "ledger", tiny_llama) as made:
        add(made, write_facts(tmp_path / "facts.json", facts(2)), evaluate=False)
        row = find_turn(log(made), 1).row
        path = made.store.path(row.patch_digest or "")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    outcome = call(capsys, "verify", "--ledger", folder)
    assert (outcome.status, outcome.err) == (1, "")
    assert f"WRONG patch {path.stem[:12]}… of turn 1" in outcome.out
    assert outcome.out.splitlines()[-1].endswith(": 1 problem")
    as_json = call(capsys, "verify", "--ledger", folder, "--json")
    assert as_json.status == 1
    assert as_json.json()["ok"] is False
    assert [problem["subject"] for problem in as_json.json()["problems"]] == [
        f"patch {path.stem[:12]}… of turn 1"
    ]


def run(report: Report, words: list[str]) -> None:
    """In a process of its own: run the command, and report what it wrote."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(words)
    finally:
        report((out.getvalue(), err.getvalue()))


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["table", "json"])
def test_control_c_leaves_whole_turns_and_status_130(
    capsys: Capture, tiny_llama: Path, tmp_path: Path, options: list[str]
) -> None:
    folder = tmp_path / "ledger"
    source = write_facts(tmp_path / "facts.json", facts(24))
    new_ledger(folder, tiny_llama).close()
    words = ["add-edits", source, "--turn-size", "1", "--ledger", str(folder)]
    running = Running(run, [*words, *options])
    with open_ledger(folder) as opened:
        while len(log(opened)) < 2:
            assert running.is_alive
            time.sleep(0.02)
    running.send(signal.SIGINT)
    written = running.message()
    assert isinstance(written, tuple)
    out, err = written
    assert running.wait() == 130, err
    assert err.strip() == "stopped; what was recorded stays, nothing is half done"
    with open_ledger(folder) as opened:
        recorded = len(log(opened))
        assert 2 <= recorded < 24
        assert verify(opened).ok
    if options:
        assert out == ""
    again = done(capsys, *words, "--no-evaluate", "--json").json()
    assert (again["known"], again["edits"]) == (recorded, 24 - recorded)


def test_the_demo_says_how_to_get_its_model(capsys: Capture, tmp_path: Path) -> None:
    assert demo.main([str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "python -m cli.demo_model" in captured.err


def test_the_demo_leaves_a_ledger_alone_that_is_not_its_own(
    capsys: Capture, tiny_llama: Path, tmp_path: Path
) -> None:
    (tmp_path / "smollm2").symlink_to(tiny_llama)
    other = tmp_path / "other"
    other.symlink_to(tiny_llama)
    ledger = new_ledger(tmp_path / "ledger", tiny_llama)
    ledger.close()
    config = ledger.folder / "config.json"
    config.write_text(config.read_text().replace(str(tiny_llama), "owner/name"))
    assert demo.main([str(tmp_path)]) == 1
    assert "is a ledger for owner/name" in capsys.readouterr().err
    assert config.exists()
