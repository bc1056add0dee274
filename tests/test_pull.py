"""Pulling and cloning a published history: the same bytes, or a refusal that says why."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text, update

from ledger import database
from ledger.applying import apply_to_folder
from ledger.chain import content_hash
from ledger.evaluating import evaluate
from ledger.orm import TurnRow
from ledger.reporting import log, show, status
from ledger.rolling_back import rollback_turn
from ledger.sharing.pulling import Pulled, clone, pull
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.errors import EditLedgerError, HistoryError, HubError, ManifestError
from tests.ledgers import add, contents, copied, facts, files, new_ledger, write_facts
from tests.loopback_hub import Hub
from tests.test_push import push
from tests.tiny_models import build

EDITS = "me/edits"


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_facts(tmp_path / "facts.json", facts(12))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """The ledgers of the next two fixtures; read only."""
    folder = tmp_path_factory.mktemp("made")
    with new_ledger(folder / "publisher", tiny_llama) as ledger:
        add(ledger, write_facts(folder / "facts.json", facts(12)), limit=6)
        rollback_turn(ledger, 1)
    shutil.copytree(tiny_llama, folder / "copy")
    new_ledger(folder / "other", folder / "copy").close()
    return folder


@pytest.fixture
def publisher(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    """Two turns of three edits, the first rolled back."""
    with copied(made / "publisher", tmp_path / "publisher") as ledger:
        yield ledger


@pytest.fixture
def other(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    """Another ledger, of a copy of the base elsewhere."""
    with copied(made / "other", tmp_path / "other") as ledger:
        yield ledger


def on(ledger: Ledger, branch: str) -> Ledger:
    ledger.branch = branch
    return ledger


def publish(ledger: Ledger, **options: Any) -> None:
    push(ledger, EDITS, "patch", **options)


@pytest.mark.usefixtures("hub")
def test_a_pulled_history_gives_the_publisher_s_bytes_at_every_turn(
    publisher: Ledger, other: Ledger, tmp_path: Path
) -> None:
    publish(publisher)
    done = pull(other, EDITS)
    assert (done.branch, done.turns, done.edits, done.withheld) == (EDITS, [1, 2, 3], 6, 6)
    assert done.hash == log(publisher)[-1].row.hash
    on(other, EDITS)
    for at in (1, 2, 3):
        theirs = apply_to_folder(publisher, tmp_path / "theirs", at=at)
        ours = apply_to_folder(other, tmp_path / "ours", at=at)
        assert ours.tensors == theirs.tensors == log(publisher)[at - 1].row.tensors
        content = files(tmp_path / "theirs")
        assert {**files(tmp_path / "ours"), "ledger.json": ""} == {**content, "ledger.json": ""}
    assert [turn.row.hash for turn in log(other)] == [turn.row.hash for turn in log(publisher)]
    checked = verify(other)
    assert (checked.problems, checked.checked["withheld edits"]) == ([], 6)


@pytest.mark.usefixtures("hub")
def test_a_pulled_turn_tells_what_was_published_of_it(publisher: Ledger, other: Ledger) -> None:
    publish(publisher)
    pull(other, EDITS)
    on(other, EDITS)
    ours, theirs = show(other, 2).to_json(), show(publisher, 2).to_json()
    assert ours.pop("edit_list") == []
    assert len(theirs.pop("edit_list")) == 3
    assert ours.pop("dataset") == {**theirs.pop("dataset"), "uri": "facts.json"}
    assert theirs.pop("published") == []
    ours.pop("published")
    # Later scores of earlier edits stay with the publisher.
    assert theirs.pop("retention")["n"] == 1
    assert ours.pop("retention") is None
    assert ours == theirs
    assert status(other).to_json()["branches"] == {"main": 0, EDITS: 3}
    with pytest.raises(HistoryError, match="the texts of the edits are not here"):
        evaluate(other)


@pytest.mark.usefixtures("hub")
def test_published_facts_come_along_with_their_scores(publisher: Ledger, other: Ledger) -> None:
    publish(publisher, include_edits=True)
    done = pull(other, EDITS)
    assert (done.edits, done.withheld) == (6, 0)
    on(other, EDITS)
    assert show(other, 2).to_json()["edit_list"] == show(publisher, 2).to_json()["edit_list"]
    checked = verify(other)
    assert (checked.problems, checked.checked["evaluations"]) == ([], 2)
    assert evaluate(other).n == 3


@pytest.mark.usefixtures("hub")
def test_pulling_again_brings_what_is_new_and_facts_that_were_kept_back(
    publisher: Ledger, other: Ledger, source: str
) -> None:
    publish(publisher)
    pull(other, EDITS)
    before = contents(other)
    assert pull(other, EDITS).turns == []
    assert contents(other) == before
    add(publisher, source, offset=6, limit=3, evaluate=False)
    publish(publisher, include_edits=True)
    done = pull(other, EDITS)
    assert (done.turns, done.edits, done.completed, done.withheld) == ([4], 3, 6, 0)
    assert verify(other).problems == []
    assert "withheld edits" not in verify(other).checked
    assert pull(other, EDITS).completed == 0


@pytest.mark.usefixtures("hub")
def test_a_branch_that_went_on_is_left_where_it_is(
    publisher: Ledger, other: Ledger, source: str
) -> None:
    publish(publisher)
    pull(other, EDITS)
    on(other, EDITS)
    add(other, source, offset=6, limit=3, evaluate=False)
    rollback_turn(other, 2)
    assert pull(other, EDITS).turns == []
    assert log(other)[-1].number == 5
    assert verify(other).problems == []
    add(publisher, source, offset=9, limit=3, evaluate=False)
    publish(publisher)
    before = contents(other)
    with pytest.raises(HistoryError, match="has turns that are not published there, from turn 4"):
        pull(other, EDITS)
    assert contents(other) == before
    assert pull(other, EDITS, branch="theirs").turns == [4]
    assert verify(other).problems == []


@pytest.mark.usefixtures("hub")
def test_a_clone_goes_on_and_the_publisher_pulls_it_back(
    publisher: Ledger, tiny_llama: Path, tmp_path: Path, source: str
) -> None:
    publish(publisher)
    cloned, done = clone(EDITS, folder=tmp_path / "clone", model=str(tiny_llama))
    with cloned:
        assert (done.branch, done.turn) == ("main", 3)
        add(cloned, source, offset=6, limit=3, evaluate=False)
        publish(cloned)
        assert verify(cloned).problems == []
        back = pull(publisher, EDITS, branch="main")
        assert back.turns == [4]
        assert [t.row.hash for t in log(publisher)] == [t.row.hash for t in log(cloned)]
        add(publisher, source, offset=9, limit=3, evaluate=False)
    assert verify(publisher).problems == []


def test_a_clone_finds_the_base_that_was_published_with_it(
    hub: Hub, tmp_path: Path, tiny_llama: Path, source: str
) -> None:
    hub.create("owner/base", files=_bytes(tiny_llama))
    with new_ledger(tmp_path / "publisher", Path("owner/base@main")) as publisher:
        add(publisher, source, limit=3, evaluate=False)
        publish(publisher)
    cloned, _ = clone(EDITS, folder=tmp_path / "clone")
    with cloned:
        assert cloned.config.model == "owner/base"
        assert cloned.base.revision == hub.repository("owner/base").commits()[0].oid
        assert apply_to_folder(cloned, tmp_path / "out").in_force == [1]


@pytest.mark.usefixtures("hub")
def test_a_clone_that_fails_leaves_nothing(
    publisher: Ledger, tmp_path: Path, database_url: str
) -> None:
    publish(publisher)
    with pytest.raises(ManifestError, match="does not say where its base model is"):
        clone(EDITS, folder=tmp_path / "clone")
    wrong = build(tmp_path / "wrong", seed=1)
    with pytest.raises(ManifestError, match=r"is for another base model .* 23 of 30 tensors"):
        clone(EDITS, folder=tmp_path / "clone", model=str(wrong), database_url=database_url)
    assert not (tmp_path / "clone").exists()
    with database.reading(database.connect(database.parse_url(database_url))):
        engine = database.connect(database.parse_url(database_url))
        assert database.schema_revision(engine) is None
        engine.dispose()


@pytest.mark.usefixtures("hub")
def test_both_databases_take_a_history(
    publisher: Ledger, tiny_llama: Path, tmp_path: Path, database_url: str
) -> None:
    publish(publisher, include_edits=True)
    cloned, _ = clone(
        EDITS, folder=tmp_path / "clone", model=str(tiny_llama), database_url=database_url
    )
    with cloned:
        assert verify(cloned).problems == []
        assert [t.to_json()["scores"] for t in log(cloned)] == [
            t.to_json()["scores"] for t in log(publisher)
        ]


def test_a_folder_with_a_history_is_pulled_as_a_repository_is(
    hub: Hub, publisher: Ledger, other: Ledger, tmp_path: Path
) -> None:
    publish(publisher)
    folder = _downloaded(hub, tmp_path / "shared")
    done = pull(other, str(folder))
    assert (done.branch, done.commit, done.turn) == ("shared", None, 3)
    shutil.rmtree(folder / "patches")
    (tmp_path / "patches").mkdir()
    (folder / "patches").symlink_to(tmp_path / "patches")
    publish_again = new_ledger(tmp_path / "third", Path(other.config.model))
    with publish_again as third, pytest.raises(ManifestError, match="is missing, or a link"):
        pull(third, str(folder))


def test_a_flipped_byte_in_any_file_is_refused_and_named(
    hub: Hub, publisher: Ledger, other: Ledger
) -> None:
    publish(publisher, include_edits=True)
    there, before = hub.repository(EDITS), contents(other)
    for name in ("patches", "states", "edits.jsonl", "manifest.json"):
        [path, *_] = [path for path in there.files() if path.startswith(name)]
        content = bytearray(there.files()[path])
        content[len(content) // 2] ^= 1
        there.commit({path: bytes(content)})
        # Which part of the manifest was hit depends on its length.
        with pytest.raises(ManifestError, match=rf"{path}|altered"):
            pull(other, EDITS)
        assert contents(other) == before
        there.commit({path: there.files("turn-3")[path]})
    assert pull(other, EDITS).turns == [1, 2, 3]
    assert not (other.folder / "incoming").exists()


Alter = Callable[[dict[str, Any]], None]


def _altered(content: Mapping[str, Any], **changes: Any) -> Alter:
    """A new content for turn 2, with a hash that fits."""

    def alter(manifest: dict[str, Any]) -> None:
        turn = manifest["turns"][1]
        turn["content"].update(content)
        turn["hash"] = content_hash(turn["content"])
        turn.update(changes)

    return alter


def _name(name: str) -> Alter:
    def alter(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = {"sha256": "0" * 64, "bytes": 1}

    return alter


def _message(manifest: dict[str, Any]) -> None:
    manifest["turns"][0]["content"]["message"] = "altered"


def _swapped(manifest: dict[str, Any]) -> None:
    manifest["turns"][0], manifest["turns"][1] = manifest["turns"][1], manifest["turns"][0]


def _dropped(manifest: dict[str, Any]) -> None:
    del manifest["turns"][0]


def _base(manifest: dict[str, Any]) -> None:
    name = min(manifest["base"]["tensors"])
    manifest["base"]["tensors"][name][2] = "0" * 64


ALTERED: list[tuple[Alter, str]] = [
    (_message, "content of turn 1 does not give its hash"),
    (_swapped, "turn 1 does not follow the one before it"),
    (_dropped, "turn 1 does not follow the one before it"),
    (_altered({"message": "x"}), "turn 3 does not follow the one before it"),
    (_altered({"number": True}), "number is a bool"),
    (_altered({"kind": "magic"}), "unknown kind"),
    (_altered({"undoes": [7]}), "numbers of earlier turns"),
    (_altered({"patch": "../evil"}), "no SHA-256"),
    (_base, "do not give its fingerprint"),
    (_name("../evil"), "'../evil', which has no place"),
    (_name("/etc/evil"), "'/etc/evil', which has no place"),
    (_name("patches/evil.pkl"), "which has no place"),
    (_name(f"patches/{'0' * 64}.safetensors"), "belongs to no turn"),
    (lambda m: m.update(version=2), "version 2, this program reads 1"),
    (lambda m: m.update(head="0" * 64), "another head"),
    (lambda m: m.update(turns=[]), "holds no turns"),
]


def test_an_altered_manifest_is_refused_and_says_what_is_wrong(
    hub: Hub, publisher: Ledger, other: Ledger
) -> None:
    publish(publisher)
    there, before = hub.repository(EDITS), contents(other)
    published = there.files()["manifest.json"]
    for alter, reason in ALTERED:
        manifest = json.loads(published)
        alter(manifest)
        there.commit({"manifest.json": json.dumps(manifest).encode()})
        with pytest.raises(ManifestError, match=reason):
            pull(other, EDITS)
        assert contents(other) == before
    assert not [r for r in hub.requests if "evil" in r.path]


@pytest.mark.usefixtures("hub")
def test_a_history_of_another_base_is_refused_and_says_which_tensors(
    publisher: Ledger, tmp_path: Path
) -> None:
    publish(publisher)
    wrong = build(tmp_path / "wrong", seed=1)
    with new_ledger(tmp_path / "wrong-ledger", wrong) as ledger:
        before = contents(ledger)
        with pytest.raises(ManifestError, match=r"23 of 30 tensors differ, the first is lm_head"):
            pull(ledger, EDITS)
        assert contents(ledger) == before


def test_what_is_no_published_history_is_refused(hub: Hub, other: Ledger, tmp_path: Path) -> None:
    hub.create("me/plain", files={"config.json": b"{}"})
    with pytest.raises(EditLedgerError, match="published with: ledger push --as patch"):
        pull(other, "me/plain")
    with pytest.raises(HubError, match="has no such repository or revision"):
        pull(other, "me/none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManifestError, match="published with: ledger push --as patch"):
        pull(other, str(tmp_path / "empty"))


@pytest.mark.usefixtures("hub")
def test_edits_that_were_taken_out_of_a_turn_made_here_are_missed(publisher: Ledger) -> None:
    """A turn cannot pass for a pulled one whose facts were kept back."""
    with database.writing(publisher.engine) as session:
        row = session.scalars(select(TurnRow).where(TurnRow.number == 1)).one()
        row.withheld = {"edits": True}
        session.flush()
        session.execute(text("DELETE FROM outcomes"))
        session.execute(text(f"DELETE FROM edits WHERE turn_id = {row.id}"))
    assert any("has 0 edits" in problem.what for problem in verify(publisher).problems)


@pytest.mark.usefixtures("hub")
def test_what_is_told_of_a_pulled_turn_cannot_be_altered(publisher: Ledger, other: Ledger) -> None:
    publish(publisher)
    pull(other, EDITS)
    here = other.base.ledger_id
    scores = {"n": 3, "base": {}, "state": {}}
    changes: list[tuple[dict[str, Any], str]] = [
        ({"origin": "another"}, "what its publisher tells of it"),
        ({"origin": here}, "where it comes from"),
        ({"withheld": {}}, "where it comes from"),
        ({"withheld": {"scores": scores}}, "what its publisher tells"),
    ]
    for change, reason in changes:
        with database.writing(other.engine) as session:
            row = session.scalars(select(TurnRow).where(TurnRow.number == 2)).one()
            told = {name: getattr(row, name) for name in change}
            session.execute(update(TurnRow).where(TurnRow.number == 2).values(**change))
        found = verify(other).problems
        assert any(one.subject == "turn 2" and reason in one.what for one in found), change
        with database.writing(other.engine) as session:
            session.execute(update(TurnRow).where(TurnRow.number == 2).values(**told))
    assert verify(other).problems == []


def _bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def _downloaded(hub: Hub, folder: Path) -> Path:
    for name, content in hub.repository(EDITS).files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def test_pulled_tells_itself_as_json() -> None:
    done = Pulled(
        source="a/b",
        commit=None,
        branch="main",
        turn=1,
        hash="0",
        turns=[1],
        edits=0,
        completed=0,
        withheld=0,
        bytes=0,
        signed=False,
    )
    assert json.loads(json.dumps(done.to_json()))["branch"] == "main"
