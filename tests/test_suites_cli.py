"""`ledger evaluate` with suites: the list, the options that go together, text and JSON, `show`."""

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from ledger import suites
from ledger.diffing import diff
from ledger.evaluating import evaluate
from ledger.reporting import log, show, status
from ledger.workspace import Ledger
from tests.command_line import call, done, on_terminal
from tests.ledgers import contents
from tests.taught_ledgers import taught_ledger

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    with taught_ledger(tmp_path_factory.mktemp("taught")) as ledger:
        yield ledger


@pytest.fixture
def where(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_DIR", str(ledger.folder))


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "notes.txt"
    path.write_text("The capital of France is Rome. He plays the guitar. " * 12)
    return str(path)


def test_the_list_of_suites_is_the_table_and_each_of_them_exists(capsys: Capture) -> None:
    told = done(capsys, "evaluate", "--suites", "--json").json()
    assert [one["name"] for one in told] == list(suites.SUITES)
    assert all(one["sentence"].endswith(".") for one in told)
    assert {one["on"] for one in told} == {"edits", "text", "turns"}
    listed = done(capsys, "evaluate", "--suites").out
    for suite in suites.SUITES.values():
        assert suite.name in listed
        assert " ".join(suite.sentence.split()[:4]) in " ".join(listed.split())
        module = import_module(suite.module)
        assert hasattr(module, "retention" if suite.on == suites.TURNS else "score")


def test_listing_suites_needs_no_ledger_and_fits_the_terminal() -> None:
    shown = on_terminal("evaluate", "--suites", columns=70, LEDGER_DIR="/nowhere")
    assert max(map(len, shown.splitlines())) <= 70
    assert "perplexity" in shown


@pytest.mark.usefixtures("where")
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("--suite telepathy", "no suite 'telepathy', only teacher-forced"),
        ("--suites --at 2", "--at: no use with --suites"),
        ("--text notes.txt", "--text: no use with --suite teacher-forced"),
        ("--suite general --turn 2 --sample 3", "--turn and --sample: no use with --suite general"),
        ("--suite perplexity --edits", "--edits: no use with --suite perplexity"),
        ("--suite retention --turn 2", "--turn: no use with --suite retention"),
        ("--suite generation --states 3", "--states: no use with --suite generation"),
        ("--limit 3", "--limit: no use with --suite teacher-forced"),
        ("--lm-eval-path .", "--lm-eval-path: no use with"),
        ("--compare 1 2 --suite generation", "--suite: no use with --compare"),
        ("--compare 1 2 --at 2", "--at: no use with --compare"),
        ("--compare 1 2 --lm-eval arc", "--lm-eval: no use with --compare"),
        ("--lm-eval arc --sample 3", "--sample: no use with --lm-eval"),
        ("--sample 0", "at least 1, not 0"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(
    capsys: Capture, ledger: Ledger, line: str, reason: str
) -> None:
    before = contents(ledger)
    outcome = call(capsys, "evaluate", *line.split())
    assert (outcome.status, outcome.out) == (2, "")
    assert reason in outcome.err
    assert contents(ledger) == before


@pytest.mark.usefixtures("where")
def test_several_suites_are_printed_one_after_the_other_with_intervals(
    capsys: Capture, text: str
) -> None:
    names = ("generation", "portability", "perplexity", "general", "teacher-forced", "generation")
    words = [word for name in names for word in ("--suite", name)]
    parts = done(capsys, "evaluate", *words, "--text", text).out.split("\n\n")
    assert len(parts) == 5
    generation, portability, perplexity, general, plain = (part.splitlines() for part in parts)
    assert generation[0].startswith("the state at turn 2 on the edits in force, in ")
    assert generation[1].split() == [
        "6",
        "edits",
        "base",
        "95",
        "%",
        "interval",
        "edited",
        "95",
        "%",
        "interval",
    ]
    scores = "answer generated 0.000 0.000 to 0.000 1.000 1.000 to 1.000"
    assert " ".join(generation[2].split()) == scores
    assert [line.split()[0] for line in portability[2:]] == ["multi", "personas"]
    assert perplexity[0].startswith("the state at turn 2 on notes.txt, in ")
    assert perplexity[1].split()[1] == "tokens"
    assert general[2].startswith("KL divergence (nats)")
    assert plain[2].startswith("edit success")


@pytest.mark.usefixtures("where")
def test_json_of_one_suite_is_an_object_and_of_several_a_list(capsys: Capture, text: str) -> None:
    one = done(capsys, "evaluate", "--suite", "generation", "--edits", "--json").json()
    assert one["suite"] == "generation"
    assert one["edits"][0]["state"]["answer"] == "Rome."
    assert set(one["intervals"]) == {"base", "state"}
    low, high = one["intervals"]["state"]["rephrasing_match"]
    assert low <= one["state"]["rephrasing_match"] <= high
    words = ("--suite", "general", "--suite", "portability", "--text", text)
    several = done(capsys, "evaluate", *words, "--json").json()
    assert [found["suite"] for found in several] == ["general", "portability"]
    assert all({"turn", "n", "base", "state", "protocol"} <= set(found) for found in several)


@pytest.mark.usefixtures("where")
def test_a_sample_says_what_it_was_drawn_from(capsys: Capture) -> None:
    told = done(capsys, "evaluate", "--sample", "4", "--seed", "3").out
    assert "on 4 edits drawn from the edits in force" in told
    told = done(capsys, "evaluate", "--sample", "4", "--turn", "2").out
    assert "on 4 edits drawn from the edits of turn 2" in told


@pytest.mark.usefixtures("where")
def test_retention_and_comparison_are_reached_by_their_options(capsys: Capture) -> None:
    found = done(capsys, "evaluate", "--suite", "retention", "--sample", "2", "--json").json()
    assert (found["suite"], found["sample"]) == ("retention", 2)
    shown = done(capsys, "evaluate", "--suite", "retention").out
    assert "edit success of each turn's edits" in shown
    found = done(capsys, "evaluate", "--compare", "0", "2", "--sample", "3", "--json").json()
    assert (found["n"], found["gained"]) == (3, 3)


@pytest.mark.usefixtures("where")
def test_show_lists_the_newest_scores_of_each_suite_with_the_turn(
    capsys: Capture, ledger: Ledger, text: str
) -> None:
    evaluate(ledger, suite="perplexity", text=Path(text), at=1)
    evaluate(ledger, suite="generation", sample=2)
    found = evaluate(ledger, suite="generation")
    evaluate(ledger, suite="portability")
    told = {one["suite"]: one for one in show(ledger, 2).to_json()["suites"]}
    assert {"generation", "portability"} <= set(told)
    assert "retention" not in told
    generation = told["generation"]
    assert (generation["n"], generation["metric"]) == (6, "answer_match")
    assert (generation["base"], generation["state"]) == (found.base, found.state)
    assert "perplexity" in [one["suite"] for one in show(ledger, 1).to_json()["suites"]]
    shown = done(capsys, "show", "2").out
    assert "answer_match 1.000 (base 0.000); n = 6" in shown
    assert "personas 1.000 (base 0.000)" in shown


def test_other_readers_do_not_take_the_scores_of_suites_for_teacher_forced_ones(
    ledger: Ledger, text: str
) -> None:
    def read() -> str:
        compared = diff(ledger, 1, 2).to_json()
        return json.dumps(
            [status(ledger).to_json()["scores"], [t.to_json() for t in log(ledger)], compared]
        )

    evaluate(ledger)
    evaluate(ledger, at=1, turn=2)
    before = read()
    assert json.loads(before)[2]["scores"] is not None
    for suite in ("generation", "portability"):
        for at in (1, 2):
            evaluate(ledger, suite=suite, at=at, turn=2)
    for suite in ("perplexity", "general"):
        evaluate(ledger, suite=suite, text=Path(text))
    evaluate(ledger, sample=1)
    assert read() == before


def test_the_table_of_suites_is_read_without_torch() -> None:
    code = "import sys, ledger.suite_scores, cli.evaluating; print('torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"
