"""A ledger moves to another database with every row, or stays where it is."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import make_url, text

import migrations
from ledger import database, settings
from ledger.branching import create_tag
from ledger.database import writing
from ledger.initialising import stored_url
from ledger.moving_database import CopiedDatabase, copy_database
from ledger.verifying import verify
from ledger.workspace import CONFIG, Config, open_ledger
from patches.errors import DatabaseError, EditLedgerError, SettingError
from tests.command_line import call, done
from tests.ledgers import contents, facts, write_facts
from tests.released_ledgers import REVISIONS, restore
from tests.test_safety_copy import no_file_larger_than

Capture = pytest.CaptureFixture[str]
SECRET = "pass-of-nobody"
KILLED = """
import os, signal, sys
from ledger.moving_database import copy_database
from ledger.workspace import open_ledger

def progress(phase, done, total):
    if phase == "turns":  # all rows are there, and none is committed
        os.kill(os.getpid(), signal.SIGKILL)

copy_database(open_ledger(sys.argv[1]), sys.argv[2], progress=progress)
"""


@pytest.fixture(scope="module")
def kept(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ledger with at least one row in every table. Copy it before writing to it."""
    folder = restore(tmp_path_factory.mktemp("kept") / "ledger", tiny_llama, REVISIONS[-1])
    engine = database.connect(database.parse_url(f"sqlite:///{folder / 'ledger.db'}"))
    migrations.upgrade(engine)
    engine.dispose()
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    """A ledger of one's own, in SQLite."""
    return Path(shutil.copytree(kept, tmp_path / "ledger"))


@pytest.fixture
def beside(tmp_path: Path) -> str:
    """URL of a SQLite database that is not there yet."""
    return f"sqlite:///{tmp_path / 'copy.db'}"


@pytest.fixture
def target(database_url: str, beside: str) -> str:
    """URL of an empty database of either kind."""
    return database_url if "postgresql" in database_url else beside


def move(folder: Path, url: str, *, switch: bool = True) -> CopiedDatabase:
    with open_ledger(folder) as ledger:
        return copy_database(ledger, url, switch=switch)


def rows(folder: Path) -> dict[str, list[tuple[object, ...]]]:
    with open_ledger(folder) as ledger:
        return contents(ledger)


def is_empty(url: str) -> bool:
    engine = database.connect(database.parse_url(url))
    found = database.schema_revision(engine)
    engine.dispose()
    return found is None


def test_a_ledger_moves_to_postgresql_and_back_without_a_change(
    folder: Path, postgres_url: str, tmp_path: Path
) -> None:
    before = rows(folder)
    assert [name for name, found in before.items() if not found] == []
    back = f"sqlite:///{tmp_path / 'back.db'}"
    for url in (postgres_url, back):
        copied = move(folder, url)
        assert copied.tables == {name: len(found) for name, found in before.items()}
        assert (copied.switched, copied.notes) == (True, [])
        assert Config.read(folder).database == stored_url(url)
        assert rows(folder) == before
        with open_ledger(folder) as ledger:
            assert verify(ledger).problems == []
    assert (folder / "ledger.db").is_file()


def test_work_goes_on_in_the_new_database_with_the_next_numbers(
    capsys: Capture,
    folder: Path,
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LEDGER_DIR", str(folder))
    log = done(capsys, "log", "--json").json()
    old = (folder / "ledger.db").read_bytes()
    told = done(capsys, "db", "copy", "--to", target).out
    assert "the chain of hashes is whole" in told
    assert done(capsys, "log", "--json").json() == log
    assert len(done(capsys, "search", '"capital of Finland"', "--json").json()) == 1
    source = write_facts(tmp_path / "more.json", facts(1, 20))
    assert call(capsys, "add-edits", source, "--no-evaluate").status == 0
    done(capsys, "rollback", "turn", "2")
    assert len(done(capsys, "log", "--json").json()) == len(log) + 2
    assert done(capsys, "verify", "--json").json()["problems"] == []
    assert (folder / "ledger.db").read_bytes() == old


def test_a_copy_beside_the_database_changes_nothing_until_it_is_switched_to(
    capsys: Capture, folder: Path, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_DIR", str(folder))
    config = (folder / CONFIG).read_text()
    for _ in range(2):  # a copy that is there already is checked again
        made = done(capsys, "db", "copy", "--to", target, "--no-switch", "--json").json()
        assert made["switched"] is False
        assert (folder / CONFIG).read_text() == config
    before = rows(folder)
    assert done(capsys, "db", "copy", "--to", target, "--json").json() == {
        **made,
        "switched": True,
    }
    assert rows(folder) == before
    assert Config.read(folder).database == stored_url(target)


def test_a_copy_that_the_ledger_has_left_behind_is_not_switched_to(
    folder: Path, beside: str
) -> None:
    move(folder, beside, switch=False)
    with open_ledger(folder) as ledger:
        create_tag(ledger, "later")
    with pytest.raises(DatabaseError, match=r"rows of table|other values in table"):
        move(folder, beside)
    assert Config.read(folder).database == "sqlite:///ledger.db"


def test_a_copy_that_is_killed_leaves_an_empty_database_and_can_be_made_again(
    folder: Path, target: str
) -> None:
    config, before = (folder / CONFIG).read_text(), rows(folder)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), target],
        check=False,
        cwd=migrations.FOLDER.parent,
        capture_output=True,
    )
    assert killed.returncode == -9, killed.stderr
    assert (folder / CONFIG).read_text() == config
    assert is_empty(target)
    assert rows(folder) == before
    move(folder, target)
    assert rows(folder) == before


def test_a_copy_that_is_stopped_before_the_switch_is_switched_to_by_the_same_command(
    folder: Path, beside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(folder)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Config, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            move(folder, beside)
    assert Config.read(folder).database == "sqlite:///ledger.db"
    assert not is_empty(beside)
    move(folder, beside)
    assert Config.read(folder).database == stored_url(beside)
    assert rows(folder) == before


def test_who_waits_to_write_while_the_ledger_moves_writes_nothing_to_the_old_database(
    folder: Path, beside: str
) -> None:
    old = (folder / "ledger.db").read_bytes()
    errors: list[EditLedgerError] = []
    opened = threading.Event()

    def tag() -> None:
        with open_ledger(folder) as ledger:
            _ = ledger.engine
            opened.set()
            try:
                create_tag(ledger, "late")
            except EditLedgerError as error:
                errors.append(error)

    writer = threading.Thread(target=tag)

    def progress(phase: str, done: int, total: int) -> None:  # noqa: ARG001 (as all progress)
        if not writer.is_alive() and not opened.is_set():
            writer.start()
            assert opened.wait(60)

    with open_ledger(folder) as ledger:
        copy_database(ledger, beside, progress=progress)
    writer.join(60)
    [error] = errors
    assert "has moved to" in str(error)
    assert "Nothing was changed; run again" in str(error)
    assert (folder / "ledger.db").read_bytes() == old
    with open_ledger(folder) as ledger:
        create_tag(ledger, "late")
        assert verify(ledger).problems == []


def _other_ledger(folder: Path, url: str) -> None:
    move(folder, url, switch=False)
    engine = database.connect(database.parse_url(url))
    with writing(engine) as session:
        session.execute(text("UPDATE bases SET ledger_id = 'another'"))
    engine.dispose()


def _other_tables(folder: Path, url: str) -> None:  # noqa: ARG001 (as the others)
    engine = database.connect(database.parse_url(url))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE customers (name TEXT)"))
    engine.dispose()


def _newer_ledger(folder: Path, url: str) -> None:
    move(folder, url, switch=False)
    engine = database.connect(database.parse_url(url))
    with writing(engine) as session:
        session.execute(text(f"UPDATE {database.VERSION_TABLE} SET version_num = '9999'"))
    engine.dispose()


@pytest.mark.parametrize(
    ("fill", "reason"),
    [
        (_other_ledger, "holds another ledger; name an empty one with --to"),
        (_other_tables, r"holds tables of something else \(customers\)"),
        (_newer_ledger, "newer than this program"),
    ],
)
def test_a_database_with_something_else_in_it_is_not_touched(
    folder: Path, target: str, fill: Callable[[Path, str], None], reason: str
) -> None:
    fill(folder, target)
    config = (folder / CONFIG).read_text()
    with pytest.raises(DatabaseError, match=reason):
        move(folder, target)
    assert (folder / CONFIG).read_text() == config


def test_a_place_where_nothing_can_be_is_refused(folder: Path, tmp_path: Path) -> None:
    config = (folder / CONFIG).read_text()
    with pytest.raises(SettingError, match="is the ledger's database already"):
        move(folder, f"sqlite:///{folder}/../ledger/ledger.db")
    for address, reason in (
        ("sqlite://", "in memory would be gone"),
        (f"sqlite:///{tmp_path}/no/such/copy.db", "unable to open"),
        ("copy.db", "not a database URL"),
        ("postgresql://me@127.0.0.1:1/nothing", "Check that it is reachable"),
    ):
        with pytest.raises(DatabaseError, match=reason):
            move(folder, address)
    assert (folder / CONFIG).read_text() == config


def test_a_disk_that_fills_up_leaves_no_half_database(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    with no_file_larger_than(100_000), pytest.raises(DatabaseError, match=r"copy\.db: .*"):
        move(folder, f"sqlite:///{target}")
    assert [path.name for path in tmp_path.iterdir()] == ["ledger"]
    move(folder, f"sqlite:///{target}")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("UPDATE edits SET prompt = 'a' || char(0) || 'b' WHERE id = 3", "prompt holds a NUL"),
        ("UPDATE refs SET name = printf('%0201d', 0) WHERE name = 'other'", "longer than the 200"),
        ("UPDATE edits SET position = 3000000000 WHERE id = 3", "larger than 2147483647"),
    ],
)
def test_a_value_that_postgresql_cannot_hold_is_named_with_its_table_and_row(
    folder: Path, postgres_url: str, change: str, reason: str
) -> None:
    with open_ledger(folder) as ledger, writing(ledger.engine) as session:
        session.execute(text(change))
    with pytest.raises(DatabaseError, match=rf"table \w+, row .*{reason}.*Nothing was copied"):
        move(folder, postgres_url)
    assert is_empty(postgres_url)


def test_texts_of_all_kinds_and_large_numbers_arrive_as_they_were(
    folder: Path, target: str
) -> None:
    odd = {"\0": "\0\u202e", "é": [1e-300, 2**63, None, "☃😀 :x %s %(y)s \\ '"]}
    with open_ledger(folder) as ledger:
        settings.choose(ledger, "wise", {}, odd)
    before = rows(folder)
    move(folder, target)
    assert rows(folder) == before
    with open_ledger(folder) as ledger:
        chosen = settings.chosen(ledger, "wise")
        assert chosen is not None
        assert chosen.evidence == odd


def test_a_damaged_history_is_not_moved(folder: Path, target: str) -> None:
    with open_ledger(folder) as ledger, writing(ledger.engine) as session:
        session.execute(text("UPDATE turns SET message = 'altered' WHERE number = 2"))
    with pytest.raises(DatabaseError, match=r"history is damaged: turn 2.*ledger verify"):
        move(folder, target)
    if target.startswith("sqlite"):
        assert not Path(make_url(target).database or "").exists()
    assert is_empty(target)


def test_a_password_is_used_and_not_kept(folder: Path, postgres_url: str) -> None:
    url = make_url(postgres_url).set(password=SECRET).render_as_string(hide_password=False)
    copied = move(folder, url)
    assert SECRET not in json.dumps(copied.to_json()) + (folder / CONFIG).read_text()
    assert copied.notes == ["its password is not kept: set PGPASSWORD, or LEDGER_DATABASE"]
    assert rows(folder)


def test_a_variable_that_names_the_old_database_is_mentioned(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEDGER_DATABASE", f"sqlite:///{folder / 'ledger.db'}")
    copied = move(folder, f"sqlite:///{tmp_path / 'copy.db'}")
    assert copied.notes == [
        "LEDGER_DATABASE is set and counts more than config.json: change it too"
    ]
