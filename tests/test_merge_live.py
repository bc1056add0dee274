"""Branches merged on a language model that both have edited, by both methods."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import select

from ledger import database
from ledger.applying import apply_to_folder, apply_to_model
from ledger.joining import merge_branch
from ledger.merge_plan import MergeBranch
from ledger.orm import EvaluationRow
from ledger.reporting import log
from ledger.rolling_back import rollback_to
from ledger.verifying import verify
from ledger.workspace import Ledger
from tests.branch_scenes import FEATURE, copied, on, part
from tests.command_line import done
from tests.ledgers import add, facts, new_ledger, write_facts
from tests.plain_ledgers import line, recorded
from tests.side_memories import add_memories, turns_in, weights
from tests.tiny_models import load

QUIET = MergeBranch(evaluate=False)


@pytest.fixture(scope="module")
def two_methods(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """Shifts and a side memory on either branch, with scores."""
    folder = tmp_path_factory.mktemp("edits")
    source = write_facts(folder / "facts.json", facts(14))
    with new_ledger(folder / "ledger", tiny_llama) as ledger:
        add(ledger, source, limit=2)
        part(ledger)
        add(ledger, source, offset=2, limit=3)
        add_memories(ledger, source, offset=5, limit=3, evaluate=True)
        with on(ledger):
            add(ledger, source, offset=8, limit=3)
            add_memories(ledger, source, offset=11, limit=3)
    return folder / "ledger"


@pytest.fixture
def edits(two_methods: Path, tmp_path: Path) -> Iterator[Ledger]:
    with copied(two_methods, tmp_path / "ledger") as ledger:
        yield ledger


def test_a_live_model_and_a_folder_come_to_the_recorded_weights_and_memories(
    edits: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    merge_branch(edits, FEATURE, QUIET)
    model = load(tiny_llama)
    applied = apply_to_model(edits, model)
    assert applied.tensors == recorded(edits)
    assert (applied.memories, turns_in(model)) == ([3, 5], [3, 5])
    written = apply_to_folder(edits, tmp_path / "patched")
    assert (written.tensors, written.memories) == (applied.tensors, [3, 5])
    rollback_to(edits, 3)
    apply_to_model(edits, model)
    fresh = load(tiny_llama)
    apply_to_model(edits, fresh)
    assert weights(model) == weights(fresh)
    assert verify(edits).problems == []


def test_the_edits_of_both_sides_are_scored_beside_what_they_were(
    edits: Ledger,
) -> None:
    joined = merge_branch(edits, FEATURE, MergeBranch(device="cpu"))
    ours, theirs = joined.scores
    assert (ours.side, ours.n, ours.of, ours.n_then) == ("ours", 6, 6, 6)
    # The side memory of feature was recorded without scores.
    assert (theirs.side, theirs.n, theirs.of, theirs.n_then) == ("theirs", 6, 6, 3)
    assert theirs.then is not None
    with on(edits):
        before = log(edits)[1]
    assert before.scores is not None
    assert theirs.then["edit_success"] == before.scores["state"]["edit_success"]
    with database.reading(edits.engine) as session:
        rows = session.scalars(select(EvaluationRow).where(EvaluationRow.scope == "sample")).all()
        told = {row.protocol["sample"]: (row.n, row.turn_id, row.state) for row in rows}
    head = line(edits)[4].id
    assert told["ours"] == (6, head, ours.now)
    assert told["theirs"] == (6, head, theirs.now)
    assert verify(edits).problems == []


def test_at_most_so_many_of_each_side_are_scored_and_none_if_so_wished(edits: Ledger) -> None:
    joined = merge_branch(edits, FEATURE, MergeBranch(device="cpu", sample=2))
    assert [(side.n, side.of) for side in joined.scores] == [(2, 6), (2, 6)]


def test_the_next_edits_go_on_from_the_editor_states_of_both(edits: Ledger, tmp_path: Path) -> None:
    merge_branch(edits, FEATURE, QUIET)
    source = write_facts(tmp_path / "more.json", facts(3, 20))
    add(edits, source, evaluate=False)
    (step,) = line(edits)[5:]
    assert step.editor_state_digest is not None
    assert verify(edits).problems == []


def test_the_command_tells_what_came_and_how_it_fares(
    edits: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--ledger", str(edits.folder))
    plan = done(capsys, "merge", FEATURE, "--dry-run", *where).out.splitlines()
    assert plan == [
        "turn 4 would repeat turn 2 of feature: ultraedit, 3 edits",
        "turn 5 would repeat turn 3 of feature: wise, 3 edits",
    ]
    out = done(capsys, "merge", FEATURE, "--device", "cpu", *where).out
    assert out.startswith("turn 4 repeats turn 2 of feature: ultraedit, 3 edits\n")
    assert "ours before  ours now  theirs before  theirs now" in out
    (scored,) = [row.split() for row in out.splitlines() if row.startswith("scored")]
    assert scored == ["scored", "6", "6", "of", "6", "3", "6", "of", "6"]
    again = done(capsys, "merge", FEATURE, *where).out
    assert again == "feature is merged already: there is nothing more to do\n"


def test_json_is_the_plan_with_what_came_of_it(
    edits: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ("--ledger", str(edits.folder), "--json")
    plan = done(capsys, "merge", FEATURE, "--dry-run", *where).json()
    assert [turn["turn"] for turn in plan["turns"]] == [4, 5]
    assert (plan["branch"], plan["fork"], plan["already_merged"]) == (FEATURE, 1, False)
    told = done(capsys, "merge", FEATURE, "--no-evaluate", *where).json()
    assert {name: told[name] for name in plan} == plan
    assert (told["rollback"], told["blends"], told["scores"]) == (None, [], {})
