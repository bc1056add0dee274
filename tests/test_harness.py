"""Scores by lm-evaluation-harness: of which model, on what, how they are kept, what goes wrong."""

import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from sqlalchemy import func, select

from ledger import database
from ledger.applying import apply_to_folder
from ledger.evaluating import evaluate
from ledger.harness import Harnessed, run
from ledger.harness_tasks import _Managers
from ledger.orm import EvaluationRow, OutcomeRow
from ledger.reporting import log, status
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import DatasetError, EditLedgerError, HistoryError, SettingError
from tests import tiny_models
from tests.command_line import call, done, on_terminal
from tests.harness_tasks import example, write_task
from tests.known_answers import FRANCE, GUITAR, PROMPTS, teach
from tests.ledgers import add, contents, copied, facts, new_ledger, write_facts
from tests.side_memories import ledger_with_memories
from tests.tiny_models import CONTEXT

Capture = pytest.CaptureFixture[str]
EXAMPLES = [
    example(FRANCE, "Ro", "Dan", "London 12"),
    example(GUITAR, "play", "guitar"),
    example(PROMPTS[1], "Danielle Darrieux", "Danielle Camry", "Toyota"),
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Data of tasks are converted into a cache, and none is looked for on the Hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def twice_taught(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """Folder of a ledger, to be copied."""
    folder = tmp_path_factory.mktemp("taught") / "ledger"
    with new_ledger(folder, tiny_llama) as ledger:
        teach(ledger, {FRANCE: "Ro", GUITAR: "play"})
        teach(ledger, {FRANCE: "Dan"}, {FRANCE: "Ro"})
    return folder


@pytest.fixture
def ledger(tmp_path: Path, twice_taught: Path) -> Iterator[Ledger]:
    """Turn 1 teaches an answer to two of the prompts, turn 2 another to the first of them."""
    with copied(twice_taught, tmp_path / "ledger") as ledger:
        yield ledger


@pytest.fixture
def edited(tmp_path: Path) -> Iterator[Ledger]:
    """Three turns of UltraEdit on a float32 model, after which all answers differ a little."""
    source = write_facts(tmp_path / "facts.json", facts(8))
    model = tiny_models.build(tmp_path / "model", dtype=torch.float32)
    with new_ledger(tmp_path / "ledger", model) as ledger:
        add(ledger, source, evaluate=False, learning_rate=0.5)
        yield ledger


@pytest.fixture
def routed(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    """Three turns with a side memory each."""
    source = write_facts(tmp_path / "facts.json", facts(12))
    with ledger_with_memories(tmp_path / "ledger", tiny_llama, source) as ledger:
        yield ledger


def tasks(folder: Path, *kinds: str) -> list[str]:
    return [str(write_task(folder, kind, EXAMPLES)) for kind in kinds]


def ask(ledger: Ledger, *names: str | Path, **options: Any) -> Harnessed:
    return run(ledger, [str(name) for name in names], device="cpu", **options)


def by_the_harness_alone(folder: Path, names: Sequence[str]) -> dict[str, Any]:
    """The scores of a checkpoint on disk by the harness's own class, prompt by prompt."""
    from lm_eval.evaluator import evaluate as score
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    loaded = TaskManager(include_defaults=False).load(list(names))
    model = HFLM(str(folder), device="cpu", dtype="float32", batch_size=1, logits_cache=False)
    results = score(model, loaded)["results"]
    return {
        f"{task}/{key.removesuffix(',none')}": value
        for task, metrics in results.items()
        for key, value in metrics.items()
        if key.endswith(",none") and isinstance(value, float)
    }


def test_what_an_edit_teaches_shows_beside_the_base(ledger: Ledger, tmp_path: Path) -> None:
    found = ask(ledger, *tasks(tmp_path, "choice", "free"), at=1)
    assert found.turn == 1
    assert found.state["free/exact_match"] == pytest.approx(2 / 3)
    assert found.base["free/exact_match"] == 0
    assert found.state["choice/acc"] is not None
    assert found.base["choice/acc"] is not None
    assert found.state["choice/acc"] > found.base["choice/acc"]
    later = ask(ledger, *tasks(tmp_path, "choice", "free"))
    assert later.turn == 2
    assert later.state["free/exact_match"] == pytest.approx(1 / 3)
    assert later.base == found.base
    assert later.protocol == found.protocol


def test_the_scores_are_those_of_the_written_checkpoint_by_the_harness_alone(
    edited: Ledger, tmp_path: Path
) -> None:
    names = tasks(tmp_path, "choice", "free", "text")
    found = ask(edited, *names)
    apply_to_folder(edited, tmp_path / "out")
    for scores, folder in ((found.state, tmp_path / "out"), (found.base, tmp_path / "model")):
        expected = by_the_harness_alone(folder, names)
        assert set(expected) >= {"choice/acc", "free/exact_match", "text/word_perplexity"}
        assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert found.state["text/word_perplexity"] != found.base["text/word_perplexity"]


def test_a_state_with_side_memories_is_scored_with_them_and_its_base_without(
    routed: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    rows = [example(str(row["prompt"]), str(row["target"]), "Tokyo") for row in facts(9)]
    names = [str(write_task(tmp_path, kind, rows)) for kind in ("choice", "free")]
    found = ask(routed, *names, dtype="float32")
    assert found.state["choice/acc"] is not None
    assert found.base["choice/acc"] is not None
    assert found.state["choice/acc"] > found.base["choice/acc"]
    expected = by_the_harness_alone(tiny_llama, names)
    assert {name: found.base[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_scores_are_recorded_at_their_turn_as_those_of_no_edit(
    ledger: Ledger, tmp_path: Path
) -> None:
    evaluate(ledger, device="cpu")
    before, told = contents(ledger), status(ledger).to_json()["scores"]
    found = ask(ledger, *tasks(tmp_path, "choice", "free"), at=1, seed=2**40)
    after = contents(ledger)
    assert [name for name in after if after[name] != before[name]] == ["evaluations", "journal"]
    with database.reading(ledger.engine) as session:
        row = session.scalars(select(EvaluationRow).order_by(EvaluationRow.id.desc())).first()
        assert row is not None
        assert (row.scope, row.scope_turn_id, row.n, row.seed) == ("text", None, 6, 2**40)
        assert (row.base, row.state, row.protocol) == (found.base, found.state, found.protocol)
        assert row.environment["dtype"] == "bfloat16"
        outcomes = select(func.count()).where(OutcomeRow.evaluation_id == row.id)
        assert session.scalars(outcomes).one() == 0
    assert verify(ledger).problems == []
    assert verify(ledger).checked["evaluations"] == 2
    # They say nothing of the edits.
    assert status(ledger).to_json()["scores"] == told
    assert log(ledger)[0].to_json()["scores"] is None


def test_recorded_scores_that_are_altered_are_found(ledger: Ledger, tmp_path: Path) -> None:
    ask(ledger, *tasks(tmp_path, "free"))
    with database.writing(ledger.engine) as session:
        row = session.scalars(select(EvaluationRow)).one()
        row.state = {**row.state, "free/exact_match": 1.0}
    [problem] = verify(ledger).problems
    assert problem.what == "its scores have been altered"


def test_the_protocol_tells_what_was_asked_and_not_where_it_lay(
    ledger: Ledger, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    found = ask(ledger, *tasks(tmp_path, "choice", "free")).protocol
    assert ask(ledger, *tasks(other, "choice", "free")).protocol == found
    assert set(found) == {"suite", "version", "tasks", "limit"}
    assert set(found["tasks"]) == {"choice", "free"}
    write_task(other, "choice", EXAMPLES, more="target_delimiter: '  '")
    write_task(other, "free", [*EXAMPLES[:2], example(PROMPTS[3], "London")])
    changed = ask(ledger, other / "choice.yaml", other / "free.yaml").protocol["tasks"]
    assert changed["choice"]["config"] != found["tasks"]["choice"]["config"]
    assert changed["free"]["config"] == found["tasks"]["free"]["config"]
    assert changed["free"]["examples"] != found["tasks"]["free"]["examples"]


def test_a_limit_takes_the_first_examples_of_each_task(ledger: Ledger, tmp_path: Path) -> None:
    found = ask(ledger, *tasks(tmp_path, "choice", "free"), at=1, limit=2)
    assert (found.n, found.protocol["limit"]) == (4, 2)
    assert [one.n for one in found.tasks] == [2, 2, 2]
    assert found.state["free/exact_match"] == 1


def test_examples_that_are_shown_before_are_drawn_by_the_seed(
    ledger: Ledger, tmp_path: Path
) -> None:
    shown = "num_fewshot: 1\nfewshot_split: test\nfewshot_config: {sampler: default}"
    task = write_task(tmp_path, "choice", EXAMPLES, more=shown)
    first, again, other = (ask(ledger, task, seed=seed).protocol for seed in (1, 1, 2))
    assert first == again != other
    assert first["tasks"]["choice"]["num_fewshot"] == 1


def test_a_folder_with_own_tasks_is_searched_by_name_and_groups_have_a_score(
    ledger: Ledger, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    write_task(folder, "free", EXAMPLES[:1], name="one")
    write_task(folder, "free", EXAMPLES, name="two")
    (folder / "both.yaml").write_text(
        "group: both\ntask: [one, two]\n"
        "aggregate_metric_list: [{metric: exact_match, weight_by_size: true}]\n"
    )
    found = ask(ledger, "both", path=folder, at=1)
    assert [(one.task, one.n, one.state) for one in found.tasks] == [
        ("one", 1, 1),
        ("two", 3, pytest.approx(2 / 3)),
        ("both", 4, pytest.approx(3 / 4)),
    ]
    assert found.n == 4
    assert found.protocol["tasks"].keys() == {"one", "two"}
    assert [one.task for one in ask(ledger, "one", path=folder).tasks] == ["one"]


def test_a_state_is_compared_with_its_base_example_by_example(
    ledger: Ledger, tmp_path: Path
) -> None:
    found = {
        (one.task, one.metric): one.paired
        for one in ask(ledger, *tasks(tmp_path, "free", "text"), at=1).tasks
    }
    told = found["free", "exact_match"]
    assert told is not None
    assert (told.n, told.better, told.worse, told.same) == (3, 2, 0, 1)
    assert told.difference == pytest.approx(2 / 3)
    assert told.p_value == 0.5
    # A perplexity is no mean over the texts.
    assert found["text", "word_perplexity"] is None


def test_requests_that_do_not_fit_lose_their_beginning_and_that_is_said(
    ledger: Ledger, tmp_path: Path
) -> None:
    long = "The capital of Japan is Tokyo. " * CONTEXT + FRANCE
    tasks = [
        write_task(tmp_path, kind, [example(long, "Rome", "Tokyo"), EXAMPLES[0]])
        for kind in ("choice", "free")
    ]
    found = ask(ledger, *tasks)
    assert found.notes == ("3 requests longer than the model reads at once lost the beginning",)


@pytest.mark.parametrize(
    ("kind", "more", "error", "reason"),
    [
        ("free", "unsafe_code: true", SettingError, "task free runs the code that the model writ"),
        ("free", "dataset_path: nobody/nothing", DatasetError, "loaded: ConnectionError: .*nobody"),
        ("free", "doc_to_target: '{{1 / 0}}'", DatasetError, "free.yaml cannot be loaded: ZeroD"),
        ("free", "generation_kwargs: {max_gen_toks: 256}", DatasetError, "cannot run free on this"),
        ("free", "output_type: telepathy", DatasetError, "task .*free.yaml cannot be loaded"),
    ],
)
def test_a_task_that_cannot_be_run_is_named_and_nothing_is_recorded(
    ledger: Ledger,
    tmp_path: Path,
    kind: str,
    more: str,
    error: type[EditLedgerError],
    reason: str,
) -> None:
    before = contents(ledger)
    with pytest.raises(error, match=reason):
        ask(ledger, write_task(tmp_path, kind, EXAMPLES, more=more))
    assert contents(ledger) == before


def test_an_answer_without_tokens_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    empty = example(GUITAR, "play", "")
    task = write_task(tmp_path, "choice", [EXAMPLES[0], empty], more="target_delimiter: ''")
    with pytest.raises(DatasetError, match="an answer to 'He plays the' has no tokens"):
        ask(ledger, task)


def test_missing_files_are_named(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"--lm-eval none.yaml: there is no such file"):
        ask(ledger, "none.yaml")
    task = write_task(tmp_path, "free", EXAMPLES)
    (tmp_path / "free.jsonl").unlink()
    with pytest.raises(DatasetError, match=r"free.yaml cannot be loaded: .*free.jsonl.*; check d"):
        ask(ledger, task)
    with pytest.raises(SettingError, match="at least 1, not 0"):
        ask(ledger, task, limit=0)
    with pytest.raises(SettingError, match="names of tasks, with commas"):
        ask(ledger, "a", "")


def test_a_name_that_the_harness_does_not_know_or_whose_task_runs_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lm_eval.tasks import manager

    # Two of the harness's own folders: to read all of them takes a quarter of a minute.
    for name in ("hellaswag", "humaneval"):
        shutil.copytree(Path(manager.__file__).parent / name, tmp_path / name)
    monkeypatch.setattr(manager, "__file__", str(tmp_path / "manager.py"))
    managers = _Managers(None)
    assert managers.of("hellaswag").task_index["hellaswag"]
    with pytest.raises(SettingError, match=r"no task 'helaswag'; did you mean .*hellaswag"):
        managers.of("helaswag")
    with pytest.raises(SettingError, match=r"task humaneval runs the code that the model writes"):
        managers.of("humaneval")


def test_the_base_alone_has_no_turn_to_record_at(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(HistoryError, match="turn 0 is the base, which is scored beside every"):
        ask(ledger, "x", at=0)
    with (
        new_ledger(tmp_path / "empty", tiny_llama) as empty,
        pytest.raises(HistoryError, match="no turns yet; add some with: ledger add-edits"),
    ):
        ask(empty, "x")


def test_without_the_library_it_is_said_how_to_install_it(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", None)
    with pytest.raises(SettingError, match=r"pip install 'edit-ledger\[lm-eval\]'"):
        ask(ledger, "x")


def test_the_harness_prints_nothing_and_progress_is_told(
    ledger: Ledger, tmp_path: Path, capfd: Capture
) -> None:
    told: list[tuple[str, int, int]] = []
    # Standard errors of these come from resampling, which the harness tells of.
    resampled = "metric_list: [{metric: exact_match, aggregation: median}]"
    capfd.readouterr()
    found = ask(
        ledger,
        *tasks(tmp_path, "choice", "text"),
        write_task(tmp_path, "free", EXAMPLES, more=resampled),
        progress=lambda phase, done, total: told.append((phase, done, total)),
    )
    assert capfd.readouterr() == ("", "")
    assert isinstance(found.state["free/exact_match_stderr"], float)
    assert [phase for phase, *_ in dict.fromkeys((phase,) for phase, *_ in told)] == [
        "load tasks",
        "load",
        "run tasks",
        "run tasks, base",
    ]
    assert ("run tasks", 8, 8) in told
    assert ("run tasks, base", 3, 3) in told


def test_the_table_and_the_json_of_the_command(
    ledger: Ledger, tmp_path: Path, capsys: Capture
) -> None:
    names = ",".join(tasks(tmp_path, "choice", "free"))
    command = ["evaluate", "--lm-eval", names, "--at", "1", "--ledger", str(ledger.folder)]
    first, headings, *rows = done(capsys, *command, "--limit", "2").out.splitlines()
    assert first.startswith("the state at turn 1 on 4 examples by lm-evaluation-harness 0.")
    assert " ".join(headings.split()) == "task metric n base ± edited ± better worse p"
    assert [row.split()[:4] for row in rows] == [
        ["choice", "acc", "↑", "2"],
        ["choice", "acc_norm", "↑", "2"],
        ["free", "exact_match", "↑", "2"],
    ]
    assert rows[-1].split()[4:] == ["0.000", "0.000", "1.000", "0.000", "2", "0", "0.500"]
    told = done(capsys, *command, "--json").json()
    assert set(told) == {
        *("turn", "suite", "scope", "n", "protocol", "seed", "base", "state", "tasks", "notes"),
        "seconds",
    }
    assert set(told["tasks"][0]) == {
        *("task", "metric", "n", "higher_is_better"),
        *("base", "base_stderr", "state", "state_stderr", "paired"),
    }
    low, high = told["tasks"][-1]["paired"]["interval"]
    assert 0 <= low < high <= 1


def test_an_unknown_task_is_wrong_usage_and_one_without_data_an_error(
    ledger: Ledger, tmp_path: Path, capsys: Capture
) -> None:
    task = write_task(tmp_path, "free", EXAMPLES)
    command = ["evaluate", "--ledger", str(ledger.folder), "--lm-eval"]
    assert call(capsys, *command, "none.yaml").status == 2
    assert call(capsys, *command, str(task), "--lm-eval-path", str(tmp_path / "no")).status == 2
    (tmp_path / "free.jsonl").unlink()
    outcome = call(capsys, *command, str(task))
    assert (outcome.status, outcome.out) == (1, "")
    assert len(outcome.err.splitlines()) == 1
    assert verify(ledger).checked.get("evaluations", 0) == 0


@pytest.mark.slow
def test_bars_are_shown_while_the_harness_is_kept_quiet(ledger: Ledger, tmp_path: Path) -> None:
    task = write_task(tmp_path, "free", EXAMPLES * 50)
    shown = on_terminal(
        *("evaluate", "--lm-eval", str(task), "--ledger", str(ledger.folder)),
        columns=160,
        HF_DATASETS_CACHE=str(tmp_path / "datasets"),
        HF_HUB_OFFLINE="1",
    )
    assert "running tasks" in shown
    assert "running tasks with the base" in shown
    assert "exact_match" in shown
    # Its own bars, and what it logs.
    assert "requests" not in shown
    assert "WARNING" not in shown
