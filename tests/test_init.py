"""Starting a ledger: what is created, what is refused, and that a failure leaves nothing."""

import json
import shutil
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledger import database, open_ledger
from ledger.applying import apply_to_folder
from ledger.database import parse_url
from ledger.evaluating import evaluate
from ledger.initialising import Initialised, init
from ledger.rolling_back import rollback_to, rollback_turn
from ledger.verifying import verify
from ledger.workspace import Ledger, find_folder
from patches.checkpoint import open_checkpoint, tensor_digests
from patches.errors import CheckpointError, DatabaseError, HistoryError
from tests import tiny_models
from tests.ledgers import add, contents, facts, files, new_ledger, write_facts
from tests.processes import Report, Running, finish
from tests.tiny_models import build


@pytest.fixture
def made(tmp_path: Path, tiny_llama: Path) -> Iterator[Initialised]:
    made = init(str(tiny_llama), folder=tmp_path / "ledger")
    yield made
    made.ledger.close()


def config_of(ledger: Ledger) -> dict[str, object]:
    content: dict[str, object] = json.loads((ledger.folder / "config.json").read_text())
    return content


def without_weights(model: Path, folder: Path) -> Path:
    shutil.copytree(model, folder)
    (folder / "model.safetensors").unlink()
    return folder


def start_ledger(report: Report, model: Path, folder: Path) -> None:
    """In a process of its own: the work that is killed."""
    started = time.perf_counter()
    init(str(model), folder=folder)
    report(time.perf_counter() - started)


def test_init_makes_config_database_and_store_in_the_folder(
    made: Initialised, tiny_llama: Path
) -> None:
    folder = made.ledger.folder
    assert {path.name for path in folder.iterdir()} >= {"config.json", "ledger.db", "patches"}
    assert config_of(made.ledger) == {
        "format": 1,
        "database": "sqlite:///ledger.db",
        "store": "patches",
        "model": str(tiny_llama),
        "revision": None,
    }


def test_init_records_the_base_model_tensor_by_tensor(made: Initialised, tiny_llama: Path) -> None:
    checkpoint = open_checkpoint(tiny_llama)
    digests = tensor_digests(checkpoint)
    base = made.ledger.base
    assert base.tensors == {
        name: (tensor.dtype, tensor.shape, digests[name])
        for name, tensor in checkpoint.tensors.items()
    }
    assert (base.uri, base.architecture) == (str(tiny_llama), "LlamaForCausalLM")
    assert made.tensors == len(digests)
    assert made.bytes == sum(tensor.size for tensor in checkpoint.tensors.values())


def test_what_init_tells_programs_names_places_and_fingerprint(made: Initialised) -> None:
    told = made.to_json()
    assert set(told) == {
        *("ledger", "database", "store", "model", "revision", "architecture", "fingerprint"),
        *("tensors", "bytes"),
    }
    assert told["fingerprint"] == made.ledger.base.fingerprint
    assert json.loads(json.dumps(told)) == told


def test_a_new_ledger_is_empty_and_verifies(made: Initialised) -> None:
    rows = contents(made.ledger)
    assert rows["refs"] == [("main", "branch", None)]
    assert not rows["turns"]
    assert verify(made.ledger).problems == []


def test_two_ledgers_of_one_model_are_told_apart(
    made: Initialised, tmp_path: Path, tiny_llama: Path
) -> None:
    with new_ledger(tmp_path / "second", tiny_llama) as second:
        assert second.base.fingerprint == made.ledger.base.fingerprint
        assert second.base.ledger_id != made.ledger.base.ledger_id


def test_without_a_folder_the_ledger_is_made_here_and_found_from_below(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    init(str(tiny_llama)).ledger.close()
    assert find_folder(below) == tmp_path / ".ledger"
    monkeypatch.chdir(below)
    with open_ledger() as found:
        assert found.folder == tmp_path / ".ledger"


def test_init_refuses_a_folder_that_is_a_ledger_and_leaves_it_as_it_is(
    made: Initialised, tiny_llama: Path
) -> None:
    before = contents(made.ledger)
    with pytest.raises(HistoryError, match="is a ledger already"):
        init(str(tiny_llama), folder=made.ledger.folder)
    assert contents(made.ledger) == before


def test_init_refuses_a_folder_with_other_files_and_a_file(
    tmp_path: Path, tiny_llama: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(HistoryError, match=r"holds other files \(notes.txt\)"):
        init(str(tiny_llama), folder=tmp_path)
    with pytest.raises(HistoryError, match="is a file"):
        init(str(tiny_llama), folder=tmp_path / "notes.txt")
    assert files(tmp_path).keys() == {"notes.txt"}


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("/nowhere/at-all", "no such folder"),
        ("~/one/two/three", "no such folder"),
        ("just-a-word", "no such folder, and not a Hub id"),
    ],
)
def test_a_model_that_is_not_there_is_an_error_and_leaves_nothing(
    tmp_path: Path, model: str, reason: str
) -> None:
    with pytest.raises(CheckpointError, match=reason):
        init(model, folder=tmp_path / "ledger")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_the_hub_does_not_give_is_an_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match=r"owner/model@v1: not a folder here, and the Hub"):
        init("owner/model@v1", folder=tmp_path / "ledger")
    assert not (tmp_path / "ledger").exists()


@pytest.mark.parametrize("weights", [None, "pytorch_model.bin", "model.gguf"])
def test_a_model_without_safetensors_is_an_error_and_leaves_nothing(
    tmp_path: Path, tiny_llama: Path, weights: str | None
) -> None:
    model = without_weights(tiny_llama, tmp_path / "model")
    if weights is not None:
        (model / weights).write_bytes(b"weights")
    with pytest.raises(CheckpointError, match=weights or "no weights in it"):
        init(str(model), folder=tmp_path / "ledger")
    assert not (tmp_path / "ledger").exists()


def test_a_custom_store_and_database_are_used_and_found_again(
    tmp_path: Path, tiny_llama: Path, database_url: str
) -> None:
    store = tmp_path / "shared" / "store"
    folder = tmp_path / "ledger"
    source = write_facts(tmp_path / "facts.json", facts(2))
    made = init(str(tiny_llama), folder=folder, database_url=database_url, store=str(store))
    made.ledger.close()
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    with open_ledger(folder) as ledger:
        add(ledger, source)
        assert len(list(store.rglob("*.safetensors"))) == 2
        assert not (folder / "patches").exists()
        assert verify(ledger).problems == []


def test_a_database_that_holds_a_ledger_is_refused_and_stays_as_it_is(
    tmp_path: Path, tiny_llama: Path, database_url: str
) -> None:
    with new_ledger(tmp_path / "first", tiny_llama, database_url) as first:
        before = contents(first)
        with pytest.raises(DatabaseError, match="holds a ledger already"):
            init(str(tiny_llama), folder=tmp_path / "second", database_url=database_url)
        assert contents(first) == before
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_refused_since_it_would_be_gone(
    tmp_path: Path, tiny_llama: Path, url: str
) -> None:
    with pytest.raises(DatabaseError, match="in memory"):
        init(str(tiny_llama), folder=tmp_path / "ledger", database_url=url)
    assert not (tmp_path / "ledger").exists()


def test_an_unreachable_database_is_an_error_without_its_password_and_leaves_nothing(
    tmp_path: Path, tiny_llama: Path
) -> None:
    url = "postgresql+psycopg://me:s3cret@127.0.0.1:1/ledger"
    with pytest.raises(DatabaseError, match=r"me:\*\*\*@127") as caught:
        init(str(tiny_llama), folder=tmp_path / "ledger", database_url=url)
    assert "s3cret" not in str(caught.value)
    assert not (tmp_path / "ledger").exists()


def test_the_password_of_the_database_is_used_but_never_written_down(
    tmp_path: Path, tiny_llama: Path, postgres_url: str
) -> None:
    url = parse_url(postgres_url).set(password="s3cret")
    made = init(
        str(tiny_llama),
        folder=tmp_path / "ledger",
        database_url=url.render_as_string(hide_password=False),
    )
    with made.ledger as ledger:
        assert contents(ledger)["bases"]
        assert "s3cret" not in json.dumps(made.to_json())
    for path in (tmp_path / "ledger").rglob("*"):
        assert path.is_dir() or b"s3cret" not in path.read_bytes()


def test_the_fingerprint_does_not_depend_on_how_the_model_is_cut_into_files(
    tmp_path: Path, made: Initialised
) -> None:
    shards = build(tmp_path / "shards", max_shard_size="20KB")
    assert len(list(shards.glob("*.safetensors"))) > 2
    with new_ledger(tmp_path / "sharded", shards) as sharded:
        assert sharded.base.fingerprint == made.ledger.base.fingerprint
    other = build(tmp_path / "other", seed=1)
    with new_ledger(tmp_path / "another", other) as another:
        assert another.base.fingerprint != made.ledger.base.fingerprint


def test_init_killed_at_any_instant_can_be_run_again(tmp_path: Path, tiny_llama: Path) -> None:
    [whole] = finish(start_ledger, tiny_llama, tmp_path / "warm")
    assert isinstance(whole, float)
    interrupted = 0
    for step in range(8):
        folder = tmp_path / f"killed-{step}"
        running = Running(start_ledger, tiny_llama, folder)
        time.sleep(whole * step / 8)
        running.send(signal.SIGKILL)
        running.wait()
        if not (folder / "config.json").exists():
            interrupted += 1
            init(str(tiny_llama), folder=folder).ledger.close()
        with open_ledger(folder) as ledger:
            assert verify(ledger).problems == []
    assert interrupted


def test_an_init_that_left_a_half_made_database_can_be_run_again(
    tmp_path: Path, tiny_llama: Path
) -> None:
    folder = tmp_path / "ledger"
    (folder / "patches").mkdir(parents=True)
    (folder / ".config.json.writing").write_text("{")
    with sqlite3.connect(folder / "ledger.db") as connection:
        connection.execute("CREATE TABLE turns (id INTEGER)")
    connection.close()
    with new_ledger(folder, tiny_llama) as ledger:
        assert database.schema_revision(ledger.engine) == database.SCHEMA
        assert verify(ledger).problems == []


def test_init_never_removes_a_database_with_turns_whose_config_was_lost(
    tmp_path: Path, tiny_llama: Path
) -> None:
    folder = tmp_path / "ledger"
    with new_ledger(folder, tiny_llama) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(2)))
        recorded = contents(ledger)
    lost = (folder / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(HistoryError, match=r"turns, but no config.json; restore that file"):
        init(str(tiny_llama), folder=folder)
    with pytest.raises(DatabaseError, match="holds a ledger already"):
        init(str(tiny_llama), folder=folder, database_url=f"sqlite:///{folder / 'ledger.db'}")
    lost.rename(folder / "config.json")
    with open_ledger(folder) as ledger:
        assert contents(ledger) == recorded


def test_init_never_removes_the_database_that_the_environment_names(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with new_ledger(tmp_path / "first", tiny_llama) as first:
        recorded = contents(first)
        monkeypatch.setenv("LEDGER_DATABASE", f"sqlite:///{tmp_path / 'first' / 'ledger.db'}")
        with pytest.raises(DatabaseError, match="holds a ledger already"):
            init(str(tiny_llama), folder=tmp_path / "second")
        assert contents(first) == recorded


def test_no_use_case_changes_a_byte_or_a_time_of_the_base_folder(tmp_path: Path) -> None:
    model = build(tmp_path / "model", max_shard_size="40KB")
    times = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    before = files(model)
    source = write_facts(tmp_path / "facts.json", facts(6))
    with new_ledger(tmp_path / "ledger", model) as ledger:
        add(ledger, source)
        apply_to_folder(ledger, tmp_path / "patched", link=True)
        rollback_turn(ledger, 1)
        apply_to_folder(ledger, tmp_path / "patched", link=True)
        evaluate(ledger)
        rollback_to(ledger, 0)
        apply_to_folder(ledger, tmp_path / "patched")
        verify(ledger)
    assert files(model) == before
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == times
    assert tiny_models.load(model)
