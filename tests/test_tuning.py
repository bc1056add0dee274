"""Tuning on a GPT-2 that was trained from scratch, and side memories on a random model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from ledger import database, settings, tuning
from ledger.jobs import Job, LocalCrew
from ledger.orm import TrialRow, TurnRow
from ledger.progress import Progress, silent
from ledger.tuning import Tune, tune
from ledger.tuning_report import Tuned
from ledger.tuning_rows import is_calibration
from ledger.tuning_trial import TrialJob
from ledger.verifying import problems_text, verify
from ledger.workspace import Ledger
from patches.canonical import sha256
from patches.dtypes import tensor_bytes
from patches.edit import Edit
from patches.editors.ultraedit_editor import FIRST_ORDER
from patches.errors import DatasetError, EditingError, SettingError
from patches.modules import parameters_by_tensor
from tests import trained_models
from tests.command_line import call, done
from tests.ledgers import add, contents, facts, new_ledger, write_facts
from tests.trained_models import new_facts

TUNED = ("edit_success", "generalization", "stability")


class Watched:
    """A crew that remembers what it was asked to do, and may be stopped after so many trials."""

    def __init__(self, inner: LocalCrew, stop_after: int | None) -> None:
        self._inner = inner
        self._left = stop_after
        self.trials: list[TrialJob] = []

    def run(
        self, jobs: Sequence[Job], *, phase: str, progress: Progress = silent
    ) -> Iterator[tuple[int, Any]]:
        for place, result in self._inner.run(jobs, phase=phase, progress=progress):
            job = jobs[place]
            if isinstance(job, TrialJob):
                if self._left == len(self.trials):
                    raise KeyboardInterrupt
                self.trials.append(job)
            yield place, result


Watch = Callable[..., Watched]


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> Watch:
    """Let the next search be watched."""

    def start(stop_after: int | None = None) -> Watched:
        watched = Watched(LocalCrew(ledger, device="cpu", dtype=None), stop_after)

        class Within:
            def __enter__(self) -> Watched:
                return watched

            def __exit__(self, *_: object) -> None: ...

        monkeypatch.setattr(tuning, "crew", lambda *_, **__: Within())
        return watched

    return start


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_models.build(tmp_path_factory.mktemp("models") / "gpt2")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_facts(tmp_path_factory.mktemp("data") / "facts.json", new_facts())


@pytest.fixture
def ledger(tmp_path: Path, gpt2: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", gpt2) as made:
        yield made


def options(source: str, **changes: Any) -> Tune:
    """A search that is the same on every machine: so many trials, and more than enough time."""
    usual = {"budget": 500.0, "turn_size": 6, "trials": 4, "seed": 1, "device": "cpu"}
    return Tune(**{"source": source, **usual, **changes})


NEXT_TO_NOTHING = {"budget": 0.01, "trials": 0}
"""Of a search that tries the default once, and reports."""


def held(found: Tuned, name: str) -> dict[str, float]:
    [one] = [one for one in found.held_out if one.name == name]
    return {metric: one.scores[metric] or 0.0 for metric in TUNED}


def trial_rows(ledger: Ledger) -> list[TrialRow]:
    with database.reading(ledger.engine) as session:
        return list(session.scalars(select(TrialRow).order_by(TrialRow.id)))


def test_settings_are_found_that_are_better_on_rows_that_no_trial_saw(
    ledger: Ledger, source: str
) -> None:
    found = tune(ledger, options(source, trials=12, turn_size=10))
    assert found.found
    assert [(rung.turns, rung.size) for rung, _ in found.rungs] == [(2, 4), (2, 10)]
    assert [count for _, count in found.rungs] == [14, 6]
    chosen, default = held(found, "chosen"), held(found, "default")
    assert sum(chosen.values()) > sum(default.values())
    assert chosen["edit_success"] > default["edit_success"]
    published = held(found, "published")
    floor = min(default["stability"], published["stability"]) - 0.02
    assert chosen["stability"] >= floor
    assert 0 < len(found.frontier) <= 6
    assert found.frontier[0] is found.chosen


def test_applied_settings_are_those_of_the_next_turns(ledger: Ledger, source: str) -> None:
    before = contents(ledger)
    found = tune(ledger, options(source, trials=2))
    assert not found.applied
    assert settings.chosen(ledger, "ultraedit") is None
    after = contents(ledger)
    assert after.pop("trials") != before.pop("trials")
    assert after.pop("journal")[: len(before["journal"])] == before.pop("journal")
    assert after == before
    found = tune(ledger, options(source, trials=2, apply=True))
    assert found.applied
    chosen = settings.chosen(ledger, "ultraedit")
    assert chosen is not None
    assert chosen.values == found.values
    assert (chosen.evidence["sha256"], chosen.evidence["trials"]) == (
        found.dataset.sha256,
        found.trials,
    )
    assert {one["name"] for one in chosen.evidence["held_out"]} == {
        "chosen",
        "default",
        "published",
    }
    add(ledger, source, turn_size=10, limit=20, evaluate=False)
    with database.reading(ledger.engine) as session:
        turn = session.scalars(select(TurnRow)).first()
        assert turn is not None
        assert {name: turn.hyperparameters[name] for name in found.values} == found.values
        assert "tuned on facts.json" in turn.notes[0]
    assert verify(ledger).problems == []


def test_trials_that_were_altered_are_found(ledger: Ledger, source: str) -> None:
    tune(ledger, options(source, **NEXT_TO_NOTHING))
    with database.writing(ledger.engine) as session:
        row = session.scalars(select(TrialRow)).first()
        assert row is not None
        row.result = {**row.result, "scores": {"edit_success": 1.0}}
    assert "trial 1: its result has been altered" in problems_text(verify(ledger).problems)


def test_a_search_that_was_stopped_goes_on_where_it_stopped(
    ledger: Ledger, source: str, watch: Watch, tmp_path: Path, gpt2: Path
) -> None:
    stopped = watch(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        tune(ledger, options(source, trials=2))
    assert len(trial_rows(ledger)) == len(stopped.trials) == 3
    went_on = watch()
    found = tune(ledger, options(source, trials=2))
    assert not {_named(job) for job in stopped.trials} & {_named(job) for job in went_on.trials}
    again = watch()
    assert tune(ledger, options(source, trials=2)).values == found.values
    assert again.trials == []
    with new_ledger(tmp_path / "other", gpt2) as other:
        watch()
        whole = tune(other, options(source, trials=2))
    assert len(trial_rows(ledger)) == len(stopped.trials) + len(went_on.trials)
    assert (whole.values, whole.frontier) == (found.values, _with_seconds(found, whole))


def _named(job: TrialJob) -> tuple[str, int, str]:
    return job.choice.key, job.size, job.rows.edits[0].prompt


def _with_seconds(found: Tuned, other: Tuned) -> list[Any]:
    """The frontier of `found` with the seconds of the other's, which are never the same."""
    return [
        replace(one, seconds=same.seconds)
        for one, same in zip(found.frontier, other.frontier, strict=True)
    ]


def test_other_rows_or_another_seed_are_another_study(ledger: Ledger, source: str) -> None:
    studies = {
        tune(ledger, options(source, **NEXT_TO_NOTHING, **changes)).study
        for changes in ({}, {"seed": 2}, {"offset": 10}, {"prefer": "success"})
    }
    assert len(studies) == 3


def test_no_trial_sees_what_is_reported_or_is_in_force(
    ledger: Ledger, source: str, watch: Watch
) -> None:
    add(ledger, source, turn_size=12, limit=12, evaluate=False)
    watched = watch()
    found = tune(ledger, options(source, trials=1))
    assert found.skipped >= 12
    trials = [job for job in watched.trials if job.rows.probes is not None]
    report = [job for job in watched.trials if job.rows.probes is None]
    tried, reported = _prompts(trials), _prompts(report)
    assert tried
    assert reported
    assert not tried & reported
    assert all(is_calibration(edit) for job in trials for edit in job.rows.edits)
    assert not (tried | reported) & {fact["prompt"] for fact in new_facts()[:12]}
    assert len(report) == len({job.choice.key for job in report}) > 1


def _prompts(jobs: Sequence[TrialJob]) -> set[str]:
    return {edit.prompt for job in jobs for edit in job.rows.edits}


def test_the_model_is_what_it_was_after_a_trial(ledger: Ledger, source: str, watch: Watch) -> None:
    watched = watch()
    tune(ledger, options(source, **NEXT_TO_NOTHING))
    worker = watched._inner._worker
    assert worker is not None
    recorded = {name: digest for name, (_, _, digest) in ledger.base.tensors.items()}
    live = worker.live
    found = parameters_by_tensor(live.model, recorded)
    assert {name: sha256(tensor_bytes(one.data)) for name, one in found.items()} == recorded


def test_a_choice_that_the_method_cannot_do_is_a_failed_trial_and_no_more(
    ledger: Ledger, source: str
) -> None:
    settings.choose(ledger, "ultraedit", {"step": "published", "learning_rate": 1e300}, {})
    found = tune(ledger, options(source, trials=0))
    assert found.failed >= 1
    [broken] = [one for one in found.held_out if one.name == "in force"]
    assert broken.failure
    assert found.found
    assert any(row.failure for row in trial_rows(ledger))


def test_what_counts_stays_where_nothing_better_is_found(ledger: Ledger, source: str) -> None:
    better = tune(ledger, options(source, turn_size=10, apply=True))
    found = tune(ledger, options(source, turn_size=10, trials=0, apply=True))
    assert found.current == "in force"
    assert found.chosen.name == "in force"
    assert found.values == better.values
    assert "nothing that was tried is better" in found.notes[0]


def test_a_method_that_cannot_edit_at_all_is_an_error(
    ledger: Ledger, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FIRST_ORDER, "share", 1e300)
    with pytest.raises(EditingError, match="ultraedit cannot edit with its defaults"):
        tune(ledger, options(source, **NEXT_TO_NOTHING))


def test_a_small_budget_is_kept_roughly_and_the_default_is_scored(
    ledger: Ledger, source: str
) -> None:
    found = tune(ledger, options(source, budget=0.01, trials=None))
    assert found.seconds < 30
    assert [count for _, count in found.rungs] == [1]
    assert found.chosen.name == "default"
    assert held(found, "default")["stability"] > 0


def test_a_larger_budget_is_used_for_more_trials(ledger: Ledger, source: str) -> None:
    clock = map(float, count())
    found = tune(ledger, options(source, budget=50.0, trials=None), now=lambda: next(clock))
    assert found.seconds < 100
    assert found.trials > 4


def test_without_locality_prompts_stability_is_measured_on_sentences(
    ledger: Ledger, tmp_path: Path
) -> None:
    rows = [{name: v for name, v in one.items() if name != "locality"} for one in new_facts()]
    found = tune(ledger, options(write_facts(tmp_path / "plain.json", rows), **NEXT_TO_NOTHING))
    assert "built-in sentences" in found.notes[0]
    assert 0 < held(found, "default")["stability"] <= 1


def test_too_few_rows_are_refused_with_how_many_there_are(ledger: Ledger, source: str) -> None:
    with pytest.raises(DatasetError, match="tuning with 2 turns takes 4 of each"):
        tune(ledger, options(source, limit=5))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "rome"}, "--method is one of"),
        ({"budget": 0.0}, "--budget"),
        ({"turns": 0}, "--turns"),
        ({"turn_size": 1}, "--turn-size"),
        ({"trials": -1}, "--trials"),
        ({"prefer": "speed"}, "--prefer"),
    ],
)
def test_senseless_options_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingError, match=says):
        options("facts.json", **changes)


def test_the_side_of_a_row_depends_on_its_prompt_and_target_alone() -> None:
    edits = [Edit(prompt=f"Prompt {n}", target="a") for n in range(400)]
    chosen = [is_calibration(edit) for edit in edits]
    assert 160 < sum(chosen) < 240
    with_probes = Edit(prompt="Prompt 0", target="a", rephrasings=("x",), subject="y")
    assert is_calibration(with_probes) == chosen[0]


def test_a_side_memory_is_tuned_too(tmp_path: Path, tiny_llama: Path) -> None:
    source = write_facts(tmp_path / "facts.json", facts(24))
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        found = tune(
            ledger,
            options(source, method="wise", turn_size=4, trials=1, apply=True),
        )
        assert found.rungs[0][1] == 2
        assert {one.name for one in found.held_out} == {"chosen", "default"}
        assert found.values.keys() == {"modules", "alpha", "beta", "gamma", "learning_rate"}
        add(ledger, source, method="wise", turn_size=4, limit=4, evaluate=False)
        with database.reading(ledger.engine) as session:
            turn = session.scalars(select(TurnRow)).first()
            assert turn is not None
            assert turn.hyperparameters["alpha"] == found.values["alpha"]


def test_the_command_shows_the_frontier_and_the_options_to_use(
    ledger: Ledger, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("tune", "--ledger", str(ledger.folder), "--data", source)
    more = ("--budget", "8m", "--trials", "3", "--turn-size", "6", "--device", "cpu")
    shown = done(capsys, *words, *more).out
    assert "round 1 of 2, trial 1: best so far" in shown
    assert "Frontier of the trials" in shown
    assert "edits that no trial saw" in shown
    assert f"use it with: ledger add-edits {source} --modules" in shown
    found = done(capsys, *words, *more, "--apply", "--json").json()
    assert found["applied"]
    assert found["rungs"][0] == {"turns": 2, "turn_size": 2, "trials": 5}
    assert {"values", "options", "frontier", "held_out", "study", "seconds", "versions"} <= {*found}
    [one] = [one for one in found["held_out"] if one["name"] == "chosen"]
    low, high = one["scores"]["edit_success"]["interval"]
    assert low <= one["scores"]["edit_success"]["value"] <= high
    [ultraedit, _] = done(capsys, "settings", "--ledger", str(ledger.folder), "--json").json()[
        "settings"
    ]
    assert ultraedit["chosen"]["values"] == found["values"]
    assert "tuned on facts.json" in done(capsys, "settings", "--ledger", str(ledger.folder)).out


@pytest.mark.parametrize("budget", ["soon", "20 minutes", "-5m", ""])
def test_a_budget_that_is_no_time_is_refused(
    ledger: Ledger, source: str, budget: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("tune", "--ledger", str(ledger.folder), "--data", source, f"--budget={budget}")
    refused = call(capsys, *words)
    assert refused.status == 2
    assert "write it like 20m" in refused.err
