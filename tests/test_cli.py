"""The `ledger` command: every command, what it prints for people, and its JSON for programs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from cli.main import commands
from ledger.rolling_back import rollback_turn
from tests.command_line import LEDGER, call, done, on_terminal
from tests.ledgers import add, fact, facts, new_ledger, write_facts

Capture = pytest.CaptureFixture[str]
METRICS = {
    "edit_success",
    "generalization",
    "locality",
    "stability",
    "exact_match",
    "preference",
    "perplexity",
    "out_of_distribution",
    "generated_match",
    "routed_edits",
    "routed_rephrasings",
    "routed_locality",
}
LOG_KEYS = {"turn", "branch", "kind", "method", "state", "undoes", "edits", "skipped"}
LOG_KEYS |= {"message", "replaces", "patch", "hash", "parent", "created_at", "seconds", "scores"}


def walk(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from walk(found, (*path, name))


def find(path: tuple[str, ...]) -> click.Command:
    command: click.Command = commands
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    return command


PATHS = [path for path in walk(commands) if path]
COMPLETION = ("completion",)
LEAVES = [path for path in PATHS if not isinstance(find(path), click.Group)]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> str:
    """A ledger of two turns of edits and a rollback. Tests may score it, and add nothing else."""
    folder = tmp_path_factory.mktemp("cli") / "ledger"
    source = write_facts(folder.parent / "facts.json", [*facts(4), fact(4, target=" ")])
    with new_ledger(folder, tiny_llama) as made:
        add(made, source, turn_size=2)
        rollback_turn(made, 1)
    return str(folder)


def test_the_commands_are_those_that_people_know() -> None:
    promised = "init|add-edits|log|show|status|apply|rollback turn|rollback to|evaluate|verify|gc"
    assert {" ".join(path) for path in LEAVES} >= {*promised.split("|"), "db upgrade", "db current"}


@pytest.mark.parametrize("path", PATHS, ids=" ".join)
def test_every_command_has_help_with_an_example(capsys: Capture, path: tuple[str, ...]) -> None:
    text = done(capsys, *path, "--help").out
    assert f"Example: ledger {path[0]}" in text
    assert done(capsys, *path, "-h").out == text


@pytest.mark.parametrize("path", [path for path in LEAVES if path != COMPLETION], ids=" ".join)
def test_every_command_takes_a_ledger_and_prints_json(path: tuple[str, ...]) -> None:
    options = {option.name: option for option in find(path).params}
    assert options["ledger_dir"].opts == ["--ledger"]
    assert options["ledger_dir"].envvar == "LEDGER_DIR"
    assert options["as_json"].opts == ["--json"]


def test_the_variable_names_a_ledger_and_the_option_wins(
    capsys: Capture, ledger: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LEDGER_DIR", ledger)
    assert done(capsys, "status", "--json").json()["ledger"] == ledger
    monkeypatch.setenv("LEDGER_DIR", str(tmp_path / "elsewhere"))
    assert str(tmp_path / "elsewhere") in call(capsys, "status").err
    assert done(capsys, "status", "--ledger", ledger, "--json").json()["ledger"] == ledger


def test_a_ledger_is_found_from_a_folder_below(
    capsys: Capture, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done(capsys, "init", "--model", str(tiny_llama))
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(below)
    assert done(capsys, "status", "--json").json()["ledger"] == str(tmp_path / ".ledger")


def test_the_tour_works_from_an_empty_folder_to_the_base_again(
    capsys: Capture, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_facts(tmp_path / "facts.json", facts(6))
    assert "fingerprint" in done(capsys, "init", "--model", str(tiny_llama)).out
    assert "no turns yet" in done(capsys, "log").out
    added = done(capsys, "add-edits", "facts.json", "--turn-size", "2", "-m", "Three turns").out
    assert "6 edits recorded in turns 1-3" in added
    assert "nothing to record" in done(capsys, "add-edits", "facts.json", "--turn-size", "2").out
    assert "Three turns" in done(capsys, "log").out
    assert "2 (edit, in force)" in done(capsys, "show", "2").out
    assert "6 of 6 edits recorded; turns 1-3" in done(capsys, "status").out
    assert "turns 1-3 in force" in done(capsys, "apply", "--to", "patched").out
    undone = done(capsys, "rollback", "turn", "2", "--to", "patched").out
    assert "turn 4 rolls back turn 2; in force: 1, 3" in undone
    assert "turns 1, 3 in force" in undone
    assert "turns 1, 3; in force" not in undone
    assert "edit success" in done(capsys, "evaluate", "--at", "2").out
    assert "all as recorded" in done(capsys, "verify", "--model", "patched").out
    everything = done(capsys, "rollback", "to", "0", "--to", "patched").out
    assert "turn 5 rolls back turns 1-4; in force: none" in everything
    weights = "model.safetensors"
    assert Path("patched", weights).read_bytes() == (tiny_llama / weights).read_bytes()
    assert "which brings back turns 1, 3" in done(capsys, "rollback", "turn", "5").out
    assert "removed 0 files" in done(capsys, "gc").out
    assert "nothing to do" in done(capsys, "db", "upgrade").out


def test_the_log_as_json_has_the_promised_keys(capsys: Capture, ledger: str) -> None:
    first, second, undoing = done(capsys, "log", "--ledger", ledger, "--json").json()
    for turn in (first, second, undoing):
        assert set(turn) >= LOG_KEYS
    assert [turn["turn"] for turn in (first, second, undoing)] == [1, 2, 3]
    assert [turn["state"] for turn in (first, second, undoing)] == [
        "rolled_back",
        "in_force",
        "in_force",
    ]
    assert (first["kind"], first["method"], first["edits"]) == ("edit", "ultraedit", 2)
    assert (undoing["kind"], undoing["undoes"], undoing["patch"]) == ("rollback", [1], None)
    assert set(first["patch"]) == {"digest", "bytes", "rank"}
    assert all(isinstance(rank, int) for rank in first["patch"]["rank"].values())
    assert (first["parent"], second["parent"]) == (None, first["hash"])
    assert set(first["scores"]["base"]) == set(first["scores"]["state"]) == METRICS
    assert second["skipped"] == 1


def test_the_last_turns_only(capsys: Capture, ledger: str) -> None:
    last = done(capsys, "log", "--ledger", ledger, "-n", "2", "--json").json()
    assert [turn["turn"] for turn in last] == [2, 3]
    assert len(done(capsys, "log", "--ledger", ledger, "--last", "1").out.splitlines()) == 2


def test_an_evaluation_as_json_has_the_promised_keys(capsys: Capture, ledger: str) -> None:
    found = done(capsys, "evaluate", "--ledger", ledger, "--at", "2", "--json").json()
    assert set(found) >= {"turn", "n", "protocol", "base", "state"}
    assert (found["turn"], found["n"]) == (2, 4)
    assert set(found["base"]) == set(found["state"]) == METRICS
    assert found["base"]["stability"] == 1
    assert "edits" not in found
    each = done(capsys, "evaluate", "--ledger", ledger, "--turn", "2", "--edits", "--json").json()
    assert len(each["edits"]) == each["n"] == 2


def test_other_commands_print_json_with_their_keys(
    capsys: Capture, ledger: str, tmp_path: Path
) -> None:
    def keys(*words: str) -> set[str]:
        found: dict[str, Any] = done(capsys, *words, "--ledger", ledger, "--json").json()
        return set(found)

    assert keys("show", "2") >= LOG_KEYS | {"hyperparameters", "dataset", "tensors", "edit_list"}
    assert keys("status") >= {"model", "turn", "in_force", "fingerprint", "edits_in_force"}
    assert keys("verify") == {"ok", "checked", "problems", "notes"}
    assert keys("apply", "--to", str(tmp_path / "patched")) >= {"turn", "hash", "tensors", "folder"}
    assert keys("gc", "--dry-run") >= {"files", "bytes"}
    assert keys("db", "current") == {"database", "current", "needed"}
    assert keys("db", "upgrade") == {"database", "applied", "copy"}


def test_changing_commands_print_json_with_their_keys(
    capsys: Capture, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_DIR", str(tmp_path / "ledger"))
    source = write_facts(tmp_path / "facts.json", facts(3))
    made = done(capsys, "init", "--model", str(tiny_llama), "--json").json()
    assert set(made) >= {"ledger", "fingerprint", "model", "tensors", "bytes"}
    plan = done(capsys, "add-edits", source, "--dry-run", "--turn-size", "2", "--json").json()
    assert (plan["turns"], plan["edits"], plan["skipped"]) == ([2, 1], 3, [])
    run = done(capsys, "add-edits", source, "--turn-size", "2", "--no-evaluate", "--json").json()
    assert [turn["edits"] for turn in run["turns"]] == [2, 1]
    assert run["edits"] == 3
    undone = done(capsys, "rollback", "turn", "1", "--json").json()
    assert (undone["turn"], undone["undoes"], undone["applied"]) == (3, [1], None)
    back = done(capsys, "rollback", "to", "2", "--to", str(tmp_path / "to"), "--json").json()
    assert back["applied"]["in_force"] == back["in_force"] == [1, 2]


def test_settings_modules_and_mapping_reach_the_recorded_turn(
    capsys: Capture, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_DIR", str(tmp_path / "ledger"))
    source = tmp_path / "qa.csv"
    source.write_text('question,answer\n"The capital of France is",Rome\n"It is",a\n')
    done(capsys, "init", "--model", str(tiny_llama))
    options = ["--map", "prompt=question,target=answer", "--modules", "*layers.{0..1}.mlp.up_proj"]
    options += ["--set", "learning_rate=1e-3", "--set", "variance=welford", "--seed", "7"]
    done(capsys, "add-edits", str(source), *options, "--licence", "CC0-1.0", "-m", "Why")
    shown = done(capsys, "show", "1", "--json").json()
    assert shown["hyperparameters"]["modules"] == [f"model.layers.{n}.mlp.up_proj" for n in (0, 1)]
    assert shown["hyperparameters"]["learning_rate"] == 1e-3
    assert shown["hyperparameters"]["variance"] == "welford"
    assert (shown["seed"], shown["message"], shown["dataset"]["licence"]) == (7, "Why", "CC0-1.0")
    assert shown["dataset"]["mapping"] == {"prompt": "question", "target": "answer"}
    assert [edit["target"] for edit in shown["edit_list"]] == ["Rome", "a"]


SLOW = {"torch", "transformers", "pyarrow", "datasets", "huggingface_hub", "numpy", "fsspec"}
SCRIPT = f"""
import json, sys
from cli.main import main
for words in json.load(sys.stdin):
    try:
        main(words)
    except SystemExit as stop:
        assert stop.code == 0, words
    print("loaded:", json.dumps(sorted({SLOW!r} & set(sys.modules))))
"""


def slow_modules_of(ledger: str, *words: str) -> str:
    """What of `SLOW` a command loads, as a list is written."""
    [loaded] = slow_modules_after(ledger, [*words])
    return str(loaded)


def slow_modules_after(ledger: str, *lines: list[str]) -> list[list[str]]:
    """What of `SLOW` is loaded after each of the lines, one after the other in one process."""
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps(lines),
        env={**os.environ, "LEDGER_DIR": ledger},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    told = [line.partition("loaded: ") for line in ended.stdout.splitlines()]
    return [json.loads(names) for before, sign, names in told if sign and not before]


READING = ["log", "show 2", "status", "search France", "blame France", "blame --all"]
READING += ["log --graph", "log --target Rome", "branch", "tag", "reflog"]


def test_reading_does_not_load_what_is_slow_to_load_nor_writing_a_model_transformers(
    ledger: str, tmp_path: Path
) -> None:
    lines = ["--help", "log --help", *READING, "db current"]
    apply = ["apply", "--to", str(tmp_path / "patched")]
    *light, writing = slow_modules_after(ledger, *[line.split() for line in lines], apply)
    assert dict(zip(lines, light, strict=True)) == {line: [] for line in lines}
    assert "torch" in writing
    assert "transformers" not in writing


def test_a_reader_that_has_seen_enough_leaves_no_traceback(ledger: str) -> None:
    for words in (["log", "--json"], ["show", "2"]):
        command = [str(LEDGER), *words, "--ledger", ledger]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as running:
            assert running.stdout is not None
            assert running.stderr is not None
            # Closed before the command has written anything: its first line meets no reader.
            running.stdout.close()
            assert running.stderr.read() == "", words


STRANGE = "[bold]x[/] 🎉 Zoë [/nope] %s {0}"


def test_markup_and_other_signs_are_printed_as_they_are(
    capsys: Capture, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_DIR", str(tmp_path / "ledger"))
    source = write_facts(tmp_path / "facts.json", [fact(0, prompt=STRANGE, target="[red]r[/red]")])
    done(capsys, "init", "--model", str(tiny_llama))
    done(capsys, "add-edits", source, "-m", f"first {STRANGE}\nsecond \x1b[31mred")
    log = done(capsys, "log").out
    assert f"first {STRANGE} second" in log
    shown = done(capsys, "show", "1").out
    assert f"{STRANGE}  " in shown
    assert "[red]r[/red]" in shown
    assert r"\nsecond \x1b[31mred" in shown
    assert "\x1b" not in log + shown
    assert done(capsys, "show", "1", "--json").json()["message"].endswith("\nsecond \x1b[31mred")


def test_the_log_fits_a_terminal_and_is_whole_in_a_file(
    capsys: Capture, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_DIR", str(tmp_path / "ledger"))
    source = write_facts(tmp_path / "facts.json", facts(2))
    done(capsys, "init", "--model", str(tiny_llama))
    message = "日本 as it was found to be on the way there"
    done(capsys, "add-edits", source, "--no-evaluate", "-m", message)
    monkeypatch.setenv("COLUMNS", "60")
    assert message in done(capsys, "log").out
    monkeypatch.delenv("COLUMNS")
    lines = on_terminal("log", columns=130, NO_COLOR="1").splitlines()
    assert max(len(line) + line.count("日") + line.count("本") for line in lines) <= 130
    assert lines[-1].endswith("…")
    assert "日" in lines[-1]
    # Too narrow for the figures: they are wrapped by the terminal, never cut.
    narrow = on_terminal("log", columns=30, NO_COLOR="1")
    assert done(capsys, "log", "--json").json()[0]["hash"][:7] in narrow
    assert message in on_terminal("log", columns=200)


def test_styles_are_for_terminals_without_no_color(capsys: Capture, ledger: str) -> None:
    assert "\x1b[1m" in on_terminal("log", "--ledger", ledger, columns=120)
    assert "\x1b" not in on_terminal("log", "--ledger", ledger, columns=120, NO_COLOR="1")
    assert "\x1b" not in done(capsys, "log", "--ledger", ledger).out


def test_progress_is_never_mixed_into_the_output(ledger: str, tmp_path: Path) -> None:
    output = tmp_path / "out"
    shown = on_terminal("verify", "--ledger", ledger, columns=100, output=output)
    assert "checking" in shown
    assert "all as recorded" not in shown
    assert "all as recorded" in output.read_text()
    assert "checking" not in output.read_text()
