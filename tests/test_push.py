"""Pushing to a loopback Hub with the real client: what arrives, and what is refused."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from ledger import load_patched
from ledger.applying import apply_to_folder, apply_to_model
from ledger.reporting import log, status
from ledger.rolling_back import rollback_turn
from ledger.sharing.publishing import Pushed, prepared_push, send
from ledger.sharing.publishing import push as push_it
from ledger.sharing.staging import Push
from ledger.verifying import verify
from ledger.workspace import Ledger
from patches.checkpoint import open_checkpoint, tensor_digests
from patches.errors import EditLedgerError, HistoryError, HubError, SettingError
from tests.ledgers import add, contents, copied, facts, files, new_ledger, write_facts
from tests.loopback_hub import TOKEN, Hub
from tests.tiny_models import build, load

MODEL, EDITS = "me/model", "me/edits"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """The folder of the next fixture's ledger and its facts; read only."""
    folder = tmp_path_factory.mktemp("made")
    with new_ledger(folder / "ledger", tiny_llama) as ledger:
        add(ledger, write_facts(folder / "facts.json", facts(6)))
    return folder


@pytest.fixture
def ledger(made: Path, tmp_path: Path) -> Iterator[Ledger]:
    """Two turns of three edits."""
    with copied(made / "ledger", tmp_path / "ledger") as ledger:
        yield ledger


def push(ledger: Ledger, repo: str, form: str = "model", **options: Any) -> Pushed:
    return push_it(ledger, Push(repo=repo, form=form, **options))


def test_a_model_arrives_as_it_is_applied_and_loads_by_its_tag(
    hub: Hub, ledger: Ledger, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    done = push(ledger, MODEL, base_model="owner/base@v1")
    assert done.new
    applied = apply_to_folder(ledger, tmp_path / "out")
    there = hub.repository(MODEL)
    assert there.tags == {"turn-2": done.commit}
    for name, content in there.files().items():
        if name not in ("README.md", "ledger.json", ".gitattributes"):
            assert content == (tmp_path / "out" / name).read_bytes(), name
    model = AutoModelForCausalLM.from_pretrained(MODEL, revision="turn-2")
    local = load(tmp_path / "out")
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(model(ids).logits, local(ids).logits)
    patched, _ = load_patched(f"{MODEL}@turn-2", device="cpu")
    assert torch.equal(patched(ids).logits, local(ids).logits)
    told = json.loads(there.files()["ledger.json"])
    assert told["tensors"] == applied.tensors
    assert told["base"] == {
        "fingerprint": ledger.base.fingerprint,
        "uri": "owner/base",
        "revision": "v1",
    }


def test_it_is_one_commit_on_top_of_the_one_that_was_looked_at(hub: Hub, ledger: Ledger) -> None:
    push(ledger, MODEL)
    first, *_ = hub.repository(MODEL).commits()
    rollback_turn(ledger, 1)
    push(ledger, MODEL, message="Without turn 1\n\nIt was wrong.")
    newest, parent, *_ = hub.repository(MODEL).commits()
    assert (newest.title, newest.description) == ("Without turn 1", "It was wrong.")
    assert parent.oid == first.oid
    assert set(hub.repository(MODEL).tags) == {"turn-2", "turn-3"}


@pytest.mark.usefixtures("hub")
def test_the_same_state_again_makes_no_new_commit_and_records_nothing(ledger: Ledger) -> None:
    for form, repo in (("model", MODEL), ("patch", EDITS)):
        first = push(ledger, repo, form)
        before = contents(ledger)
        again = push(ledger, repo, form)
        assert (again.new, again.commit) == (False, first.commit)
        assert contents(ledger) == before


def test_the_base_model_is_named_once_for_a_repository(hub: Hub, ledger: Ledger) -> None:
    push(ledger, MODEL, base_model="owner/base@v1")
    assert not push(ledger, MODEL).new
    rollback_turn(ledger, 1)
    push(ledger, MODEL)
    told = json.loads(hub.repository(MODEL).files()["ledger.json"])
    assert (told["base"]["uri"], told["base"]["revision"]) == ("owner/base", "v1")


def test_only_what_has_changed_is_sent(hub: Hub, tmp_path: Path) -> None:
    model = build(tmp_path / "sharded", max_shard_size="60KB")
    source = write_facts(tmp_path / "facts.json", facts(6))
    with new_ledger(tmp_path / "ledger", model) as ledger:
        add(ledger, source, limit=3, evaluate=False)
        push(ledger, MODEL)
        shards = [name for name in hub.repository(MODEL).files() if name.endswith(".safetensors")]
        assert len(shards) > 1
        del hub.requests[:]
        add(ledger, source, offset=3, evaluate=False)
        with prepared_push(ledger, Push(repo=MODEL)) as prepared:
            sent = [name for name in prepared.changed if name.endswith(".safetensors")]
            send(ledger, prepared)
        edited = {open_checkpoint(model).tensor(name).file for name in log(ledger)[0].row.tensors}
        assert set(sent) == edited < set(shards)
        uploads = [request for request in hub.requests if request.method == "PUT"]
        assert len(uploads) == len(edited)


def test_a_new_commit_keeps_what_others_have_put_there_and_drops_what_is_stale(
    hub: Hub, ledger: Ledger
) -> None:
    push(ledger, MODEL)
    there = hub.repository(MODEL)
    told = json.loads(there.files()["ledger.json"])
    told["files"].append("old.safetensors")
    stale = {"old.safetensors": b"12", "ledger.json": json.dumps(told).encode(), "logo.png": b"x"}
    there.commit(stale)
    rollback_turn(ledger, 1)
    push(ledger, MODEL)
    assert "logo.png" in there.files()
    assert "old.safetensors" not in there.files()


@pytest.mark.usefixtures("hub")
def test_a_push_is_recorded_and_log_and_status_tell_it(ledger: Ledger) -> None:
    done = push(ledger, MODEL, at=1, tag="v1")
    push(ledger, EDITS, "patch")
    rollback_turn(ledger, 1)
    first, second, _ = (turn.to_json()["published"] for turn in log(ledger))
    assert [(p["repo"], p["form"], p["tag"], p["commit"]) for p in first] == [
        (MODEL, "model", "v1", done.commit)
    ]
    assert [(p["repo"], p["tag"]) for p in second] == [(EDITS, "turn-2")]
    ahead = {p["repo"]: (p["turn"], p["ahead"]) for p in status(ledger).to_json()["publications"]}
    assert ahead == {MODEL: (1, 2), EDITS: (2, 1)}
    checked = verify(ledger)
    assert (checked.problems, checked.checked["publications"]) == ([], 2)


def test_nothing_of_this_machine_and_no_fact_is_published(
    hub: Hub, ledger: Ledger, made: Path
) -> None:
    push(ledger, MODEL)
    push(ledger, EDITS, "patch")
    push(ledger, "me/lora", "adapter")
    for repo in (MODEL, EDITS, "me/lora"):
        for name, content in hub.repository(repo).files().items():
            for secret in (str(ledger.folder.parent), str(made), "The capital of France", TOKEN):
                if name != "tokenizer.json":
                    assert secret.encode() not in content, (repo, name, secret)


def test_facts_are_published_when_asked_for(hub: Hub, ledger: Ledger) -> None:
    push(ledger, EDITS, "patch", include_edits=True)
    lines = hub.repository(EDITS).files()["edits.jsonl"].decode().splitlines()
    assert [json.loads(line)["turn"] for line in lines] == [1] * 3 + [2] * 3
    assert json.loads(lines[0])["prompt"] == "The capital of France is"
    assert "The capital of France is" in hub.repository(EDITS).files()["README.md"].decode()


def test_a_dry_run_sends_nothing(hub: Hub, ledger: Ledger) -> None:
    before = contents(ledger)
    with prepared_push(ledger, Push(repo=MODEL)) as prepared:
        told = prepared.to_json()
    assert told["new_repository"]
    assert {file["name"] for file in told["list"]} >= {"README.md", "model.safetensors"}
    assert {request.method for request in hub.requests} <= {"GET", "HEAD"}
    assert contents(ledger) == before
    assert not list(ledger.folder.glob(".pushing*"))


def test_a_private_repository_is_made(hub: Hub, ledger: Ledger) -> None:
    push(ledger, MODEL, private=True)
    assert hub.repository(MODEL).private
    assert "left as is" in push(ledger, MODEL, private=True).to_json()["notes"][0]


def test_another_branch_of_the_repository_is_made(hub: Hub, ledger: Ledger) -> None:
    push(ledger, MODEL)
    rollback_turn(ledger, 1)
    push(ledger, f"{MODEL}@trial")
    there = hub.repository(MODEL)
    assert set(there.branches) == {"main", "trial"}
    assert there.files("main")["model.safetensors"] != there.files("trial")["model.safetensors"]


def test_the_base_is_never_written_to_though_its_files_are_linked(hub: Hub, tmp_path: Path) -> None:
    model = build(tmp_path / "base")
    (model / "README.md").write_text("---\nlicense: mit\n---\nThe base.\n")
    (model / "model.sig").write_text("a signature of the base")
    before = files(model)
    source = write_facts(tmp_path / "facts.json", facts(3))
    with new_ledger(tmp_path / "ledger", model) as ledger:
        add(ledger, source, evaluate=False)
        push(ledger, MODEL)
    assert files(model) == before
    there = hub.repository(MODEL).files()
    assert "model.sig" not in there
    assert b"license: mit" in there["README.md"]
    assert b"The base." not in there["README.md"]


def _told(**more: object) -> bytes:
    base = {"uri": None, "revision": None}
    return json.dumps({"hash": "12", "turn": 9, "base": base, "files": [], **more}).encode()


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"model.safetensors": b"12"}, "holds files that no ledger has pushed"),
        ({"ledger.json": b"[]"}, "its ledger.json is damaged"),
        ({"ledger.json": _told(form="patch")}, "pushed --as patch"),
        ({"ledger.json": _told()}, "history that is not in this ledger"),
    ],
)
def test_a_repository_that_holds_something_else_is_left_alone(
    hub: Hub, ledger: Ledger, files: dict[str, bytes], reason: str
) -> None:
    there = hub.create(MODEL, files=files)
    before = contents(ledger)
    with pytest.raises(HubError, match=reason):
        push(ledger, MODEL)
    assert len(there.commits()) == 1
    assert contents(ledger) == before


@pytest.mark.usefixtures("hub")
def test_a_published_history_is_only_added_to(ledger: Ledger) -> None:
    push(ledger, EDITS, "patch")
    with pytest.raises(HubError, match="holds turn 2 already, which does not lead to turn 1"):
        push(ledger, EDITS, "patch", at=1)


def test_a_tag_that_names_another_commit_is_refused_before_anything_is_sent(
    hub: Hub, ledger: Ledger
) -> None:
    push(ledger, MODEL, tag="release")
    assert not push(ledger, MODEL, tag="release").new
    rollback_turn(ledger, 1)
    with pytest.raises(HubError, match="has a tag release already"):
        push(ledger, MODEL, tag="release")
    assert len(hub.repository(MODEL).tags) == 1


def test_what_is_no_repository_is_refused(hub: Hub, ledger: Ledger) -> None:
    for repo in ("model", "../evil", "a/../b", "me/model.git", "https://x/y", ""):
        with pytest.raises(HubError, match="write OWNER/NAME"):
            push(ledger, repo)
    assert not hub.requests


@pytest.mark.usefixtures("hub")
def test_wrong_settings_are_refused(ledger: Ledger) -> None:
    with pytest.raises(SettingError, match="--as is one of model, patch, adapter"):
        push(ledger, MODEL, "zip")
    with pytest.raises(SettingError, match="are for --as adapter"):
        push(ledger, MODEL, rank=3)
    with pytest.raises(HistoryError, match="no turn 9"):
        push(ledger, MODEL, at=9)


def test_a_damaged_patch_is_not_published(hub: Hub, ledger: Ledger) -> None:
    digest = log(ledger)[0].row.patch_digest
    assert digest is not None
    path = ledger.store.path(digest)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    for form, repo in (("model", MODEL), ("patch", EDITS)):
        with pytest.raises(EditLedgerError, match="damaged"):
            push(ledger, repo, form)
    assert all(request.method in ("GET", "HEAD") for request in hub.requests)


@pytest.mark.usefixtures("hub")
def test_side_memories_are_pushed_with_the_model_and_routed_where_it_is_loaded(
    ledger: Ledger, tmp_path: Path, tiny_llama: Path
) -> None:
    source = write_facts(tmp_path / "more.json", facts(3, start=8))
    quick: dict[str, Any] = {"iterations": 4, "learning_rate": 0.05, "templates": 0}
    add(ledger, source, method="wise", evaluate=False, **quick)
    push(ledger, MODEL)
    model, _ = load_patched(f"{MODEL}@turn-3", device="cpu")
    live = load(tiny_llama)
    apply_to_model(ledger, live)
    ids = torch.tensor([[3, 4, 5]])
    assert torch.equal(model(ids).logits, live(ids).logits)
    assert tensor_digests(open_checkpoint(tiny_llama))  # the base can still be read
    with pytest.raises(EditLedgerError, match="side memor"):
        push(ledger, "me/lora", "adapter")
