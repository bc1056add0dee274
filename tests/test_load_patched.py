"""Side memories in a folder: written beside the checkpoint, loaded, verified."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from ledger import load_patched
from ledger.applying import apply_to_folder, apply_to_model
from ledger.reporting import log
from ledger.rolling_back import rollback_to
from ledger.verifying import Verified
from ledger.verifying_checkpoint import verify_checkpoint
from ledger.workspace import Ledger
from patches.checkpoint import open_checkpoint
from patches.errors import (
    CheckpointError,
    HistoryError,
    PatchError,
)
from patches.memory_file import MEMORY_FILE, read_memories
from patches.patch import PatchFile
from patches.routing import attached
from tests.ledgers import add, facts, files, new_ledger, write_facts
from tests.side_memories import (
    DOWN,
    PROMPTS,
    add_memories,
    ledger_with_memories,
    logits,
    overwrite,
)
from tests.tiny_models import build, load


@pytest.fixture
def source(tmp_path: Path) -> str:
    return write_facts(tmp_path / "facts.json", facts(12))


@pytest.fixture
def ledger(tmp_path: Path, tiny_llama: Path, source: str) -> Iterator[Ledger]:
    with ledger_with_memories(tmp_path / "ledger", tiny_llama, source) as ledger:
        yield ledger


def test_a_folder_holds_the_untouched_checkpoint_and_the_memories(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    applied = apply_to_folder(ledger, out)
    assert (applied.memories, applied.tensors) == ([1, 2, 3], {})
    written = files(out)
    notes = json.loads((out / "ledger.json").read_text())
    assert notes["beside"] == {MEMORY_FILE: written.pop(MEMORY_FILE)}
    written.pop("ledger.json")
    assert written == files(tiny_llama)
    assert [m.turn for m in read_memories(out / MEMORY_FILE).memories] == [1, 2, 3]
    # Everybody else loads the main weights.
    assert torch.equal(logits(load(out)), logits(load(tiny_llama)))
    rollback_to(ledger, 0)
    apply_to_folder(ledger, out)
    assert not (out / MEMORY_FILE).exists()


@pytest.mark.parametrize("materialise", [False, True])
def test_load_patched_gives_the_routed_model(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path, materialise: bool
) -> None:
    apply_to_folder(ledger, tmp_path / "out")
    model, words = load_patched(tmp_path / "out", device="cpu", materialise=materialise)
    live = load(tiny_llama)
    apply_to_model(ledger, live, materialise=materialise)
    assert torch.equal(logits(model), logits(live))
    inputs = words(list(PROMPTS), return_tensors="pt", padding=True, padding_side="left")
    settings: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 2}
    given = cast(Any, model).generate(**inputs, **settings)
    assert torch.equal(given, cast(Any, live).generate(**inputs, **settings))


def test_load_patched_without_memories_is_the_plain_patched_model(
    ledger: Ledger, tmp_path: Path, source: str
) -> None:
    rollback_to(ledger, 0)
    add(ledger, source, evaluate=False, offset=9)
    apply_to_folder(ledger, tmp_path / "out")
    model, _ = load_patched(str(tmp_path / "out"), device="cpu")
    assert attached(model) == {}
    assert torch.equal(logits(model), logits(load(tmp_path / "out")))


def test_load_patched_refuses_what_is_not_as_it_was_written(
    ledger: Ledger, tiny_llama: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"no ledger.json in it"):
        load_patched(tiny_llama)
    out = tmp_path / "out"
    apply_to_folder(ledger, out)

    def damaged(name: str) -> Path:
        copied = tmp_path / name
        shutil.copytree(out, copied)
        return copied

    overwrite(damaged("bytes") / MEMORY_FILE, -1)
    with pytest.raises(CheckpointError, match="is not the file that was written here"):
        load_patched(tmp_path / "bytes")
    (damaged("missing") / MEMORY_FILE).unlink()
    with pytest.raises(CheckpointError, match="is missing"):
        load_patched(tmp_path / "missing")
    tensor = open_checkpoint(damaged("weight")).tensor(f"{DOWN.format(2)}.weight")
    overwrite(tmp_path / "weight" / tensor.file, tensor.start)
    with pytest.raises(CheckpointError, match=r"down_proj.weight is not the one that the side"):
        load_patched(tmp_path / "weight")
    other = damaged("base") / "ledger.json"
    other.write_text(other.read_text().replace(ledger.base.fingerprint, "f" * 64))
    with pytest.raises(CheckpointError, match="were trained on another base model"):
        load_patched(tmp_path / "base")
    unknown = damaged("unknown") / "ledger.json"
    unknown.write_text(unknown.read_text().replace(MEMORY_FILE, "../else"))
    with pytest.raises(CheckpointError, match="names files beside the weights"):
        load_patched(tmp_path / "unknown")


def test_a_memory_file_that_is_damaged_or_none_is_refused(ledger: Ledger, tmp_path: Path) -> None:
    apply_to_folder(ledger, tmp_path / "out")
    content = (tmp_path / "out" / MEMORY_FILE).read_bytes()
    for name, data in {
        "cut": content[:-5],
        "patch": ledger.store.path(log(ledger)[0].row.patch_digest or "").read_bytes(),
        "words": content.replace(b'\\"turn\\"', b'\\"trun\\"'),
        "masks": content.replace(b'"0/mask"', b'"0/musk"'),
    }.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(PatchError, match=name):
            read_memories(tmp_path / name)


def test_verify_finds_a_memory_file_that_was_altered_and_names_it(
    ledger: Ledger, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    apply_to_folder(ledger, out)

    def problems() -> list[str]:
        result = Verified()
        verify_checkpoint(ledger, out, result)
        return [f"{problem.subject} {problem.what}" for problem in result.problems]

    assert problems() == []
    content = (out / MEMORY_FILE).read_bytes()
    overwrite(out / MEMORY_FILE, -1)
    assert "is not that of turn 3" in problems()[0]
    (out / MEMORY_FILE).unlink()
    assert "is missing: turn 3 has side memories" in problems()[0]
    rollback_to(ledger, 0)
    apply_to_folder(ledger, out)
    (out / MEMORY_FILE).write_bytes(content)
    assert "does not belong there" in problems()[0]


def test_a_memory_of_another_base_is_refused(ledger: Ledger, tmp_path: Path, source: str) -> None:
    model = build(tmp_path / "other", seed=1)
    with new_ledger(tmp_path / "theirs", model) as theirs:
        add_memories(theirs, source, limit=3)
        foreign = theirs.store.path(log(theirs)[0].row.patch_digest or "").read_bytes()
        ours = log(ledger)[0].row.patch_digest or ""
        assert PatchFile(theirs.store.path(log(theirs)[0].row.patch_digest or "")).header.base
        digest = ledger.store.put(foreign)
        with pytest.raises(HistoryError, match="was made for another base model"):
            _opened_with(ledger, ours, digest)


def _opened_with(ledger: Ledger, ours: str, theirs: str) -> None:
    from ledger.states import open_patch

    turn = next(turn for turn in log(ledger) if turn.row.patch_digest == ours)
    open_patch(ledger, turn.step._replace(patch_digest=theirs))


def test_the_base_may_not_have_a_file_of_that_name(tmp_path: Path, source: str) -> None:
    model = build(tmp_path / "model")
    (model / MEMORY_FILE).write_bytes(b"something")
    with new_ledger(tmp_path / "ledger", model) as ledger:
        add_memories(ledger, source, limit=3)
        with pytest.raises(CheckpointError, match="the name that side memories need"):
            apply_to_folder(ledger, tmp_path / "out")
