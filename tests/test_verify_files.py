"""Verify finds damage in the patch store, in the base, and in a checkpoint that was written."""

import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sqlalchemy import select, update

from ledger import database, journal
from ledger.applying import apply_to_folder
from ledger.orm import BlobRow, KeyframeRow, TurnRow
from ledger.reporting import log
from ledger.rolling_back import rollback_turn
from ledger.verifying import Verified, problems_text, verify
from ledger.verifying_checkpoint import verify_checkpoint
from ledger.workspace import Ledger, open_ledger
from patches.checkpoint import open_checkpoint
from patches.patch import PATCH_FORMAT, STATE_FORMAT
from tests.ledgers import add, facts, new_ledger, write_facts
from tests.tiny_models import build

EDITED = "model.layers.2.mlp.down_proj.weight"
UNEDITED = "model.layers.1.self_attn.k_proj.weight"


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a ledger of two turns and a rollback, and its state written out."""
    folder = tmp_path_factory.mktemp("recorded")
    model = build(folder / "model")
    with new_ledger(folder / "ledger", model) as ledger:
        add(ledger, write_facts(folder / "facts.json", facts(6)), evaluate=False)
        rollback_turn(ledger, 1)
        apply_to_folder(ledger, folder / "out")
    return folder


@pytest.fixture
def copied(recorded: Path, tmp_path: Path) -> Iterator[Ledger]:
    """A copy that can be damaged."""
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    config = tmp_path / "ledger" / "config.json"
    config.write_text(config.read_text().replace(str(recorded), str(tmp_path)))
    with open_ledger(tmp_path / "ledger") as ledger:
        yield ledger


@pytest.fixture
def out(copied: Ledger) -> Path:
    """The written checkpoint."""
    return copied.folder.parent / "out"


def found(ledger: Ledger) -> str:
    """What verify finds wrong, as text."""
    return "\n".join(problems_text(verify(ledger).problems))


def checked(ledger: Ledger, folder: Path) -> Verified:
    result = Verified()
    verify_checkpoint(ledger, folder, result)
    return result


def overwrite(folder: Path, name: str, at: int, change: Callable[[int], int]) -> None:
    """Change the 16-bit element number `at` of a tensor on disk, as an integer."""
    tensor = open_checkpoint(folder).tensor(name)
    path = folder / tensor.file
    content = bytearray(path.read_bytes())
    place = slice(tensor.start + 2 * at, tensor.start + 2 * at + 2)
    value = change(int.from_bytes(content[place], "little"))
    content[place] = value.to_bytes(2, "little")
    path.write_bytes(content)


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Change the tensors of a single-file checkpoint."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def edit_json(folder: Path, **changes: object) -> None:
    path = folder / "ledger.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_formats_that_verify_knows_are_those_that_are_written(copied: Ledger) -> None:
    with database.reading(copied.engine) as session:
        kinds = {blob.digest: blob.kind for blob in session.scalars(select(BlobRow))}
    formats = {"patch": PATCH_FORMAT, "editor-state": STATE_FORMAT}
    for digest, kind in kinds.items():
        assert formats[kind].encode() in copied.store.path(digest).read_bytes()


@pytest.mark.parametrize("column", ["patch_digest", "editor_state_digest"])
@pytest.mark.parametrize("damage", ["flipped", "cut off", "longer", "missing", "exchanged"])
def test_a_damaged_file_in_the_store_is_found_and_named_with_its_turn(
    copied: Ledger, column: str, damage: str
) -> None:
    digests = [getattr(turn.row, column) for turn in log(copied) if turn.row.kind == "edit"]
    path = copied.store.path(digests[1])
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-1] ^= 1
    elif damage == "cut off":
        del content[-8:]
    elif damage == "longer":
        content += b"\0"
    elif damage == "exchanged":
        content[:] = copied.store.path(digests[0]).read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes(content)
    [problem] = verify(copied).problems
    kind = "patch" if column == "patch_digest" else "editor-state"
    assert problem.subject == f"{kind} {digests[1][:12]}… of turn 2"
    assert ("missing" if damage == "missing" else "damaged") in problem.what
    assert str(path) in problem.what


def give_up(ledger: Ledger, digest: str) -> None:
    with database.writing(ledger.engine) as session:
        blob = session.get_one(BlobRow, digest)
        blob.pruned_at = datetime.now(UTC)
        journal.record(session, journal.PRUNE, [blob], at=blob.pruned_at)


def test_a_file_that_was_given_up_may_be_missing_but_not_damaged(copied: Ledger) -> None:
    # Turn 1 is rolled back: no state needs its patch.
    digest = log(copied)[0].row.patch_digest
    assert digest is not None
    path = copied.store.path(digest)
    give_up(copied, digest)
    result = verify(copied)
    assert (result.problems, result.notes, result.checked["patches"]) == ([], [], 2)
    content = path.read_bytes()
    path.unlink()
    result = verify(copied)
    assert result.ok
    assert (result.checked["patches"], result.checked["pruned patches"]) == (1, 1)
    [note] = result.notes
    assert note.subject == "turn 1"
    assert "given up" in note.what
    path.write_bytes(content[:-1])
    assert f"patch {digest[:12]}… of turn 1: the file is damaged" in found(copied)


def keep_frame(ledger: Ledger, key: str, content: bytes) -> Path:
    digest = ledger.store.put(content)
    with database.writing(ledger.engine) as session:
        row = KeyframeRow(
            key=key,
            kind="weights",
            digest=digest,
            bytes=len(content),
            created_at=datetime.now(UTC),
        )
        session.add(row)
        journal.record(session, journal.KEYFRAME, [row], at=row.created_at)
    return ledger.store.path(digest)


def test_a_keyframe_may_be_missing_but_not_damaged(copied: Ledger) -> None:
    whole, lost = keep_frame(copied, "1" * 64, b"one"), keep_frame(copied, "2" * 64, b"two")
    lost.unlink()
    result = verify(copied)
    assert (result.problems, result.checked["keyframes"]) == ([], 1)
    whole.write_bytes(b"other")
    [problem] = verify(copied).problems
    assert problem.subject == f"damaged keyframe {whole.stem[:12]}…"
    assert "remove it with: ledger gc" in problem.what


def test_a_flipped_bit_in_the_base_is_found_and_the_tensor_named(copied: Ledger) -> None:
    name = "model.layers.1.self_attn.k_proj.weight"
    tensor = open_checkpoint(copied.checkpoint.folder).tensor(name)
    path = copied.checkpoint.folder / tensor.file
    content = bytearray(path.read_bytes())
    content[tensor.start + 3] ^= 0x10
    path.write_bytes(content)
    assert found(copied) == (f"base model, tensor {name}: its bytes are not those recorded at init")


def test_a_base_that_is_gone_is_found_and_the_rest_still_checked(copied: Ledger) -> None:
    shutil.rmtree(copied.folder.parent / "model")
    result = verify(copied)
    [problem] = result.problems
    assert problem.subject == "base model"
    assert "no such folder" in problem.what
    assert result.checked["turns"] == 3


def test_a_written_checkpoint_verifies_at_every_turn(copied: Ledger, out: Path) -> None:
    result = checked(copied, out)
    assert result.ok
    assert result.notes == []
    assert result.checked == {"model tensors": len(copied.base.tensors)}
    for at in (0, 1, 2):
        apply_to_folder(copied, out, at=at)
        assert checked(copied, out).problems == []


def test_flipped_elements_are_reported_with_their_count_and_distance(
    copied: Ledger, out: Path
) -> None:
    overwrite(out, EDITED, 7, lambda bits: bits ^ 0x0008)
    overwrite(out, EDITED, 9, lambda bits: bits ^ 0x0001)
    [problem] = checked(copied, out).problems
    assert problem.subject == f"{out}, tensor {EDITED}"
    assert problem.what == (
        "2 of 1536 elements differ from turn 3, by up to 8 units in the last place"
    )


def test_one_stray_last_bit_in_an_edited_tensor_is_a_note(copied: Ledger, out: Path) -> None:
    overwrite(out, EDITED, 7, lambda bits: bits ^ 1)
    result = checked(copied, out)
    assert result.ok
    [note] = result.notes
    assert note.what.startswith("1 of 1536 elements differ from turn 3, by one unit in the last")
    overwrite(out, EDITED, 700, lambda bits: bits ^ 1)
    assert "2 of 1536 elements" in checked(copied, out).problems[0].what


def test_a_flipped_sign_is_no_stray_bit(copied: Ledger, out: Path) -> None:
    overwrite(out, EDITED, 7, lambda bits: bits ^ 0x8000)
    [problem] = checked(copied, out).problems
    assert problem.what.startswith("1 of 1536 elements differ")


def test_a_stray_last_bit_in_a_tensor_that_no_turn_changes_is_damage(
    copied: Ledger, out: Path
) -> None:
    overwrite(out, UNEDITED, 3, lambda bits: bits ^ 1)
    [problem] = checked(copied, out).problems
    assert problem.subject.endswith(UNEDITED)
    assert "1 of 512 elements differ from turn 3, by up to 1 units" in problem.what


def test_the_base_s_own_checkpoint_in_place_of_the_edited_one_is_found(
    copied: Ledger, out: Path
) -> None:
    shutil.copy(copied.folder.parent / "model" / "model.safetensors", out)
    [problem] = checked(copied, out).problems
    assert problem.subject == f"{out}, tensor {EDITED}"


def test_a_state_other_than_the_one_that_ledger_json_names_is_found(
    copied: Ledger, out: Path
) -> None:
    hashes = {turn.number: turn.row.hash for turn in log(copied)}
    edit_json(out, turn=1, hash=hashes[1])
    assert EDITED in checked(copied, out).problems[0].subject


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"hash": "0" * 64}, "its hash is not that of turn 3"),
        ({"turn": 4}, "names turn 4, which this ledger does not have"),
        ({"turn": -1}, "names turn -1, which this ledger does not have"),
        ({"turn": "3"}, "names turn '3', which this ledger does not have"),
        ({"owner": "someone"}, "names another ledger"),
    ],
)
def test_an_altered_ledger_json_is_found(
    copied: Ledger, out: Path, changes: dict[str, object], what: str
) -> None:
    edit_json(out, **changes)
    [problem] = checked(copied, out).problems
    assert (problem.subject, problem.what) == (f"{out}/ledger.json", what)


def test_a_checkpoint_of_another_ledger_is_found(
    copied: Ledger, tmp_path: Path, recorded: Path
) -> None:
    with new_ledger(tmp_path / "other", recorded / "model") as other:
        apply_to_folder(other, tmp_path / "theirs")
    [problem] = checked(copied, tmp_path / "theirs").problems
    assert problem.what == "names another ledger"


def test_a_missing_and_an_additional_tensor_are_found(copied: Ledger, out: Path) -> None:
    def exchange(tensors: dict[str, torch.Tensor]) -> None:
        tensors["more.weight"] = tensors.pop(UNEDITED)

    rewrite(out, exchange)
    assert problems_text(checked(copied, out).problems) == [
        f"{out}, tensor {UNEDITED}: missing or not part of the model",
        f"{out}, tensor more.weight: missing or not part of the model",
    ]


def test_a_tensor_of_another_dtype_is_found(copied: Ledger, out: Path) -> None:
    rewrite(out, lambda tensors: tensors.update({EDITED: tensors[EDITED].float()}))
    [problem] = checked(copied, out).problems
    assert problem.what == "is F32 (32, 48), should be BF16 (32, 48)"


def test_a_folder_that_no_ledger_wrote_or_that_is_no_model_is_found(
    copied: Ledger, out: Path, tmp_path: Path
) -> None:
    (out / "ledger.json").write_text("{")
    assert "not JSON" in checked(copied, out).problems[0].what
    (out / "ledger.json").unlink()
    assert "was not written by a ledger" in checked(copied, out).problems[0].what
    (out / "config.json").unlink()
    assert "no config.json" in checked(copied, out).problems[0].what
    assert "no such folder" in checked(copied, tmp_path / "nowhere").problems[0].what


def test_a_tensor_that_cannot_be_rebuilt_to_compare_is_still_found(
    copied: Ledger, out: Path
) -> None:
    overwrite(out, EDITED, 7, lambda bits: bits ^ 1)
    copied.store.path(log(copied)[1].row.patch_digest or "").unlink()
    [problem] = checked(copied, out).problems
    assert "is not that of turn 3, and cannot be rebuilt" in problem.what
    assert "the file is missing" in problem.what


def test_bytes_that_this_machine_computes_but_another_recorded_differently_are_a_note(
    copied: Ledger, out: Path
) -> None:
    with database.writing(copied.engine) as session:
        turn = select(TurnRow.id).where(TurnRow.number == 3).scalar_subquery()
        session.execute(
            update(TurnRow).where(TurnRow.id == turn).values(tensors={EDITED: "0" * 64})
        )
    result = checked(copied, out)
    assert result.ok
    assert result.notes[0].what.startswith("is what this machine computes for turn 3, not what")
    assert "turn 3: its content does not give its hash" in found(copied)


def test_stray_last_bits_of_float32_are_notes_up_to_one_in_a_million(tmp_path: Path) -> None:
    model = build(tmp_path / "model", dtype=torch.float32)
    with new_ledger(tmp_path / "ledger", model) as ledger:
        add(ledger, write_facts(tmp_path / "facts.json", facts(3)), evaluate=False)
        apply_to_folder(ledger, tmp_path / "out")
        overwrite(tmp_path / "out", EDITED, 2 * 5, lambda bits: bits ^ 1)
        result = checked(ledger, tmp_path / "out")
        assert result.ok
        assert "another machine" in result.notes[0].what
        overwrite(tmp_path / "out", EDITED, 2 * 6, lambda bits: bits ^ 1)
        assert not checked(ledger, tmp_path / "out").ok
