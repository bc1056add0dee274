"""A ledger of every schema that was ever released goes on with the program as it is now."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from ledger.database import SCHEMA
from ledger.workspace import open_ledger
from tests.command_line import call, done
from tests.ledgers import facts, files, write_facts
from tests.released_ledgers import FOLDER, REVISIONS, as_written, restore

Capture = pytest.CaptureFixture[str]
MODULE = "model.layers.1.mlp.down_proj"


@dataclass(frozen=True, kw_only=True)
class Released:
    """A restored ledger. as_before: hash → branch and number of its turns when it was released."""

    folder: Path
    revision: str
    url: str
    as_before: dict[str, tuple[str, int]]


@pytest.fixture(params=REVISIONS)
def released(
    request: pytest.FixtureRequest,
    database_url: str,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Released:
    folder, revision = tmp_path / "ledger", request.param
    with as_written(revision) as written:
        rows = written.execute("SELECT hash, branch, number FROM turns").fetchall()
    restore(folder, tiny_llama, revision, database_url)
    monkeypatch.setenv("LEDGER_DIR", str(folder))
    return Released(
        folder=folder,
        revision=revision,
        url=open_ledger(folder).url.render_as_string(hide_password=False),
        as_before={digest: (branch, number) for digest, branch, number in rows},
    )


def turns(url: str) -> dict[str, tuple[str, int]]:
    engine = create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT hash, branch, number FROM turns")).all()
    engine.dispose()
    return {digest: (branch, number) for digest, branch, number in rows}


def test_it_is_refused_then_upgraded_with_its_turns_as_they_were_then_read_and_gone_on_with(
    capsys: Capture, released: Released, tmp_path: Path
) -> None:
    if released.revision < SCHEMA:
        check_refusals(capsys, released)
    upgraded = done(capsys, "db", "upgrade", "--json").json()
    later = [f"{n:04}" for n in range(int(released.revision) + 1, int(SCHEMA) + 1)]
    assert upgraded["applied"] == later
    assert turns(released.url) == released.as_before
    if upgraded["copy"] is not None:
        check_copy(Path(upgraded["copy"]), released)
    verified = done(capsys, "verify", "--json").json()
    assert (verified["problems"], verified["checked"]["turns"]) == ([], len(released.as_before))
    check_reading(capsys, released, tmp_path / "patched")
    check_adding(capsys, write_facts(tmp_path / "more.json", facts(1, 20)))
    assert turns(released.url).items() > released.as_before.items()


def check_refusals(capsys: Capture, released: Released) -> None:
    for command in ("log", "verify", "apply --to nowhere"):
        refused = call(capsys, *command.split())
        assert refused.status == 1
        assert f"at schema {released.revision}, this program needs {SCHEMA}" in refused.err
        assert refused.err.strip().endswith("run: ledger db upgrade")
    assert turns(released.url) == released.as_before


def check_copy(copy: Path, released: Released) -> None:
    """It is the database as it was released."""
    assert copy == released.folder / f"ledger.db.schema-{released.revision}"
    with closing(sqlite3.connect(copy)) as found, as_written(released.revision) as written:
        assert list(found.iterdump()) == list(written.iterdump())


def check_reading(capsys: Capture, released: Released, target: Path) -> None:
    told = done(capsys, "log", "--json").json()
    on_main = {n: digest for digest, (branch, n) in released.as_before.items() if branch == "main"}
    assert {turn["turn"]: turn["hash"] for turn in told} == on_main
    assert [turn["state"] for turn in told[:2]] == ["rolled_back", "in_force"]
    first = done(capsys, "show", "1", "--json").json()
    assert (first["message"], first["undone_by"]) == ("first ☃", 3)
    assert [skip["row"] for skip in first["skipped_rows"]] == [1]
    assert first["scores"]["n"] == 2
    prompt = "The capital of Finland is"
    [found] = done(capsys, "search", "capital Finland", "--json").json()
    assert (found["prompt"], found["turn"]) == (prompt, 2)
    [hit] = done(capsys, "blame", prompt, "--json").json()
    assert hit["turn"] == 2
    done(capsys, "reflog")
    done(capsys, "apply", "--at", "2", "--to", str(target))
    assert "model.safetensors" in files(target)


def check_adding(capsys: Capture, source: str) -> None:
    before = len(done(capsys, "log", "--json").json())
    added = call(
        capsys, "add-edits", source, "--modules", MODULE, "--no-evaluate", "--json", "--limit", "1"
    )
    assert added.status == 0, added.err
    [turn] = added.json()["turns"]
    assert turn["turn"] == before + 1
    done(capsys, "rollback", "turn", str(before + 1))
    assert done(capsys, "verify", "--json").json()["problems"] == []


def test_every_schema_before_the_present_one_is_kept() -> None:
    assert REVISIONS[:5] == ["0001", "0002", "0003", "0004", "0005"]
    kept = {path.stem for path in (FOLDER / "patches").glob("??/*.safetensors")}
    for revision in REVISIONS:
        with as_written(revision) as written:
            blobs = {digest for (digest,) in written.execute("SELECT digest FROM blobs")}
        assert blobs <= kept
