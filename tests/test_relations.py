"""What a fact tells of its subject comes from the data, is hashed, and goes along on every way."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from ledger import chain, database, full_text, history
from ledger.datasets import open_dataset, parse_mapping, read_rows
from ledger.orm import EditRow, TurnRow
from ledger.recording import Blob, NewTurn, RecordedEdit, record_turn
from ledger.sharing.manifest import EDITS, MANIFEST
from ledger.sharing.pulling import pull
from ledger.sharing.staging import Push, staged
from ledger.turn import turns
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.canonical import sha256
from patches.edit import Edit
from patches.errors import ManifestError
from tests.ledgers import add, contents, fact, new_ledger, write_facts
from tests.test_manifest import hashed_anew

Json = dict[str, Any]
NESTED = {"prompt": "The capital of {} is", "subject": "Peru", "target_new": {"str": "Cusco"}}


def relations(tmp_path: Path, *rows: Json, mapping: str | None = None) -> list[str | None]:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(rows))
    dataset = open_dataset(str(path), mapping=parse_mapping(mapping) if mapping else None)
    found = [row.edit for row in read_rows(dataset)]
    assert None not in found
    return [edit.relation for edit in found if edit is not None]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "target": "b", "relation": "P36"},
        {"prompt": "a", "target_new": "b", "relation_id": "P36"},
        {"prompt": "a", "target_new": "b", "relation": " P36 "},
        {"requested_rewrite": {**NESTED, "relation_id": "P36"}},
        {"src": "a", "alt": "b", "relation": "P36"},
        {"prompt": "a", "equiv_prompt": [], "alt": "b", "relation": "P36"},
        {"update": "a", "ans": "b", "relation_id": "P36", "relation": "capital"},
        {"prompt": "a", "ans": "b", "relation": "P36"},
    ],
)
def test_the_layouts_that_name_a_relation_are_understood(tmp_path: Path, row: Json) -> None:
    assert relations(tmp_path, row) == ["P36"]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "a", "target": "b", "relation": None},
        {"prompt": "a", "target": "b", "relation": "  "},
        {"prompt": "a", "target_new": "b", "relation_id": {"id": "P36"}},
        {"prompt": "a", "target_new": "b", "relation": ["P36"]},
        {"requested_rewrite": {**NESTED, "relation_id": 36}},
    ],
)
def test_a_row_is_used_without_its_relation_where_that_is_none(tmp_path: Path, row: Json) -> None:
    assert relations(tmp_path, row) == [None]


def test_a_mapping_says_which_field_is_the_relation(tmp_path: Path) -> None:
    row = {"q": "a", "new": "b", "property": "capital"}
    assert relations(tmp_path, row, mapping="prompt=q,target=new,relation=property") == ["capital"]
    assert relations(tmp_path, row, mapping="prompt=q,target=new") == [None]


def test_a_relation_that_is_stored_comes_back(tmp_path: Path, tiny_llama: Path) -> None:
    rows = [fact(0, relation="P36"), fact(1)]
    with new_ledger(tmp_path / "ledger", tiny_llama) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", rows), evaluate=False)
        with database.reading(ledger.engine) as session:
            stored = list(session.scalars(select(EditRow).order_by(EditRow.position)))
            assert [history.edit_of(row).relation for row in stored] == ["P36", None]
    assert stored[0].fact_key == chain.fact_key("France", "P36")
    assert stored[1].fact_key is None
    assert stored[1].subject_key == chain.subject_key("Japan")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A folder with a history of two turns, the second a copy of the first, with their facts."""
    folder = tmp_path_factory.mktemp("published")
    source = write_facts(folder / "facts.json", [fact(0, relation="P36"), fact(7)])
    with new_ledger(folder / "ledger", tiny_llama) as ledger:
        add(ledger, source, evaluate=False)
        copy_last(ledger)
        with database.reading(ledger.engine) as session:
            found = turns(session, ledger.branch)
        push = Push(repo="me/edits", form="patch", include_edits=True)
        words = {"repo": "me/edits", "tag": "turn-2"}
        staged(ledger, push, found, 2, folder / "out", progress=lambda *_: None, **words)
    return folder / "out"


def copy_last(ledger: Ledger) -> None:
    with database.reading(ledger.engine) as session:
        source = session.scalars(select(TurnRow).order_by(TurnRow.id.desc())).first()
        assert source is not None
        assert source.patch_digest is not None
        edits = [
            RecordedEdit(edit=history.edit_of(row), row=row.row)
            for row in history.edit_rows(session, [source.id])
        ]
    new = NewTurn(
        parent=source.id,
        kind="edit",
        method=source.method,
        seed=0,
        message="",
        dataset_id=source.dataset_id,
        edits=edits,
        patch=Blob(digest=source.patch_digest, bytes=1),
        tensors=source.tensors,
        copied_from=source.hash,
    )
    record_turn(ledger, new)


def test_relations_and_what_is_copied_are_pulled_and_verified_on_both_databases(
    published: Path, tmp_path: Path, tiny_llama: Path, database_url: str
) -> None:
    with new_ledger(tmp_path / "other", tiny_llama, database_url) as other:
        pull(other, str(published), branch="main")
        with database.reading(other.engine) as session:
            first, second = session.scalars(select(TurnRow).order_by(TurnRow.number))
            assert (first.copied_from, second.copied_from) == (None, first.hash)
            edits = session.scalars(select(EditRow).order_by(EditRow.id)).all()
            assert [edit.relation for edit in edits] == ["P36", None] * 2
            query = full_text.edits_with("France", other.engine.dialect.name)
            assert list(session.scalars(query)) == [edits[2].id, edits[0].id]
        assert verify(other).problems == []


def test_facts_without_a_relation_are_published_as_before_there_were_any(published: Path) -> None:
    lines = [json.loads(line) for line in (published / EDITS).read_text().splitlines()]
    assert ["relation" in line for line in lines] == [True, False] * 2
    first, second = json.loads((published / MANIFEST).read_bytes())["turns"]
    assert "copied_from" not in first["content"]
    assert second["content"]["copied_from"] == first["hash"]


def _relation(folder: Path, relation: object) -> None:
    """Alter it, and the digest of the file that it is in."""
    path = folder / EDITS
    first, *others = path.read_text().splitlines(keepends=True)
    path.write_text(
        "".join([f"{json.dumps({**json.loads(first), 'relation': relation})}\n", *others])
    )
    manifest = json.loads((folder / MANIFEST).read_bytes())
    content = path.read_bytes()
    manifest["files"][EDITS] = {"sha256": sha256(content), "bytes": len(content)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _copied(folder: Path, value: object) -> None:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["turns"][1]["content"]["copied_from"] = value
    (folder / MANIFEST).write_text(json.dumps(hashed_anew(manifest)))


@pytest.mark.parametrize(
    ("alter", "value", "reason"),
    [
        (_relation, "P37", "its edits of turn 1 are not those that were recorded"),
        (_relation, None, "its edits of turn 1 are not those that were recorded"),
        (_relation, 36, "relation is a int"),
        (_copied, "../evil", "copied_from is no SHA-256"),
        (_copied, None, "copied_from is a NoneType"),
    ],
)
def test_what_was_altered_of_them_is_refused(
    published: Path,
    tmp_path: Path,
    tiny_llama: Path,
    alter: Callable[[Path, object], None],
    value: object,
    reason: str,
) -> None:
    shutil.copytree(published, tmp_path / "altered")
    alter(tmp_path / "altered", value)
    with new_ledger(tmp_path / "other", tiny_llama) as other:
        before = contents(other)
        with pytest.raises(ManifestError, match=reason):
            pull(other, str(tmp_path / "altered"))
        assert contents(other) == before


def test_an_edit_without_a_relation_has_the_digest_that_it_always_had() -> None:
    edit = Edit(prompt="a", target="b", subject="c")
    row = '[1,"a","b","c",null,"{}"]'
    assert chain.edit_digest(edit, 1, "{}") == sha256(row.encode())
    with_relation = replace(edit, relation="é")
    longer = '[1,"a","b","c",null,"{}","é"]'
    assert chain.edit_digest(with_relation, 1, "{}") == sha256(longer.encode())
