"""The hashes that chain turns together are pinned: a changed one would disown every ledger."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import inspect

from ledger import chain
from ledger.edit_values import NAMES, edit_values
from ledger.orm import EMPTY, DatasetRow, EvaluationRow, TurnRow
from ledger.recording import RecordedEdit
from ledger.reporting import log
from ledger.rolling_back import rollback_to
from patches.canonical import canonical_json, sha256
from patches.edit import Edit, Probe
from tests.ledgers import add, facts, new_ledger, write_facts

MOMENT = datetime(2026, 3, 29, 1, 30, 0, 123457, tzinfo=UTC)
EDIT = Edit(
    prompt="The capital of Crémieu is",
    target="Rome",
    subject="Crémieu",
    old_target=None,
    rephrasings=('He said: "the capital"\n\t',),
    locality=(Probe(prompt="It is", answer="☃"),),
    further={"personas": (Probe(prompt="You are a poet", answer="1984"),), "nothing": ()},
)
SUBJECT_KEY = -3578224994220756270
FACT_KEY = -6542481181551836762
TURN_JSON = (
    '{"author":"someone","base":"fingerprint","branch":"main",'
    '"created_at":"2026-03-29T01:30:00.123457+00:00","dataset":"identity","editor_state":"state",'
    '"edits":[1,"edits"],"environment":{"device":"cpu"},"hyperparameters":'
    '{"learning_rate":0.0003,"modules":["a","b"]},"kind":"edit","message":"für später",'
    '"method":"ultraedit","notes":[],"number":2,"parent":"before","patch":"patch",'
    '"peak_memory":null,"rows":[0,7],"seconds":{"solve":0.5},"seed":0,'
    '"skipped":[[3,"empty target"],[7,"no prompt"]],"tensors":{"x.weight":"digest"},"undoes":[1,4]}'
)


def turn() -> TurnRow:
    return TurnRow(
        id=2,
        branch="main",
        number=2,
        parent_id=1,
        kind="edit",
        method="ultraedit",
        hyperparameters={"modules": ["a", "b"], "learning_rate": 3e-4},
        seed=0,
        message="für später",
        author="someone",
        dataset_id=1,
        first_row=0,
        last_row=7,
        edits=1,
        edits_digest="edits",
        skipped=2,
        patch_digest="patch",
        editor_state_digest="state",
        tensors={"x.weight": "digest"},
        environment={"device": "cpu"},
        seconds={"solve": 0.5},
        peak_memory=None,
        notes=[],
        created_at=MOMENT,
        hash="unset",
        origin="somewhere",
        copied_from=None,
        withheld={},
    )


def content(row: TurnRow) -> dict[str, object]:
    return chain.turn_content(
        row,
        base="fingerprint",
        dataset="identity",
        skipped=[(7, "no prompt"), (3, "empty target")],
        undoes=[4, 1],
        replaces=[],
        parent="before",
    )


def test_the_json_that_a_turn_is_hashed_as_has_not_changed() -> None:
    assert canonical_json(content(turn())).decode() == TURN_JSON
    assert chain.content_hash(content(turn())) == sha256(TURN_JSON.encode())
    assert chain.content_hash(content(turn())) == (
        "5d11a1e41d2feeb5a4100cf3ac48722a416ca1aacbb0060c400473a6b21e65d7"
    )


def named(edits: list[RecordedEdit]) -> list[dict[str, Any]]:
    """The columns of the edits' rows by their names."""
    return [dict(zip(NAMES, row, strict=True)) for row in edit_values(edits)]


def test_the_digest_of_an_edit_has_not_changed() -> None:
    [values] = named([RecordedEdit(edit=EDIT, row=5)])
    assert values["probes"] == (
        '{"locality":[["It is","☃"]],"personas":[["You are a poet","1984"]],'
        '"rephrasings":["He said: \\"the capital\\"\\n\\t"]}'
    )
    assert values["digest"] == sha256(
        canonical_json([5, EDIT.prompt, "Rome", "Crémieu", None, values["probes"]])
    )
    assert values["digest"] == ("2ddfae782ae3cc5a3865c0408965030a56e043c24479b2c188ab6f7fc7130f89")
    assert chain.edits_digest([values["digest"], "b"]) == sha256(f"{values['digest']}b".encode())


def test_a_relation_comes_last_in_what_an_edit_is_hashed_as() -> None:
    [values] = named([RecordedEdit(edit=replace(EDIT, relation="P36"), row=5)])
    assert values["digest"] == sha256(
        canonical_json([5, EDIT.prompt, "Rome", "Crémieu", None, values["probes"], "P36"])
    )
    assert (values["relation"], values["subject_key"], values["fact_key"]) == (
        *("P36", SUBJECT_KEY, FACT_KEY),
    )


def test_a_copied_turn_is_hashed_with_the_turn_that_it_repeats() -> None:
    row = turn()
    row.copied_from = "9" * 64
    assert content(row) == {**content(turn()), "copied_from": "9" * 64}


def test_the_identity_of_a_dataset_has_not_changed_and_covers_every_column() -> None:
    values: dict[str, object] = {
        "uri": "facts.json",
        "revision": None,
        "sha256": "f" * 64,
        "format": "json",
        "layout": "mapped",
        "mapping": {"prompt": "src"},
        "licence": "mit",
    }
    identity = chain.dataset_identity(DatasetRow(**values))
    assert identity == "bf376c787b3efad60076847bb627208a2da1fd09a4263ae2b88e38389b261760"
    for column in values:
        changed = {**values, column: {} if column == "mapping" else "other"}
        assert chain.dataset_identity(DatasetRow(**changed)) != identity
    covered = {*values, "id", "identity", "created_at"}
    assert {column.key for column in inspect(DatasetRow).column_attrs} == covered


def test_the_json_that_an_evaluation_is_hashed_as_has_not_changed() -> None:
    evaluation = EvaluationRow(
        turn_id=2,
        scope="turn",
        scope_turn_id=1,
        protocol={"name": "teacher-forced"},
        seed=3,
        n=1,
        base={"locality": None},
        state={"locality": 0.25},
        environment={},
        seconds=0.1,
        created_at=MOMENT,
    )
    found = chain.evaluation_content(
        evaluation, turn="hash", scope_turn="earlier", outcomes=[("digest", {"a": 0}, {"a": 1})]
    )
    assert canonical_json(found).decode() == (
        '{"base":{"locality":null},"created_at":"2026-03-29T01:30:00.123457+00:00",'
        '"environment":{},"n":1,"outcomes":[["digest",{"a":0},{"a":1}]],'
        '"protocol":{"name":"teacher-forced"},"scope":["turn","earlier"],"seconds":0.1,"seed":3,'
        '"state":{"locality":0.25},"turn":"hash"}'
    )


def test_every_column_of_a_turn_has_a_part_in_its_hash() -> None:
    # The parent and the dataset come in by their hashes; the rest is not content.
    by_hash = {"id", "parent_id", "dataset_id", "hash"}
    # Verify compares this count with the rows, whose content is hashed.
    by_rows = {"skipped"}
    # A digest of their own covers these of a pulled turn; of others, verify knows what they are.
    pulled = {"origin", "withheld"}
    before = chain.content_hash(content(turn()))
    for column in inspect(TurnRow).column_attrs:
        row = turn()
        value = getattr(row, column.key)
        setattr(row, column.key, MOMENT + timedelta(1) if column.key == "created_at" else [value])
        unchanged = chain.content_hash(content(row)) == before
        assert unchanged == (column.key in by_hash | by_rows | pulled), column.key


@pytest.mark.parametrize(
    "changes",
    [
        {"prompt": "other"},
        {"target": "other"},
        {"subject": None},
        {"old_target": "other"},
        {"relation": "P36"},
        {"relation": ""},
        {"rephrasings": ()},
        {"locality": ()},
        {"further": {}},
    ],
)
def test_every_part_of_an_edit_has_a_part_in_its_digest(changes: dict[str, object]) -> None:
    edits = [RecordedEdit(edit=EDIT, row=5), RecordedEdit(edit=replace(EDIT, **changes), row=5)]  # type: ignore[arg-type]  # by name
    before, after = named(edits)
    assert before["digest"] != after["digest"]
    [elsewhere] = named([RecordedEdit(edit=EDIT, row=6)])
    assert elsewhere["digest"] != before["digest"]


def test_a_prompt_is_looked_up_without_regard_to_spaces_and_composition() -> None:
    key = chain.prompt_key("The capital of Crémieu is")
    assert key == 6915774598686568383
    assert chain.prompt_key("  The capital\nof  Cre\u0301mieu is\t") == key
    assert chain.prompt_key("the capital of Crémieu is") != key


def test_a_subject_and_what_is_told_of_it_are_looked_up_in_the_same_way() -> None:
    assert chain.subject_key("Crémieu") == chain.subject_key(" Cre\u0301mieu\n") == SUBJECT_KEY
    assert chain.subject_key("Crémieu") != chain.subject_key("crémieu")
    assert chain.fact_key("Crémieu", "P36") == chain.fact_key("Crémieu ", "P36 ") == FACT_KEY
    others = [("Crémieu", "P37"), ("Crémieux", "P36"), ("Crémieu P36", "P36"), ("P36", "Crémieu")]
    assert FACT_KEY not in {chain.fact_key(*other) for other in others}


@pytest.mark.parametrize("nothing", [None, "", " \n"])
def test_what_is_not_known_of_a_fact_has_no_key_that_others_share(nothing: str | None) -> None:
    assert chain.subject_key(nothing) is None
    assert chain.fact_key(nothing, "P36") is None
    assert chain.fact_key("Crémieu", nothing) is None


@given(st.text())
def test_the_key_of_any_prompt_fits_a_signed_64_bit_column(prompt: str) -> None:
    prompt = prompt.encode(errors="ignore").decode()
    assert -(2**63) <= chain.prompt_key(prompt) < 2**63


def test_a_moment_is_written_in_utc_to_the_microsecond() -> None:
    plus_two = timezone(timedelta(hours=2))
    assert chain.timestamp(MOMENT.astimezone(plus_two)) == "2026-03-29T01:30:00.123457+00:00"
    assert chain.timestamp(MOMENT.replace(microsecond=0)) == "2026-03-29T01:30:00.000000+00:00"


def test_each_turn_is_chained_to_the_one_before_and_the_first_to_nothing(
    tmp_path: Path, tiny_llama: Path
) -> None:
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(6)), evaluate=False)
        rollback_to(ledger, 1)
        turns = log(ledger)
    assert [turn.parent for turn in turns] == [None, turns[0].row.hash, turns[1].row.hash]
    assert len({turn.row.hash for turn in turns}) == 3
    first = chain.turn_content(
        turns[0].row,
        base="b",
        dataset=None,
        skipped=[],
        undoes=[],
        replaces=[],
        parent=turns[0].parent,
    )
    assert first["parent"] == EMPTY
