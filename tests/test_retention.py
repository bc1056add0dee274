"""Retention: after each turn some earlier edits that hold are scored again, and it is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event, select
from sqlalchemy.orm import Session

from ledger import database
from ledger.editing import Added, AddEdits, add_edits
from ledger.evaluating import evaluate
from ledger.orm import EditRow, EvaluationRow, OutcomeRow
from ledger.reporting import log, show
from ledger.rolling_back import rollback_turn
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import SettingError
from tests.command_line import done
from tests.ledgers import fact, facts, new_ledger, write_facts


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path) -> Iterator[Ledger]:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        yield ledger


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_facts(tmp_path / "facts.json", facts(12))


def run(ledger: Ledger, source: str, **options: object) -> list[Added]:
    return list(add_edits(ledger, AddEdits(source=source, **options)).turns)  # type: ignore[arg-type]  # by name


def sampled(ledger: Ledger, number: int) -> dict[tuple[int, str], dict[str, object]]:
    """Turn id and prompt of the edits that were scored again with a turn → their scores."""
    with database.reading(ledger.engine) as session:
        [evaluation] = session.scalars(
            select(EvaluationRow).where(
                EvaluationRow.scope == "sample", EvaluationRow.turn_id == _id(ledger, number)
            )
        )
        assert evaluation.protocol["sample"] == "retention"
        query = select(EditRow, OutcomeRow.state).join(OutcomeRow, OutcomeRow.edit_id == EditRow.id)
        found = session.execute(query.where(OutcomeRow.evaluation_id == evaluation.id))
        return {(edit.turn_id, edit.prompt): state for edit, state in found}


def _id(ledger: Ledger, number: int) -> int:
    return log(ledger)[number - 1].row.id


def test_earlier_edits_are_scored_as_an_evaluation_of_the_same_state_scores_them(
    database_url: str, tmp_path: Path, tiny_llama: Path, source: str
) -> None:
    with new_ledger(tmp_path / "other", tiny_llama, database_url) as ledger:
        added = run(ledger, source, turn_size=4, retention=3)
        assert added[0].retention is None
        for one in added[1:]:
            assert one.retention is not None
            now = {edit["prompt"]: edit["state"] for edit in evaluate(ledger, at=one.turn).edits}
            found = sampled(ledger, one.turn)
            assert len(found) == one.retention.n == 3
            assert all(turn_id < _id(ledger, one.turn) for turn_id, _ in found)
            assert {prompt: state for (_, prompt), state in found.items()} == {
                prompt: now[prompt] for _, prompt in found
            }
            successes = [now[prompt]["edit_success"] for _, prompt in found]
            assert one.retention.now == pytest.approx(sum(successes) / 3)
        assert verify(ledger).problems == []


def test_then_is_what_these_very_edits_scored_with_their_own_turns(
    ledger: Ledger, source: str
) -> None:
    *_, last = run(ledger, source, turn_size=4, retention=5)
    then = {
        (turn.row.id, edit["prompt"]): edit["state"]["edit_success"]
        for turn in log(ledger)
        for edit in show(ledger, turn.number).edits
    }
    kept = [then[place] for place in sampled(ledger, last.turn)]
    assert last.retention is not None
    assert last.retention.then == pytest.approx(sum(kept) / 5)


def test_without_scores_of_then_there_is_only_now(ledger: Ledger, source: str) -> None:
    run(ledger, source, turn_size=4, limit=4, evaluate=False)
    [added] = run(ledger, source, turn_size=8)
    assert added.retention is not None
    assert (added.retention.n, added.retention.then) == (1, None)
    assert added.retention.now is not None


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"turn_size": 4}, [0, 1, 1]),
        ({"turn_size": 6, "retention": 100}, [0, 6]),
        ({"turn_size": 4, "evaluate": False}, [0, 0, 0]),
        ({"turn_size": 4, "retention": 0}, [0, 0, 0]),
        ({"turn_size": 4, "evaluate": False, "retention": 2}, [0, 2, 2]),
    ],
)
def test_the_sample_is_one_for_ten_edits_or_as_large_as_asked_and_as_there_are(
    ledger: Ledger, source: str, options: dict[str, object], sizes: list[int]
) -> None:
    added = run(ledger, source, **options)
    assert [one.retention.n if one.retention else 0 for one in added] == sizes


def test_a_sample_of_one_for_ten_grows_with_the_turn_size(ledger: Ledger, tmp_path: Path) -> None:
    run(ledger, write_facts(tmp_path / "some.json", facts(4)), turn_size=4)
    [added] = run(ledger, write_facts(tmp_path / "more.json", facts(4, start=4)), turn_size=30)
    assert added.retention is not None
    assert added.retention.n == 3


def test_only_edits_that_hold_are_scored_again(ledger: Ledger, tmp_path: Path) -> None:
    source = write_facts(tmp_path / "facts.json", facts(6))
    run(ledger, source, turn_size=2)
    rollback_turn(ledger, 2)
    rows = [fact(0, target="Tokyo"), fact(9)]
    [fifth] = run(ledger, write_facts(tmp_path / "other.json", rows), retention=100)
    [sixth] = run(ledger, write_facts(tmp_path / "more.json", [fact(11)]), retention=100)
    old = [str(fact(number)["prompt"]) for number in (1, 4, 5)]
    # Of the first turn the other one is overridden by the very turn that is scored.
    assert sorted(prompt for _, prompt in sampled(ledger, fifth.turn)) == sorted(old)
    holding = [*old, *(str(row["prompt"]) for row in rows)]
    again = sampled(ledger, sixth.turn)
    assert sorted(prompt for _, prompt in again) == sorted(holding)
    assert (_id(ledger, 1), str(rows[0]["prompt"])) not in again


def test_the_same_run_draws_the_same_edits_and_another_seed_others(
    tmp_path: Path, tiny_llama: Path
) -> None:
    source = write_facts(tmp_path / "facts.json", facts(24))
    drawn = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        with new_ledger(tmp_path / name, tiny_llama) as ledger:
            run(ledger, source, turn_size=12, seed=seed, retention=4)
            drawn.append({prompt for _, prompt in sampled(ledger, 2)})
    assert drawn[0] == drawn[1] != drawn[2]


def test_drawing_reads_no_more_edits_than_it_looks_at(ledger: Ledger, tmp_path: Path) -> None:
    run(ledger, write_facts(tmp_path / "facts.json", facts(20)), turn_size=20, evaluate=False)
    loaded: list[EditRow] = []

    def count(target: EditRow, *_: object) -> None:
        loaded.append(target)

    event.listen(EditRow, "load", count)
    try:
        more = write_facts(tmp_path / "more.json", facts(1, start=20))
        [added] = run(ledger, more, retention=2)
    finally:
        event.remove(EditRow, "load", count)
    assert added.retention is not None
    assert len(loaded) == 2


def test_log_show_and_the_command_line_tell_how_earlier_edits_are_kept(
    ledger: Ledger, source: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--ledger", str(ledger.folder))
    ran = done(
        capsys,
        "add-edits",
        source,
        "--turn-size",
        "6",
        "--retention",
        "4",
        "--device",
        "cpu",
        *words,
    )
    first, second = (turn.to_json()["retention"] for turn in log(ledger))
    assert first is None
    assert set(second) == {"n", "then", "now"}
    assert second["n"] == 4
    told = f"kept {second['now']:.3f} of 4 earlier (was {second['then']:.3f})"
    [line] = [line for line in ran.out.splitlines() if line.startswith("turn 2")]
    assert told in line
    assert done(capsys, "log", "--json", *words).json()[1]["retention"] == second
    assert done(capsys, "show", "2", "--json", *words).json()["retention"] == second
    assert f"{second['then']:.3f} when they were made" in done(capsys, "show", "2", *words).out


def test_a_negative_retention_is_refused(source: str) -> None:
    with pytest.raises(SettingError, match="--retention counts edits"):
        AddEdits(source=source, retention=-1)


def test_a_turn_and_its_sample_are_recorded_together_or_not_at_all(
    ledger: Ledger, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = add_edits(ledger, AddEdits(source=source, turn_size=4, retention=2)).turns
    next(turns)
    flush = Session.flush

    def failing(session: Session, objects: object = None) -> None:
        if any(isinstance(row, EvaluationRow) and row.scope == "sample" for row in session.new):
            raise KeyboardInterrupt
        flush(session, objects)  # type: ignore[arg-type]  # as it came

    monkeypatch.setattr(Session, "flush", failing)
    with pytest.raises(KeyboardInterrupt):
        next(turns)
    monkeypatch.undo()
    assert len(log(ledger)) == 1
    assert verify(ledger).problems == []
