"""What is remembered of a history proves later that it has only grown, or that it has not."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update

from ledger import database
from ledger.attesting import attest, read_attestation, write_attestation
from ledger.branching import create_tag, delete_branch, delete_tag, reflog
from ledger.orm import EntryRow, RefRow, SettingsRow, Table
from ledger.rolling_back import rollback_turn
from ledger.settings import reset
from ledger.verifying import Verified, verify
from ledger.verifying_since import remembered
from ledger.workspace import Ledger
from patches.errors import SettingError
from tests import full_ledgers, plain_ledgers
from tests.command_line import call, done
from tests.ledgers import copied
from tests.plain_ledgers import FIRST, change
from tests.test_signing import keys

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attested")
    full_ledgers.build(folder).close()
    return folder / "ledger"


@pytest.fixture
def ledger(built: Path, tmp_path: Path) -> Iterator[Ledger]:
    """A copy of a ledger with a row in every table."""
    with copied(built, tmp_path / "ledger") as ledger:
        yield ledger


def found(ledger: Ledger, past: str, key: Path | None = None) -> Verified:
    return verify(ledger, since=remembered(past, key))


def problems(ledger: Ledger, past: str, key: Path | None = None) -> list[str]:
    return [f"{one.subject}: {one.what}" for one in found(ledger, past, key).problems]


def written(ledger: Ledger, folder: Path, key: Path | None = None) -> str:
    """File with what is to be remembered now."""
    path = folder / "remembered.json"
    write_attestation(attest(ledger, key=key), path)
    return str(path)


def altered(path: str, **changes: Any) -> str:
    """The same file with other values."""
    content = {**json.loads(Path(path).read_text(encoding="utf-8")), **changes}
    Path(path).write_text(json.dumps(content), encoding="utf-8")
    return path


def go_on(ledger: Ledger) -> None:
    """Another turn, a rollback, a setting."""
    number = plain_ledgers.add(ledger, {FIRST: change(FIRST, "dense", 20)})
    rollback_turn(ledger, number)
    reset(ledger, "ultraedit")


def cut_off(ledger: Ledger, after: int) -> None:
    """Remove the entries after this one, and the settings that they record: all is consistent."""
    with database.writing(ledger.engine) as session:
        session.execute(delete(EntryRow).where(EntryRow.id > after))
        session.execute(delete(SettingsRow).where(SettingsRow.id > 2))


class TestWhatIsPrinted:
    def test_the_head_and_every_branch_and_tag_are_told(self, ledger: Ledger) -> None:
        told = attest(ledger).to_json()
        assert [(ref["kind"], ref["name"], ref["turn"]) for ref in told["refs"]] == [
            ("branch", "main", 5),
            ("branch", "try", 2),
            ("tag", "v1", 1),
        ]
        assert told["counts"] == {"turns": 5, "edits": 9, "evaluations": 2}
        assert told["ledger"] == ledger.base.ledger_id
        assert "signature" not in told
        go_on(ledger)
        assert attest(ledger).entry == told["entry"] + 3

    def test_the_command_prints_the_hash_first_and_writes_the_same_to_a_file(
        self, capsys: Capture, ledger: Ledger, tmp_path: Path
    ) -> None:
        where = ("--ledger", str(ledger.folder))
        path = tmp_path / "head.json"
        lines = done(capsys, "attest", "--out", str(path), *where).out.splitlines()
        assert lines[0] == attest(ledger).hash
        assert lines[-1].endswith(f"ledger verify --since {path}")
        told = done(capsys, "attest", "--json", *where).json()
        assert {**told, "created_at": ""} == {**json.loads(path.read_text()), "created_at": ""}
        verified = done(capsys, "verify", "--since", str(path), "--json", *where).json()
        assert verified["since"] == {
            "entry": told["entry"],
            "entries": 0,
            "turns": 0,
            "edits": 0,
            "evaluations": 0,
        }

    def test_reading_it_does_not_take_torch(self, ledger: Ledger) -> None:
        code = (
            "import sys; from cli.main import main\n"
            "try: main(['attest', '--ledger', sys.argv[1]])\n"
            "finally: assert 'torch' not in sys.modules"
        )
        subprocess.run(
            [sys.executable, "-c", code, str(ledger.folder)], check=True, capture_output=True
        )


class TestAHistoryThatHasOnlyGrown:
    def test_extends_what_was_remembered_and_what_came_is_counted(
        self, capsys: Capture, ledger: Ledger, tmp_path: Path
    ) -> None:
        past = attest(ledger)
        path = written(ledger, tmp_path)
        go_on(ledger)
        for one in (past.hash, past.hash[:16], path):
            result = found(ledger, one)
            assert result.problems == []
            assert result.since is not None
            told = result.since.to_json()
            assert told == {
                "entry": past.entry,
                "entries": 3,
                "turns": 2,
                "edits": 0,
                "evaluations": 0,
            }
        out = done(capsys, "verify", "--since", path, "--ledger", str(ledger.folder)).out
        assert f"since journal entry {past.entry}: 3 entries, 2 turns, 0 edits" in out

    def test_extends_every_turn_of_it(self, ledger: Ledger) -> None:
        turns = [step.hash for step in plain_ledgers.line(ledger)]
        since = [found(ledger, turn).since for turn in turns]
        assert [one and one.turns for one in since] == [4, 3, 2, 1, 0]
        assert [one and one.edits for one in since] == [6, 3, 0, 0, 0]

    def test_a_branch_that_was_deleted_and_a_tag_that_was_moved_are_no_surprise(
        self, ledger: Ledger, tmp_path: Path
    ) -> None:
        path = written(ledger, tmp_path)
        delete_branch(ledger, "try")
        create_tag(ledger, "v1", 3, force=True)
        assert problems(ledger, path) == []
        delete_tag(ledger, "v1")
        assert problems(ledger, path) == []


class TestAHistoryThatWasReplaced:
    def test_entries_that_were_cut_off_are_missed_by_who_remembers_them_alone(
        self, ledger: Ledger, tmp_path: Path
    ) -> None:
        before = attest(ledger).entry
        reset(ledger, "ultraedit")
        past = attest(ledger)
        path = written(ledger, tmp_path)
        cut_off(ledger, before)
        assert verify(ledger).problems == []
        for one in (past.hash, path):
            [problem] = problems(ledger, one)
            assert "today's history does not extend it" in problem
        reset(ledger, "ultraedit")
        assert problems(ledger, past.hash) != []

    def test_a_branch_that_no_longer_leads_to_where_it_was_is_named(
        self, ledger: Ledger, tmp_path: Path
    ) -> None:
        path = written(ledger, tmp_path)
        with database.writing(ledger.engine) as session:
            session.execute(update(RefRow).where(RefRow.name == "try").values(turn_id=1))
        found = problems(ledger, path)
        assert "branch or tag try: does not lead to where it was (turn 2) any more" in found

    def test_a_turn_that_nothing_leads_to_is_named(self, ledger: Ledger) -> None:
        newest = plain_ledgers.line(ledger)[-1].hash
        with database.writing(ledger.engine) as session:
            session.execute(update(RefRow).where(RefRow.name == "main").values(turn_id=4))
        found = problems(ledger, newest)
        assert any("no branch or tag leads to it any more" in problem for problem in found)

    def test_another_ledger_and_other_places_of_branches_are_named(
        self, ledger: Ledger, tmp_path: Path
    ) -> None:
        path = written(ledger, tmp_path)
        refs = json.loads(Path(path).read_text())["refs"]
        altered(path, refs=[{**refs[0], "hash": "0" * 64}, *refs[1:]])
        [problem] = problems(ledger, path)
        assert problem.startswith("branch main: was at turn 5 (000000000000…)")
        altered(path, refs=refs, ledger="another", base="0" * 64)
        first, second = problems(ledger, path)
        assert "is of another ledger: another" in first
        assert "is of another base model" in second

    def test_the_command_ends_with_status_1_and_one_line(
        self, capsys: Capture, ledger: Ledger
    ) -> None:
        where = ("--ledger", str(ledger.folder))
        outcome = call(capsys, "verify", "--since", "0" * 64, *where)
        assert (outcome.status, outcome.err) == (1, "")
        assert "WRONG 0000000000000000…: is in neither the journal nor the turns" in outcome.out


class TestSignatures:
    def test_what_is_signed_holds_with_the_public_key(
        self, capsys: Capture, ledger: Ledger, tmp_path: Path
    ) -> None:
        secret, public = keys(tmp_path, "mine")
        where = ("--ledger", str(ledger.folder))
        path = str(tmp_path / "signed.json")
        out = done(capsys, "attest", "--sign", str(secret), "--out", path, *where).out
        signature = read_attestation(Path(path)).signature
        assert signature is not None
        assert f"signed with the key {signature.key}" in out
        done(capsys, "verify", "--since", path, "--key", str(public), *where)
        assert secret.read_text().splitlines()[1] not in Path(path).read_text()

    def test_no_signature_another_key_and_altered_content_are_named(
        self, ledger: Ledger, tmp_path: Path
    ) -> None:
        secret, public = keys(tmp_path, "mine")
        _, stranger = keys(tmp_path, "stranger")
        path = written(ledger, tmp_path)
        assert problems(ledger, path, public) == [f"{path}: is not signed"]
        path = written(ledger, tmp_path, secret)
        [problem] = problems(ledger, path, stranger)
        assert "is signed with another key" in problem
        altered(path, entry=1)
        assert problems(ledger, path, public) == [f"{path}: was altered after it was signed"]
        assert found(ledger, path, public).since is None

    def test_what_is_no_key_is_refused(self, ledger: Ledger, tmp_path: Path) -> None:
        secret, public = keys(tmp_path, "mine")
        path = written(ledger, tmp_path, secret)
        with pytest.raises(SettingError, match=r"mine\.pub: cannot be used as a key"):
            attest(ledger, key=public)
        with pytest.raises(SettingError, match=r"mine\.pem: cannot be used as a key"):
            remembered(path, secret)
        with pytest.raises(SettingError, match="a hash is not signed"):
            remembered("0" * 64, public)

    def test_without_the_library_it_says_what_to_install(
        self, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        secret, _ = keys(tmp_path, "mine")
        monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
        with pytest.raises(SettingError, match=r"pip install 'edit-ledger\[signing\]'"):
            attest(ledger, key=secret)


class TestWhatCannotBeRemembered:
    @pytest.mark.parametrize("text", ["abc", "0" * 15, "0" * 65, "no such file", "Z" * 64, ""])
    def test_what_is_neither_a_hash_nor_a_file_is_refused(self, text: str) -> None:
        with pytest.raises(SettingError, match="neither a hash"):
            remembered(text)

    @pytest.mark.parametrize(
        "content",
        [
            b"", b"no json", b"\xff\xfe", b"[]", b"{}", b"null", b"[" * 100_000,
            b'{"format": "edit-ledger-attestation", "version": 2}',
        ],
    )  # fmt: skip
    def test_a_file_of_something_else_is_refused(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "strange.json"
        path.write_bytes(content)
        with pytest.raises(SettingError, match=r"strange\.json: is not what ledger attest --out"):
            remembered(str(path))

    @pytest.mark.parametrize(
        "changes",
        [{"entry": "1"}, {"entry": True}, {"hash": 1}, {"refs": [1]}, {"counts": {}}, {"more": 1}],
    )
    def test_a_file_with_a_value_of_another_kind_is_refused(
        self, ledger: Ledger, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        path = altered(written(ledger, tmp_path), **changes)
        with pytest.raises(SettingError, match="is not what ledger attest --out"):
            remembered(path)


class TestTheJournal:
    def test_reflog_tells_of_branches_and_tags_alone(self, ledger: Ledger) -> None:
        before = reflog(ledger)
        reset(ledger, "ultraedit")
        assert reflog(ledger) == before
        assert {move.ref for move in before} == {"main", "try", "v1"}

    def test_every_row_of_the_tables_that_it_tells_of_is_told_of(self, ledger: Ledger) -> None:
        with database.reading(ledger.engine) as session:
            entries = session.query(EntryRow).order_by(EntryRow.id).all()
            told = {table for entry in entries for table in entry.records}
        assert [entry.id for entry in entries] == [*range(1, len(entries) + 1)]
        of_others = {"edits", "skipped_rows", "undoes", "replacements", "outcomes"}
        assert told == {*Table.metadata.tables} - of_others - {"refs", "journal"}
