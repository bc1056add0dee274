"""Scoring a state on recorded edits: what is asked, what is stored, that the scores are true."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from ledger import database, history
from ledger.applying import apply_to_folder
from ledger.evaluating import evaluate
from ledger.orm import EditRow, EvaluationRow, OutcomeRow, TurnRow
from ledger.reporting import log, status
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches import evaluation
from patches.edit import Edit
from patches.errors import HistoryError
from patches.evaluation import METRICS, Outcome, Questions
from tests.ledgers import add, contents, facts, new_ledger, write_facts
from tests.tiny_models import CONTEXT, load, tokenizer

EDITS = 8


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    """Three turns with 3, 3 and 2 edits, of which the second is undone by the fourth."""
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        source = write_facts(tmp_path / "facts.json", facts(EDITS))
        add(ledger, source, evaluate=False)
        rollback_turn(ledger, 2)
        yield ledger


def edits_of(ledger: Ledger, *numbers: int) -> list[Edit]:
    with database.reading(ledger.engine) as session:
        ids = [turn.row.id for turn in log(ledger) if turn.number in numbers]
        return [history.edit_of(row) for row in history.edit_rows(session, ids)]


def by_hand(base: Path, state: Path, edits: list[Edit]) -> list[Outcome]:
    """The outcomes of two checkpoints on disk."""
    questions = Questions.of(edits, tokenizer(), CONTEXT)
    answers = [evaluation.answer(load(folder), questions, device="cpu") for folder in (base, state)]
    return evaluation.score(edits, questions, *answers)


@pytest.mark.parametrize(
    ("at", "turn", "scored"),
    [
        (None, None, (1, 3)),
        (3, None, (1, 2, 3)),
        (1, None, (1,)),
        (None, 2, (2,)),
        (1, 3, (3,)),
    ],
)
def test_the_scores_are_those_of_the_written_checkpoint_beside_the_base(
    ledger: Ledger,
    tiny_llama: Path,
    tmp_path: Path,
    at: int | None,
    turn: int | None,
    scored: tuple[int, ...],
) -> None:
    found = evaluate(ledger, at=at, turn=turn)
    apply_to_folder(ledger, tmp_path / "out", at=at)
    edits = edits_of(ledger, *scored)
    expected = by_hand(tiny_llama, tmp_path / "out", edits)
    assert (found.turn, found.scope, found.n) == (4 if at is None else at, turn, len(edits))
    assert found.base == evaluation.summary(outcome.base for outcome in expected)
    assert found.state == evaluation.summary(outcome.state for outcome in expected)
    assert [edit["state"] for edit in found.edits] == [outcome.state for outcome in expected]
    assert [edit["base"] for edit in found.edits] == [outcome.base for outcome in expected]
    assert [edit["prompt"] for edit in found.edits] == [edit.prompt for edit in edits]
    assert found.state != found.base


def test_an_evaluation_is_stored_with_protocol_and_the_outcome_of_every_edit(
    ledger: Ledger,
) -> None:
    found = evaluate(ledger, seed=7)
    with database.reading(ledger.engine) as session:
        stored = session.scalars(select(EvaluationRow)).one()
        turn = session.get_one(TurnRow, stored.turn_id)
        assert (turn.number, stored.scope, stored.scope_turn_id) == (4, "in_force", None)
        assert (stored.protocol, stored.seed, stored.n) == (evaluation.PROTOCOL, 7, 5)
        assert (stored.base, stored.state) == (found.base, found.state)
        assert stored.environment["device"] == "cpu"
        assert stored.seconds == found.seconds > 0
        outcomes = session.execute(
            select(EditRow.row, OutcomeRow.base, OutcomeRow.state)
            .join(EditRow, EditRow.id == OutcomeRow.edit_id)
            .order_by(EditRow.id)
        ).all()
    assert [tuple(row) for row in outcomes] == [
        (edit["row"], edit["base"], edit["state"]) for edit in found.edits
    ]
    assert [row for row, *_ in outcomes] == [0, 1, 2, 6, 7]
    assert verify(ledger).checked["evaluations"] == 1
    assert verify(ledger).problems == []


def test_evaluations_are_only_ever_added_and_the_newest_is_in_the_status(ledger: Ledger) -> None:
    first = evaluate(ledger, at=1)
    before = contents(ledger)
    told = status(ledger).to_json()["scores"]
    assert (told["turn"], told["n"], told["state"]) == (1, 3, first.state)
    second = evaluate(ledger)
    evaluate(ledger, turn=1)
    after = contents(ledger)
    for table in ("turns", "edits", "refs"):
        assert after[table] == before[table]
    assert len(after["evaluations"]) == len(before["evaluations"]) + 2 == 3
    # Scores of one turn's edits are not those of the whole.
    assert status(ledger).to_json()["scores"]["state"] == second.state


def test_the_scores_in_the_log_stay_those_recorded_with_the_turn(
    ledger: Ledger, tmp_path: Path
) -> None:
    [added] = add(ledger, write_facts(tmp_path / "more.json", facts(3, start=12)))
    add(ledger, write_facts(tmp_path / "yet.json", facts(3, start=16)))
    evaluate(ledger, turn=5)
    evaluate(ledger, at=5, turn=5)
    assert added.scores is not None
    assert log(ledger)[4].to_json()["scores"] == {"n": 3, **added.scores}


def test_evaluating_again_gives_the_same_scores_as_were_recorded_with_the_turn(
    ledger: Ledger, tmp_path: Path
) -> None:
    [added] = add(ledger, write_facts(tmp_path / "more.json", facts(3, start=12)))
    assert added.scores is not None
    again = evaluate(ledger, turn=5)
    assert {"base": again.base, "state": again.state} == added.scores


def test_the_base_is_as_stable_as_itself_and_the_state_is_not_scored_against_itself(
    ledger: Ledger,
) -> None:
    found = evaluate(ledger, at=3)
    assert found.base["stability"] == 1
    assert found.state["stability"] is not None
    assert found.state["stability"] < 1
    assert found.state["edit_success"] > found.base["edit_success"]


def test_what_evaluate_tells_programs_has_every_metric_of_base_and_state(ledger: Ledger) -> None:
    told = evaluate(ledger).to_json(per_edit=True)
    assert set(told) == {
        *("turn", "scope", "n", "protocol", "seed", "base", "state", "seconds", "edits"),
        *("suite", "sample", "intervals"),
    }
    assert (told["scope"], told["suite"], told["sample"]) == ("in_force", "teacher-forced", None)
    assert set(told["base"]) == set(told["state"]) == set(METRICS)
    for edit in told["edits"]:
        assert set(edit) == {"row", "prompt", "target", "base", "state"}
        assert set(edit["state"]) == {*METRICS, "locality_tokens"}
    assert json.loads(json.dumps(told)) == told
    assert evaluate(ledger, turn=1).to_json()["scope"] == 1
    assert "edits" not in evaluate(ledger).to_json()


@pytest.mark.parametrize(
    ("at", "turn", "reason"),
    [
        (0, None, "no edit is in force at turn 0: nothing to score"),
        (0, 1, "turn 0 is the base"),
        (None, 4, "turn 4 is a rollback: it has no edits"),
        (None, 5, "no turn 5: the turns are 1 to 4"),
        (9, None, "no turn 9: the turns are 1 to 4"),
        (None, 0, "turn 0 is the base: it has no edits"),
    ],
)
def test_nothing_to_score_is_an_error_and_records_nothing(
    ledger: Ledger, at: int | None, turn: int | None, reason: str
) -> None:
    before = contents(ledger)
    with pytest.raises(HistoryError, match=reason):
        evaluate(ledger, at=at, turn=turn)
    assert contents(ledger) == before


def test_an_empty_ledger_and_one_with_all_undone_have_nothing_to_score(
    ledger: Ledger, tmp_path: Path, tiny_llama: Path
) -> None:
    with (
        new_ledger(tmp_path / "empty", tiny_llama) as empty,
        pytest.raises(HistoryError, match="no turns yet; add some with: ledger add-edits"),
    ):
        evaluate(empty)
    rollback_to(ledger, 0)
    with pytest.raises(HistoryError, match="no edit is in force at turn 5"):
        evaluate(ledger)
