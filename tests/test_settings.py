"""Settings that were chosen count as the defaults of add-edits, under what the user gives."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from ledger import database, settings
from ledger.orm import SettingsRow, TurnRow
from ledger.setting_origins import in_force
from ledger.verifying import problems_text, verify
from ledger.workspace import Ledger
from patches.editors import Request
from patches.errors import SettingError
from tests.command_line import call, done
from tests.ledgers import add, facts, new_ledger, write_facts
from tests.sample_history import NOW

SECOND = "model.layers.1.mlp.down_proj"
TUNED = {"modules": [SECOND], "step": "first-order", "share": 0.7, "passes": 2}
EVIDENCE = {"data": "/somewhere/of/mine/facts.json"}


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as made:
        yield made


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_facts(tmp_path / "facts.json", facts(3))


def under(values: dict[str, Any], request: Request, method: str = "ultraedit") -> Request:
    chosen = settings.Settings(method=method, values=values, evidence={}, created_at=NOW)
    return settings.under(chosen, request)[0]


def last_turn(ledger: Ledger) -> TurnRow:
    with database.reading(ledger.engine) as session:
        return session.scalars(select(TurnRow).order_by(TurnRow.id.desc())).first() or TurnRow()


def test_the_newest_choice_counts_and_older_ones_stay_in_the_record(ledger: Ledger) -> None:
    assert settings.chosen(ledger, "ultraedit") is None
    settings.choose(ledger, "ultraedit", {"share": 0.5}, {"reason": "first"})
    settings.choose(ledger, "wise", {"alpha": 2.0}, {"reason": "of another method"})
    settings.choose(ledger, "ultraedit", TUNED, EVIDENCE)
    found = settings.chosen(ledger, "ultraedit")
    assert found is not None
    assert (found.values, found.origin) == (TUNED, "tuned on facts.json")
    settings.reset(ledger, "ultraedit")
    found = settings.chosen(ledger, "ultraedit")
    assert found is not None
    assert found.values == {}
    with database.reading(ledger.engine) as session:
        assert len(list(session.scalars(select(SettingsRow)))) == 4
    assert verify(ledger).checked["settings"] == 4


@pytest.mark.parametrize("column", ["method", "values", "evidence", "created_at"])
def test_settings_that_were_altered_are_found(ledger: Ledger, column: str) -> None:
    settings.choose(ledger, "ultraedit", TUNED, EVIDENCE)
    other = {"method": "wise", "created_at": NOW}.get(column, {"share": 9})
    with database.writing(ledger.engine) as session:
        setattr(session.scalars(select(SettingsRow)).one(), column, other)
    assert "have been altered" in "\n".join(problems_text(verify(ledger).problems))


def test_what_the_user_gives_wins_key_by_key() -> None:
    request = under(TUNED, Request(assignments={"share": "0.9"}))
    assert request.modules == (SECOND,)
    assert request.assignments == {"step": "first-order", "share": "0.9", "passes": "2"}


def test_modules_of_the_user_take_the_place_of_the_chosen_ones() -> None:
    request = under(TUNED, Request(modules=("*.layers.0.mlp.up_proj",)))
    assert request.modules == ("*.layers.0.mlp.up_proj",)
    assert request.assignments == {"step": "first-order", "share": "0.7", "passes": "2"}


def test_margins_of_a_side_memory_are_not_taken_to_another_matrix() -> None:
    values = {"modules": [SECOND], "alpha": 2.0, "learning_rate": 0.5, "iterations": 9}
    assert under(values, Request(), "wise").assignments["alpha"] == "2.0"
    moved = under(values, Request(modules=("*.layers.0.mlp.down_proj",)), "wise")
    assert moved.assignments == {"iterations": "9"}


def test_another_step_takes_nothing_of_the_chosen_one_but_its_modules() -> None:
    request = under(TUNED, Request(assignments={"step": "published"}))
    assert (request.modules, request.assignments) == ((SECOND,), {"step": "published"})
    kept = under(TUNED, Request(assignments={"step": "first-order"}))
    assert kept.assignments["share"] == "0.7"


def test_nothing_is_said_where_nothing_of_the_choice_is_used() -> None:
    request = Request(modules=("*.up_proj",), assignments={"share": "1"})
    chosen = settings.Settings(
        method="ultraedit",
        values={"modules": [SECOND], "share": 0.7},
        evidence={},
        created_at=NOW,
    )
    assert settings.under(chosen, request) == (request, ())
    assert settings.under(None, request) == (request, ())


def test_turns_are_made_with_the_chosen_settings_and_say_so(ledger: Ledger, source: str) -> None:
    settings.choose(ledger, "ultraedit", TUNED, EVIDENCE)
    add(ledger, source, evaluate=False)
    turn = last_turn(ledger)
    assert {name: turn.hyperparameters[name] for name in TUNED} == TUNED
    [note, *_] = turn.notes
    assert "tuned on facts.json" in note
    assert "share 0.7" in note
    assert "mine" not in note


def test_a_reset_gives_the_built_in_defaults_back(ledger: Ledger, source: str) -> None:
    settings.choose(ledger, "ultraedit", TUNED, EVIDENCE)
    settings.reset(ledger, "ultraedit")
    add(ledger, source, evaluate=False)
    turn = last_turn(ledger)
    assert turn.hyperparameters["modules"] != [SECOND]
    assert not any("settings of this ledger" in note for note in turn.notes)


def test_a_choice_of_the_published_step_alone_gives_the_published_method(
    ledger: Ledger, source: str
) -> None:
    settings.choose(ledger, "ultraedit", {"step": "published"}, {"reason": "as before"})
    add(ledger, source, evaluate=False)
    turn = last_turn(ledger)
    assert turn.hyperparameters["step"] == "published"
    assert turn.hyperparameters["learning_rate"] > 0
    assert "settings of this ledger (as before): step published" in turn.notes[0]


def test_a_choice_that_this_program_does_not_know_is_refused(ledger: Ledger, source: str) -> None:
    settings.choose(ledger, "ultraedit", {"of_the_future": 1}, {})
    with pytest.raises(SettingError, match="of_the_future"):
        add(ledger, source, evaluate=False)


def test_it_is_told_where_the_modules_come_from(ledger: Ledger) -> None:
    settings.choose(ledger, "ultraedit", TUNED, EVIDENCE)
    ultraedit, wise = in_force(ledger)
    assert (ultraedit.source, ultraedit.modules) == ("chosen", (SECOND,))
    assert (wise.source, wise.chosen) == ("rule", None)
    settings.reset(ledger, "ultraedit")
    assert in_force(ledger)[0].source == "rule"


def test_the_command_shows_what_counts_and_takes_it_back(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.choose(ledger, "ultraedit", TUNED, EVIDENCE)
    words = ("settings", "--ledger", str(ledger.folder))
    shown = done(capsys, *words).out
    assert "step first-order, share 0.7, passes 2" in shown
    assert "tuned on facts.json" in shown
    [ultraedit, wise] = done(capsys, *words, "--json").json()["settings"]
    assert ultraedit["modules"] == [SECOND]
    assert ultraedit["chosen"]["evidence"] == EVIDENCE
    assert wise["chosen"] is None
    done(capsys, *words, "--reset", "ultraedit")
    [ultraedit, _] = done(capsys, *words, "--json").json()["settings"]
    assert (ultraedit["values"], ultraedit["modules_from"]) == ({}, "rule")
    refused = call(capsys, *words, "--reset", "rome")
    assert (refused.status, "rome" in refused.err) == (2, True)
