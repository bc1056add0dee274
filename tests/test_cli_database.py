"""The command on PostgreSQL, and the password of a database, which nobody gets to see."""

from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url

from tests.command_line import call, done, process
from tests.ledgers import facts, files, write_facts

Capture = pytest.CaptureFixture[str]
SECRET = "pass-of-nobody"


def test_a_whole_run_works_on_postgresql(
    capsys: Capture,
    postgres_url: str,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_facts(tmp_path / "facts.json", facts(5))
    base = files(tiny_llama)
    made = done(
        capsys, "init", "--model", str(tiny_llama), "--database", postgres_url, "--store", "blobs"
    )
    assert "postgresql+psycopg" in made.out
    assert not list((tmp_path / ".ledger").glob("*.db"))
    added = done(capsys, "add-edits", "facts.json", "--turn-size", "2", "--json").json()
    assert [turn["edits"] for turn in added["turns"]] == [2, 2, 1]
    again = done(capsys, "add-edits", "facts.json", "--json").json()
    assert (again["edits"], again["known"]) == (0, 5)
    done(capsys, "apply", "--to", "patched")
    done(capsys, "rollback", "turn", "2", "--to", "patched")
    assert done(capsys, "evaluate", "--json").json()["n"] == 3
    assert done(capsys, "verify", "--model", "patched", "--json").json()["ok"]
    done(capsys, "rollback", "to", "0", "--to", "patched")
    written = files(tmp_path / "patched")
    assert {name: written[name] for name in base} == base
    turns = done(capsys, "log", "--json").json()
    assert [turn["kind"] for turn in turns] == ["edit"] * 3 + ["rollback"] * 2
    assert len(list((tmp_path / "blobs").glob("??/*.safetensors"))) == 6
    status = done(capsys, "status").out
    assert "schema" in status
    assert done(capsys, "db", "upgrade", "--json").json()["applied"] == []


def test_a_second_ledger_does_not_take_over_a_database(
    capsys: Capture,
    postgres_url: str,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["init", "--model", str(tiny_llama), "--database", postgres_url]
    done(capsys, *words, "--ledger", "first")
    outcome = call(capsys, *words, "--ledger", "second")
    assert outcome.status == 1
    assert "holds a ledger already" in outcome.err
    assert not (tmp_path / "second").exists()


def test_the_password_is_shown_nowhere_and_kept_nowhere(
    capsys: Capture,
    postgres_url: str,
    tiny_llama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    # The server trusts everyone on its socket: what matters is where a password goes.
    url = make_url(postgres_url).set(password=SECRET).render_as_string(hide_password=False)
    printed = []
    printed.append(done(capsys, "init", "--model", str(tiny_llama), "--database", url))
    write_facts(tmp_path / "facts.json", facts(2))
    printed.append(done(capsys, "add-edits", "facts.json", "--no-evaluate"))
    monkeypatch.setenv("LEDGER_DATABASE", url)
    for line in ("status", "log", "show 1", "verify", "db current", "db upgrade", "status --json"):
        printed.append(done(capsys, *line.split()))
    broken = make_url(url).set(database="no_such_database").render_as_string(hide_password=False)
    monkeypatch.setenv("LEDGER_DATABASE", broken)
    printed.append(call(capsys, "status"))
    assert (printed[-1].status, printed[-1].out) == (1, "")
    assert len(printed[-1].err.splitlines()) == 1
    printed.append(process("log", LEDGER_DATABASE=broken))
    for outcome in printed:
        assert SECRET not in outcome.out + outcome.err
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or SECRET.encode() not in path.read_bytes(), path
    with psycopg.connect(postgres_url.replace("+psycopg", "", 1)) as connection:
        tables = connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'"
        ).fetchall()
        for (table,) in tables:
            rows = connection.execute(f'SELECT * FROM "{table}"').fetchall()
            assert SECRET not in repr(rows), table


def test_a_database_that_is_not_there_is_one_sentence(
    capsys: Capture, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    url = f"postgresql+psycopg://someone:{SECRET}@127.0.0.1:1/nothing"
    outcome = call(capsys, "init", "--model", str(tiny_llama), "--database", url)
    assert (outcome.status, outcome.out) == (1, "")
    assert len(outcome.err.splitlines()) == 1
    assert "***" in outcome.err
    assert SECRET not in outcome.err
    assert not (tmp_path / ".ledger").exists()


@pytest.mark.parametrize("url", ["mysql://me:{}@db/x", "postgresql//me:{}@db/x", "sqlite://:{}@"])
def test_an_unusable_address_does_not_show_its_password(
    capsys: Capture, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    address = url.format(SECRET)
    outcome = call(capsys, "init", "--model", str(tiny_llama), "--database", address)
    assert (outcome.status, outcome.out) == (1, "")
    assert len(outcome.err.splitlines()) == 1
    assert SECRET not in outcome.err
