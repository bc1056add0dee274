"""`add-edits --method wise`, `merge-shards` and `route`, as people and programs see them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger.reporting import log
from ledger.workspace import Ledger
from tests.command_line import call, done
from tests.ledgers import contents, fact, facts, new_ledger, write_facts

Capture = pytest.CaptureFixture[str]
QUICK = ("--set", "iterations=4", "--set", "learning_rate=0.05", "--set", "templates=0")
WISE = ("--method", "wise", "--turn-size", "3", *QUICK)


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_facts(tmp_path / "facts.json", facts(6))


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        monkeypatch.setenv("LEDGER_DIR", str(ledger.folder))
        yield ledger


@pytest.fixture
def trained(ledger: Ledger, source: str, capsys: Capture) -> Ledger:
    done(capsys, "add-edits", source, *WISE, "--no-evaluate")
    return ledger


@pytest.mark.usefixtures("ledger")
def test_a_session_from_training_to_the_merge_and_back(
    source: str, tmp_path: Path, capsys: Capture
) -> None:
    told = done(capsys, "add-edits", source, *WISE).out
    assert "editing 1 module (model.layers.2.mlp.down_proj)" in told
    assert "note: nobody has chosen a layer of llama for WISE" in told
    assert ", generated " in told
    assert "6 edits recorded in turns 1-2" in told
    shown = done(capsys, "show", "1").out
    assert "losses" in shown
    assert "threshold" in shown
    assert "contexts" in shown
    prompt = str(fact(1)["prompt"])
    routed = done(capsys, "route", prompt, "It is").out
    assert f"{prompt}: side memory of turn" in routed
    assert routed.count("goes here") >= 1
    written = done(capsys, "apply", "--to", str(tmp_path / "out")).out
    assert "side memories of turns 1-2 beside the weights" in written
    merged = done(capsys, "merge-shards", "1..2").out
    assert merged.startswith("turn 3 merges the side memories of turns 1-2 by ties:")
    assert "generated match" in merged
    assert "merge 1-2" in done(capsys, "log").out
    assert "merges" in done(capsys, "show", "3").out
    assert "2 of edits, 0 rollbacks, 1 merge" in done(capsys, "status").out
    back = done(capsys, "rollback", "turn", "3", "--to", str(tmp_path / "out")).out
    assert "turn 4 rolls back turn 3, which takes turns 1-2 apart again; in force: 1-2" in back
    assert "all as recorded" in done(capsys, "verify", "--model", str(tmp_path / "out")).out


@pytest.mark.usefixtures("trained")
def test_route_as_json_has_the_promised_keys(capsys: Capture) -> None:
    [found] = done(capsys, "route", "It is", "--json").json()
    assert set(found) == {"prompt", "tokens", "turns", "memories"}
    assert set(found["memories"][0]) == {
        *("turn", "tensor", "activation", "threshold", "strength", "chosen"),
    }


def test_merge_as_json_has_the_promised_keys(trained: Ledger, capsys: Capture) -> None:
    found = done(capsys, "merge-shards", "1..2", "--weights", "0.4,0.6", "--json").json()
    assert set(found) == {
        *("turn", "merges", "method", "tensor", "threshold", "patch_bytes", "notes", "scores"),
        "seconds",
    }
    assert found["merges"] == [1, 2]
    assert set(found["scores"]) == {"n", "base", "state"}
    assert log(trained)[-1].row.hyperparameters["weights"] == [0.4, 0.6]


@pytest.mark.usefixtures("ledger")
def test_a_run_as_json_tells_figures_and_notes(source: str, capsys: Capture) -> None:
    found = done(capsys, "add-edits", source, *WISE, "--no-evaluate", "--json").json()
    assert len(found["turns"][0]["figures"]["losses"]) == 3
    assert all("stay outside" not in note for note in found["turns"][0]["notes"])
    assert found["hyperparameters"]["contexts"] == []


@pytest.mark.usefixtures("ledger")
def test_the_default_size_of_a_turn_is_the_method_s(tmp_path: Path, capsys: Capture) -> None:
    many = write_facts(tmp_path / "many.json", facts(13))
    assert done(capsys, "add-edits", many, "--dry-run", "--json").json()["turns"] == [13]
    told = done(capsys, "add-edits", many, "--method", "wise", "--dry-run", "--json").json()
    assert told["turns"] == [10, 3]


def test_sentences_of_a_file_stay_outside_and_are_recorded(
    ledger: Ledger, tmp_path: Path, capsys: Capture
) -> None:
    rows = write_facts(tmp_path / "bare.json", [fact(n, locality=[]) for n in range(3)])
    file = tmp_path / "outside.txt"
    file.write_text("\ufeffShe opened the window.\n\n The old bicycle\nThe old bicycle\n")
    told = done(capsys, "add-edits", rows, *WISE, "--locality", str(file), "--no-evaluate").out
    assert "note: 3 of 3 edits have no locality prompt; 2 sentences each came from --loc" in told
    pool = log(ledger)[0].row.hyperparameters["pool"]
    assert pool == ["She opened the window.", "The old bicycle"]
    assert "2 sentences" in done(capsys, "show", "1").out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read"),
        (b"", "holds no sentences"),
        (b"\xff\xfe", "is not UTF-8: byte 0"),
        (b"fine\nbad\0one\n", "line 2 holds a NUL character"),
        (b"x" * 3000, "line 1 is longer than 2000"),
        (b"\n".join(b"%d" % n for n in range(1001)), "holds 1,001 sentences"),
    ],
)
def test_a_file_of_sentences_that_cannot_be_used_is_refused(
    ledger: Ledger,
    source: str,
    tmp_path: Path,
    capsys: Capture,
    content: bytes | None,
    reason: str,
) -> None:
    file = tmp_path / "outside.txt"
    if content is not None:
        file.write_bytes(content)
    before = contents(ledger)
    outcome = call(capsys, "add-edits", source, *WISE, "--locality", str(file))
    assert outcome.status == 1
    assert reason in outcome.err
    assert contents(ledger) == before


@pytest.mark.parametrize(
    ("words", "status", "reason"),
    [
        (("merge-shards", "1-2"), 2, "'1-2' is not a range of turns like 1..5"),
        (("merge-shards", "2..1"), 2, "'2..1' is not a range"),
        (("merge-shards", "1..2", "--method", "magic"), 2, "there is no merge 'magic'"),
        (("merge-shards", "1..2", "--weights", "a,b"), 2, "'a,b' are not numbers"),
        (("merge-shards", "1..2", "--weights", "1"), 2, "1 weights are given for 2 deltas"),
        (("merge-shards", "1..1"), 1, "a merge needs two side memories in force"),
        (("merge-shards", "1..7"), 1, "there is no turn 7: the turns are 1 to 2"),
        (("route",), 2, "Missing argument 'PROMPT…'"),
        (("route", "x", "--at", "9"), 1, "there is no turn 9"),
    ],
)
def test_wrong_use_is_one_line_that_says_what_is_wrong(
    trained: Ledger, capsys: Capture, words: tuple[str, ...], status: int, reason: str
) -> None:
    before = contents(trained)
    outcome = call(capsys, *words)
    assert (outcome.status, outcome.out) == (status, "")
    assert reason in outcome.err
    assert outcome.err.count("\n") == 1
    assert contents(trained) == before


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--method", "wise", "--set", "rate=1"), "no hyperparameter 'rate'"),
        (("--method", "wise", "--modules", "*.down_proj"), "beside one matrix, --modules names 3"),
        (("--method", "wise", "--turn-size", "0"), "--turn-size must be at least 1"),
        (("--locality", "FILE"), "--locality is for methods that keep prompts apart"),
        (("--method", "wise", "--resume", "--locality", "FILE"), "leave out --set, --modules and"),
    ],
)
def test_wrong_settings_record_nothing(
    ledger: Ledger,
    source: str,
    tmp_path: Path,
    capsys: Capture,
    words: tuple[str, ...],
    reason: str,
) -> None:
    (tmp_path / "outside.txt").write_text("She opened the window.")
    given = [str(tmp_path / "outside.txt") if word == "FILE" else word for word in words]
    outcome = call(capsys, "add-edits", source, *given)
    assert (outcome.status, outcome.out) == (2, "")
    assert reason in outcome.err
    assert log(ledger) == []
